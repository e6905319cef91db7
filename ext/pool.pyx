"""pool: a named set of servers with one policy: who takes the next request.

Not here: stickiness (router, affinity), health (it calls set_state), I/O. The parts: server_table (slots, states,
counters), ring_table (`hash`, and the fallback of every policy), ring_*.pyx (`hash` by another product's ring),
fr_policy_*.h (one policy each).

Rules. The control plane (update, set_state, set_weight) computes everything anew from (servers, states) in `_swap`, under
the pool's lock, and puts it in force at the end in one stretch that no other holder of the GIL can see half done; what
raises before has changed nothing. The data plane (select, pick and the other noexcept calls) reads, allocates nothing
but its result, and holds the GIL, which is shorter than releasing it.
Eligible = ready, weight above zero, and no backup unless no other server is eligible.
"""

import os
import threading
from collections import namedtuple

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastroute._core.base cimport FR_NO_SLOT, FR_READY, fr_mulhi64
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.ring cimport Ring
from fastroute._core.ring_table cimport TableRing, overlay_of, ring_of
from fastroute._core.selection cimport Selection
from fastroute._core.server_table cimport ServerTable, fr_counters_begin, fr_counters_end, fr_precise_ns

from fastroute._core import dialects as _dialects, pool_arguments as _arguments
from fastroute._core.ring_table import CELLS_MAX as _CELLS_MAX, CELLS_MIN as _CELLS_MIN
from fastroute.errors import NoServerAvailable, UsageError
from fastroute.model import STATES as _STATES, check_name, check_weight


cdef extern from "fr_key.h":
    enum: FR_KEY_OK
    enum: FR_KEY_NONE
    enum: FR_KEY_SURROGATE
    int fr_key_bytes(object key, const uint8_t **data, Py_ssize_t *size) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    void *PyUnicode_DATA(object text) noexcept

cdef extern from "fr_rand.h" nogil:
    void fr_xoshiro_seed(fr_xoshiro *state, uint64_t seed) noexcept

cdef extern from "fr_policy_round_robin.h" nogil:
    int fr_round_robin_init(fr_round_robin *rr, const uint16_t *slots, const uint32_t *weights, uint32_t count) noexcept
    void fr_round_robin_free(fr_round_robin *rr) noexcept
    uint16_t fr_round_robin_next(fr_round_robin *rr, uint64_t *cursor) noexcept
    uint32_t fr_round_robin_length(const fr_round_robin *rr) noexcept
    uint16_t fr_round_robin_peek(const fr_round_robin *rr, const uint64_t *cursor, uint32_t ahead) noexcept

cdef extern from "fr_policy_random.h" nogil:
    int fr_random_init(fr_random *random, const uint16_t *slots, const uint32_t *weights, uint32_t count) noexcept
    void fr_random_free(fr_random *random) noexcept
    uint16_t fr_random_next(const fr_random *random, fr_xoshiro *state) noexcept

cdef enum:
    POLICY_ROUND_ROBIN = 0
    POLICY_RANDOM = 1
    POLICY_HASH = 2
    POLICY_DIALECT = -1     # `hash` with another ring than `table`

PoolStatistics = namedtuple("PoolStatistics", "name policy ring ready_count servers")
PoolStatistics.__doc__ = "A moment's copy of a pool: `servers` holds a ServerStatistics each, in the order of the names."


cdef _bad_key(object key, int verdict):
    if verdict == FR_KEY_SURROGATE:
        return UsageError("key: a str with a lone surrogate has no UTF-8; accepted are other str, bytes and None")
    return UsageError(f"key: found {type(key).__name__}; accepted are str (hashed as UTF-8), bytes and None")


