"""ring_uhashring: the two rings of the Python package uhashring, MD5 points of "<node>-<i>".

  default  160 points per unit of weight, the whole digest as a number of 128 bits
  ketama   40 x nodes x weight / sum of weights (whole division) digests of four 32-bit points each

Both take the first point *behind* the key's hash (a key that hashes onto a point goes to the next one), and of two nodes
with the same point the one listed later.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.ring cimport fr_ring_row, fr_walk, ring_row_array, ring_rows
from fastroute._core.ring_hashes cimport fr_md5
from fastroute._core.ring_point cimport (
    FR_POINTS_KEEP_LAST, PointRing, fr_point, fr_points_at, fr_points_walk, fr_text_number,
)

from fastroute.errors import UsageError


cdef extern from *:
    uint32_t __builtin_bswap32(uint32_t x) noexcept nogil

VNODES = {"default": 160, "ketama": 40}
"""uhashring's default vnodes of each of its rings."""
VNODES_MAX = 65535


cdef class UhashringRing(PointRing):
    """uhashring's ring.

    Args:
        keys: the nodes' names (str or bytes), all different.
        weights: 0..65535.
        slots: the nodes' labels in the answers; default: the positions in `keys`.
        hash: "default" (hash_fn=None there) or "ketama" (hash_fn="ketama").
        vnodes: None for uhashring's default (160, ketama 40), or 1..65535.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: the nodes are taken in the order of their names; in uhashring the order of the dictionary decides between equal
        points. Of the 128 bits of the default ring the upper 64 are kept: two hashes that agree in those (one pair in
        2**64) would be told apart there and not here. str keys are hashed as UTF-8 as there; bytes as they are, where
        uhashring hashes their repr. Removing a node there gives the ring of the others; candidates() is its range().
    Source: uhashring 2.5 ring.py, ring_meta.py, ring_ketama.py.
    """

    def __init__(self, keys, weights, slots=None, *, hash="default", vnodes=None):
        if hash not in VNODES:
            raise UsageError(f"hash {hash!r}: accepted are {', '.join(VNODES)}")
        if vnodes is None:
            vnodes = VNODES[hash]
        if not isinstance(vnodes, int) or isinstance(vnodes, bool) or not 1 <= vnodes <= VNODES_MAX:
            raise UsageError(f"vnodes {vnodes!r}: accepted are whole numbers from 1 to {VNODES_MAX}")
        rows = ring_rows(keys, weights, slots, False, 65535)
        self._ketama = hash == "ketama"
        total = sum([row[1] for row in rows])
        if self._ketama:
            counts = [vnodes * len(rows) * row[1] // total for row in rows]
        else:
            counts = [vnodes * row[1] for row in rows]
        self._fill(rows, counts)

    cdef int _fill(self, list rows, object counts) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, k, at = 0, many
        cdef uint32_t digest[4]
        cdef size_t size, longest = max([len(row[0]) for row in rows]) if rows else 0
        cdef fr_point *points = self._open(sum(counts) * (4 if self._ketama else 1))
        cdef fr_ring_row *server = NULL
        cdef uint8_t *text = NULL
        cdef uint32_t *count = NULL
        try:
            server = ring_row_array(rows)
            text = <uint8_t *>malloc(longest + 16)
            count = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
            if text == NULL or count == NULL:
                raise MemoryError("no memory for a uhashring ring")
            for i in range(n):
                count[i] = counts[i]
            with nogil:
                for i in range(n):
                    memcpy(text, server[i].text, server[i].size)
                    text[server[i].size] = b'-'
                    for k in range(count[i]):
                        size = server[i].size + 1
                        size += fr_text_number(text + size, k)
                        if not self._ketama:
                            points[at].hash, points[at].slot = self.hash_key(text, size), server[i].slot
                            at += 1
                            continue
                        fr_md5(text, size, digest)
                        for many in range(4):
                            points[at].hash, points[at].slot = digest[many], server[i].slot
                            at += 1
        except BaseException:
            free(points)
            raise
        finally:
            free(server)
            free(text)
            free(count)
        self._close(points, at, 32 if self._ketama else 64, FR_POINTS_KEEP_LAST)
        return 0

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        # ketama: the first word, little endian. Default: the digest as a big-endian number, its upper half.
        cdef uint32_t digest[4]
        fr_md5(key, size, digest)
        if self._ketama:
            return digest[0]
        return (<uint64_t>__builtin_bswap32(digest[0]) << 32) | __builtin_bswap32(digest[1])

    cdef uint32_t _behind(self, uint64_t hash) noexcept nogil:
        hash &= self._points.mask
        return 0 if hash == self._points.mask else fr_points_at(&self._points, hash + 1)

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self._points.count == 0:
            return FR_NO_SLOT
        return self._points.slot[self._behind(hash)]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        fr_points_walk(&self._points, self._behind(hash), walk)

    def point_at(self, hash):
        """Hash of the point that decides for a hash: the first behind it.

        Raises:
            UsageError: a ring without points.
        """
        cdef uint32_t at
        if self._points.count == 0:
            raise UsageError("a ring without nodes has no points")
        at = self._behind(<uint64_t>hash)
        return self._points.hash[0 if at == self._points.count else at]
