"""ring_maglev: Maglev's lookup table as Envoy fills it, with weights.

Every server has a permutation of the table from two hashes of its key. In rounds, the servers take turns (by key) to
claim the next free place of their permutation, a lighter server in as many rounds as its weight is of the largest. A
key's place is its hash modulo the table's size, a prime.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport fr_ring_row, fr_walk, fr_walk_offer, ring_row_array, ring_rows

from fastroute.errors import UsageError


cdef extern from *:
    """
    /* rounds x share and target + most, each rounded to double on its own, as Envoy's build for x86-64 does. */
    static double fr_maglev_product(uint32_t rounds, double share)
    {
        volatile double product = (double)rounds * share;
        return product;
    }
    """
    double fr_maglev_product(uint32_t rounds, double share) noexcept nogil

ctypedef struct fr_maglev_server:
    uint64_t at
    uint64_t skip
    double share
    double target

TABLE_SIZE = 65537
"""Envoy's default table size."""
TABLE_SIZE_MAX = 5_000_011
"""Envoy's limit of table_size."""
cdef enum:
    ATTEMPTS_MAX = 64   # hashes tried for another server before the walk goes on from place to place


def _is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


cdef class MaglevRing(Ring):
    """Maglev as in Envoy.

    Args:
        keys: what Envoy hashes of a server: "10.0.0.1:8080", "[::1]:8080"; the host name with use_hostname_for_hashing;
            or its metadata's hash_key.
        weights: 0..65535.
        slots: the servers' labels in the answers; default: the positions in `keys`.
        table_size: a prime of 2..5,000,011; Envoy's table_size.
        seed: of the keys' XXH64, 0..2**64-1; Envoy's is 0.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: independent of the order of the lists (the servers take turns by key). Envoy builds the table anew over the
        healthy servers when one fails. candidates() hashes on as Envoy's retries do (hash xor -k for the k-th), and after
        64 of those from place to place. 2 bytes per place.
    Source: Eisenbud et al., "Maglev", NSDI 2016, section 3.4; Envoy 1.31 .../maglev/maglev_lb.cc.
    """

    def __init__(self, keys, weights, slots=None, *, table_size=TABLE_SIZE, seed=0):
        if not isinstance(table_size, int) or isinstance(table_size, bool) or not 2 <= table_size <= TABLE_SIZE_MAX \
                or not _is_prime(table_size):
            raise UsageError(f"table_size {table_size!r}: accepted are prime numbers from 2 to {TABLE_SIZE_MAX}")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        if self._table != NULL:
            raise UsageError("a ring is built once")
        self._seed, self.table_size = seed, table_size
        rows = ring_rows(keys, weights, slots, False, 65535)
        if rows:
            self._fill(rows)

    cdef int _fill(self, list rows) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, rounds = 0
        cdef uint64_t size = self.table_size, filled = 0
        cdef double total = sum([row[1] for row in rows]), most = 0
        cdef fr_ring_row *server = ring_row_array(rows)
        cdef fr_maglev_server *turn = <fr_maglev_server *>malloc(n * sizeof(fr_maglev_server))
        cdef uint8_t *met = <uint8_t *>calloc(n, 1)
        cdef fr_maglev_server *now
        cdef uint16_t *table = <uint16_t *>malloc(size * sizeof(uint16_t))
        if turn == NULL or table == NULL or met == NULL:
            free(server)
            free(turn)
            free(met)
            free(table)
            raise MemoryError(f"no memory for a Maglev table of {size} places")
        with nogil:
            for i in range(n):
                turn[i].at = fr_xxh64(server[i].text, server[i].size, 0) % size
                turn[i].skip = fr_xxh64(server[i].text, server[i].size, 1) % (size - 1) + 1
                turn[i].share = <double>server[i].weight / total
                turn[i].target = 0
                most = turn[i].share if turn[i].share > most else most
            for filled in range(size):
                table[filled] = FR_NO_SLOT
            filled = 0
            while filled < size:
                rounds += 1
                for i in range(n):
                    now = &turn[i]
                    if fr_maglev_product(rounds, now.share) < now.target:
                        continue
                    now.target += most
                    while table[now.at] != FR_NO_SLOT:
                        now.at = now.at + now.skip - (size if now.at + now.skip >= size else 0)
                    table[now.at] = server[i].slot
                    met[i] = 1
                    filled += 1
                    if filled == size:
                        break
            for i in range(n):
                self.server_count += met[i]
        free(server)
        free(turn)
        free(met)
        self._table = table
        return 0

    def __dealloc__(self):
        free(self._table)

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return fr_xxh64(key, size, self._seed)

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self._table == NULL:
            return FR_NO_SLOT
        return self._table[hash % self.table_size]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        cdef uint64_t attempt, at, attempts = ATTEMPTS_MAX
        for attempt in range(attempts):
            if fr_walk_offer(walk, self._table[(hash ^ (0 - attempt)) % self.table_size]):
                return
        at = hash % self.table_size
        for attempt in range(self.table_size - 1):
            at = 0 if at + 1 == self.table_size else at + 1
            if fr_walk_offer(walk, self._table[at]):
                return

    def table(self):
        """The slots of all places: a list, for tests and tools; empty without servers."""
        cdef uint64_t i
        return [self._table[i] for i in range(self.table_size)] if self._table != NULL else []
