"""zone_push: the push channel's half of a zone: who runs the channel, what was announced, what may be believed.

Not here: sockets and lines (fastroute.memcache.watch), what counts as a loss (fastroute.affinity.push). The rules, and why
an entry that is believed is the store's newest word, stand in ext/fr_push.h.
"""
import binascii
import base64
from typing import NamedTuple

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from fastroute._core.affinity_table cimport AffinityTable, fr_guard
from fastroute._core.base cimport fr_clock, fr_now_ms, fr_now_tick
from fastroute._core.hashes cimport fr_fingerprint
from fastroute._core.kill_points cimport kill_point_arm, kill_point_count
from fastroute._core.zone cimport fr_table

from fastroute.errors import UsageError

cdef extern from "fr_push.h" nogil:
    enum: FR_PUSH_LEASE_MS
    enum: FR_PUSH_NODES
    enum: FR_TICK_SHIFT
    ctypedef struct fr_push:
        uint64_t live
        uint64_t store
        uint64_t epoch
        uint64_t sequence
        uint32_t owner_pid
    ctypedef struct fr_push_node:
        uint64_t name
        uint32_t pid
        uint32_t start_s
        uint64_t flushes
    int fr_push_holds(const fr_push *push, uint64_t store, uint32_t verified_tick, uint32_t now_tick) noexcept
    fr_guard fr_push_guard(const fr_push *push, uint64_t store, uint32_t now_tick) noexcept
    int fr_push_lease(fr_push *push, uint32_t token, uint32_t now_tick) noexcept
    int fr_push_owns(const fr_push *push, uint32_t token) noexcept
    void fr_push_release(fr_push *push, uint32_t token) noexcept
    void fr_push_lose(fr_push *push, const fr_clock *clock) noexcept
    void fr_push_serve(fr_push *push, uint64_t store, const fr_clock *clock) noexcept
    int fr_push_extend(fr_push *push, uint32_t token, uint32_t until_tick) noexcept
    void fr_push_suspend(fr_push *push, uint32_t token) noexcept
    int fr_push_invalidate(fr_table *table, uint32_t token, const fr_fingerprint *key, int all) noexcept

cdef extern from *:
    """
    static fr_push *fr_push_of(fr_table *table) { return table->push; }
    static fr_push_node *fr_push_nodes_of(fr_table *table)
    {
        return (fr_push_node *)((uint8_t *)table->push + sizeof(fr_push));      /* fr_zone.h asserts their places */
    }
    static uint64_t fr_load64(const uint64_t *p) { return FR_GET_ACQUIRE(p); }
    static uint32_t fr_load32(const uint32_t *p) { return FR_GET(p); }
    static void fr_store64(uint64_t *p, uint64_t v) { FR_PUT_RELEASE(p, v); }
    static void fr_store32(uint32_t *p, uint32_t v) { FR_PUT(p, v); }
    """
    fr_push *fr_push_of(fr_table *table) noexcept nogil
    fr_push_node *fr_push_nodes_of(fr_table *table) noexcept nogil
    uint64_t fr_load64(const uint64_t *p) noexcept nogil
    uint32_t fr_load32(const uint32_t *p) noexcept nogil
    void fr_store64(uint64_t *p, uint64_t v) noexcept nogil
    void fr_store32(uint32_t *p, uint32_t v) noexcept nogil

__all__ = ["LEASE_S", "NODES_MAX", "NodeLife", "PushBoard", "arm_kill_point", "fingerprint_of", "kill_points_passed"]

LEASE_S = FR_PUSH_LEASE_MS / 1000.0
"""How long the owner may be silent before another process takes the channel over."""

NODES_MAX = FR_PUSH_NODES
"""Nodes of a store whose lives a zone remembers."""


class NodeLife(NamedTuple):
    """One life of a node: when any of these changes it has lost its records."""

    pid: int
    start_s: int        # on the node's own clock
    flushes: int


