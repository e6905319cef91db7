# router: key -> selection; near answers without waiting (compiled), the rest through the affinity (a protocol, not an import).
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.pool cimport Pool

ctypedef struct fr_near:
    uint64_t term
    uint32_t generation
    int slot                            # pool slot, -1 where status says none
    bint wants_touch                    # call Router.touch_soon(key) some time after the request is on its way

# status of near():
cdef enum:
    FR_NEAR_HIT = 0                     # use slot now
    FR_NEAR_MISS = 1                    # nothing usable near: await route()
    FR_NEAR_POLICY = 2                  # no affinity configured or no key: slot is the policy's pick, nothing is bound
    FR_NEAR_NONE = 3                    # no server can take it

cdef class Router:
    cdef readonly Pool pool
    cdef readonly object affinity
    # Near answer for one key (NULL, 0: a request without a key). Never waits, never raises, never calls Python.
    cdef int near(self, const uint8_t *key, Py_ssize_t size, fr_near *out) noexcept
