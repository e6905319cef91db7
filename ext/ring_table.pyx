"""ring_table: the `table` ring, a lookup table filled by an exponential race (the idea: ext/fr_ring_table.h).

A ring is immutable: made once from (keys, weights, slots), swapped in by its user, freed with its last reference.
It is a function of the set of (key, weight): the order of the lists does not matter, slots are labels. A ring can be made
from another one of which few servers differ (ext/fr_ring_change.h): the same result, sooner.
Rules: the build runs without the GIL; a lookup is `first[fr_mulhi64(hash, cells)]`, done inline by whoever holds the ring.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastroute._core.base cimport FR_NO_SLOT, fr_mulhi64

from fastroute.errors import InternalError, UsageError
from fastroute.model import check_weight


cdef extern from "fr_ring_table.h" nogil:
    enum: FR_TABLE_VERSION
    enum: FR_TABLE_KEPT
    enum: FR_TABLE_CELLS_MIN
    enum: FR_TABLE_CELLS_MAX
    enum: FR_TABLE_CHOICES
    enum: FR_TABLE_OK
    enum: FR_TABLE_NO_MEMORY
    enum: FR_BLOCK_BITS
    enum: FR_BLOCK_CELLS
    ctypedef struct fr_runner:
        pass
    void fr_table_prepare() noexcept
    void fr_table_server_set(fr_table_server *server, const void *key, size_t size, uint32_t weight, uint16_t slot) noexcept
    uint32_t fr_block_size(uint32_t block, uint32_t cells) noexcept
    int fr_block_race(const fr_table_server *server, uint32_t n, uint64_t weight_sum, uint32_t block, uint32_t size,
                      uint64_t *lists, uint32_t wanted, fr_runner *runner, uint64_t *horizon) noexcept
    void fr_block_columns(const fr_table_server *server, uint32_t n, const uint64_t *lists, uint32_t size,
                          uint16_t *first, uint16_t *second, uint16_t *third) noexcept
    uint64_t fr_table_score(uint64_t seed, uint64_t inverse, uint64_t cell) noexcept
    uint64_t fr_gap(uint32_t low) noexcept

cdef extern from "fr_ring_change.h" nogil:
    ctypedef struct fr_table_change:
        uint64_t seed
        uint64_t inverse_before
        uint64_t inverse_after
        uint16_t slot_before
        uint16_t slot_after
    ctypedef struct fr_table_after:
        const fr_table_server *server
        uint32_t n
        uint64_t weight_sum
        const uint16_t *rank
        fr_runner *runner
        uint64_t *lists
        uint64_t raced_again
    uint32_t fr_block_count(uint32_t cells) noexcept
    void fr_records_free(fr_table_records *records) noexcept
    fr_table_records *fr_records_new(uint32_t cells) noexcept
    fr_table_records *fr_records_take(fr_table_records **place) noexcept
    void fr_lists_label(uint64_t *lists, const fr_table_server *server, uint32_t count) noexcept
    int fr_block_change(fr_table_after *after, fr_table_records *records, const fr_table_change *change, uint32_t changes,
                        uint32_t block, uint32_t size, uint16_t *first, uint16_t *second, uint16_t *third) noexcept

VERSION = FR_TABLE_VERSION
CELLS_MIN = FR_TABLE_CELLS_MIN
CELLS_MAX = FR_TABLE_CELLS_MAX
BLOCK_CELLS = FR_BLOCK_CELLS
SERVERS_MAX = FR_NO_SLOT

OVERLAY_DOWN_MIN = FR_TABLE_CHOICES
"""With fewer servers out every cell still lists one that is in."""

RECORD_CELLS_MAX = 1 << 22
"""Larger tables keep no records (40 bytes per cell, 160 MiB here): each of their changes is a whole build."""

CHANGED_SHARE_MAX = 0.1
"""Share of the weight that a change may touch, before and after taken together: beyond it a whole build is as quick
(docs/design/table-ring.md)."""

WEIGHT_DRIFT_MAX = 2
"""The records' horizons stand for the sum of the weights when they were built: a whole build once it has doubled."""

fr_table_prepare()


def gap(low):
    """-log2((low + 1) / 2**32), 31 bits behind the point: the race's gap for the low half of a draw (for tests)."""
    return fr_gap(<uint32_t>low)


