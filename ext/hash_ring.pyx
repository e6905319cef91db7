"""hash_ring: the compiled half of fastroute.integrations.uhashring: a circle of MD5 points, and a memo of recent keys.

Not here: the rest of uhashring's methods (fastroute/integrations/uhashring.py), the `uhashring` ring that pools use
(ring_uhashring), hash functions of the user's own (the Python half walks its own lists).

The memo. MD5 is a chain of 64 dependent steps, about 100 ns for a short key whatever is done around it: alone, no lookup
is more than some 15 times as fast as a Python one. Programs ask for the same keys again, so the place of a key is kept
(ext/fr_memo.h): exact, bounded (4,096 keys of up to 47 bytes, 256 KiB per ring, made at the first lookup), and emptied
whenever the ring changes.

Rules: GIL held; a lookup allocates nothing; places are those of uhashring's sorted list, so that its positions agree.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastroute._core.hash_ring cimport fr_memo_entry, fr_points

from fastroute.errors import UsageError


cdef extern from "fr_key.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    void *PyUnicode_DATA(object text) noexcept

cdef extern from "fr_hash_md5.h" nogil:
    void fr_md5(const void *data, size_t size, uint32_t *digest) noexcept

cdef extern from "fr_ring_point.h" nogil:
    enum: FR_POINTS_MAX
    enum: FR_POINTS_KEEP_ALL
    enum: FR_POINTS_KEEP_LAST
    ctypedef struct fr_point:
        uint64_t hash
        uint64_t slot
    int fr_points_build(fr_points *circle, fr_point *item, uint32_t count, uint32_t bits, int keep) noexcept
    void fr_points_free(fr_points *circle) noexcept
    uint32_t fr_points_at(const fr_points *circle, uint64_t hash) noexcept
    size_t fr_text_number(unsigned char *out, uint32_t number) noexcept

cdef extern from "fr_memo.h" nogil:
    enum: FR_MEMO_KEY_BYTES
    enum: FR_MEMO_BYTES
    uint64_t fr_memo_hash(const uint8_t *key, size_t size) noexcept
    fr_memo_entry *fr_memo_make() noexcept
    fr_memo_entry *fr_memo_find(fr_memo_entry *memo, const uint8_t *key, size_t size, uint64_t hash) noexcept
    void fr_memo_put(fr_memo_entry *memo, const uint8_t *key, size_t size, uint64_t hash, unsigned turn, void *object,
                     uint32_t place) noexcept

cdef extern from *:
    uint32_t __builtin_bswap32(uint32_t x) noexcept nogil

cdef enum:
    NODES_MAX = 65535

REPLICAS_MAX = 4
"""Points that one MD5 digest can give."""


cdef class HashRingCore:
    """Points of named nodes, and who takes a key.

    Notes: ketama points are 32-bit words of the digests; the others the upper half of the digest, which orders them as all
    of it does unless two differ in the lower half alone (one pair in 2**64).
    """

    def __cinit__(self, *arguments, **options):
        self._nodes = {}
        self._rows = []

    def __dealloc__(self):
        fr_points_free(&self._circle)
        free(self._memo)
        free(self._names)

    def _begin(self, bint ketama, bint own_hash):
        self._ketama, self._own_hash = ketama, own_hash

    def _build(self, list rows, int replicas):
        """Replace the points. rows: (name, text that is hashed, digests), the last of equal points counts.

        Raises:
            UsageError: too many nodes or points; the ring is as it was. MemoryError.
        """
        cdef uint64_t total = 0
        cdef uint32_t i, k, count, many, at = 0
        cdef uint32_t digest[4]
        cdef size_t size, longest = 0
        cdef fr_points circle
        cdef fr_point *points
        cdef uint8_t *text
        cdef PyObject **names
        cdef bytes raw
        cdef int status
        cdef uint32_t each = <uint32_t>max(replicas, 0) if self._ketama else 1
        if len(rows) > NODES_MAX:
            raise UsageError(f"{len(rows)} nodes: a ring holds at most {NODES_MAX}")
        for _, raw, digests in rows:
            total += <uint64_t>min(max(digests, 0), FR_POINTS_MAX) * each
            longest = max(longest, <size_t>len(raw))
        if total > FR_POINTS_MAX:
            raise UsageError(f"a ring of {total} points; accepted are up to {FR_POINTS_MAX}: lower weights or vnodes")
        points = <fr_point *>malloc((total + 1) * sizeof(fr_point))
        text = <uint8_t *>malloc(longest + 16)
        names = <PyObject **>calloc(len(rows) + 1, sizeof(PyObject *))
        memset(&circle, 0, sizeof(circle))
        status = -1 if points == NULL or text == NULL or names == NULL else 0
        if status == 0:
            for i in range(<uint32_t>len(rows)):
                name, raw, digests = rows[i]
                names[i] = <PyObject *>name
                count = <uint32_t>max(digests, 0)
                memcpy(text, <const char *>raw, len(raw))
                text[len(raw)] = b'-'
                for k in range(count):
                    size = len(raw) + 1
                    size += fr_text_number(text + size, k)
                    fr_md5(text, size, digest)
                    if self._ketama:
                        for many in range(each):
                            points[at].hash, points[at].slot = digest[many], i
                            at += 1
                    else:
                        points[at].hash, points[at].slot = _upper(digest), i
                        at += 1
            if at:
                status = fr_points_build(&circle, points, at, 32 if self._ketama else 64,
                                         FR_POINTS_KEEP_ALL if self._ketama else FR_POINTS_KEEP_LAST)
        free(points)
        free(text)
        if status != 0:
            free(names)
            raise MemoryError(f"no memory for a ring of {total} points")
        for i in range(circle.count):
            k = circle.count - 1 - i    # equal points stay in the list, and all belong to the node listed last
            if k + 1 < circle.count and circle.hash[k] == circle.hash[k + 1]:
                circle.slot[k] = circle.slot[k + 1]
        if circle.count:
            circle.slot[circle.count] = circle.slot[0]
        fr_points_free(&self._circle)
        free(self._names)
        kept = self._rows
        self._circle, self._names, self._rows = circle, names, rows
        if self._memo != NULL:
            memset(self._memo, 0, FR_MEMO_BYTES)  # its names are borrowed from the rows that were

    @cython.final
    cdef uint32_t _search(self, const uint8_t *key, size_t size) noexcept:
        cdef uint32_t digest[4]
        cdef uint64_t hash
        cdef uint32_t at
        fr_md5(key, size, digest)
        hash = digest[0] if self._ketama else _upper(digest)
        at = 0 if hash == self._circle.mask else fr_points_at(&self._circle, hash + 1)
        return 0 if at == self._circle.count else at

    @cython.final
    cdef PyObject *_name_of(self, const uint8_t *key, size_t size, uint32_t *place) noexcept:
        cdef uint64_t hash
        cdef fr_memo_entry *entry
        cdef PyObject *name
        if size > FR_MEMO_KEY_BYTES or self._memo == NULL:
            if self._memo == NULL:
                self._memo = fr_memo_make()
            place[0] = self._search(key, size)
            return self._names[self._circle.slot[place[0]]]
        hash = fr_memo_hash(key, size)
        entry = fr_memo_find(self._memo, key, size, hash)
        if entry != NULL:
            place[0] = entry.place
            return <PyObject *>entry.object
        place[0] = self._search(key, size)
        name = self._names[self._circle.slot[place[0]]]
        self._turn += 1
        fr_memo_put(self._memo, key, size, hash, self._turn, name, place[0])
        return name

    @cython.final
    cdef PyObject *_name(self, object key, uint32_t *place) except NULL:
        cdef Py_ssize_t size
        cdef const char *data
        if PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key):
            return self._name_of(<const uint8_t *>PyUnicode_DATA(key), <size_t>PyUnicode_GET_LENGTH(key), place)
        text = str(key)
        data = PyUnicode_AsUTF8AndSize(text, &size)
        return self._name_of(<const uint8_t *>data, <size_t>size, place)

    def get_node(self, key):
        """Name of the node that takes the key; None in a ring without points.

        Args:
            key: str, or anything: its str() is hashed, as uhashring does.
        """
        cdef const uint8_t *data
        cdef size_t size
        cdef fr_memo_entry *entry
        if self._memo != NULL and PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key):
            data, size = <const uint8_t *>PyUnicode_DATA(key), <size_t>PyUnicode_GET_LENGTH(key)
            if size <= FR_MEMO_KEY_BYTES:
                entry = fr_memo_find(self._memo, data, size, fr_memo_hash(data, size))
                if entry != NULL:
                    return <object>entry.object
        return self._found(key)

    cdef object _found(self, object key):
        # Apart, so that the way above has no variable whose address is taken: it would be guarded by a stack canary.
        cdef uint32_t place
        if self._circle.count == 0:
            return self._own_node(key) if self._own_hash else None
        return <object>self._name(key, &place)

    def get(self, key):
        """Configuration of the node that takes the key; None in a ring without points."""
        cdef uint32_t place
        if self._circle.count == 0:
            name = self._own_node(key) if self._own_hash else None
            return None if name is None else self._nodes[name]
        return self._nodes[<object>self._name(key, &place)]

    def _compiled_place(self, key):
        cdef uint32_t place = 0
        if self._circle.count:
            self._name(key, &place)
        return place

    def _name_at(self, uint32_t place):
        return <object>self._names[self._circle.slot[place]] if place < self._circle.count else None

    def _hashes(self):
        """The circle's hashes in order (ketama: the points; else their upper halves)."""
        cdef uint32_t i
        return [self._circle.hash[i] for i in range(self._circle.count)]

    @property
    def point_count(self):
        """Points in the ring, equal ones counted each."""
        return self._circle.count


cdef inline uint64_t _upper(const uint32_t *digest) noexcept nogil:
    return (<uint64_t>__builtin_bswap32(digest[0]) << 32) | __builtin_bswap32(digest[1])
