"""ring_table: the `table` ring, a lookup table filled by an exponential race (the idea: ext/fr_ring_table.h).

A ring is immutable: built once from (keys, weights, slots), swapped in by its user, freed with its last reference.
It is a function of the set of (key, weight): the order of the lists does not matter, slots are labels.
Rules: the build runs without the GIL; a lookup is `first[fr_mulhi64(hash, cells)]`, done inline by whoever holds the ring.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastroute._core.base cimport FR_NO_SLOT, fr_mulhi64
from fastroute._core.ring_table cimport fr_table_cell

from fastroute.errors import InternalError, UsageError
from fastroute.model import check_weight


cdef extern from "fr_ring_table.h" nogil:
    enum: FR_TABLE_VERSION
    enum: FR_TABLE_CHOICES
    enum: FR_TABLE_CELLS_MIN
    enum: FR_TABLE_CELLS_MAX
    enum: FR_TABLE_NO_MEMORY
    enum: FR_TABLE_ENDLESS
    ctypedef struct fr_runner:
        uint64_t state
        uint64_t inverse
    void fr_table_prepare() noexcept
    void fr_runner_start(fr_runner *r, const void *key, size_t size, uint32_t weight, uint64_t cells) noexcept
    int fr_table_race(fr_runner *runners, uint32_t n, uint64_t weight_sum, fr_table_cell *cell, uint64_t *final, uint32_t cells) noexcept
    uint64_t fr_table_score(uint64_t seed, uint64_t inverse, uint64_t cell) noexcept
    uint64_t fr_gap(uint32_t low) noexcept

VERSION = FR_TABLE_VERSION
CELLS_MIN = FR_TABLE_CELLS_MIN
CELLS_MAX = FR_TABLE_CELLS_MAX
SERVERS_MAX = FR_NO_SLOT

OVERLAY_DOWN_MIN = FR_TABLE_CHOICES
"""With fewer servers out every cell still lists one that is in."""

fr_table_prepare()


def gap(low):
    """-log2((low + 1) / 2**32), 31 bits behind the point: the race's gap for the low half of a draw (for tests)."""
    return fr_gap(<uint32_t>low)


