"""ring_rendezvous: weighted rendezvous hashing (highest random weight), in integers (ext/fr_ring_rendezvous.h).

Every server scores every key; the best score wins, and the order of the scores is the order of fallback. Nothing moves
needlessly, whoever joins or leaves; weights are exact; there is no table. The price is O(servers) per pick: 1 to 3 ns each.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport fr_walk, fr_walk_offer, ring_rows
from fastroute._core.ring_rendezvous cimport fr_rival

from fastroute.errors import UsageError


cdef extern from "fr_ring_rendezvous.h" nogil:
    enum: FR_SCORE_BITS
    void fr_score_prepare() noexcept
    uint64_t fr_score_exponential(uint64_t z) noexcept
    uint32_t fr_rival_first(const fr_rival *rival, uint32_t count, uint64_t hash) noexcept
    int fr_rival_after(const fr_rival *rival, uint32_t count, uint64_t hash, int last, const uint8_t *allowed) noexcept

fr_score_prepare()

SCORE_BITS = FR_SCORE_BITS


def exponential(z):
    """-log2((z + 1) / 2**64), SCORE_BITS behind the point (for tests)."""
    return fr_score_exponential(<uint64_t>z)


cdef class RendezvousRing(Ring):
    """Weighted rendezvous hashing.

    Args:
        keys: the servers' names (str or bytes), all different.
        weights: 0..65535; a server wins in proportion to its weight.
        slots: the servers' labels in the answers; default: the positions in `keys`.
        seed: of the keys' XXH64, 0..2**64-1.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: independent of the order of the lists. pick() is O(servers), candidates(key, n) O(n x servers). A server that is
        out is passed over, which is the same as a ring without it.
    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights: Wang et al., 2005.
    """

    def __init__(self, keys, weights, slots=None, *, seed=0):
        cdef bytes text
        cdef int i
        if self._rival != NULL:
            raise UsageError("a ring is built once")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        rows = ring_rows(keys, weights, slots, False, 65535)
        rows.sort(key=_by_weight)
        self._seed = seed
        self._rival = <fr_rival *>malloc((len(rows) + 1) * sizeof(fr_rival))
        if self._rival == NULL:
            raise MemoryError(f"no memory for a ring of {len(rows)} servers")
        for i in range(<int>len(rows)):
            text, self._rival[i].weight, self._rival[i].slot = rows[i]
            self._rival[i].seed = fr_xxh64(<const char *>text, <size_t>len(text), 0)
        self.server_count = <int>len(rows)

    def __dealloc__(self):
        free(self._rival)

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return fr_xxh64(key, size, self._seed)

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self.server_count == 0:
            return FR_NO_SLOT
        return self._rival[fr_rival_first(self._rival, <uint32_t>self.server_count, hash)].slot

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        cdef int last = -1
        while True:
            last = fr_rival_after(self._rival, <uint32_t>self.server_count, hash, last, walk.allowed)
            if last < 0 or fr_walk_offer(walk, self._rival[last].slot):
                return


def _by_weight(row):
    return row[1], row[0]
