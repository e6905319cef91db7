"""The waiting line of one pool: requests for which no server has room within its max_connections.

Not here: how many may wait (http_attempt counts every wait of a pool against `pending`), the line of Pool.acquire.
One queue per server for the requests that are bound to it, one for those that may go anywhere; room goes to the older head.

Rules of this file: nobody overtakes; nothing is done inside the callback that made room; who waits is looked at whenever a
request ends, and every POLL_S, since room may come from another process of the zone, or from a change of the pool.
"""

from collections import deque

from libc.stdint cimport uint64_t

from fastroute._core.http_upstream cimport Sink
from fastroute._core.http_wire cimport Engine
from fastroute._core.pool cimport Pool

# As often as the line of Pool.acquire is looked at.
POLL_S = 0.005


cdef class _Waiter:
    cdef Sink sink
    cdef uint64_t epoch, deadline_ms, sequence


cdef class Waiting:
    """Who waits for room in one pool.

    Args:
        engine: its clock and its loop.
        pool: whose servers.
        time_s: how long one may wait.
    """

    def __init__(self, Engine engine not None, Pool pool not None, *, time_s):
        self.engine, self.pool = engine, pool
        self.time_ms = <uint64_t>(time_s * 1000)
        self._lines, self._freed = {}, set()

    cdef bint ahead(self, int slot) noexcept:
        return self.count != 0 and (slot in self._lines or -1 in self._lines)

    cdef int join(self, Sink sink, int slot, uint64_t deadline_ms, bint front) except -1:
        cdef _Waiter waiter = _Waiter.__new__(_Waiter)
        waiter.sink, waiter.epoch, waiter.deadline_ms = sink, sink.epoch, deadline_ms
        line = self._lines.get(slot)
        if line is None:
            line = self._lines[slot] = deque()
        if front:
            waiter.sequence = (<_Waiter>line[0]).sequence if line else 0
            line.appendleft(waiter)
        else:
            self._sequence += 1
            waiter.sequence = self._sequence
            line.append(waiter)
        self.count += 1
        if self._poll is None:
            self._poll = self.engine.loop.call_later(POLL_S, self._again)
        return 0

    cdef void freed(self, int slot) noexcept:
        try:
            self._freed.add(slot)
            if self._soon is None:
                self._soon = self.engine.loop.call_soon(self._look_freed)
        except Exception:  # the poll looks too
            pass

    def _look_freed(self):
        self._soon = None
        slots, self._freed = self._freed, set()
        slots.add(-1)
        self._look_at([slot for slot in slots if slot in self._lines])

    def _again(self):
        self._poll = None
        self.look()
        if self._lines and self._poll is None:
            self._poll = self.engine.loop.call_later(POLL_S, self._again)

    def look(self):
        """Look at everybody who waits: room, a server that takes nobody any more, time that is over."""
        self._look_at(list(self._lines))

    def _look_at(self, list slots):
        slots.sort(key=self._age)
        for slot in slots:
            self._serve(slot)

    def _age(self, slot):
        return (<_Waiter>self._lines[slot][0]).sequence

    cdef void _serve(self, int slot):
        cdef _Waiter waiter
        cdef uint64_t now_ms = self.engine.now_ms()
        line = self._lines.get(slot)
        while line:
            waiter = <_Waiter>line[0]
            if waiter.sink.epoch != waiter.epoch:  # it went away
                line.popleft()
                self.count -= 1
                continue
            if waiter.deadline_ms <= now_ms:
                line.popleft()
                self.count -= 1
                waiter.sink.on_no_room()
                continue
            if slot >= 0 and self.pool.takes_bound(slot) and not self.pool.has_room(slot):
                break
            line.popleft()
            self.count -= 1
            if not waiter.sink.on_room():
                break
        if not line and self._lines.get(slot) is line:
            self._lines.pop(slot, None)

    def close(self):
        """Nobody is served any more."""
        for handle in (self._soon, self._poll):
            if handle is not None:
                handle.cancel()
        self._soon = self._poll = None
        self._lines, self._freed, self.count = {}, set(), 0