cdef list _rows_of(keys, weights, slots, cells):
    """Checked (key, weight, slot) in the order of the keys, weight 0 left out."""
    keys, weights = list(keys), list(weights)
    slots = list(range(len(keys))) if slots is None else list(slots)
    if not len(keys) == len(weights) == len(slots):
        raise UsageError(f"{len(keys)} keys, {len(weights)} weights, {len(slots)} slots: one of each per server")
    if not isinstance(cells, int) or not CELLS_MIN <= cells <= CELLS_MAX:
        raise UsageError(f"slots {cells!r}: accepted are whole numbers from {CELLS_MIN} to {CELLS_MAX}")
    rows = sorted([
        (key.encode() if isinstance(key, str) else bytes(key), check_weight(weight, str(key)), slot)
        for key, weight, slot in zip(keys, weights, slots)
    ])
    if len({row[0] for row in rows}) != len(rows) or len(set(slots)) != len(rows):
        raise UsageError("the keys of a ring must be all different, and its slots too")
    if slots and not 0 <= min(slots) <= max(slots) < FR_NO_SLOT:
        raise UsageError(f"slots {min(slots)}..{max(slots)}: accepted are 0 to {FR_NO_SLOT - 1}")
    return [row for row in rows if row[1]]


cdef class TableRing:
    """The `table` ring.

    Args:
        keys: what identifies the servers (str or bytes), all different.
        weights: 0..65535 each; a server of weight 0 is listed nowhere.
        slots: the server's label in the answers, 0..65534, all different; default: the position in `keys`.
        cells: size of the table, 16..2**24. A key's cell is the high word of hash x cells.
        only: None, or a buffer with a byte per cell: cells where it is 0 are left out (FR_NO_SLOT). The cells built
            equal those of the whole table.
        keep: keep the records that make changed() quick, 40 bytes per cell; never kept with `only`.

    Raises:
        UsageError: values outside these ranges; MemoryError.

    Notes: O(cells x 15) draws whatever the number of servers; the GIL is released. 6 bytes per cell stay, and the records.
    """

    def __init__(self, keys, weights, slots=None, *, cells=131072, only=None, keep=True):
        if self.cells:
            raise UsageError("a TableRing is built once")
        rows = _rows_of(keys, weights, slots, cells)
        if only is not None and (not isinstance(only, (bytes, bytearray)) or len(only) != cells):
            raise UsageError("only: accepted is a bytes or bytearray with one byte per cell")
        self._set_up(rows, cells)
        if rows:
            self._build(only, keep and only is None and cells <= RECORD_CELLS_MAX)

    cdef int _set_up(self, list rows, uint64_t cells) except -1:
        cdef uint32_t n = <uint32_t>len(rows), i, weight
        cdef bytes key
        cdef uint16_t slot
        self.cells = cells
        self.server_count = <int>n
        self._rows = rows
        if not n:
            return 0
        self._servers = <fr_table_server *>calloc(n, sizeof(fr_table_server))
        self.first = <uint16_t *>malloc(cells * sizeof(uint16_t))
        self.second = <uint16_t *>malloc(cells * sizeof(uint16_t))
        self.third = <uint16_t *>malloc(cells * sizeof(uint16_t))
        if not (self._servers and self.first and self.second and self.third):
            raise MemoryError(f"no memory for a table ring of {cells} cells")
        for i in range(n):
            key, weight, slot = rows[i]
            fr_table_server_set(&self._servers[i], <const char *>key, <size_t>len(key), weight, slot)
            self._weight_sum += weight
        return 0

    cdef int _build(self, object only, bint keep) except -1:
        cdef fr_runner *runner = <fr_runner *>calloc(<size_t>self.server_count, sizeof(fr_runner))
        cdef uint64_t *lists = <uint64_t *>malloc(FR_BLOCK_CELLS * FR_TABLE_KEPT * sizeof(uint64_t))
        cdef const unsigned char *wanted = NULL
        cdef fr_table_records *records = NULL
        cdef int status = FR_TABLE_NO_MEMORY
        if keep and self.server_count > FR_TABLE_KEPT:
            records = fr_records_new(<uint32_t>self.cells)
            keep = records != NULL
        else:
            keep = True
        if only is not None:
            wanted = <const unsigned char *><const char *>only if isinstance(only, bytes) else <const unsigned char *><char *>(<bytearray>only)
        if runner != NULL and lists != NULL and keep:
            with nogil:
                status = self._race(wanted, records, lists, runner)
        free(runner)
        free(lists)
        if status != FR_TABLE_OK:
            fr_records_free(records)
            self._raise(status)
        self._records = records
        return 0

    cdef int _race(self, const unsigned char *wanted, fr_table_records *records, uint64_t *lists, fr_runner *runner) noexcept nogil:
        cdef uint32_t cells = <uint32_t>self.cells, n = <uint32_t>self.server_count, block, size, begin, i, count
        cdef uint64_t horizon = 0
        cdef int status
        for block in range(fr_block_count(cells)):
            size, begin, count = fr_block_size(block, cells), block << FR_BLOCK_BITS, 0
            if records != NULL:
                lists = records.list + <size_t>begin * FR_TABLE_KEPT
            for i in range(size):
                if wanted == NULL or wanted[begin + i]:
                    memset(lists + i * FR_TABLE_KEPT, 0xFF, FR_TABLE_KEPT * sizeof(uint64_t))
                    count += 1
                else:
                    memset(lists + i * FR_TABLE_KEPT, 0, FR_TABLE_KEPT * sizeof(uint64_t))
            if count == 0:
                for i in range(begin, begin + size):
                    self.first[i] = self.second[i] = self.third[i] = FR_NO_SLOT
                continue
            if n > 1:
                status = fr_block_race(self._servers, n, self._weight_sum, block, size, lists, count, runner, &horizon)
                if status != FR_TABLE_OK:
                    return status
            fr_block_columns(self._servers, n, lists, size, self.first + begin, self.second + begin, self.third + begin)
            if records != NULL:
                fr_lists_label(lists, self._servers, size)
                records.horizon[block] = horizon
        if records != NULL:
            records.weight_sum = self._weight_sum
        return FR_TABLE_OK

    cdef int _raise(self, int status) except -1:
        if status == FR_TABLE_NO_MEMORY:
            raise MemoryError(f"no memory for a table ring of {self.cells} cells")
        raise InternalError(f"the race of a table ring of {self.server_count} servers and {self.cells} cells did not end")

    def changed(self, keys, weights, slots=None):
        """The ring of another set of servers, of as many cells: what TableRing(...) gives, sooner where little changed.

        Args:
            keys, weights, slots: as for TableRing; all servers of the new ring, not the changed ones alone.

        Raises:
            UsageError, MemoryError: as TableRing does.

        Notes: takes this ring's records along, so that a second ring made from this one is a whole build. `derived` of the
            result says which it was.
        """
        return _changed(self, _rows_of(keys, weights, slots, self.cells))

    cdef list _changes_to(self, list rows):
        """[(key, weight_before, slot_before, weight_after, slot_after)], or None where a whole build is called for."""
        cdef dict after
        cdef uint64_t weight = 0
        if self.server_count <= FR_TABLE_KEPT or len(rows) <= FR_TABLE_KEPT or self._records == NULL:
            return None
        gone, come = set(self._rows), set(rows)
        gone, come = gone - come, come - gone
        if len(gone) + len(come) > max(2, CHANGED_SHARE_MAX * len(rows)):
            return None
        after = {row[0]: row for row in come}
        made = []
        for key, old, slot in gone:
            row = after.pop(key, (key, 0, slot))
            made.append((key, old, slot, row[1], row[2]))
            weight += <uint64_t>(old + row[1])
        for key, new, slot in after.values():
            made.append((key, 0, slot, new, slot))
            weight += <uint64_t>new
        return None if weight > CHANGED_SHARE_MAX * self._weight_sum else made

    cdef bint _derive(self, TableRing old, list changes) except -1:
        """Fill this ring from an old one and take its records along; False: a whole build is called for."""
        cdef uint32_t cells = <uint32_t>self.cells, count = <uint32_t>len(changes), i, block, begin
        cdef size_t column = self.cells * sizeof(uint16_t)
        cdef fr_table_records *records = fr_records_take(&old._records)
        cdef fr_table_change *change = <fr_table_change *>calloc(count + 1, sizeof(fr_table_change))
        cdef uint16_t *rank = <uint16_t *>malloc((FR_NO_SLOT + 1) * sizeof(uint16_t))
        cdef fr_table_server given
        cdef fr_table_after after
        cdef bytes key
        cdef uint32_t weight_before, weight_after
        cdef int status = FR_TABLE_NO_MEMORY
        after.server, after.n, after.weight_sum = self._servers, <uint32_t>self.server_count, self._weight_sum
        after.rank, after.raced_again = rank, 0
        after.runner = <fr_runner *>calloc(after.n, sizeof(fr_runner))
        after.lists = <uint64_t *>malloc(FR_BLOCK_CELLS * FR_TABLE_KEPT * sizeof(uint64_t))
        if (records != NULL and change != NULL and rank != NULL and after.runner != NULL and after.lists != NULL
                and self._weight_sum <= WEIGHT_DRIFT_MAX * records.weight_sum):
            for i in range(count):
                key, weight_before, change[i].slot_before, weight_after, change[i].slot_after = changes[i]
                fr_table_server_set(&given, <const char *>key, <size_t>len(key), 1, 0)
                change[i].seed = given.seed
                change[i].inverse_before = UINT64_MAX // weight_before if weight_before else 0
                change[i].inverse_after = UINT64_MAX // weight_after if weight_after else 0
            with nogil:
                for i in range(after.n):
                    rank[self._servers[i].slot] = <uint16_t>i
                memcpy(self.first, old.first, column)
                memcpy(self.second, old.second, column)
                memcpy(self.third, old.third, column)
                for block in range(fr_block_count(cells)):
                    begin = block << FR_BLOCK_BITS
                    status = fr_block_change(&after, records, change, count, block, fr_block_size(block, cells),
                                             self.first + begin, self.second + begin, self.third + begin)
                    if status != FR_TABLE_OK:
                        break
        free(after.lists)
        free(after.runner)
        free(rank)
        free(change)
        if status != FR_TABLE_OK:
            fr_records_free(records)
            return False
        self._records, self.derived, self.raced_again = records, True, <int64_t>after.raced_again
        return True

    def __dealloc__(self):
        free(self.first)
        free(self.second)
        free(self.third)
        free(self._servers)
        fr_records_free(self._records)

    cdef uint16_t scored(self, uint64_t cell, const unsigned char *allowed, const uint16_t *skip, int skip_count) noexcept nogil:
        cdef uint64_t best = UINT64_MAX, score
        cdef uint16_t found = FR_NO_SLOT, slot
        cdef int i, k
        for i in range(self.server_count):
            slot = self._servers[i].slot
            if not allowed[slot]:
                continue
            for k in range(skip_count):
                if skip[k] == slot:
                    break
            else:
                score = fr_table_score(self._servers[i].seed, self._servers[i].inverse, cell)
                if score < best or found == FR_NO_SLOT:
                    best, found = score, slot
        return found

    def ranking(self, cell):
        """All slots in the order in which the cell falls back on them beyond its listed choices (by score)."""
        cdef int i
        rows = [(fr_table_score(self._servers[i].seed, self._servers[i].inverse, cell), i, self._servers[i].slot) for i in range(self.server_count)]
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


cdef TableRing _changed(TableRing ring, list rows):
    cdef list changes = ring._changes_to(rows)
    cdef TableRing made
    if changes is not None:
        made = TableRing.__new__(TableRing)
        made._set_up(rows, ring.cells)
        if made._derive(ring, changes):
            return made
    made = TableRing.__new__(TableRing)
    made._set_up(rows, ring.cells)
    if rows:
        made._build(None, ring.cells <= RECORD_CELLS_MAX)
    return made


cdef TableRing ring_of(tuple inputs, uint64_t cells, object only=None):
    return TableRing([row[0] for row in inputs], [row[1] for row in inputs], [row[2] for row in inputs],
                     cells=cells, only=only)


cdef TableRing ring_after(TableRing before, tuple inputs, uint64_t cells):
    if before is None or before.cells != cells:
        return ring_of(inputs, cells)
    return before.changed([row[0] for row in inputs], [row[1] for row in inputs], [row[2] for row in inputs])


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
