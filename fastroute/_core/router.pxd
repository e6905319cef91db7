# router: key -> selection; near answers without waiting (compiled), the rest through the affinity (a protocol, not an import).
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.affinity_view cimport (
    FR_NEAR_HIT, FR_NEAR_MISS, FR_NEAR_NONE, FR_NEAR_POLICY, AffinityView, fr_near
)
from fastroute._core.pool cimport Pool

cdef class Router:
    cdef readonly Pool pool
    cdef readonly object affinity       # None, or fastroute.affinity.Affinity, or anything with its methods
    cdef readonly object key_rule       # fastroute.routing.keys.KeyRule
    cdef readonly str on_failure
    cdef AffinityView view              # None without affinity

    # Near answer for one key (NULL, 0: a request without a key). Never waits, never raises, never calls Python.
    cdef int near(self, const uint8_t *key, Py_ssize_t size, fr_near *out) noexcept