@cython.final
cdef class PushBoard:
    """The push channel's board in a zone.

    Args:
        table: the zone's affinity table.
        store: 64-bit digest of the store's nodes, not 0: entries are believed only because of their own store's channel.
        token: names this object when it owns the channel: random, 1..2**32-1.

    Raises:
        UsageError: store or token out of range.

    Notes: lock-free and bounded; no call waits for another process.
    """

    def __cinit__(self, AffinityTable table not None, uint64_t store, uint32_t token):
        if store == 0 or token == 0:
            raise UsageError("store and token of a push board: accepted are numbers other than 0")
        self.table, self.store, self.token = table, store, token
        self.clock.manual_ms = 0

    def set_manual_ms(self, uint64_t now_ms):
        """Hold the board's clock still at now_ms (0: the machine's clock again); for tests."""
        self.clock.manual_ms = now_ms

    @property
    def now_tick(self):
        """Now in ticks of 64 ms."""
        return fr_now_tick(&self.clock)

    # ---- the owner

    def lease(self):
        """Own the channel for another LEASE_S; False while another process does."""
        return fr_push_lease(fr_push_of(self.table.table), self.token, fr_now_tick(&self.clock)) == 1

    def release(self):
        """Give the channel up at once."""
        fr_push_release(fr_push_of(self.table.table), self.token)

    @property
    def owns(self):
        """Is this object the owner? A lease that ran out counts until another one has taken it."""
        return fr_push_owns(fr_push_of(self.table.table), self.token) == 1

    @property
    def owner_pid(self):
        """Process id of the last owner, for people."""
        return fr_load32(&fr_push_of(self.table.table).owner_pid)

    def serve(self):
        """Say whose channel this is; entries that another store's channel has guarded are believed no more."""
        cdef fr_push_node *nodes = fr_push_nodes_of(self.table.table)
        if fr_load64(&fr_push_of(self.table.table).store) != self.store:
            for i in range(FR_PUSH_NODES):
                fr_store64(&nodes[i].name, 0)
        fr_push_serve(fr_push_of(self.table.table), self.store, &self.clock)

    def extend(self, uint64_t until_ms):
        """Guarded entries are believed until then (machine's monotonic milliseconds); never moves back. False: not owned."""
        return fr_push_extend(fr_push_of(self.table.table), self.token, <uint32_t>(until_ms >> FR_TICK_SHIFT)) == 1

    def suspend(self):
        """Believe nothing until the next extend(); nothing is lost by that."""
        fr_push_suspend(fr_push_of(self.table.table), self.token)

    def lose(self):
        """Something may have been missed: nothing that was guarded until now is ever believed again."""
        fr_push_lose(fr_push_of(self.table.table), &self.clock)

    def invalidate(self, bytes fingerprint not None, *, bint all=False):
        """A line about this key came: 1 when an entry lost its guard by it, 0 when none did, -1: not owned any more.

        Args:
            all: an eviction, which is never the echo of an own write.
        """
        cdef fr_fingerprint key
        if len(fingerprint) != 16:
            raise UsageError("a fingerprint is 16 bytes")
        memcpy(&key, <const char *>fingerprint, 16)
        return fr_push_invalidate(self.table.table, self.token, &key, all)

    # ---- anybody

    @property
    def live(self):
        """Are guarded entries of this store believed now?"""
        return fr_push_holds(fr_push_of(self.table.table), self.store, 0xFFFFFFFFu, fr_now_tick(&self.clock)) == 1

    @property
    def believed_from(self):
        """Tick from which on entries must have been guarded to be believed: behind the last loss."""
        return <uint32_t>fr_load64(&fr_push_of(self.table.table).live)

    @property
    def epoch(self):
        """Losses so far."""
        return fr_load64(&fr_push_of(self.table.table).epoch)

    @property
    def sequence(self):
        """Lines so far."""
        return fr_load64(&fr_push_of(self.table.table).sequence)

    def guard(self):
        """What a reader notes before it asks the store; None without a channel."""
        cdef fr_guard taken = fr_push_guard(fr_push_of(self.table.table), self.store, fr_now_tick(&self.clock))
        return (taken.epoch, taken.sequence) if taken.guarded else None

    # ---- lives of the nodes

    def life_of(self, uint64_t name):
        """The life of the node (by the digest of its name) whose records this zone has seen to; None: not known."""
        cdef fr_push_node *nodes = fr_push_nodes_of(self.table.table)
        for i in range(FR_PUSH_NODES):
            if fr_load64(&nodes[i].name) == name:
                return NodeLife(fr_load32(&nodes[i].pid), fr_load32(&nodes[i].start_s), fr_load64(&nodes[i].flushes))
        return None

    def remember(self, uint64_t name, life):
        """Note that node's life; only the owner does. False: the list is full.

        Notes: an owner that dies inside leaves a mixture, which is another life than any: the bindings are written again.
        """
        cdef fr_push_node *nodes = fr_push_nodes_of(self.table.table)
        cdef int at = -1
        for i in range(FR_PUSH_NODES):
            if fr_load64(&nodes[i].name) == name:
                at = i
                break
            if at < 0 and fr_load64(&nodes[i].name) == 0:
                at = i
        if at < 0:
            return False
        fr_store32(&nodes[at].pid, life.pid & 0xFFFFFFFF)
        fr_store32(&nodes[at].start_s, life.start_s & 0xFFFFFFFF)
        fr_store64(&nodes[at].flushes, life.flushes & 0xFFFFFFFFFFFFFFFF)
        fr_store64(&nodes[at].name, name)
        return True


def fingerprint_of(bytes key not None):
    """The fingerprint in a store's key `<fleet>:a:<pool>:<22 characters base64url>`; None for any other key."""
    if len(key) < 27 or key[len(key) - 23] != 58 or b":a:" not in key:
        return None
    try:
        found = base64.b64decode(key[len(key) - 22:] + b"==", b"-_", True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == 16 else None


def arm_kill_point(n, action="kill"):
    """For tests: act on this process at the n-th store from now of the board's write paths.

    Args:
        n: 1 is the next store; 0 only counts.
        action: "kill" (SIGKILL), "stop" (SIGSTOP), or "off" to count no more.
    """
    kill_point_arm(n, action)


def kill_points_passed():
    """Stores of the board's write paths since arm_kill_point, in this process."""
    return kill_point_count()
