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
import sys
import threading
from collections import namedtuple

from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastroute._core.base cimport FR_NO_SLOT, FR_READY, fr_mulhi64, fr_now_ms
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.policies cimport (
    FR_HASH, FR_LEAST_CONNECTIONS, Policies, fr_has_room, fr_least_open, fr_loads_of, fr_policies_begin, fr_policies_choose, fr_policies_end,
    fr_policies_pick, fr_prequal_result, fr_round_robin_charge, fr_round_robin_length, fr_round_robin_peek, fr_takes_key
)
from fastroute._core.ring_set cimport RingSet
from fastroute._core.selection cimport Selection
from fastroute._core.server_table cimport ServerTable, fr_counters_begin, fr_counters_end, fr_precise_ns

from fastroute._core import dialects as _dialects, pool_arguments as _arguments
from fastroute._core.pool_queue import Lease as _Lease, Queue as _Queue
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

cdef enum:
    POLICY_DIALECT = -1     # `hash` with another ring than `table`
    REFUSED_MAX = 32        # servers of a key's order that are asked before the least loaded takes it

PoolStatistics = namedtuple("PoolStatistics", "name policy ring ready_count servers panicking panic_picks_total")
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
        policy: "round-robin" (nginx's smooth weighted sequence), "random", "hash", "least-connections", "two-choices",
            "peak-ewma", "prequal"; what each does stands in fastroute.routing.policies.
        ring: what `hash` picks from: "table" or a dialect (fastroute.routing.dialects). Other policies, and every pool
            while the store is away, use the table as the deterministic fallback, whatever is said here.
        ring_options: a mapping with options of the dialect, such as {"table_size": 5003} for maglev.
        slots: cells of the table ring, 16..2**24; fixed for the pool, alike on every replica.
        max_load: with `hash`: a server takes a key while it has less than max_load times the average of requests in flight
            (HAProxy's formula), else the next of the key's order does; 1.01..100; None or 0: no bound.
        max_load_floor: in flight that a server may have whatever the average, 1..65535.
        seed: of the keys' hash, and of `random` (0: seeded by the system), 0..2**64-1.
        zone: a Zone: its processes continue one round-robin sequence and balance by the requests in flight of all of them.
            (An object with cursor_address(fleet, pool) alone shares the sequence.) None: private.
        fleet: the fleet's name, for the zone.
        charge_sticky: with `round-robin`: bound requests move the sequence on, as in nginx since 1.29.6. Each process then
            has its own sequence.
        slow_start: {"window": "30s", "aggression": 1.0, "min_weight": 0.1, "ramp": "envoy"}: a server that comes back from
            "down" gets its share of unbound requests little by little (fastroute.routing.slow_start). None: at once.
        panic: when a smaller part of the servers (backups aside) is ready, those that are down or ejected are used too,
            unless a backup can stand in for all; 0..1, 0: never.
        pending: requests that may wait in acquire() at once.
        pending_time: how long one waits at most; seconds, or "1s".

    Raises:
        UsageError: an argument outside these ranges.

    Notes: not a Python-level hot path: select() is one compiled call. Calls are safe from several threads under the GIL.
    """

    def __init__(self, name, servers, *, policy="round-robin", ring="table", slots=131072, max_load=None, seed=0,
                 zone=None, fleet="fr", ring_options=None, max_load_floor=4, charge_sticky=False, slow_start=None, panic=0.0,
                 pending=1024, pending_time="1s"):
        if self._table is not None:
            raise UsageError("a Pool is set up once; use update()")
        check_name("pool", name)
        check_name("fleet", fleet)
        _arguments.check_choice("policy", policy, _arguments.POLICIES)
        _arguments.check_choice("ring", ring, _arguments.RINGS)
        if ring == "table" and ring_options:
            raise UsageError("ring_options: the table ring has none; its size is `slots`")
        ring_options = {} if ring == "table" or ring_options is None else _dialects.check_options(ring, ring_options)
        if not isinstance(slots, int) or isinstance(slots, bool) or not _CELLS_MIN <= slots <= _CELLS_MAX:
            raise UsageError(f"slots {slots!r}: accepted are whole numbers from {_CELLS_MIN} to {_CELLS_MAX}")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
        declared = _arguments.in_order(servers)
        rows = _arguments.check_servers(declared)
        options = _arguments.check_options(policy, max_load, max_load_floor, charge_sticky, slow_start, panic, pending, pending_time)
        self._policies = Policies(_arguments.POLICIES.index(policy), seed if seed else int.from_bytes(os.urandom(8), "little"), zone,
                                  fleet, name, charge_sticky, options.bound, options.ramp)
        self._p = &self._policies.state
        self.name, self.fleet, self.policy, self.ring = name, fleet, policy, ring
        self.slots, self._seed, self._policy, self._options = slots, seed, self._p.policy, options
        self._rings = RingSet(ring, slots, seed, ring_options, self._policy == FR_HASH)
        if self._rings.by_dialect:
            self._policy = POLICY_DIALECT
        self._ramps, self.charges = _arguments.Ramps(options.ramp[0]), charge_sticky
        self._lock = threading.RLock()
        self._servers, self._states = (), {}
        self._table = ServerTable()
        with self._lock:
            self._swap(rows, {server.name: FR_READY for server in rows}, self._policy == FR_HASH, _arguments.names_of(declared))

    def __del__(self):
        # Requests that never ended would stay counted in the zone for as long as this process lives.
        if self._table is not None:
            for slot in range(self._table.capacity):
                self._policies.drop(<uint16_t>slot, self._table.counters[slot].in_flight)

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
        if self._first != NULL and self._policy == FR_HASH and PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key):
            size = PyUnicode_GET_LENGTH(key)
            if size:
                slot = self._first[fr_mulhi64(fr_xxh64(PyUnicode_DATA(key), <size_t>size, self._seed), self._cells)]
                if self._direct[slot]:
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
            return self._pick_dialect(self._rings.dialect.hash_key(key, <size_t>size))
        if self._policy == FR_HASH and size > 0:
            return self._pick_hash(fr_xxh64(key, <size_t>size, self._seed))
        if self._policies._by_load:
            self._policies.look()
        return fr_policies_pick(self._p)

    cdef int _pick_hash(self, uint64_t hash) noexcept:
        cdef uint16_t slot
        if self._first == NULL:
            return -1
        slot = self._first[fr_mulhi64(hash, self._cells)]
        if self._direct[slot]:
            return slot
        return self._pick_guarded(hash, NULL, 0)

    cdef int _pick_guarded(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept:
        # In the key's order: the first server that ramp, max_connections and max_load let take it. When none of the first
        # REFUSED_MAX does, the least loaded that has room.
        cdef uint16_t refused[REFUSED_MAX]
        cdef int slot, first, count = min(tried_count, REFUSED_MAX - 1)
        cdef uint32_t place
        if self._policies._by_load:
            self._policies.look()
        if self._p.panic:
            self._p.panic_picks += 1
        self._policies.step()
        if count:
            memcpy(refused, tried, count * sizeof(uint16_t))
        first = count
        while count < REFUSED_MAX:
            slot = self._rings.next(hash, refused, count)
            if slot < 0:
                break
            if fr_takes_key(self._p, hash, self._p.place_of[slot]):
                return slot
            refused[count] = <uint16_t>slot
            count += 1
        if self._p.bound.factor_percent == 0:
            for slot in range(first, count):
                if fr_has_room(&self._p.eligible, self._p.loads, self._p.place_of[refused[slot]]):
                    return refused[slot]
        if self._p.eligible.count == 0:
            return -1
        place = fr_least_open(self._p, tried, tried_count)
        return -1 if place >= self._p.eligible.count else self._p.eligible.slots[place]

    cdef int _pick_dialect(self, uint64_t hash) noexcept:
        cdef uint16_t slot = self._rings.dialect.slot_of(hash)
        if slot != FR_NO_SLOT and self._direct[slot]:
            return slot
        return self._pick_guarded(hash, NULL, 0)

    cdef int pick_other(self, const uint8_t *key, Py_ssize_t size, const uint16_t *tried, int tried_count) noexcept:
        if self._p.policy == FR_HASH and size > 0:
            return self._pick_guarded(self._rings.hash_key(key, size), tried, tried_count)
        if self._p.eligible.count == 0:
            return -1
        return fr_policies_choose(self._p, tried, tried_count)

    cdef int fallback(self, const uint8_t *key, Py_ssize_t size) noexcept:
        if not self._rings.has_table:
            try:
                self.prepare_fallback()
            except Exception:
                return -1
        return self._rings.table_next(fr_xxh64(key, <size_t>size, self._seed), NULL, 0)

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

    cdef bint has_room(self, int slot) noexcept:
        cdef uint16_t place
        if not 0 <= slot < self._table.capacity or self._objects[slot] == NULL:
            return False
        place = self._p.place_of[slot]
        if place != FR_NO_SLOT:
            return fr_has_room(&self._p.eligible, self._p.loads, place)
        limit = (<object>self._objects[slot]).max_connections
        return not limit or fr_loads_of(self._p.loads, self._p.column_of[slot]) < limit

    cdef void charge(self, int slot) noexcept:
        if 0 <= slot < self._table.capacity and self._p.place_of[slot] != FR_NO_SLOT:
            fr_round_robin_charge(&self._p.turns, self._p.place_of[slot])

    cdef void begin(self, int slot) noexcept:
        if 0 <= slot < self._table.capacity:
            fr_counters_begin(&self._table.counters[slot])
            fr_policies_begin(self._p, <uint16_t>slot)

    cdef void end(self, int slot, bint failed, uint64_t latency_ns) noexcept:
        if 0 <= slot < self._table.capacity:
            fr_counters_end(&self._table.counters[slot], failed, latency_ns)
            fr_policies_end(self._p, <uint16_t>slot, failed, latency_ns)
            if self._queue is not None:
                self._wake()

    cdef void _wake(self) noexcept:
        try:
            self._queue.wake()
        except Exception as error:
            sys.unraisablehook(sys.UnraisableHookArgs((type(error), error, error.__traceback__, "in a queue of a pool", self)))

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
        return self._rings.hash_key(data, size)

    def slots_of(self, hashes, out):
        """Slots of many hashes by the ring, whatever the policy (`hash`: the pool's; else `table`): out[i] for hashes[i]; 65535 where no server is eligible.

        Args:
            hashes: buffer of uint64 (array 'Q', numpy uint64), contiguous.
            out: writable buffer of uint16 (array 'H', numpy uint16), contiguous, of the same length.

        Raises:
            UsageError: a buffer of another kind, length, or read-only.
        """
        if not self._rings.by_dialect:
            self.prepare_fallback()
        self._rings.fill(hashes, out)

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

        With `hash` and a key: the ring's order (a bound on load may pass over the first). `least-connections`: by load.
        `round-robin`: the coming picks; the policies that draw: the servers in turn.

        Raises:
            UsageError: as select() does; n negative or no whole number.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef uint32_t ahead
        cdef int verdict = fr_key_bytes(key, &data, &size)
        cdef list found = []
        if verdict > FR_KEY_NONE:
            raise _bad_key(key, verdict)
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise UsageError(f"n {n!r}: accepted are whole numbers from 0")
        if self._p.policy == FR_HASH and size > 0:
            found = self._rings.slots_by_key(self._rings.hash_key(data, size), min(n, FR_NO_SLOT))
        else:
            seen = set()
            if self._policy == FR_LEAST_CONNECTIONS:
                found = self._policies.least_slots(min(n, FR_NO_SLOT))
                seen.update(found)
            for ahead in range(fr_round_robin_length(&self._p.turns) if self._p.turns.count else 0):
                if len(found) >= n:
                    break
                slot = fr_round_robin_peek(&self._p.turns, self._p.cursor, ahead)
                if slot not in seen:
                    seen.add(slot)
                    found.append(slot)
        return tuple([<object>self._objects[<int>slot] for slot in found[:n]])

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
        made.pool, made.server, made.slot, made.reason, made.key = self, <object>self._objects[slot], slot, self.reason(), key
        return made

    def request_to(self, name):
        """Like request(), for a request that is bound to the server of this name.

        Raises:
            NoServerAvailable: it takes no bound request, or max_connections are there already.
            UsageError: a server that is not in the pool.
        """
        cdef PoolRequest made
        self._known(name)
        cdef int slot = self.slot_of_name(name)
        if not self.takes_bound(slot) or not self.has_room(slot):
            raise self._none_available()
        made = PoolRequest.__new__(PoolRequest)
        made.pool, made.server, made.slot, made.reason, made.key = self, <object>self._objects[slot], slot, "policy", None
        return made

    def acquire(self, key=None, timeout=None, *, server=None):
        """`async with pool.acquire(key) as selection:` like request(), but waits for a server with room.

        Waiting is first come, first served, within `pending` requests and for `timeout` (default: the pool's
        `pending_time`).

        Args:
            key: what select() takes.
            timeout: seconds, or "500ms".
            server: name of the one server that will do (a bound request); None: whom the policy picks.

        Raises:
            NoServerAvailable: nobody had room in time, too many wait already, or no server is eligible.
            UsageError: as select() does.
        """
        if self._queue is None:
            self._queue = _Queue(self, self._options.pending, self._policies.loads_zone is not None)
        return _Lease(self._queue, key, server, self._options.pending_s if timeout is None else timeout)

    @property
    def waiting_count(self):
        """Requests that wait in acquire()."""
        return 0 if self._queue is None else len(self._queue)

    def probe_result(self, name, in_flight, latency_ns):
        """What an active probe of a server found: its requests in flight and a latency. Policy `prequal` alone uses it.

        Raises:
            UsageError: a server that is not in the pool, or a number that is negative or no whole one.
        """
        for what, value in (("in_flight", in_flight), ("latency_ns", latency_ns)):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
                raise UsageError(f"{what} {value!r}: accepted are whole numbers from 0")
        self._known(name)
        if self._p.prequal != NULL:
            fr_prequal_result(self._p.prequal, <uint16_t>self.slot_of_name(name), <uint32_t>min(in_flight, 65535),
                              <uint64_t>latency_ns, fr_now_ms(&self._p.clock), self._p.eligible.count)

    def probes_wanted(self):
        """Names of servers to probe now: three random ones for each pick since the last call, at most 64; else none."""
        return [(<object>self._objects[<int>slot]).name for slot in self._policies.slots_to_probe()]

    cdef object _none_available(self):
        reasons, servers, states, slots = {}, self._servers, self._states, self._table.slot_of   # of one moment: threads swap
        for server in servers:
            state = states[server.name]
            reasons[server.name] = (
                _STATES[state] if state != FR_READY else "weight 0" if not server.weight else "ready"
                if self.has_room(slots[server.name]) else f"full (max_connections {server.max_connections})"
            )
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
            self._swap(rows, states, False, _arguments.names_of(declared))

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
            if self._states[name] == code:
                return
            ramps = self._ramps
            self._ramps = ramps.after(name, code, fr_now_ms(&self._p.clock))
            try:
                self._swap(self._servers, {**self._states, name: code})
            except BaseException:
                self._ramps = ramps
                raise

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
        if not self._rings.has_table:
            with self._lock:
                if not self._rings.has_table:
                    self._swap(self._servers, self._states, True)

    def _known(self, name):
        for server in self._servers:
            if server.name == name:
                return server
        raise UsageError(f"server {name!r} is not in pool {self.name!r}")

    cdef int _swap(self, tuple servers, dict states, bint with_ring=False, tuple declared=None) except -1:
        # Compute all that picks read from (servers, states); nothing is in force before the last stretch.
        cdef dict slots
        while True:
            slots = self._table.assign([server.name for server in servers])
            self._point()
            self._table.release_old_blocks()
            ready, eligible, on_backup, panicking = _arguments.eligible_of(servers, states, self._options.panic_ratio)
            self._rings.stage(servers, slots, eligible, on_backup, with_ring, declared)
            unbound = [slots[server.name] for server in eligible]
            columns = self._policies.columns_of(self.fleet, self.name, servers, slots)
            ramps = self._ramps.among(slots, fr_now_ms(&self._p.clock))
            self._policies.stage([
                (slots[server.name], columns[server.name], server.weight, server.max_connections,
                 ramps.returned_ms.get(server.name, 0), server.name) for server in eligible
            ])
            fresh = [slot for name, slot in slots.items() if self._table.slot_of.get(name) != slot]
            # Another thread may have begun, meanwhile, a request that it had selected before the slot's last server left.
            if not self._table.in_use(fresh):
                break
        old = (self._rings.commit(), self._servers)
        self._table.commit(servers, slots, states, unbound, panicking)
        self._policies.commit([(slots[name], columns[name]) for name in slots], fresh, panicking)
        self._ramps, self.panicking = ramps, panicking
        self.version += servers is not self._servers
        self._servers, self._states, self.ready_count = servers, states, ready
        self._point()
        del old
        if self._queue is not None:
            self._wake()
        return 0

    cdef int _point(self) except -1:
        self._unbound, self._objects = self._table.unbound, self._table.objects
        self._first = self._rings.table.first if self._rings.table is not None else NULL
        self._rings.unbound = self._unbound
        self._cells, self._direct = self.slots, self._p.direct
        return 0

    def hold_clock(self, now_ms):
        """Stand still at now_ms (0: go on with the machine's clock): what a test of latencies needs."""
        self._p.clock.manual_ms = now_ms

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
        return self._rings.slots_by_table(fr_xxh64(<const char *>key, len(key), self._seed), n)[:n]

    def reason(self):
        """The reason that a selection by policy carries now: "policy", or "panic"."""
        return "panic" if self.panicking else "policy"

    def room_in(self, int slot):
        """May one more request go to this slot as far as max_connections goes?"""
        return self.has_room(slot)

    def charge_slot(self, int slot):
        """A bound request went to this slot: with charge_sticky round robin's sequence pays for it."""
        self.charge(slot)

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
        cdef int slot
        cdef list rows = []
        self._policies.look()
        servers, states, slots = self._servers, self._states, self._table.slot_of   # of one moment: another thread may swap
        for server in servers:
            slot = slots[server.name]
            rows.append(self._table.statistics_of(
                server, slot, _STATES[states[server.name]], self._policies.weight_of(slot, server.weight),
                fr_loads_of(self._p.loads, self._p.column_of[slot])
            ))
        return PoolStatistics(
            self.name, self.policy, self.ring, self.ready_count, tuple(rows), bool(self.panicking), self._p.panic_picks
        )

    def __repr__(self):
        return f"<Pool {self.name!r} {self.policy}: {len(self._servers)} servers, {self.ready_count} ready>"


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
        self._began_ns = fr_precise_ns(&pool._p.clock)
        pool.begin(self.slot)
        return self

    def __exit__(self, kind, error, traceback):
        cdef Pool pool = self.pool
        cdef uint64_t passed_ns = fr_precise_ns(&pool._p.clock) - self._began_ns
        if error is not None and isinstance(error, Exception):
            self._failed = True
        pool.end(self.slot, self._failed, 0 if self._failed else passed_ns + (passed_ns == 0))
        return False
