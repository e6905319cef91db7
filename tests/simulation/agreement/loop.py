"""Virtual time: one heap of events for the world, and an asyncio event loop for each simulated process.

What it is: the order in which everything happens. What it is not: it knows neither networks nor memcached.

Rules of this file
- Nothing reads the machine's clock; the same events in the same order give the same run.
- A process that was killed runs nothing any more, not even a `finally`; one that was stopped runs what came for it
  meanwhile, in order, when it goes on.
- An event is what is taken from the heap (a delivery, a timer, a request, a fault); the turns of the event loops that
  follow from it at the same instant are not counted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

START_S = 100_000.0
"""Virtual time at the start; not zero, because a manual clock of 0 means the machine's clock."""

TURNS_MAX = 100_000
"""Callbacks at one instant of virtual time; more means that something spins."""


class Handle:
    """What call_soon and call_later give: can be cancelled."""

    __slots__ = ("_when", "args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], when: float) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args, self._when = args, when

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class Scheduler:
    """The heap of events."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.event_count = 0
        self._heap: list[tuple[float, int, Process | None, Handle]] = []
        self._sequence = 0
        self._ready: collections.deque[tuple[Process, Handle]] = collections.deque()
        self.after_event: Callable[[], None] | None = None

    def at(self, when_s: float, process: Process | None, callback: Callable[..., object], *args: Any) -> Handle:
        """Run the callback at that time, in that process (None: in the world)."""
        handle = Handle(callback, args, when_s)
        self._sequence += 1
        heapq.heappush(self._heap, (when_s, self._sequence, process, handle))
        return handle

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Run the callback in the world, so many seconds from now."""
        return self.at(self.now_s + seconds, None, callback, *args)

    def soon(self, process: Process, handle: Handle) -> None:
        """Run the handle in that process, at this instant."""
        if process.alive:
            (process.parked if process.stopped else self._ready).append((process, handle))

    def resume(self, process: Process) -> None:
        """Let a stopped process go on."""
        process.stopped = False
        self._ready.extend(process.parked)
        process.parked.clear()
        self._turn()

    def run(self, until_s: float, events_max: int) -> None:
        """Take events until that time or that number of events in all."""
        heap = self._heap
        self._turn()
        while heap and self.event_count < events_max:
            when_s, _, process, handle = heap[0]
            if when_s > until_s:
                break
            heapq.heappop(heap)
            callback = handle.callback
            if callback is None or (process is not None and not process.alive):
                continue
            if when_s > self.now_s:
                self.now_s = when_s
            self.event_count += 1
            if process is None:
                callback(*handle.args)
            else:
                self.soon(process, handle)
            if self._ready:
                self._turn()
            if self.after_event is not None:
                self.after_event()
        if self.event_count < events_max:
            self.now_s = max(self.now_s, until_s)

    def clear(self) -> None:
        """Forget whatever was to happen."""
        self._heap.clear()
        self._ready.clear()
        self.after_event = None

    def _turn(self) -> None:
        ready = self._ready
        left = TURNS_MAX
        try:
            while ready:
                process, handle = ready.popleft()
                callback = handle.callback
                if callback is None or not process.alive:
                    continue
                if process.stopped:
                    process.parked.append((process, handle))
                    continue
                if process.clock_s != self.now_s:
                    process.clock_s = self.now_s
                    process.hold_clocks(int(self.now_s * 1000))
                events._set_running_loop(process)
                callback(*handle.args)
                left -= 1
                if not left:
                    raise AssertionError(f"more than {TURNS_MAX} callbacks at one instant, the last is {callback}")
        finally:
            events._set_running_loop(None)


class Process(asyncio.AbstractEventLoop):
    """One operating-system process: an event loop in virtual time.

    Args:
        scheduler: the world's time.
        name: for messages.
        connect: how create_connection reaches somebody: (process, host, port) -> a future of what makes a transport.
    """

    def __init__(self, scheduler: Scheduler, name: str, connect: Callable[..., Any]) -> None:
        self.scheduler, self.name = scheduler, name
        self.alive, self.stopped = True, False
        self.stopped_s = 0.0  # when it was stopped
        self.clock_s = 0.0
        self.parked: collections.deque[tuple[Process, Handle]] = collections.deque()
        self.errors: list[str] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.clocks: list[Callable[[int], object]] = []
        self._connect = connect

    def hold_clocks(self, now_ms: int) -> None:
        for hold in self.clocks:
            hold(now_ms)

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.scheduler.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, self.scheduler.now_s)
        self.scheduler.soon(self, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.scheduler.at(self.scheduler.now_s + max(delay, 0.0), self, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.scheduler.at(max(when, self.scheduler.now_s), self, callback, *args)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self)
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.alive:
            error = context.get("exception")
            self.errors.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        make_transport = await self._connect(self, host, port)
        protocol = protocol_factory()
        transport = make_transport(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    # -- life

    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Start a task in this process, from outside."""
        self.call_soon(self._spawn, function, args)

    def _spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        self.create_task(function(*args))

    def kill(self) -> None:
        """kill -9."""
        self.alive = False
        self.parked.clear()

    def bury(self) -> None:
        """Let go of what a process that is over has left, quietly; nothing of it has an effect any more."""
        self.alive = False
        for task in list(self.tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            with contextlib.suppress(RuntimeError, ValueError):  # what does not close goes with its references
                coroutine.close()
        self.tasks.clear()
        self.clocks.clear()
