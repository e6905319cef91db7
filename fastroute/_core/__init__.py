"""The door to the compiled core: one extension per concept, sources in ext/, interfaces (.pxd) and types (.pyi) here.

    selection core   hashes  ring_table  server_table  pool  selection      (policies: ext/fr_policy_*.h)
    agreement        zone  affinity_table  affinity_view  router  token
    wire and cache   http_head  http_wire  http_upstream  http_relay  mc_reply  mc_queue  mc_meta  near_cache

The contract of everything behind this door:
- A function that runs per request is `cdef ... noexcept`: it never raises, allocates, logs or waits; what it assumes
  stands in the .pxd. Python sees the shells around it, whose methods check, call and translate.
- The GIL is held for a selection and released around work that takes longer than about a microsecond on data that no
  other thread can change (building a ring).
- Control-plane calls compute a new snapshot and put it in force at once; one that raises has changed nothing.
- Errors are those of fastroute.errors; MemoryError is the system's.
- Nothing here imports a higher layer; errors, model and clock are the only Python modules it knows.

This package exports nothing itself, so that one extension can import another without loading all: import by module, or
what people use from `fastroute` and fastroute.routing.
"""