cdef class TableRing:
    """The `table` ring.

    Args:
        keys: what identifies the servers (str or bytes), all different.
        weights: 0..65535 each; a server of weight 0 is listed nowhere.
        slots: the server's label in the answers, 0..65534, all different; default: the position in `keys`.
        cells: size of the table, 16..2**24. A key's cell is the high word of hash x cells.
        only: None, or a buffer with a byte per cell: cells where it is 0 are left out (FR_NO_SLOT), which ends the race
            earlier. The cells built equal those of the whole table.

    Raises:
        UsageError: values outside these ranges; MemoryError.

    Notes: O(cells x 18) draws whatever the number of servers; the GIL is released. 6 bytes per cell stay.
    """

    def __init__(self, keys, weights, slots=None, *, cells=131072, only=None):
        if self.cells:
            raise UsageError("a TableRing is built once")
        keys, weights = list(keys), list(weights)
        slots = list(range(len(keys))) if slots is None else list(slots)
        if not len(keys) == len(weights) == len(slots):
            raise UsageError(f"{len(keys)} keys, {len(weights)} weights, {len(slots)} slots: one of each per server")
        if not isinstance(cells, int) or not CELLS_MIN <= cells <= CELLS_MAX:
            raise UsageError(f"slots {cells!r}: accepted are whole numbers from {CELLS_MIN} to {CELLS_MAX}")
        rows = sorted(
            (key.encode() if isinstance(key, str) else bytes(key), check_weight(weight, str(key)), slot)
            for key, weight, slot in zip(keys, weights, slots)
        )
        if len({row[0] for row in rows}) != len(rows) or len(set(slots)) != len(rows):
            raise UsageError("the keys of a ring must be all different, and its slots too")
        if slots and not 0 <= min(slots) <= max(slots) < FR_NO_SLOT:
            raise UsageError(f"slots {min(slots)}..{max(slots)}: accepted are 0 to {FR_NO_SLOT - 1}")
        if only is not None and (not isinstance(only, (bytes, bytearray)) or len(only) != cells):
            raise UsageError("only: accepted is a bytes or bytearray with one byte per cell")
        self.cells = <uint64_t>cells
        rows = [row for row in rows if row[1]]
        self.server_count = len(rows)
        if rows:
            self._build(rows, only)

    cdef int _build(self, list rows, object only) except -1:
        cdef uint32_t n = <uint32_t>len(rows), cells = <uint32_t>self.cells, i, weight
        cdef uint64_t weight_sum = 0
        cdef size_t words = (cells + 63) // 64
        cdef uint64_t *final = <uint64_t *>calloc(words, sizeof(uint64_t))
        cdef fr_table_cell *cell = <fr_table_cell *>calloc(cells, sizeof(fr_table_cell))
        cdef fr_runner *runners = <fr_runner *>calloc(n, sizeof(fr_runner))
        cdef const unsigned char *wanted = NULL
        cdef bytes key
        cdef int status = FR_TABLE_NO_MEMORY
        self._seeds = <uint64_t *>malloc(n * sizeof(uint64_t))
        self._inverses = <uint64_t *>malloc(n * sizeof(uint64_t))
        self._slots = <uint16_t *>malloc(n * sizeof(uint16_t))
        self.first = <uint16_t *>malloc(cells * sizeof(uint16_t))
        self.second = <uint16_t *>malloc(cells * sizeof(uint16_t))
        self.third = <uint16_t *>malloc(cells * sizeof(uint16_t))
        if (final and cell and runners and self._seeds and self._inverses and self._slots
                and self.first and self.second and self.third):
            for i in range(n):
                key, weight, self._slots[i] = rows[i]
                fr_runner_start(&runners[i], <const char *>key, <size_t>len(key), weight, cells)
                self._inverses[i] = runners[i].inverse
                self._seeds[i] = runners[i].state
                weight_sum += weight
            if only is not None:
                wanted = <const unsigned char *><const char *>only if isinstance(only, bytes) else <const unsigned char *><char *>(<bytearray>only)
            with nogil:
                for i in range(cells):
                    if wanted != NULL and not wanted[i]:
                        final[i >> 6] |= (<uint64_t>1) << (i & 63)
                for i in range(cells, <uint32_t>(words * 64)):
                    final[i >> 6] |= (<uint64_t>1) << (i & 63)
                status = fr_table_race(runners, n, weight_sum, cell, final, cells) if n > 1 else 0
                if status == 0:
                    self._fill(cell, wanted, n)
        free(final)
        free(cell)
        free(runners)
        if status == FR_TABLE_NO_MEMORY:
            raise MemoryError(f"no memory for a table ring of {cells} cells")
        if status != 0:
            raise InternalError(f"the race of a table ring of {n} servers and {cells} cells did not end")
        return 0

    cdef void _fill(self, const fr_table_cell *cell, const unsigned char *wanted, uint32_t n) noexcept nogil:
        # The race lists min(3, n - 1) runners; with n <= 3 the last place is the one left: sum of all minus those listed.
        cdef uint16_t slots[3]
        cdef uint32_t i, k, count, rest
        for i in range(<uint32_t>self.cells):
            slots[0] = slots[1] = slots[2] = FR_NO_SLOT
            if wanted == NULL or wanted[i]:
                count = cell[i].count
                rest = n * (n - 1) // 2
                for k in range(count):
                    slots[k] = self._slots[cell[i].runner[k]]
                    rest -= cell[i].runner[k]
                if n <= 3:
                    slots[count] = self._slots[rest]
            self.first[i] = slots[0]
            self.second[i] = slots[1]
            self.third[i] = slots[2]

    def __dealloc__(self):
        free(self.first)
        free(self.second)
        free(self.third)
        free(self._seeds)
        free(self._inverses)
        free(self._slots)

    cdef uint16_t scored(self, uint64_t cell, const unsigned char *allowed, const uint16_t *skip, int skip_count) noexcept nogil:
        cdef uint64_t best = UINT64_MAX, score
        cdef uint16_t found = FR_NO_SLOT, slot
        cdef int i, k
        for i in range(self.server_count):
            slot = self._slots[i]
            if not allowed[slot]:
                continue
            for k in range(skip_count):
                if skip[k] == slot:
                    break
            else:
                score = fr_table_score(self._seeds[i], self._inverses[i], cell)
                if score < best or found == FR_NO_SLOT:
                    best, found = score, slot
        return found

    def ranking(self, cell):
        """All slots in the order in which the cell falls back on them beyond its listed choices (by score)."""
        cdef int i
        rows = [(fr_table_score(self._seeds[i], self._inverses[i], cell), i, self._slots[i]) for i in range(self.server_count)]
        return [slot for _, _, slot in sorted(rows)]

    def cell_of(self, hash):
        """Cell of a key's hash."""
        return fr_mulhi64(<uint64_t>hash, self.cells)

    def choices(self, cell):
        """Distinct slots of a cell, first choice first: min(3, servers) of them, none for a cell left out.

        Raises:
            UsageError: a cell outside the table.
        """
        if not isinstance(cell, int) or not 0 <= cell < self.cells:
            raise UsageError(f"cell {cell!r}: accepted are whole numbers from 0 to {self.cells - 1}")
        if self.first == NULL:
            return ()
        listed = (self.first[cell], self.second[cell], self.third[cell])
        return tuple(slot for slot in listed if slot != FR_NO_SLOT)

    def column(self, rank):
        """A copy of the choices of one rank (0, 1, 2) for all cells: bytes of uint16, native order; empty without servers.

        Raises:
            UsageError: another rank.
        """
        if rank not in (0, 1, 2):
            raise UsageError(f"rank {rank!r}: accepted are 0, 1 and 2")
        if self.first == NULL:
            return b""
        cdef uint16_t *column = self.first if rank == 0 else self.second if rank == 1 else self.third
        return (<const char *>column)[:self.cells * sizeof(uint16_t)]

    def __repr__(self):
        return f"TableRing({self.server_count} servers, {self.cells} cells)"


cdef TableRing ring_of(tuple inputs, uint64_t cells, object only=None):
    return TableRing([row[0] for row in inputs], [row[1] for row in inputs], [row[2] for row in inputs],
                     cells=cells, only=only)


cdef TableRing overlay_of(TableRing ring, tuple inputs, set allowed):
    cdef uint64_t i
    cdef bytearray dead, out
    cdef uint8_t *marks
    cdef uint8_t *is_out
    cdef int any_dead = 0
    if ring.first == NULL or not allowed or len(inputs) - len(allowed) < OVERLAY_DOWN_MIN:
        return None
    dead, out = bytearray(ring.cells), bytearray(FR_NO_SLOT + 1)
    for _, _, slot in inputs:
        out[slot] = slot not in allowed
    out[FR_NO_SLOT] = 1
    marks, is_out = <uint8_t *><char *>dead, <uint8_t *><char *>out
    with nogil:
        for i in range(ring.cells):
            if is_out[ring.first[i]] and is_out[ring.second[i]] and is_out[ring.third[i]]:
                marks[i] = 1
                any_dead = 1
    if not any_dead:
        return None
    return ring_of(tuple([row for row in inputs if row[2] in allowed]), ring.cells, dead)
