"""ring_haproxy: HAProxy's `hash-type consistent` and `hash-type map-based`.

  HaproxyRing  16 points per unit of weight, avalanche(id x 4096 + i); a key goes to the nearer of the points before and
               behind its hash (the one before, when both are as far)
  HaproxyMap   the servers interleaved by weight in a map, hash modulo its size; moves nearly everything when it changes

The hash of a key is sdbm (or djb2, wt6, crc32), with the avalanche over it in the consistent type unless a function was named.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.ring cimport fr_walk, fr_walk_offer, ring_rows
from fastroute._core.ring_hashes cimport fr_avalanche, fr_crc32, fr_crc32_prepare, fr_djb2, fr_sdbm, fr_wt6
from fastroute._core.ring_point cimport FR_POINTS_KEEP_ALL, PointRing, fr_point, fr_points_at, fr_points_walk

from fastroute.errors import UsageError


fr_crc32_prepare()

cdef enum:
    POINTS_EACH = 16
    ID_STEP = 4096
    SDBM = 0
    DJB2 = 1
    WT6 = 2
    CRC32 = 3

FUNCTIONS = ("sdbm", "djb2", "wt6", "crc32")
WEIGHT_MAX = 256
"""HAProxy's largest weight."""
ID_MAX = 2**31 - 1


cdef uint32_t _digest(int function, bint avalanche, const uint8_t *key, size_t size) noexcept nogil:
    cdef uint32_t hash
    if function == SDBM:
        hash = fr_sdbm(key, size)
    elif function == DJB2:
        hash = fr_djb2(key, size)
    elif function == WT6:
        hash = fr_wt6(key, size)
    else:
        hash = fr_crc32(key, size)
    return fr_avalanche(hash) if avalanche else hash


cdef tuple _hash_type(object function, object avalanche, bint consistent):
    if function is not None and function not in FUNCTIONS:
        raise UsageError(f"function {function!r}: accepted are {', '.join(FUNCTIONS)} and None (sdbm)")
    if avalanche is not None and not isinstance(avalanche, bool):
        raise UsageError(f"avalanche {avalanche!r}: accepted are True, False and None")
    if avalanche is None:
        avalanche = consistent and function is None
    return FUNCTIONS.index(function or "sdbm"), avalanche


cdef list _haproxy_rows(object ids, object weights, object slots):
    ids = list(ids)
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool) or not 1 <= id <= ID_MAX:
            raise UsageError(f"id {id!r}: accepted are whole numbers from 1 to {ID_MAX}")
    return [(int(text), weight, slot) for text, weight, slot in ring_rows([str(id) for id in ids], weights, slots, True, WEIGHT_MAX)]


cdef class HaproxyRing(PointRing):
    """HAProxy's consistent hash.

    Args:
        ids: the servers' ids, 1..2**31-1, all different; in HAProxy the 1-based position in the backend unless set. In
            the order of the backend.
        weights: 0..256, HAProxy's range; a server of weight 0 has no point.
        slots: the servers' labels in the answers; default: the positions in `ids`.
        function: "sdbm", "djb2", "wt6", "crc32", or None: sdbm with avalanche, HAProxy's default.
        avalanche: True or False, or None: only where no function is named, as in HAProxy.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: a server's points come from its id. Where ids are not set they are positions, and then the order of the servers
        IS the rule: another order, or a removal in the middle, gives other ids and moves keys, as in HAProxy. Set ids, and
        the order matters no more, but for two servers with the same 32-bit point.
        A server that is out leaves the ring, and the nearest of what is left takes its keys, as in HAProxy. On a retry
        elsewhere (option redispatch) HAProxy goes forward from that point past the server tried; so does candidates().
    Source: HAProxy 2.6 src/lb_chash.c, src/backend.c (gen_hash), include/haproxy/intops.h (full_hash).
    """

    def __init__(self, ids, weights, slots=None, *, function=None, avalanche=None):
        cdef uint32_t at = 0, i, id, weight
        cdef uint64_t slot
        self._function, self._avalanche = _hash_type(function, avalanche, True)
        rows = _haproxy_rows(ids, weights, slots)
        cdef fr_point *points = self._open(sum([row[1] for row in rows]) * POINTS_EACH)
        for id, weight, slot in rows:
            with nogil:
                for i in range(weight * POINTS_EACH):
                    points[at].hash, points[at].slot = fr_avalanche(id * ID_STEP + i), slot
                    at += 1
        self._close(points, at, 32, FR_POINTS_KEEP_ALL)

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return _digest(self._function, self._avalanche, key, size)

    cdef uint32_t _nearest(self, uint64_t hash, const unsigned char *allowed) noexcept nogil:
        # Position of the nearer of the points of allowed servers before and behind the hash; count when there is none.
        cdef uint32_t count = self._points.count, behind = fr_points_at(&self._points, hash), before, left = count
        cdef uint32_t here = <uint32_t>hash
        behind = 0 if behind >= count else behind
        before = count - 1 if behind == 0 else behind - 1
        if allowed != NULL:
            while not allowed[self._points.slot[behind]]:
                left -= 1
                if left == 0:
                    return count
                behind = 0 if behind + 1 == count else behind + 1
            while not allowed[self._points.slot[before]]:
                before = count - 1 if before == 0 else before - 1
        if here - <uint32_t>self._points.hash[before] <= <uint32_t>self._points.hash[behind] - here:
            return before
        return behind

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self._points.count == 0:
            return FR_NO_SLOT
        return self._points.slot[self._nearest(hash, NULL)]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        cdef uint32_t at = self._nearest(hash, walk.allowed)
        if at < self._points.count:
            fr_points_walk(&self._points, at, walk)

    def point_at(self, hash):
        """Hash of the point that decides for a hash: the nearer one.

        Raises:
            UsageError: a ring without points.
        """
        if self._points.count == 0:
            raise UsageError("a ring without servers has no points")
        return self._points.hash[self._nearest(<uint64_t>hash, NULL)]