cdef class Pool:
    """A named set of servers with one policy.

    Args:
        name: 1-64 characters of A-Za-z0-9._:-
        servers: Server objects, names all different, in any order; may be empty.
        policy: "round-robin" (nginx's smooth weighted sequence), "random", "hash".
        ring: what `hash` picks from: "table" or a dialect (fastroute.routing.dialects). Other policies, and every pool
            while the store is away, use the table as the deterministic fallback, whatever is said here.
        ring_options: a mapping with options of the dialect, such as {"table_size": 5003} for maglev.
        slots: cells of the table ring, 16..2**24; fixed for the pool, alike on every replica.
        max_load: None or 0 (bounded load is planned).
        seed: of the keys' hash, and of `random` (0: seeded by the system), 0..2**64-1.
        zone: an object with cursor_address(fleet, pool): its workers continue one round-robin sequence. None: private.
        fleet: the fleet's name, for the zone.

    Raises:
        UsageError: an argument outside these ranges.

    Notes: not a Python-level hot path: select() is one compiled call. Calls are safe from several threads under the GIL.
    """

    def __cinit__(self):
        self._cursor = &self._own_cursor

    def __init__(self, name, servers, *, policy="round-robin", ring="table", slots=131072, max_load=None, seed=0,
                 zone=None, fleet="fr", ring_options=None):
        cdef size_t address
        if self._table is not None:
            raise UsageError("a Pool is set up once; use update()")
        check_name("pool", name)
        check_name("fleet", fleet)
        _arguments.check_choice("policy", policy, _arguments.POLICIES, _arguments.POLICIES_PLANNED)
        _arguments.check_choice("ring", ring, _arguments.RINGS)
        if ring == "table" and ring_options:
            raise UsageError("ring_options: the table ring has none; its size is `slots`")
        self._ring_options = {} if ring == "table" or ring_options is None else _dialects.check_options(ring, ring_options)
        if not isinstance(slots, int) or isinstance(slots, bool) or not _CELLS_MIN <= slots <= _CELLS_MAX:
            raise UsageError(f"slots {slots!r}: accepted are whole numbers from {_CELLS_MIN} to {_CELLS_MAX}")
        if max_load is not None and (isinstance(max_load, bool) or not isinstance(max_load, (int, float)) or max_load != 0):
            raise UsageError(f"max_load {max_load!r}: bounded load is planned, not built yet; accepted are None and 0")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        declared = _arguments.in_order(servers)
        rows = _arguments.check_servers(declared)
        if zone is not None:
            address = zone.cursor_address(fleet, name)
            self._cursor = <uint64_t *>address
        self.name, self.fleet, self.policy, self.ring, self._zone = name, fleet, policy, ring, zone
        self.slots, self._seed = slots, seed
        self._policy = _arguments.POLICIES.index(policy)
        if self._policy == POLICY_HASH and ring != "table":
            self._policy = POLICY_DIALECT
        fr_xoshiro_seed(&self._xoshiro, seed if seed else int.from_bytes(os.urandom(8), "little"))
        self._lock = threading.RLock()
        self._servers, self._states = (), {}
        self._table = ServerTable()
        with self._lock:
            self._swap(rows, {server.name: FR_READY for server in rows}, self._policy == POLICY_HASH, _names_of(declared))

    def __dealloc__(self):
        fr_round_robin_free(&self._round_robin)
        fr_random_free(&self._random)

    # ---- data plane ----

    def select(self, key=None):
        """The server that takes the next request.

        Args:
            key: str (hashed as UTF-8), bytes, or None; `hash` picks by it (None or empty: round robin decides), the
                other policies only check its type.

        Raises:
            NoServerAvailable: no server is eligible.
            UsageError: a key of another type, or a str with a lone surrogate.

        Notes: O(1); holds the GIL; allocates nothing.
        """
        cdef uint16_t slot
        cdef Py_ssize_t size
        cdef int found
        if self._first != NULL and self._policy == POLICY_HASH and PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key):
            size = PyUnicode_GET_LENGTH(key)
            if size:
                slot = self._first[fr_mulhi64(fr_xxh64(PyUnicode_DATA(key), <size_t>size, self._seed), self._cells)]
                if self._unbound[slot]:
                    return <object>self._objects[slot]
        found = self._pick_object(key)
        if found < 0:
            raise self._none_available()
        return <object>self._objects[found]

    cdef int _pick_object(self, object key) except -2:
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef int verdict = fr_key_bytes(key, &data, &size)
        if verdict > FR_KEY_NONE:
            raise _bad_key(key, verdict)
        return self.pick(data, size)

    cdef int pick(self, const uint8_t *key, Py_ssize_t size) noexcept:
        if self._policy == POLICY_DIALECT and size > 0:
            return self._pick_dialect(self._dialect.hash_key(key, <size_t>size), NULL, 0)
        if self._policy == POLICY_HASH and size > 0:
            return self._pick_hash(fr_xxh64(key, <size_t>size, self._seed))
        if self._round_robin.count == 0:
            return -1
        if self._policy == POLICY_RANDOM:
            return fr_random_next(&self._random, &self._xoshiro)
        return fr_round_robin_next(&self._round_robin, self._cursor)

    cdef int _pick_hash(self, uint64_t hash) noexcept:
        cdef uint16_t slot
        if self._first == NULL:
            return -1
        slot = self._first[fr_mulhi64(hash, self._cells)]
        if self._unbound[slot]:
            return slot
        return self._pick_ranked(hash, NULL, 0)

    cdef int _pick_dialect(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept:
        # The ring's pick; when it is out or tried, the next eligible one in the product's walking order.
        cdef uint16_t slot
        if self._round_robin.count == 0:
            return -1
        if tried_count == 0:
            slot = self._dialect.slot_of(hash)
            if slot != FR_NO_SLOT and self._unbound[slot]:
                return slot
        return slot if self._dialect.walk(hash, self._unbound, tried, tried_count, &slot, 1) else -1

    cdef int _pick_ranked(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept:
        # First eligible choice that was not tried: the cell's three, the overlay's three, then by score.
        cdef uint64_t cell
        cdef uint16_t listed[6]
        cdef int i, k, count = 3
        if self._first == NULL:
            return -1
        cell = fr_mulhi64(hash, self._cells)
        listed[0], listed[1], listed[2] = self._ring.first[cell], self._ring.second[cell], self._ring.third[cell]
        if self._overlay is not None:
            listed[3], listed[4], listed[5] = self._overlay.first[cell], self._overlay.second[cell], self._overlay.third[cell]
            count = 6
        for i in range(count):
            if listed[i] == FR_NO_SLOT or not self._unbound[listed[i]]:
                continue
            for k in range(tried_count):
                if tried[k] == listed[i]:
                    break
            else:
                return listed[i]
        listed[0] = self._ring.scored(cell, self._unbound, tried, tried_count)
        return -1 if listed[0] == FR_NO_SLOT else listed[0]

    cdef int pick_other(self, const uint8_t *key, Py_ssize_t size, const uint16_t *tried, int tried_count) noexcept:
        cdef uint32_t ahead
        cdef int k, slot
        if self._policy == POLICY_DIALECT and size > 0:
            return self._pick_dialect(self._dialect.hash_key(key, <size_t>size), tried, tried_count)
        if self._policy == POLICY_HASH and size > 0:
            return self._pick_ranked(fr_xxh64(key, <size_t>size, self._seed), tried, tried_count)
        slot = self.pick(key, size)
        if slot < 0:
            return -1
        for ahead in range(fr_round_robin_length(&self._round_robin) + 1):
            for k in range(tried_count):
                if tried[k] == slot:
                    break
            else:
                return slot
            slot = fr_round_robin_peek(&self._round_robin, self._cursor, ahead)
        return -1

    cdef int fallback(self, const uint8_t *key, Py_ssize_t size) noexcept:
        if not self._has_ring:
            try:
                self.prepare_fallback()
            except Exception:
                return -1
        return self._pick_hash(fr_xxh64(key, <size_t>size, self._seed))

    cdef bint takes_bound(self, int slot) noexcept:
        return 0 <= slot < self._table.capacity and self._table.bound[slot]

    cdef bint takes_unbound(self, int slot) noexcept:
        return 0 <= slot < self._table.capacity and self._table.unbound[slot]

    cdef object server_in(self, int slot):
        if 0 <= slot < self._table.capacity and self._objects[slot] != NULL:
            return <object>self._objects[slot]
        return None

    cdef int slot_of_name(self, str name) noexcept:
        slot = self._table.slot_of.get(name)
        return -1 if slot is None else slot

    cdef void begin(self, int slot) noexcept:
        if 0 <= slot < self._table.capacity:
            fr_counters_begin(&self._table.counters[slot])

    cdef void end(self, int slot, bint failed, uint64_t latency_ns) noexcept:
        if 0 <= slot < self._table.capacity:
            fr_counters_end(&self._table.counters[slot], failed, latency_ns)

    # ---- several at once, and what tools ask ----

    def select_many(self, keys):
        """One select() per key: a list of servers in the order of the keys.

        Args:
            keys: a sequence or iterable of what select() takes (not a str or bytes itself).

        Raises:
            NoServerAvailable, UsageError: as select() does, for the first key that cannot be served.
        """
        cdef Py_ssize_t i, count, size
        cdef const uint8_t *data
        cdef int slot, verdict
        cdef list made
        if isinstance(keys, (str, bytes)):
            raise UsageError(f"keys: found {type(keys).__name__}; accepted is a sequence of keys")
        cdef tuple given = tuple(keys)
        count = len(given)
        made = PyList_New(count)
        for i in range(count):
            key = given[i]
            verdict = fr_key_bytes(key, &data, &size)
            if verdict > FR_KEY_NONE:
                raise _bad_key(key, verdict)
            slot = self.pick(data, size)
            if slot < 0:
                raise self._none_available()
            server = <object>self._objects[slot]
            Py_INCREF(server)
            PyList_SET_ITEM(made, i, server)
        return made

    def hash(self, key):
        """The 64 bits that `hash` routes by: XXH64 of the key with the pool's seed; a dialect's own hash, where it has
        one, of 32 or 64 bits. None hashes as the empty key.

        Raises:
            UsageError: as select() does.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef int verdict = fr_key_bytes(key, &data, &size)
        if verdict > FR_KEY_NONE:
            raise _bad_key(key, verdict)
        if self._policy == POLICY_DIALECT:
            return self._dialect.hash_key(data, <size_t>size)
        return fr_xxh64(data, <size_t>size, self._seed)

    def slots_of(self, hashes, out):
        """Slots of many hashes by the ring, whatever the policy (`hash`: the pool's; else `table`): out[i] for hashes[i]; 65535 where no server is eligible.

        Args:
            hashes: buffer of uint64 (array 'Q', numpy uint64), contiguous.
            out: writable buffer of uint16 (array 'H', numpy uint16), contiguous, of the same length.

        Raises:
            UsageError: a buffer of another kind, length, or read-only.
        """
        cdef Py_buffer source, target
        cdef const uint64_t *from_
        cdef uint16_t *to
        cdef uint16_t slot
        cdef Py_ssize_t i, count
        cdef int found
        if self._policy != POLICY_DIALECT:
            self.prepare_fallback()
        _get_buffer(hashes, &source, "hashes", b"QL", 8, 0)
        try:
            _get_buffer(out, &target, "out", b"H", 2, PyBUF_WRITABLE)
            try:
                count = source.len // 8
                if target.len // 2 != count:
                    raise UsageError(f"out holds {target.len // 2} slots, hashes {count}; both need the same length")
                from_, to = <const uint64_t *>source.buf, <uint16_t *>target.buf
                for i in range(count):
                    if self._policy == POLICY_DIALECT:
                        found = self._pick_dialect(from_[i], NULL, 0)
                        to[i] = FR_NO_SLOT if found < 0 else <uint16_t>found
                        continue
                    if self._first != NULL:
                        slot = self._first[fr_mulhi64(from_[i], self._cells)]
                        if self._unbound[slot]:
                            to[i] = slot
                            continue
                    found = self._pick_ranked(from_[i], NULL, 0)
                    to[i] = FR_NO_SLOT if found < 0 else <uint16_t>found
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    def server_at(self, slot):
        """The server in a slot that slots_of() gave.

        Raises:
            UsageError: no server stands there.
        """
        server = self.server_in(slot) if isinstance(slot, int) and 0 <= slot < FR_NO_SLOT else None
        if server is None:
            raise UsageError(f"slot {slot!r}: no server of pool {self.name!r} stands there")
        return server

    def candidates(self, key, n):
        """At most n distinct eligible servers, the pick first, then where to go if it fails. Nothing is counted.

        With `hash` and a key: the ring's order. Else: round robin's coming picks.

        Raises:
            UsageError: as select() does; n negative or no whole number.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef uint64_t cell
        cdef uint32_t ahead
        cdef int verdict = fr_key_bytes(key, &data, &size)
        cdef list found = []
        if verdict > FR_KEY_NONE:
            raise _bad_key(key, verdict)
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise UsageError(f"n {n!r}: accepted are whole numbers from 0")
        if self._policy == POLICY_DIALECT and size > 0:
            found = self._walked_slots(self._dialect.hash_key(data, <size_t>size), n)
        elif self._policy == POLICY_HASH and size > 0:
            if self._first != NULL:
                cell = fr_mulhi64(fr_xxh64(data, <size_t>size, self._seed), self._cells)
                found = self._ranked_slots(cell, n)
        else:
            seen = set()
            for ahead in range(fr_round_robin_length(&self._round_robin) if self._round_robin.count else 0):
                if len(found) >= n:
                    break
                slot = fr_round_robin_peek(&self._round_robin, self._cursor, ahead)
                if slot not in seen:
                    seen.add(slot)
                    found.append(slot)
        return tuple([<object>self._objects[<int>slot] for slot in found[:n]])

    def _walked_slots(self, hash, n):
        cdef int count = min(n, self._round_robin.count), i
        cdef bytearray room = bytearray(2 * count + 2)
        cdef uint16_t *out = <uint16_t *><char *>room
        count = self._dialect.walk(hash, self._unbound, NULL, 0, out, count) if count else 0
        return [out[i] for i in range(count)]

    def _ranked_slots(self, cell, n):
        found = list(self._ring.choices(cell))
        if self._overlay is not None:
            found += self._overlay.choices(cell)
        found = [slot for slot in dict.fromkeys(found) if self._unbound[<int>slot]]
        if len(found) < n:
            listed = set(found)
            found += [slot for slot in self._ring.ranking(cell) if slot not in listed and self._unbound[<int>slot]]
        return found

    def request(self, key=None):
        """Select, and count the request while the `with` block runs.

        An Exception that leaves the block, or selection.failed(error), counts as the server's failure; other exceptions
        (a cancelled task) do not.

        Raises:
            NoServerAvailable, UsageError: as select() does.
        """
        cdef int slot = self._pick_object(key)
        cdef PoolRequest made
        if slot < 0:
            raise self._none_available()
        made = PoolRequest.__new__(PoolRequest)
        made.pool, made.server, made.slot, made.reason, made.key = self, <object>self._objects[slot], slot, "policy", key
        return made

    cdef object _none_available(self):
        reasons = {}
        for server in self._servers:
            state = self._states[server.name]
            reasons[server.name] = _STATES[state] if state != FR_READY else "weight 0" if not server.weight else "ready"
        return NoServerAvailable(self.name, reasons)

    # ---- control plane ----

    def update(self, servers):
        """Replace the list of servers. Who keeps the name keeps slot, counters and state; who is new is ready.

        Raises:
            UsageError: a list that a pool cannot hold; the pool is as it was.
        """
        declared = _arguments.in_order(servers)
        rows = _arguments.check_servers(declared)
        with self._lock:
            states = {server.name: self._states.get(server.name, FR_READY) for server in rows}
            self._swap(rows, states, False, _names_of(declared))

    def set_state(self, name, state):
        """Put a server into a state: "ready", "draining", "maintenance", "down" or "ejected".

        Raises:
            UsageError: a server that is not in the pool, or another state.
        """
        if state not in _STATES:
            raise UsageError(f"state {state!r}: accepted: {', '.join(_STATES)}")
        code = _STATES.index(state)
        with self._lock:
            self._known(name)
            if self._states[name] != code:
                self._swap(self._servers, {**self._states, name: code})

    def set_weight(self, name, weight):
        """Change a server's weight, 0..65535; 0 takes no unbound request. Counters and bindings stay.

        Raises:
            UsageError: a server that is not in the pool, or another weight.
        """
        check_weight(weight, name)
        with self._lock:
            changed = self._known(name)
            if changed.weight != weight:
                rows = [changed.replace(weight=weight) if server is changed else server for server in self._servers]
                self._swap(tuple(rows), self._states)

    def prepare_fallback(self):
        """Build the ring that answers while the store is away, if it is not there: some 20 ms for 131072 slots."""
        if not self._has_ring:
            with self._lock:
                if not self._has_ring:
                    self._swap(self._servers, self._states, True)

    def _known(self, name):
        for server in self._servers:
            if server.name == name:
                return server
        raise UsageError(f"server {name!r} is not in pool {self.name!r}")

    cdef int _swap(self, tuple servers, dict states, bint with_ring=False, tuple declared=None) except -1:
        # Compute all that picks read from (servers, states); nothing is in force before the last stretch.
        cdef dict slots = self._table.assign([server.name for server in servers])
        cdef TableRing ring = None, main_ring = self._main_ring, backup_ring = self._backup_ring, overlay = None
        cdef tuple main_inputs = self._main_inputs, backup_inputs = self._backup_inputs
        cdef tuple dialect_inputs = self._dialect_inputs
        cdef Ring dialect = self._dialect
        cdef fr_round_robin round_robin
        cdef fr_random random
        cdef uint16_t *slot_list
        cdef uint32_t *weight_list
        cdef uint32_t i, count
        cdef int status
        self._point()
        self._table.release_old_blocks()
        ready = [server for server in servers if states[server.name] == FR_READY]
        eligible = [server for server in ready if server.weight and not server.backup]
        on_backup = not eligible
        if on_backup:
            eligible = [server for server in ready if server.weight]
        with_ring = with_ring or self._has_ring
        if with_ring:
            inputs = _arguments.ring_inputs(servers, slots, False)
            if inputs != main_inputs:
                main_ring, main_inputs = ring_of(inputs, self.slots), inputs
            ring = main_ring
            if on_backup and eligible:
                inputs = _arguments.ring_inputs(servers, slots, True)
                if inputs != backup_inputs:
                    backup_ring, backup_inputs = ring_of(inputs, self.slots), inputs
                ring = backup_ring
            overlay = overlay_of(ring, inputs, {slots[server.name] for server in eligible})
        if declared is None:
            declared = self._declared
        if self._policy == POLICY_DIALECT:
            by_name = {server.name: server for server in servers}
            inputs = _dialects.ring_inputs(self.ring, [by_name[name] for name in declared], eligible, on_backup, slots)
            if inputs != dialect_inputs:
                dialect = _dialects.make_ring(self.ring, inputs, self._seed, self._ring_options)
                dialect_inputs = inputs
        unbound = [slots[server.name] for server in eligible]
        count = <uint32_t>len(eligible)
        slot_list = <uint16_t *>malloc((count + 1) * sizeof(uint16_t))
        weight_list = <uint32_t *>malloc((count + 1) * sizeof(uint32_t))
        status = -1
        if slot_list != NULL and weight_list != NULL:
            for i in range(count):
                slot_list[i], weight_list[i] = unbound[i], eligible[i].weight
            with nogil:
                status = fr_round_robin_init(&round_robin, slot_list, weight_list, count)
                if status == 0:
                    status = fr_random_init(&random, slot_list, weight_list, count)
                    if status != 0:
                        fr_round_robin_free(&round_robin)
        free(slot_list)
        free(weight_list)
        if status != 0:
            raise MemoryError(f"no memory for the tables of pool {self.name!r}")
        old = (self._dialect, self._ring, self._main_ring, self._backup_ring, self._overlay, self._servers)
        self._table.commit(servers, slots, states, unbound)
        fr_round_robin_free(&self._round_robin)
        fr_random_free(&self._random)
        self._round_robin, self._random = round_robin, random
        self._main_ring, self._main_inputs = main_ring, main_inputs
        self._backup_ring, self._backup_inputs = backup_ring, backup_inputs
        self._dialect, self._dialect_inputs, self._declared = dialect, dialect_inputs, declared
        self._ring, self._overlay, self._has_ring = ring, overlay, with_ring
        self.version += servers is not self._servers
        self._servers, self._states, self.ready_count = servers, states, len(ready)
        self._point()
        del old
        return 0

    cdef int _point(self) except -1:
        self._unbound, self._objects = self._table.unbound, self._table.objects
        self._first = self._ring.first if self._ring is not None else NULL
        self._cells = self.slots
        return 0

    def hold_clock(self, now_ms):
        """Stand still at now_ms (0: go on with the machine's clock): what a test of latencies needs."""
        self._clock.manual_ms = now_ms

    # ---- slots, for those who remember decisions (fastroute.affinity) ----

    def slot_of(self, str name not None):
        """Slot of the server of this name, -1 when it is not in the pool."""
        return self.slot_of_name(name)

    def may_take_bound(self, int slot):
        """May a request that is bound to this slot go there: is the server ready or draining?"""
        return self.takes_bound(slot)

    def pick_slot(self, bytes key not None):
        """Slot of the policy's pick, -1 when no server is eligible."""
        return self.pick(<const uint8_t *><const char *>key, len(key))

    def pick_other_slot(self, bytes key not None, tried):
        """Like pick_slot, but none of the tried slots (16 at most count); -1 when no other server is eligible."""
        cdef uint16_t slots[16]
        cdef int count = 0
        for slot in tried:
            if count < 16:
                slots[count] = slot
                count += 1
        return self.pick_other(<const uint8_t *><const char *>key, len(key), slots, count)

    def fallback_slots(self, bytes key not None, int n):
        """Slots that every replica answers alike whatever the policy: at most n distinct eligible ones, first choice first."""
        self.prepare_fallback()
        if self._first == NULL:
            return []
        return self._ranked_slots(fr_mulhi64(fr_xxh64(<const char *>key, len(key), self._seed), self._cells), n)[:n]

    def reasons(self):
        """Server name -> why it takes no unbound request ("ready": it does)."""
        return self._none_available().reasons

    # ---- what stands ----

    @property
    def servers(self):
        """The servers, in the order of their names."""
        return self._servers

    @property
    def seed(self):
        """Seed of the keys' hash."""
        return self._seed

    def __len__(self):
        return len(self._servers)

    def state_of(self, name):
        """State of a server.

        Raises:
            UsageError: a server that is not in the pool.
        """
        self._known(name)
        return _STATES[self._states[name]]

    def statistics(self):
        """A moment's copy: PoolStatistics, with a ServerStatistics per server in the order of the names."""
        rows = tuple([self._table.statistics_of(server) for server in self._servers])
        return PoolStatistics(self.name, self.policy, self.ring, self.ready_count, rows)

    def __repr__(self):
        return f"<Pool {self.name!r} {self.policy}: {len(self._servers)} servers, {self.ready_count} ready>"


def _names_of(servers):
    return tuple([server.name for server in servers])


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


cdef class PoolRequest(Selection):
    """A Selection that counts itself in flight while its `with` block runs."""

    def failed(self, error=None):
        """The server failed this request (the block need not raise)."""
        self._failed = True

    def __enter__(self):
        cdef Pool pool = self.pool
        if self._entered:
            raise UsageError("a request is entered once")
        self._entered = True
        self._began_ns = fr_precise_ns(&pool._clock)
        pool.begin(self.slot)
        return self

    def __exit__(self, kind, error, traceback):
        cdef Pool pool = self.pool
        cdef uint64_t passed_ns = fr_precise_ns(&pool._clock) - self._began_ns
        if error is not None and isinstance(error, Exception):
            self._failed = True
        pool.end(self.slot, self._failed, 0 if self._failed else passed_ns + (passed_ns == 0))
        return False
