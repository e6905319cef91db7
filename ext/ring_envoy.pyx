"""ring_envoy: Envoy's RING_HASH: 64-bit points of "<address>_<i>", as many in all as the smallest weight asks for.

Weights are shares w of 1; the scale makes the smallest share a whole number of points at the smallest size of the ring;
running sums over the servers say how many points each gets, so that with shares that do not divide evenly a server's
count depends by one on the servers listed before it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport fr_ring_row, ring_row_array, ring_rows
from fastroute._core.ring_hashes cimport FR_MURMUR2_STD_SEED, fr_murmur64a
from fastroute._core.ring_point cimport FR_POINTS_KEEP_ALL, PointRing, fr_point, fr_text_number

from fastroute.errors import UsageError


cdef extern from *:
    """
    /* target + scale * share, each rounded to double on its own (a fused multiply-add would differ between machines). */
    static double fr_envoy_step(double target, double scale, double share)
    {
        volatile double points = scale * share;
        return target + points;
    }
    static double fr_envoy_scale(double share_min, double size_min, double size_max)
    {
        volatile double points = share_min * size_min;
        volatile double scale = __builtin_ceil(points);
        scale = scale / share_min;
        return scale < size_max ? scale : size_max;
    }
    """
    double fr_envoy_step(double target, double scale, double share) noexcept nogil
    double fr_envoy_scale(double share_min, double size_min, double size_max) noexcept nogil

SIZE_MIN = 1024
"""Envoy's default minimum_ring_size."""
SIZE_MAX = 8_388_608
"""Envoy's default, and largest, maximum_ring_size."""
HASHES = ("xxh64", "murmur2")


def _size(name, value):
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= SIZE_MAX:
        raise UsageError(f"{name} {value!r}: accepted are whole numbers from 1 to {SIZE_MAX}")
    return value


cdef class EnvoyRing(PointRing):
    """Envoy's ring.

    Args:
        keys: what Envoy hashes of a server: "10.0.0.1:8080", "[::1]:8080"; the host name with use_hostname_for_hashing;
            or its metadata's hash_key.
        weights: 0..65535 (Envoy's load_balancing_weight, from 1).
        slots: the servers' labels in the answers; default: the positions in `keys`.
        min_size, max_size: of the ring in points, 1..8,388,608: Envoy's minimum_ring_size and maximum_ring_size.
        hash: "xxh64" or "murmur2" (Envoy's MURMUR_HASH_2): of the points. Keys are hashed by XXH64 in both cases.
        seed: of the keys' XXH64, 0..2**64-1; Envoy's is 0.

    Raises:
        UsageError: an argument outside these ranges, or min_size above max_size.

    Notes: the order of `keys` matters, as in Envoy, when some weight is not a multiple of the smallest: give Envoy's order.
        Envoy builds the ring anew over the healthy servers when one fails, which changes scale and counts; its retries on
        another host (retry_host_predicate) go from point to point, and so does candidates().
    Source: Envoy 1.31 source/extensions/load_balancing_policies/ring_hash/ring_hash_lb.cc.
    """

    def __init__(self, keys, weights, slots=None, *, min_size=SIZE_MIN, max_size=SIZE_MAX, hash="xxh64", seed=0):
        if _size("min_size", min_size) > _size("max_size", max_size):
            raise UsageError(f"min_size {min_size} is above max_size {max_size}")
        if hash not in HASHES:
            raise UsageError(f"hash {hash!r}: accepted are {', '.join(HASHES)}")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        self._seed = seed
        self._fill(ring_rows(keys, weights, slots, True, 65535), min_size, max_size, hash == "murmur2")

    cdef int _fill(self, list rows, double min_size, double max_size, bint murmur) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, k
        cdef uint64_t at = 0, room
        cdef size_t size, longest = max([len(row[0]) for row in rows]) if rows else 0
        cdef double total = sum([row[1] for row in rows]), target = 0, scale, share_min
        cdef fr_point *points = NULL
        cdef fr_ring_row *server = NULL
        cdef uint8_t *text = NULL
        if not rows:
            return 0
        share_min = <double>min([row[1] for row in rows]) / total
        scale = fr_envoy_scale(share_min, min_size, max_size)
        room = <uint64_t>scale + 2
        points = self._open(room)
        try:
            server = ring_row_array(rows)
            text = <uint8_t *>malloc(longest + 16)
            if text == NULL:
                raise MemoryError("no memory for an Envoy ring")
            with nogil:
                for i in range(n):
                    memcpy(text, server[i].text, server[i].size)
                    text[server[i].size] = b'_'
                    target = fr_envoy_step(target, scale, <double>server[i].weight / total)
                    k = 0
                    while <double>at < target and at < room:
                        size = server[i].size + 1
                        size += fr_text_number(text + size, k)
                        points[at].hash = fr_murmur64a(text, size, FR_MURMUR2_STD_SEED) if murmur else fr_xxh64(text, size, 0)
                        points[at].slot = server[i].slot
                        at += 1
                        k += 1
        except BaseException:
            free(points)
            raise
        finally:
            free(server)
            free(text)
        self._close(points, <uint32_t>at, 64, FR_POINTS_KEEP_ALL)
        return 0

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return fr_xxh64(key, size, self._seed)
