"""server_table: who stands in which slot of a pool, in which state, with which counters.

Not here: what a policy makes of it (fr_policy_*.h), rings, the zone's directory (whose slots are others).
Rules: changed by the control plane alone, with the GIL and the pool's lock held; read by the data plane with the GIL held.
`assign` may replace the arrays; the old ones live until release_old_blocks(), so that whoever cached their addresses can
read them anew first.
"""

from collections import namedtuple

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy, memset

from fastroute._core.base cimport FR_ABSENT_SERVER, FR_DRAINING, FR_NO_SLOT, FR_READY
from fastroute._core.server_table cimport fr_counters

from fastroute.errors import UsageError

cdef enum:
    LINE_BYTES = 64
    CAPACITY_MIN = 8

SERVERS_MAX = FR_NO_SLOT
"""Servers of one pool, those included that left with requests in flight: slots are 16 bits, the last value means none."""

ServerStatistics = namedtuple(
    "ServerStatistics",
    "name address state weight weight_effective backup in_flight requests_total failures_total latency_ms in_flight_zone",
)
ServerStatistics.__doc__ = """One server's row of Pool.statistics(): a moment's copy. latency_ms is 0.0 until one was measured;
in_flight counts this process's requests, in_flight_zone those of all processes of the zone."""


cdef class ServerTable:
    """Slots of one pool's servers; see the pxd for what each array says."""

    def __cinit__(self):
        self.members, self.slot_of, self.blocks = [], {}, []
        self._grow(CAPACITY_MIN)

    cdef int _grow(self, int capacity) except -1:
        # One block: counters on whole cache lines first, then the pointers, then the bytes.
        cdef int old = self.capacity
        cdef object block = bytearray(LINE_BYTES + capacity * (sizeof(fr_counters) + sizeof(PyObject *) + 3))
        cdef uintptr_t at = (<uintptr_t><char *>(<bytearray>block) + LINE_BYTES - 1) & ~<uintptr_t>(LINE_BYTES - 1)
        cdef fr_counters *counters = <fr_counters *>at
        cdef PyObject **objects = <PyObject **>&counters[capacity]
        cdef uint8_t *state = <uint8_t *>&objects[capacity]
        cdef uint8_t *unbound = state + capacity
        cdef uint8_t *bound = unbound + capacity
        self.members.extend([None] * (capacity - old))
        self.blocks.append(block)
        memset(state, FR_ABSENT_SERVER, capacity)
        if old:
            memcpy(objects, self.objects, old * sizeof(PyObject *))
            memcpy(state, self.state, old)
            memcpy(unbound, self.unbound, old)
            memcpy(bound, self.bound, old)
            memcpy(counters, self.counters, old * sizeof(fr_counters))
        self.objects, self.state, self.unbound, self.bound, self.counters = objects, state, unbound, bound, counters
        self.capacity = capacity
        return 0

    cdef dict assign(self, list names):
        cdef dict slots = {}
        cdef int at = 0
        cdef list fresh = []
        for name in names:
            slot = self.slot_of.get(name)
            if slot is None:
                fresh.append(name)
            else:
                slots[name] = slot
        for name in fresh:
            while at < self.capacity and (self.members[at] is not None or self.counters[at].in_flight > 0):
                at += 1
            if at == self.capacity:
                if at >= SERVERS_MAX:
                    raise UsageError(f"a pool holds at most {SERVERS_MAX} servers, those included that left with requests in flight")
                self._grow(min(self.capacity * 2, SERVERS_MAX))
            slots[name] = at
            at += 1
        return slots

    cdef bint in_use(self, list slots) except -1:
        cdef int slot
        for slot in slots:
            if self.counters[slot].in_flight > 0:
                return True
        return False

    cdef int commit(self, tuple servers, dict slots, dict states, list unbound_slots, bint panic) except -1:
        cdef int slot
        cdef set gone = {slot for name, slot in self.slot_of.items() if slots.get(name) != slot}
        cdef list old = list(self.members)      # keeps the present objects alive until the arrays point elsewhere
        for slot in gone:
            self.objects[slot] = NULL
            self.members[slot] = None
            self.state[slot] = FR_ABSENT_SERVER
        memset(self.unbound, 0, self.capacity)
        memset(self.bound, 0, self.capacity)
        for server in servers:
            slot = slots[server.name]
            if self.members[slot] is None:
                memset(&self.counters[slot], 0, sizeof(fr_counters))
            self.members[slot] = server
            self.objects[slot] = <PyObject *>server
            self.state[slot] = states[server.name]
            self.bound[slot] = self.state[slot] == FR_READY or self.state[slot] == FR_DRAINING
        for slot in unbound_slots:
            self.unbound[slot] = 1
            if panic:
                self.bound[slot] = 1
        self.slot_of = slots
        del old
        return 0

    cdef int release_old_blocks(self) except -1:
        self.blocks = [self.blocks[len(self.blocks) - 1]]
        return 0

    def statistics_of(self, server, int slot, state, weight_effective, in_flight_zone):
        """The row of one server that stands in this slot."""
        cdef fr_counters *c = &self.counters[slot]
        return ServerStatistics(
            server.name, server.address, state, server.weight, weight_effective, server.backup,
            c.in_flight, c.total, c.failures, c.latency_ewma_ns / 1e6, in_flight_zone,
        )
