"""ring_ketama: the ketama family: MD5 points of "<server>-<i>", the first point at or behind MD5 of the key.

  libmemcached  weighted: some 160 points per server, in proportion to its weight, four to a digest; the arithmetic is
                single precision, as there, so that the counts agree. Unweighted: 100 points per server, the hash of the
                text itself. Weighted where any weight is above 1, unless said.
  libketama     the same with its own rounding; always weighted.

The text of a server is the caller's: "host", or "host:port" when the port is not 11211 (libmemcached); "/host:port"
(spymemcached); "host:port" (libketama). fastroute.routing.dialects makes it.
Not here: uhashring's ketama (ring_uhashring.pyx), which differs in rounding and in who wins an equal point.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastroute._core.ring cimport fr_ring_row, ring_row_array, ring_rows
from fastroute._core.ring_hashes cimport fr_fnv1a_32_signed, fr_md5, fr_one_at_a_time
from fastroute._core.ring_point cimport FR_POINTS_KEEP_ALL, PointRing, fr_point, fr_text_number

from fastroute.errors import UsageError


cdef extern from *:
    """
    /* Every operation rounds to single precision on its own: volatile keeps compilers from fusing a multiply and an add. */
    static uint32_t fr_ketama_count(uint32_t weight, uint64_t weight_sum, uint32_t servers)
    {
        volatile float share = (float)weight / (float)weight_sum;
        volatile float points = share * 160.0f;
        points = points / 4.0f;
        points = points * (float)servers;
        volatile double sum = (double)points + 0.0000000001;
        float floored = __builtin_floorf((float)sum);
        return (uint32_t)floored;
    }
    static uint32_t fr_libketama_count(uint32_t weight, uint64_t weight_sum, uint32_t servers)
    {
        volatile float share = (float)weight / (float)weight_sum;
        volatile double points = (double)share * 40.0;
        points = points * (double)(float)servers;
        return (uint32_t)__builtin_floorf((float)points);
    }
    """
    uint32_t fr_ketama_count(uint32_t weight, uint64_t weight_sum, uint32_t servers) nogil
    uint32_t fr_libketama_count(uint32_t weight, uint64_t weight_sum, uint32_t servers) nogil

cdef enum:
    FUNCTION_MD5 = 0
    FUNCTION_ONE_AT_A_TIME = 1
    FUNCTION_FNV1A_32 = 2

HASHES = ("md5", "default", "fnv1a_32")
"""libmemcached's names of the key's hash that are offered; "default" is its one-at-a-time."""

UNWEIGHTED_POINTS = 100
"""Points per server without weights (libmemcached: MEMCACHED_POINTS_PER_SERVER)."""


cdef class KetamaRing(PointRing):
    """A ring of the ketama family.

    Args:
        keys: the text whose points a server has (str or bytes), all different.
        weights: 0..65535; a server of weight 0 has no point and does not count as live.
        slots: the servers' labels in the answers; default: the positions in `keys`.
        rule: "libmemcached" or "libketama": how weights become counts of points.
        weighted: True or False, or None: weighted when a weight is above 1 (libmemcached's own rule). libketama is
            always weighted.
        hash: "md5" (MEMCACHED_HASH_MD5, what MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED sets), "default" (one-at-a-time, what a
            client has that sets no hash) or "fnv1a_32": of keys, and of points without weights. The last two take bytes
            above 127 as negative numbers, as libmemcached does where char is signed (x86).

    Raises:
        UsageError: an argument outside these ranges.

    Notes: the servers are taken in the order of their text, whatever the order of the lists. It matters in libmemcached for
        one thing alone: of two servers with the very same 32-bit point the first in its list wins; here, the first by text.
        A server that fails: libmemcached with auto-eject builds the ring anew without it, and with weights the counts of
        the others change a little; candidates() walks on to the next points.
    Source: libmemcached 1.0.16 and 1.1.4 libmemcached/hosts.cc; libketama ketama.c.
    """

    def __init__(self, keys, weights, slots=None, *, rule="libmemcached", weighted=None, hash="md5"):
        if rule not in ("libmemcached", "libketama"):
            raise UsageError(f"rule {rule!r}: accepted are libmemcached and libketama")
        if weighted is not None and not isinstance(weighted, bool):
            raise UsageError(f"weighted {weighted!r}: accepted are True, False and None")
        if hash not in HASHES:
            raise UsageError(f"hash {hash!r}: accepted are {', '.join(HASHES)}")
        if rule == "libketama" and (weighted is False or hash != "md5"):
            raise UsageError("libketama is always weighted and hashes with md5")
        rows = ring_rows(keys, weights, slots, False, 65535)
        self._function = HASHES.index(hash)
        self._weighted = weighted if weighted is not None else rule == "libketama" or any(row[1] > 1 for row in rows)
        total, live = sum(row[1] for row in rows), len(rows)
        if rule == "libketama":
            counts = [fr_libketama_count(row[1], total, live) for row in rows]
        elif self._weighted:
            counts = [fr_ketama_count(row[1], total, live) for row in rows]
        else:
            counts = [UNWEIGHTED_POINTS] * live
        self._fill(rows, counts)

    cdef int _fill(self, list rows, object counts) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, k, at = 0, many, each = 4 if self._weighted else 1
        cdef uint32_t digest[4]
        cdef size_t size, longest = max([len(row[0]) for row in rows]) if rows else 0
        cdef fr_point *points = self._open(sum(counts) * each)
        cdef fr_ring_row *server = NULL
        cdef uint8_t *text = NULL
        cdef uint32_t *count = NULL
        try:
            server = ring_row_array(rows)
            text = <uint8_t *>malloc(longest + 16)
            count = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
            if text == NULL or count == NULL:
                raise MemoryError("no memory for a ketama ring")
            for i in range(n):
                count[i] = counts[i]
            with nogil:
                for i in range(n):
                    memcpy(text, server[i].text, server[i].size)
                    text[server[i].size] = b'-'
                    for k in range(count[i]):
                        size = server[i].size + 1
                        size += fr_text_number(text + size, k)
                        if each == 1:
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
        self._close(points, at, 32, FR_POINTS_KEEP_ALL)
        return 0

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        cdef uint32_t digest[4]
        if self._function == FUNCTION_ONE_AT_A_TIME:
            return fr_one_at_a_time(key, size)
        if self._function == FUNCTION_FNV1A_32:
            return fr_fnv1a_32_signed(key, size)
        fr_md5(key, size, digest)
        return digest[0]

    @property
    def weighted(self):
        """Do weights decide how many points a server has?"""
        return self._weighted
