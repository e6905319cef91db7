# cython: autotestdict=False
"""cache_head: the commonest answer of the shared cache's store, recognised at a glance: a plain, fresh value of this key.

Not here: every other answer, and the layout's own words (fastroute/cache/codec.py). What is not recognised is nothing
bad: it is looked at again, with all rules, in Python.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef enum:
    FORMAT = 2
    HEAD_BYTES = 80
    DIGEST_BYTES = 32
    EARLY_FACTOR_MAX = 20


def plain_fresh_left_ms(data, digest, uint64_t generation, int64_t now_ms):
    """(milliseconds until it is stale, stale_ms) of a plain fresh value; None for anything else.

    Args:
        data: what the store answered.
        digest: of the key, 32 bytes.
        generation: the namespace's.
        now_ms: wall clock; -1 takes the machine's.

    Notes: plain is without flags and tags. A value that may be due for an early refresh is not recognised either.
    """
    cdef const unsigned char *at
    cdef uint32_t first, compute_ms
    cdef uint64_t made_ms, ttl_ms, stale_ms, found
    cdef int64_t left_ms
    cdef timespec now
    if not PyBytes_CheckExact(data) or not PyBytes_CheckExact(digest):
        return None
    if PyBytes_GET_SIZE(data) < HEAD_BYTES or PyBytes_GET_SIZE(digest) != DIGEST_BYTES:
        return None
    at = <const unsigned char *>PyBytes_AS_STRING(data)
    memcpy(&first, at, 4)
    if first != FORMAT:                 # format, no flags, no tags
        return None
    memcpy(&found, at + 40, 8)
    if found != generation or memcmp(at + 48, PyBytes_AS_STRING(digest), DIGEST_BYTES) != 0:
        return None
    if now_ms == -1:
        clock_gettime(CLOCK_REALTIME, &now)
        now_ms = <int64_t>now.tv_sec * 1000 + <int64_t>now.tv_nsec // 1000000
    memcpy(&compute_ms, at + 4, 4)
    memcpy(&made_ms, at + 8, 8)
    memcpy(&ttl_ms, at + 16, 8)
    memcpy(&stale_ms, at + 24, 8)
    if (made_ms | ttl_ms | stale_ms) >> 60 or now_ms < <int64_t>made_ms:
        return None
    left_ms = <int64_t>(made_ms + ttl_ms) - now_ms
    if left_ms <= 0 or left_ms <= <int64_t>compute_ms * EARLY_FACTOR_MAX:
        return None
    return left_ms, stale_ms
