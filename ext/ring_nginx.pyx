"""ring_nginx: nginx's `hash KEY consistent`, which is also Pingora's ring and Cache::Memcached::Fast's.

160 points per unit of weight, each the CRC-32 of HOST, a zero byte, PORT and the point before (little endian, 0 at
first); a key's CRC-32 takes the first point at or behind it. Of equal points one is kept.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastroute._core.ring cimport fr_ring_row, ring_row_array, ring_rows
from fastroute._core.ring_hashes cimport fr_crc32, fr_crc32_more, fr_crc32_prepare
from fastroute._core.ring_point cimport FR_POINTS_KEEP_FIRST, PointRing, fr_point


cdef enum:
    POINTS_EACH = 160

POINTS_PER_WEIGHT = POINTS_EACH

fr_crc32_prepare()


cdef size_t _host_size(const fr_ring_row *row, size_t *skip) noexcept nogil:
    # Where the host ends: at the last colon, when only digits follow; all of it otherwise. A unix path starts behind
    # "unix:" and has no port.
    cdef size_t i = row.size
    skip[0] = 0
    if row.size >= 5 and (row.text[0] | 32) == b'u' and (row.text[1] | 32) == b'n' and (row.text[2] | 32) == b'i' \
            and (row.text[3] | 32) == b'x' and row.text[4] == b':':
        skip[0] = 5
        return row.size - 5
    while i > 0:
        i -= 1
        if row.text[i] == b':':
            return i
        if row.text[i] < b'0' or row.text[i] > b'9':
            break
    return row.size


cdef class NginxRing(PointRing):
    """nginx's consistent ring.

    Args:
        keys: the server as nginx's configuration writes it: "10.0.0.1:8080", "[::1]:8080" (the brackets are hashed),
            "app.example:80", "app.example" (no port), "unix:/path". Pingora hashes an IPv6 host without brackets:
            give "::1:8080" for that.
        weights: 0..65535.
        slots: the servers' labels in the answers; default: the positions in `keys`.

    Raises:
        UsageError: an argument outside these ranges, or more than POINTS_MAX points.

    Notes: the servers are taken in the order of their text, whatever the order of the lists: of equal points the first by
        text stays (as in Pingora; nginx leaves that to qsort, so that there it is either). nginx with an empty key uses
        round robin, which is the pool's to do. candidates() walks as nginx does when servers are out: on to the next
        points, without building anew. Older nginx (1.22) turns to round robin after 20 points in a row that are out, newer
        ones go once round; so does this.
    Source: nginx 1.22 src/http/modules/ngx_http_upstream_hash_module.c; Pingora pingora-ketama.
    """

    def __init__(self, keys, weights, slots=None):
        self._fill(ring_rows(keys, weights, slots, False, 65535))

    cdef int _fill(self, list rows) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, k, at = 0, hash, start
        cdef size_t host, skip
        cdef fr_point *points = self._open(sum([row[1] for row in rows]) * POINTS_EACH)
        cdef fr_ring_row *server = NULL
        try:
            server = ring_row_array(rows)
        except BaseException:
            free(points)
            raise
        with nogil:
            for i in range(n):
                host = _host_size(&server[i], &skip)
                start = fr_crc32_more(0xFFFFFFFFu, server[i].text + skip, host)
                start = fr_crc32_more(start, b"\0", 1)
                if skip + host < server[i].size:
                    start = fr_crc32_more(start, server[i].text + host + 1, server[i].size - host - 1)
                hash = 0
                for k in range(server[i].weight * POINTS_EACH):
                    hash = ~fr_crc32_more(start, &hash, 4)
                    points[at].hash, points[at].slot = hash, server[i].slot
                    at += 1
        free(server)
        self._close(points, at, 32, FR_POINTS_KEEP_FIRST)
        return 0

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return fr_crc32(key, size)
