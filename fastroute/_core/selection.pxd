# selection: the result of routing one request.
from libc.stdint cimport uint32_t, uint64_t

cdef class Selection:
    cdef readonly object server         # fastroute.model.Server
    cdef readonly object reason         # str: affinity-near affinity-store affinity-cookie policy moved fallback-hash panic
    cdef readonly uint64_t term         # 0 where nothing is bound
    cdef readonly uint32_t generation
    cdef object key                     # bytes or None: what was routed, for fallbacks, move and release
    cdef object pool                    # the Pool it came from
    cdef int slot                       # the server's slot in that pool

# New selection; borrows nothing, cannot fail but for memory. Fallbacks are computed when asked for.
cdef Selection make_selection(object pool, object server, int slot, object reason, object key,
                              uint64_t term, uint32_t generation)
