"""ring_jump: jump consistent hash (Lamping and Veach) over the servers in the order of their names.

A server of weight w stands in w buckets one behind the other. Jump hash numbers buckets and knows only "the last one
comes or goes": a server that sorts last joins or leaves with no needless move; any other renumbers those behind it, and
so does a change of its weight. Where servers come and go freely, use `table` or `rendezvous`.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport fr_walk, fr_walk_offer, ring_rows

from fastroute.errors import UsageError

cdef extern from *:
    """
    /* A quotient and a product of doubles, correctly rounded on every platform; nothing here can be fused. */
    static uint32_t fr_jump(uint64_t key, uint32_t buckets)
    {
        int64_t bucket = -1, next = 0;
        while (next < (int64_t)buckets) {
            bucket = next;
            key = key * 2862933555777941757ull + 1;
            next = (int64_t)((double)(bucket + 1) * (2147483648.0 / (double)((key >> 33) + 1)));
        }
        return (uint32_t)bucket;
    }
    static uint64_t fr_jump_rehash(uint64_t hash, uint64_t attempt)
    {
        uint64_t z = hash + attempt * 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    """
    uint32_t fr_jump(uint64_t key, uint32_t buckets) noexcept nogil
    uint64_t fr_jump_rehash(uint64_t hash, uint64_t attempt) noexcept nogil

BUCKETS_MAX = 1 << 24
cdef enum:
    ATTEMPTS_MAX = 64   # hashes tried for another server before the walk goes on from bucket to bucket


cdef class JumpRing(Ring):
    """Jump consistent hash.

    Args:
        keys: the servers' names (str or bytes); they set the order and nothing else.
        weights: 0..65535: as many buckets; 2**24 buckets in all.
        slots: the servers' labels in the answers; default: the positions in `keys`.
        seed: of the keys' XXH64, 0..2**64-1.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: independent of the order of the lists. pick() is O(log buckets). candidates() draws further hashes from the first
        (splitmix64 of hash + k x golden ratio) and, after 64 of those, goes from bucket to bucket.
    Source: Lamping and Veach, "A fast, minimal memory, consistent hash algorithm", 2014, figure 1.
    """

    def __init__(self, keys, weights, slots=None, *, seed=0):
        cdef uint32_t at = 0, i, weight
        cdef uint16_t slot
        if self._bucket != NULL:
            raise UsageError("a ring is built once")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        rows = ring_rows(keys, weights, slots, False, 65535)
        total = sum([row[1] for row in rows])
        if total > BUCKETS_MAX:
            raise UsageError(f"weights that sum to {total}; accepted is up to {BUCKETS_MAX}: lower them in proportion")
        self._seed = seed
        if not rows:
            return
        self._bucket = <uint16_t *>malloc(total * sizeof(uint16_t))
        if self._bucket == NULL:
            raise MemoryError(f"no memory for {total} buckets")
        for _, weight, slot in rows:
            for i in range(weight):
                self._bucket[at] = slot
                at += 1
        self.bucket_count, self.server_count = at, <int>len(rows)

    def __dealloc__(self):
        free(self._bucket)

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return fr_xxh64(key, size, self._seed)

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self.bucket_count == 0:
            return FR_NO_SLOT
        return self._bucket[fr_jump(hash, self.bucket_count)]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        cdef uint64_t attempt, attempts = ATTEMPTS_MAX
        cdef uint32_t at = fr_jump(hash, self.bucket_count), i
        if fr_walk_offer(walk, self._bucket[at]):
            return
        for attempt in range(1, attempts + 1):
            if fr_walk_offer(walk, self._bucket[fr_jump(fr_jump_rehash(hash, attempt), self.bucket_count)]):
                return
        for i in range(self.bucket_count):
            at = 0 if at + 1 == self.bucket_count else at + 1
            if fr_walk_offer(walk, self._bucket[at]):
                return
