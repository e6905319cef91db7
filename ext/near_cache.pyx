# cython: autotestdict=False
"""near_cache: a process's own values by key, bounded in bytes, evicted by S3-FIFO, with two time limits per entry.

Not here: the store, encoding, who computes a missing value (fastroute/cache/shared.py); the index (fr_near.h).

Rules of this file:
  - Keys are exactly str or bytes and are kept and compared whole; the str "a" and the bytes b"a" are two keys.
  - An entry is fresh until one limit and usable as stale until a second one; from then on it is absent.
  - A miss makes no object: it returns the constant MISS.
  - Values are handed out as they are, not copied: who changes one changes it for everybody in this process.
  - References are given up only when the structure is consistent (fr_near.h says why).
  - Thread-safe under the GIL: no method gives it up between reading and writing the index.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastroute._core.base cimport fr_clock, fr_now_ms
from fastroute._core.hashes cimport fr_hash_key, fr_siphash128

import os
import sys
from typing import NamedTuple

from fastroute.errors import UsageError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t index) noexcept
    Py_ssize_t PyList_GET_SIZE(object items) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept

KEY_BYTES_MAX = 1 << 20
"""Longest key: a key beyond a mebibyte is a mistake; digest it."""

LIFETIME_MS_MAX = 10 * 365 * 86_400_000
"""Longest lifetime, ten years: the limit of every duration in fastroute (model.py)."""

ENTRY_OVERHEAD_BYTES = FR_NEAR_OVERHEAD_BYTES
"""What an entry costs besides its key and its value."""

cdef int64_t _LIFETIME_MS_MAX = LIFETIME_MS_MAX
cdef Py_ssize_t _KEY_BYTES_MAX = KEY_BYTES_MAX
cdef uint64_t _STR_HEAD_BYTES = sys.getsizeof("")
cdef uint64_t _BYTES_HEAD_BYTES = sys.getsizeof(b"")
cdef uint64_t _FLOAT_BYTES = sys.getsizeof(0.5)


class _Miss:
    """Type of MISS: false, prints as its name, survives copying as itself."""

    __slots__ = ()

    def __repr__(self):
        return "MISS"

    def __bool__(self):
        return False

    def __reduce__(self):
        return "MISS"


MISS = _Miss()
cdef object _MISS = MISS

NearStatistics = NamedTuple("NearStatistics", [
    ("entries", int), ("bytes", int), ("bytes_max", int), ("hits", int), ("stale_hits", int), ("misses", int),
    ("evictions", int), ("expirations", int), ("refused_fills", int),
])


cdef struct key_view:
    const uint8_t *data
    uint64_t hash
    uint32_t size
    int kind


cdef inline int view_key(object key, const fr_hash_key *hash_key, key_view *out) except -1:
    cdef Py_ssize_t size
    if PyUnicode_CheckExact(key):
        out.kind = NEAR_KIND_STR
        try:
            out.data = <const uint8_t *>PyUnicode_AsUTF8AndSize(key, &size)
        except UnicodeEncodeError:
            raise UsageError(f"cache key {key!r}: accepted are strings that can be written as UTF-8") from None
    elif PyBytes_CheckExact(key):
        out.kind = NEAR_KIND_BYTES
        out.data = <const uint8_t *>PyBytes_AS_STRING(key)
        size = PyBytes_GET_SIZE(key)
    else:
        raise UsageError(f"cache key {key!r}: accepted are str and bytes")
    if size > _KEY_BYTES_MAX:
        raise UsageError(f"cache key of {size} bytes: accepted are up to {_KEY_BYTES_MAX}")
    out.size = <uint32_t>size
    out.hash = fr_siphash128(hash_key, out.data, size).lo
    return 0


cdef inline uint64_t lifetime_ms(int64_t value, str name) except? 0:
    if not 0 <= value <= _LIFETIME_MS_MAX:
        raise UsageError(f"{name} {value}: accepted are 0 to {_LIFETIME_MS_MAX} milliseconds")
    return <uint64_t>value


@cython.no_gc_clear
cdef class NearCache:
    """Values of this process by key.

    Args:
        bytes_max: budget for keys, values (as the caller sizes them) and overhead; 0 keeps nothing.
        clock_ms: 0 for the machine's coarse monotonic clock (4 ms steps); else a manual clock that stands there.

    Notes:
        A hit costs one keyed hash, one probe and one reading of the coarse clock. Memory beyond the budget: the index
        doubles as it grows, so up to one half of its 104 bytes per entry can be unused.
    """

    def __cinit__(self, uint64_t bytes_max, *, uint64_t clock_ms=0):
        cdef bytes secret = os.urandom(16)
        fr_near_init(&self.index, bytes_max)
        self.clock.manual_ms = clock_ms
        self.hash_key.k0 = int.from_bytes(secret[:8], "little")
        self.hash_key.k1 = int.from_bytes(secret[8:], "little")
        self.values = []

    def __dealloc__(self):
        cdef uint32_t at
        for at in range(self.index.used):
            if self.index.entries[at].owner != NULL:
                Py_DECREF(<object>self.index.entries[at].owner)
                self.index.entries[at].owner = NULL
        free(self.index.entries)
        free(self.index.buckets)
        free(self.index.ghosts)

    cdef PyObject *fresh(self, int kind, const uint8_t *key, uint32_t size) noexcept:
        cdef uint64_t hash = fr_siphash128(&self.hash_key, key, size).lo
        cdef uint32_t at = fr_near_find(&self.index, hash, kind, key, size)
        if at != FR_NEAR_NONE and <Py_ssize_t>at < PyList_GET_SIZE(self.values) and (
            fr_now_ms(&self.clock) < self.index.entries[at].fresh_until_ms
        ):
            fr_near_hit(&self.index.entries[at])
            self.hits += 1
            return PyList_GET_ITEM(self.values, at)
        self.misses += 1
        return NULL

    cdef void _drain(self) noexcept:
        # Each turn leaves a consistent structure before it gives references up.
        cdef uint32_t at
        cdef object key, value
        while True:
            at = fr_near_take_doomed(&self.index)
            if at == FR_NEAR_NONE:
                return
            key = <object>self.index.entries[at].owner
            Py_DECREF(key)
            value = self.values[at] if <Py_ssize_t>at < PyList_GET_SIZE(self.values) else None
            if <Py_ssize_t>at < PyList_GET_SIZE(self.values):
                self.values[at] = None
            fr_near_release(&self.index, at)
            value = None

    def get(self, key):
        """The fresh value of a key, or MISS.

        Raises:
            UsageError: the key is not exactly str or bytes.
        """
        cdef key_view seen
        cdef uint32_t at
        cdef uint64_t now_ms
        view_key(key, &self.hash_key, &seen)
        at = fr_near_find(&self.index, seen.hash, seen.kind, seen.data, seen.size)
        if at != FR_NEAR_NONE and <Py_ssize_t>at < PyList_GET_SIZE(self.values):
            now_ms = fr_now_ms(&self.clock)
            if now_ms < self.index.entries[at].fresh_until_ms:
                fr_near_hit(&self.index.entries[at])
                self.hits += 1
                return <object>PyList_GET_ITEM(self.values, at)
            if now_ms >= self.index.entries[at].stale_until_ms:
                self.index.expirations += 1
                fr_near_doom(&self.index, at)
                self._drain()
        self.misses += 1
        return _MISS

    def lookup(self, key):
        """(value, is it fresh) while the entry is usable at all, else MISS.

        Raises:
            UsageError: the key is not exactly str or bytes.
        """
        cdef key_view seen
        cdef uint32_t at
        cdef uint64_t now_ms
        cdef bint is_fresh
        view_key(key, &self.hash_key, &seen)
        at = fr_near_find(&self.index, seen.hash, seen.kind, seen.data, seen.size)
        if at != FR_NEAR_NONE and <Py_ssize_t>at < PyList_GET_SIZE(self.values):
            now_ms = fr_now_ms(&self.clock)
            if now_ms < self.index.entries[at].stale_until_ms:
                is_fresh = now_ms < self.index.entries[at].fresh_until_ms
                fr_near_hit(&self.index.entries[at])
                if is_fresh:
                    self.hits += 1
                else:
                    self.stale_hits += 1
                return (<object>PyList_GET_ITEM(self.values, at), is_fresh)
            self.index.expirations += 1
            fr_near_doom(&self.index, at)
            self._drain()
        self.misses += 1
        return _MISS

    cdef void _store(self, object key, int kind, const uint8_t *data, uint32_t size, uint64_t hash, object value,
                     uint64_t cost_bytes, uint64_t fresh_ms, uint64_t keep_ms):
        cdef uint64_t now_ms = fr_now_ms(&self.clock)
        cdef uint32_t at = fr_near_find(&self.index, hash, kind, data, size)
        cdef object old = None
        cdef fr_near_entry *entry
        if at != FR_NEAR_NONE and <Py_ssize_t>at < PyList_GET_SIZE(self.values) and (
            self.index.bytes - self.index.entries[at].cost_bytes + cost_bytes <= self.index.bytes_max
        ):
            # The same key again and there is room: the value changes in place and the entry keeps its turn.
            entry = &self.index.entries[at]
            fr_near_resize(&self.index, at, cost_bytes)
            fr_near_hit(entry)
            entry.fresh_until_ms = now_ms + fresh_ms
            entry.stale_until_ms = now_ms + keep_ms
            old = self.values[at]
            self.values[at] = value
        else:
            if at != FR_NEAR_NONE:
                fr_near_doom(&self.index, at)
            if cost_bytes <= self.index.bytes_max:
                while self.index.bytes + cost_bytes > self.index.bytes_max:
                    fr_near_evict(&self.index, now_ms)
                if fr_near_reserve(&self.index) < 0:
                    self._drain()
                    raise MemoryError
                at = fr_near_link(&self.index, hash, kind, data, size, cost_bytes)
                entry = &self.index.entries[at]
                entry.owner = <void *>key
                Py_INCREF(key)
                entry.fresh_until_ms = now_ms + fresh_ms
                entry.stale_until_ms = now_ms + keep_ms
                if <Py_ssize_t>at < PyList_GET_SIZE(self.values):
                    self.values[at] = value
                elif <Py_ssize_t>at == PyList_GET_SIZE(self.values):
                    self.values.append(value)
                else:                   # the collector took the list: this cache is garbage that a finalizer still uses
                    fr_near_doom(&self.index, at)
        self._drain()

    def put(self, key, value, int64_t size_bytes, int64_t fresh_ms, int64_t keep_ms=0):
        """Keep a value, in place of what the key has; fills of this key that are under way will be refused.

        Args:
            key: str or bytes.
            value: any object; it is not copied.
            size_bytes: what the value costs (approximate_size_bytes, or the caller's own measure).
            fresh_ms: get() returns it for so long.
            keep_ms: lookup() returns it for so long, counted from now too; less than fresh_ms means fresh_ms.

        Returns:
            False when the entry alone is over the budget: it was not kept, and what the key had is gone.

        Raises:
            UsageError: a key of another type, a negative size, a lifetime over ten years.
        """
        cdef key_view seen
        cdef uint64_t fresh, keep, cost
        view_key(key, &self.hash_key, &seen)
        fresh = lifetime_ms(fresh_ms, "fresh_ms")
        keep = lifetime_ms(keep_ms, "keep_ms")
        cost = entry_cost_bytes(&seen, size_bytes)
        fr_near_disturb(&self.index, seen.hash)
        self._store(key, seen.kind, seen.data, seen.size, seen.hash, value, cost, fresh, fresh if keep < fresh else keep)
        return cost <= self.index.bytes_max

    def begin_fill(self, key):
        """Ticket for a value that is about to be read or computed; hand it to finish_fill. Giving up needs no call."""
        cdef key_view seen
        view_key(key, &self.hash_key, &seen)
        return self.index.sequence

    def finish_fill(self, key, uint64_t ticket, value, int64_t size_bytes, int64_t fresh_ms, int64_t keep_ms=0):
        """Keep a value like put(), unless the key was put or invalidated since its ticket was drawn.

        Returns:
            True when it was kept. Seldom also False because of another key (1,024 guard cells), never wrongly True.
        """
        cdef key_view seen
        cdef uint64_t fresh, keep, cost
        view_key(key, &self.hash_key, &seen)
        fresh = lifetime_ms(fresh_ms, "fresh_ms")
        keep = lifetime_ms(keep_ms, "keep_ms")
        cost = entry_cost_bytes(&seen, size_bytes)
        if not fr_near_undisturbed(&self.index, seen.hash, ticket):
            self.refused_fills += 1
            return False
        self._store(key, seen.kind, seen.data, seen.size, seen.hash, value, cost, fresh, fresh if keep < fresh else keep)
        return cost <= self.index.bytes_max

    def undisturbed(self, key, uint64_t ticket):
        """Would a fill with this ticket be kept? Seldom False because of another key (1,024 guard cells), never wrongly
        True.
        """
        cdef key_view seen
        view_key(key, &self.hash_key, &seen)
        return bool(fr_near_undisturbed(&self.index, seen.hash, ticket))

    def invalidate(self, key):
        """Forget a key and refuse the fills of it that are under way; True when it was there (expired or not)."""
        cdef key_view seen
        cdef uint32_t at
        view_key(key, &self.hash_key, &seen)
        fr_near_disturb(&self.index, seen.hash)
        at = fr_near_find(&self.index, seen.hash, seen.kind, seen.data, seen.size)
        if at == FR_NEAR_NONE:
            return False
        fr_near_doom(&self.index, at)
        self._drain()
        return True

    def clear(self):
        """Forget everything and refuse every fill that is under way. Statistics stay."""
        cdef int cell
        self.index.sequence += 1
        for cell in range(FR_NEAR_GUARD_CELLS):
            self.index.guard[cell] = self.index.sequence
        while self.index.count:
            fr_near_doom(&self.index, fr_near_any(&self.index))
        self._drain()

    def doubt(self):
        """No entry is fresh any more, and no fill that is under way lands; lookup() still has them as stale."""
        cdef int cell
        cdef uint32_t at
        self.index.sequence += 1
        for cell in range(FR_NEAR_GUARD_CELLS):
            self.index.guard[cell] = self.index.sequence
        for at in range(self.index.used):
            self.index.entries[at].fresh_until_ms = 0

    def set_clock_ms(self, uint64_t clock_ms):
        """Move a manual clock; 0 goes back to the machine's. For tests and for caches that run on an injected clock."""
        self.clock.manual_ms = clock_ms

    def __len__(self):
        return self.index.count

    def __contains__(self, key):
        cdef key_view seen
        cdef uint32_t at
        view_key(key, &self.hash_key, &seen)
        at = fr_near_find(&self.index, seen.hash, seen.kind, seen.data, seen.size)
        return at != FR_NEAR_NONE and fr_now_ms(&self.clock) < self.index.entries[at].stale_until_ms

    def statistics(self):
        """Counts since the cache was made, and what it holds now (expired entries that nobody met are included)."""
        return NearStatistics(
            self.index.count, self.index.bytes, self.index.bytes_max, self.hits, self.stale_hits, self.misses,
            self.index.evictions, self.index.expirations, self.refused_fills,
        )


cdef inline uint64_t entry_cost_bytes(const key_view *seen, int64_t size_bytes) except? 0:
    if size_bytes < 0:
        raise UsageError(f"size_bytes {size_bytes}: accepted are 0 or more")
    return (
        FR_NEAR_OVERHEAD_BYTES + <uint64_t>size_bytes + seen.size
        + (_STR_HEAD_BYTES if seen.kind == NEAR_KIND_STR else _BYTES_HEAD_BYTES)
    )


def approximate_size_bytes(value):
    """What a value of plain data occupies: sys.getsizeof over it and everything in its containers.

    Args:
        value: any object; list, tuple, dict, set and frozenset are entered, others are asked for their own size.

    Notes:
        An object that is met twice in one value is counted twice, except for None, bools and small whole numbers.
        O(objects), iterative; a container within itself must not be given (what was decoded from bytes never is).
    """
    cdef uint64_t total = 0
    cdef list waiting
    cdef object kind = type(value)
    if kind is str or kind is bytes or kind is int or kind is float or value is None:
        return scalar_size_bytes(value, kind)
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is dict:
            total += <uint64_t>sys.getsizeof(item)
            waiting.extend(<dict>item)
            waiting.extend((<dict>item).values())
        elif kind is list or kind is tuple or kind is set or kind is frozenset:
            total += <uint64_t>sys.getsizeof(item)
            waiting.extend(item)
        else:
            total += scalar_size_bytes(item, kind)
    return total


cdef inline uint64_t scalar_size_bytes(object item, object kind) except? 0:
    # The commonest without a call: objects of the C API have a fixed head and their content behind it.
    if kind is str:
        if PyUnicode_IS_COMPACT_ASCII(item):
            return _STR_HEAD_BYTES + <uint64_t>PyUnicode_GET_LENGTH(item)
    elif kind is bytes:
        return _BYTES_HEAD_BYTES + <uint64_t>PyBytes_GET_SIZE(item)
    elif kind is float:
        return _FLOAT_BYTES
    elif item is None or item is True or item is False or (kind is int and -5 <= item <= 256):
        return 0
    return <uint64_t>sys.getsizeof(item)
