"""The door to the compiled core: one extension per concept, sources in ext/, interfaces (.pxd) and types (.pyi) here.

The contract of everything behind this door:
- A function that runs per request is `cdef ... noexcept`: it never raises, allocates, logs or waits; what it assumes
  stands in the .pxd. Python sees the shells around it, whose methods check, call and translate.
- The GIL is held for a selection and released around work that takes longer than about a microsecond on data that no
  other thread can change (building a ring).
- Control-plane calls compute a new snapshot and put it in force at once; one that raises has changed nothing.
- Errors are those of fastroute.errors; MemoryError is the system's.
- Nothing here imports a higher layer; errors, model and clock are the only Python modules it knows.

Importing this package loads no extension: import what is needed by its module, or through fastroute.routing.
"""