cdef class HaproxyMap(Ring):
    """HAProxy's map-based hash.

    Args:
        ids: one per server, all different, 1..2**31-1: they name the servers and decide nothing else.
        weights: 0..256; their greatest common divisor is taken out.
        slots: the servers' labels in the answers; default: the positions in `ids`.
        function: "sdbm" (default), "djb2", "wt6", "crc32".
        avalanche: True, or False (default).

    Raises:
        UsageError: an argument outside these ranges.

    Notes: the order of the servers is the rule: the map lists them in the order of the backend. HAProxy builds the map anew
        over the servers that are up, with the divisor of all (a server that goes changes nearly every key's server);
        candidates() walks on in the map, which HAProxy, having no consistent order here, does not.
        The map's size is the sum of the reduced weights.
    Source: HAProxy 2.6 src/lb_map.c.
    """

    def __init__(self, ids, weights, slots=None, *, function=None, avalanche=None):
        cdef int64_t total, value, most
        cdef uint32_t o, i, best, n
        cdef int64_t *score = NULL
        cdef int64_t *weight = NULL
        cdef uint16_t *label = NULL
        if self._map != NULL:
            raise UsageError("a ring is built once")
        self._function, self._avalanche = _hash_type(function, avalanche, False)
        rows = _haproxy_rows(ids, weights, slots)
        if not rows:
            return
        divisor = _gcd([row[1] for row in rows])
        n, total = <uint32_t>len(rows), sum([row[1] for row in rows]) // divisor
        score = <int64_t *>calloc(n, sizeof(int64_t))
        weight = <int64_t *>malloc(n * sizeof(int64_t))
        label = <uint16_t *>malloc(n * sizeof(uint16_t))
        self._map = <uint16_t *>malloc(total * sizeof(uint16_t))
        if score != NULL and weight != NULL and label != NULL and self._map != NULL:
            for i in range(n):
                weight[i], label[i] = rows[i][1] // divisor, rows[i][2]
            with nogil:
                for o in range(<uint32_t>total):
                    best, most = n, 0
                    for i in range(n):
                        score[i] += weight[i]
                        value = (score[i] + total) // total
                        if best == n or value > most:
                            best, most = i, value
                    self._map[o] = label[best]
                    score[best] -= total
            self.size, self.server_count = <uint32_t>total, <int>n
        free(score)
        free(weight)
        free(label)
        if self.size == 0:
            raise MemoryError(f"no memory for a map of {total} places")

    def __dealloc__(self):
        free(self._map)

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return _digest(self._function, self._avalanche, key, size)

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self.size == 0:
            return FR_NO_SLOT
        return self._map[<uint32_t>hash % self.size]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        cdef uint32_t at = <uint32_t>hash % self.size, left
        for left in range(self.size):
            if fr_walk_offer(walk, self._map[at]):
                return
            at = 0 if at + 1 == self.size else at + 1

    def map(self):
        """The map's slots, in order: a list, for tests and tools."""
        cdef uint32_t i
        return [self._map[i] for i in range(self.size)]


def _gcd(numbers):
    found = 0
    for number in numbers:
        while number:
            found, number = number, found % number
    return found
