"""ring_set: the rings that one pool picks from by key: the table over its main servers, that over its backups, the overlay
over who is eligible, and the dialect where `ring` names one.

Not here: how a ring is built (ring_*.pyx), who is eligible (pool), loads (policies).
Rules: `stage` builds and may raise, `commit` puts in force and cannot fail; both under the pool's lock. Rings are
immutable; what was built from the same inputs is used again.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastroute._core.base cimport FR_NO_SLOT, fr_mulhi64
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport Ring
from fastroute._core.ring_table cimport TableRing, overlay_of, ring_after

from fastroute._core import dialects as _dialects, pool_arguments as _arguments
from fastroute.errors import UsageError


cdef class RingSet:
    """The rings of one pool.

    Args:
        ring: "table" or a dialect's name.
        cells: of the table.
        seed: of the keys' hash.
        options: of the dialect.
        by_key: the pool picks by key (else the table alone, as the fallback).
    """

    def __init__(self, str ring not None, uint64_t cells, uint64_t seed, dict options not None, bint by_key):
        self.ring, self.cells, self.seed, self.options = ring, cells, seed, options
        self.by_dialect = by_key and ring != "table"

    cdef int stage(self, tuple servers, dict slots, list eligible, bint on_backup, bint with_table, tuple declared) except -1:
        cdef TableRing table = None, overlay = None, main = self._main, backup = self._backup
        cdef tuple main_inputs = self._main_inputs, backup_inputs = self._backup_inputs
        cdef tuple dialect_inputs = self._dialect_inputs, inputs
        cdef Ring dialect = self.dialect
        with_table = with_table or self.has_table
        if with_table:
            inputs = _arguments.ring_inputs(servers, slots, False)
            if inputs != main_inputs:
                main, main_inputs = ring_after(main, inputs, self.cells), inputs
            table = main
            if on_backup and eligible:
                inputs = _arguments.ring_inputs(servers, slots, True)
                if inputs != backup_inputs:
                    backup, backup_inputs = ring_after(backup, inputs, self.cells), inputs
                table = backup
            overlay = overlay_of(table, inputs, {slots[server.name] for server in eligible})
        if declared is None:
            declared = self._declared
        if self.by_dialect:
            by_name = {server.name: server for server in servers}
            inputs = _dialects.ring_inputs(self.ring, [by_name[name] for name in declared], eligible, on_backup, slots)
            if inputs != dialect_inputs:
                dialect = _dialects.make_ring(self.ring, inputs, self.seed, self.options)
                dialect_inputs = inputs
        self._staged = (table, overlay, main, main_inputs, backup, backup_inputs, dialect, dialect_inputs, declared, with_table)
        return 0

    cdef object commit(self):
        old = (self.table, self.overlay, self._main, self._backup, self.dialect)
        (self.table, self.overlay, self._main, self._main_inputs, self._backup, self._backup_inputs, self.dialect,
         self._dialect_inputs, self._declared, self.has_table) = self._staged
        self._staged = None
        return old

    cdef uint64_t hash_key(self, const uint8_t *key, Py_ssize_t size) noexcept:
        if self.by_dialect:
            return self.dialect.hash_key(key, <size_t>size)
        return fr_xxh64(key, <size_t>size, self.seed)

    cdef int next(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept:
        cdef uint16_t slot
        if not self.by_dialect:
            return self.table_next(hash, tried, tried_count)
        return slot if self.dialect.walk(hash, self.unbound, tried, tried_count, &slot, 1) else -1

    cdef int table_next(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept:
        # The cell's three, the overlay's three, then by score.
        cdef uint64_t cell
        cdef uint16_t listed[6]
        cdef int i, k, count = 3
        if self.table is None or self.table.first == NULL:
            return -1
        cell = fr_mulhi64(hash, self.cells)
        listed[0], listed[1], listed[2] = self.table.first[cell], self.table.second[cell], self.table.third[cell]
        if self.overlay is not None:
            listed[3], listed[4], listed[5] = self.overlay.first[cell], self.overlay.second[cell], self.overlay.third[cell]
            count = 6
        for i in range(count):
            if listed[i] == FR_NO_SLOT or not self.unbound[listed[i]]:
                continue
            for k in range(tried_count):
                if tried[k] == listed[i]:
                    break
            else:
                return listed[i]
        listed[0] = self.table.scored(cell, self.unbound, tried, tried_count)
        return -1 if listed[0] == FR_NO_SLOT else listed[0]

    cdef list slots_by_key(self, uint64_t hash, int n):
        cdef int count, i
        cdef bytearray room
        cdef uint16_t *out
        if not self.by_dialect:
            return self.slots_by_table(hash, n)
        count = min(n, self.dialect.server_count)
        room = bytearray(2 * count + 2)
        out = <uint16_t *><char *>room
        count = self.dialect.walk(hash, self.unbound, NULL, 0, out, count) if count else 0
        return [out[i] for i in range(count)]

    cdef list slots_by_table(self, uint64_t hash, int n):
        cdef uint64_t cell = fr_mulhi64(hash, self.cells)
        if self.table is None or self.table.first == NULL:
            return []
        found = list(self.table.choices(cell))
        if self.overlay is not None:
            found += self.overlay.choices(cell)
        found = [slot for slot in dict.fromkeys(found) if self.unbound[<int>slot]]
        if len(found) < n:
            listed = set(found)
            found += [slot for slot in self.table.ranking(cell) if slot not in listed and self.unbound[<int>slot]]
        return found

    cdef int fill(self, object hashes, object out) except -1:
        cdef Py_buffer source, target
        cdef const uint64_t *from_
        cdef const uint16_t *first = self.table.first if self.table is not None and not self.by_dialect else NULL
        cdef uint16_t *to
        cdef uint16_t slot
        cdef Py_ssize_t i, count
        cdef int found
        _get_buffer(hashes, &source, "hashes", b"QL", 8, 0)
        try:
            _get_buffer(out, &target, "out", b"H", 2, PyBUF_WRITABLE)
            try:
                count = source.len // 8
                if target.len // 2 != count:
                    raise UsageError(f"out holds {target.len // 2} slots, hashes {count}; both need the same length")
                from_, to = <const uint64_t *>source.buf, <uint16_t *>target.buf
                for i in range(count):
                    slot = FR_NO_SLOT
                    if first != NULL:
                        slot = first[fr_mulhi64(from_[i], self.cells)]
                    elif self.by_dialect:
                        slot = self.dialect.slot_of(from_[i])
                    if slot == FR_NO_SLOT or not self.unbound[slot]:
                        found = self.next(from_[i], NULL, 0)
                        slot = FR_NO_SLOT if found < 0 else <uint16_t>found
                    to[i] = slot
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
        return 0


cdef int _get_buffer(object given, Py_buffer *view, str name, bytes formats, Py_ssize_t item_bytes, int flags) except -1:
    wanted = f"{'writable ' if flags else ''}contiguous buffer of uint{item_bytes * 8}"
    try:
        PyObject_GetBuffer(given, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | flags)
    except (TypeError, ValueError, BufferError) as error:
        raise UsageError(f"{name}: found {type(given).__name__} ({error}); accepted is a {wanted}") from None
    found = bytes(view.format) if view.format != NULL else b"B"
    if view.itemsize != item_bytes or view.ndim != 1 or found.lstrip(b"@=<") not in (formats[:1], formats[1:] or formats):
        dimensions = view.ndim
        PyBuffer_Release(view)
        raise UsageError(f"{name}: found items {found.decode()!r} in {dimensions} dimensions; accepted is a {wanted}")
    return 0
