"""ring: the interface of every ring dialect, and what their builders share.

Not here: the rules of a dialect (ring_*.pyx, one each), the `table` ring (ring_table.pyx), which text of a server a dialect
hashes (fastroute/routing/dialects.py).
Rules: a ring is immutable. Reading it allocates nothing and needs no GIL. Building it happens with the GIL released; a
builder that raises leaves an object without servers.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.ring cimport fr_ring_row, fr_walk

from fastroute.errors import UsageError
from fastroute.model import check_weight


cdef extern from "fr_key.h":
    enum: FR_KEY_OK
    enum: FR_KEY_NONE
    enum: FR_KEY_SURROGATE
    int fr_key_bytes(object key, const uint8_t **data, Py_ssize_t *size) noexcept

cdef extern from "fr_ring_walk.h":
    enum: FR_WALK_SHORT
    enum: FR_WALK_WORDS

NO_SLOT = FR_NO_SLOT
"""What a ring without servers picks."""


cdef int _key(object key, const uint8_t **data, Py_ssize_t *size) except -1:
    cdef int verdict = fr_key_bytes(key, data, size)
    if verdict == FR_KEY_SURROGATE:
        raise UsageError("key: a str with a lone surrogate has no UTF-8; accepted are other str, bytes and None")
    if verdict > FR_KEY_NONE:
        raise UsageError(f"key: found {type(key).__name__}; accepted are str (hashed as UTF-8), bytes and None")
    return 0


cdef class Ring:
    """A hash-to-slot structure; see the dialects, which are its subclasses.

    Notes: all calls are safe from any number of threads; the methods of this class allocate nothing but their result.
    """

    def __init__(self, *args, **kwargs):
        raise UsageError("Ring is what the rings have in common; build one of the dialects")

    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil:
        return 0

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        return FR_NO_SLOT

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        pass

    cdef int walk(self, uint64_t hash, const uint8_t *allowed, const uint16_t *tried, int tried_count,
                  uint16_t *out, int n) noexcept nogil:
        cdef fr_walk walk
        cdef uint64_t seen[FR_WALK_WORDS]
        if n <= 0 or self.server_count == 0:
            return 0
        walk.allowed, walk.tried, walk.tried_count = allowed, tried, tried_count
        walk.out, walk.count, walk.seen = out, 0, NULL
        # Without a filter a ring is known to hold server_count servers: the walk ends when it has met them all.
        walk.wanted = self.server_count if n > self.server_count else n
        if walk.wanted > FR_WALK_SHORT:
            memset(seen, 0, sizeof(seen))
            walk.seen = seen
        self.offer(hash, &walk)
        return walk.count

    cdef int candidates_into(self, uint64_t hash, uint16_t *out, int n) noexcept nogil:
        return self.walk(hash, NULL, NULL, 0, out, n)

    def hash(self, key):
        """Hash of a key as this dialect hashes keys: 32 or 64 bits; None hashes as the empty key.

        Raises:
            UsageError: a key that is neither str, bytes nor None, or a str with a lone surrogate.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        _key(key, &data, &size)
        return self.hash_key(data, <size_t>size)

    def pick(self, key):
        """Slot of a key's server; NO_SLOT (65535) when the ring has no server.

        Raises:
            UsageError: as hash() does.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        _key(key, &data, &size)
        return self.slot_of(self.hash_key(data, <size_t>size))

    def pick_hash(self, hash):
        """Slot of a hash: what pick() does behind hash().

        Raises:
            UsageError: not a whole number of 0..2**64-1.
        """
        return self.slot_of(_hash_of(hash))

    def candidates(self, key, n):
        """At most n different slots in the dialect's own walking order, the pick first.

        Raises:
            UsageError: as hash() does; n negative or no whole number.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        _key(key, &data, &size)
        return self.candidates_of_hash(self.hash_key(data, <size_t>size), n)

    def candidates_of_hash(self, hash, n, *, allowed=None, tried=()):
        """candidates() behind the hash.

        Args:
            hash: 0..2**64-1.
            n: 0 or more.
            allowed: None, or the slots that may be listed: the others are treated as out of the ring.
            tried: slots to leave out; unlike one that is not allowed, a tried server still shapes the walk (HAProxy).

        Raises:
            UsageError: an argument outside these ranges.
        """
        cdef uint64_t given = _hash_of(hash)
        cdef uint16_t *room
        cdef uint16_t *skip
        cdef bytearray flags = None
        cdef const uint8_t *marks = NULL
        cdef int count, skipped, i
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise UsageError(f"n {n!r}: accepted are whole numbers from 0")
        tried = tuple(tried)
        for slot in tried if allowed is None else (*tried, *allowed):
            if not isinstance(slot, int) or not 0 <= slot < FR_NO_SLOT:
                raise UsageError(f"slot {slot!r}: accepted are whole numbers from 0 to {FR_NO_SLOT - 1}")
        if allowed is not None:
            flags = bytearray(FR_NO_SLOT + 1)
            for slot in allowed:
                flags[slot] = 1
            marks = <const uint8_t *><char *>flags
        skipped = len(tried)
        count = min(n, self.server_count)
        room = <uint16_t *>PyMem_Malloc((count + skipped + 1) * sizeof(uint16_t))
        if room == NULL:
            raise MemoryError("no memory for candidates")
        skip = room + count
        try:
            for i in range(skipped):
                skip[i] = tried[i]
            with nogil:
                count = self.walk(given, marks, skip, skipped, room, count)
            return tuple([room[i] for i in range(count)])
        finally:
            PyMem_Free(room)

    def __len__(self):
        return self.server_count

    def __repr__(self):
        return f"{type(self).__name__}({self.server_count} servers)"


cdef uint64_t _hash_of(object hash) except? 0:
    if not isinstance(hash, int) or isinstance(hash, bool) or not 0 <= hash < 1 << 64:
        raise UsageError(f"hash {hash!r}: accepted are whole numbers from 0 to 2**64-1")
    return <uint64_t>hash


cdef list ring_rows(object keys, object weights, object slots, bint ordered, uint32_t weight_max):
    # [(key bytes, weight, slot)] of the servers above weight zero: by key, or in the order given where that is the rule.
    if isinstance(keys, (str, bytes)):
        raise UsageError(f"keys: found {type(keys).__name__}; accepted is a sequence with one text per server")
    keys, weights = list(keys), list(weights)
    slots = list(range(len(keys))) if slots is None else list(slots)
    if not len(keys) == len(weights) == len(slots):
        raise UsageError(f"{len(keys)} keys, {len(weights)} weights, {len(slots)} slots: one of each per server")
    if len(keys) >= FR_NO_SLOT:
        raise UsageError(f"{len(keys)} servers: a ring holds at most {FR_NO_SLOT - 1}")
    rows = []
    for key, weight, slot in zip(keys, weights, slots):
        if not isinstance(key, (str, bytes)):
            raise UsageError(f"ring key: found {type(key).__name__}; accepted are str and bytes")
        if not isinstance(slot, int) or isinstance(slot, bool) or not 0 <= slot < FR_NO_SLOT:
            raise UsageError(f"slot {slot!r}: accepted are whole numbers from 0 to {FR_NO_SLOT - 1}")
        if check_weight(weight, str(key)) > weight_max:
            raise UsageError(f"server {key}: weight {weight}: this ring accepts 0 to {weight_max}, as its product does")
        try:
            rows.append((key.encode() if isinstance(key, str) else key, weight, slot))
        except UnicodeEncodeError:
            raise UsageError(f"ring key {key!r}: a lone surrogate has no UTF-8") from None
    if len({row[0] for row in rows}) != len(rows):
        raise UsageError("two servers have the same key; the keys of a ring must be all different")
    if len(set(slots)) != len(slots):
        raise UsageError("two servers have the same slot; the slots of a ring must be all different")
    rows = [row for row in rows if row[1]]
    return rows if ordered else sorted(rows)


cdef fr_ring_row *ring_row_array(list rows) except NULL:
    cdef fr_ring_row *made = <fr_ring_row *>malloc((len(rows) + 1) * sizeof(fr_ring_row))
    cdef bytes text
    cdef Py_ssize_t i
    if made == NULL:
        raise MemoryError(f"no memory for a ring of {len(rows)} servers")
    for i in range(len(rows)):
        text = rows[i][0]
        made[i].text = <const uint8_t *><const char *>text
        made[i].size = <size_t>len(text)
        made[i].weight = rows[i][1]
        made[i].slot = rows[i][2]
        made[i].number = <uint32_t>i
    return made
