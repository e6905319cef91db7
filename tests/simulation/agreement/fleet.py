"""The fleet: machines with a zone, workers on them, servers behind them, users in front of them.

What it is: the product's own Pool, Router, Affinity and Memcached, put together as `fastroute serve` does, one set per
worker, on an event loop in virtual time. What it is not: the faults (faults.py) and the judgement (invariants.py).

Rules of this file
- A worker's zone outlives the worker; a machine's reboot takes the zone with it.
- Each worker has its own view of the servers' health: what it found out itself, when it found it out.
- A request is served as the proxy serves it: near answer or route(); on a refused connection move(), at most twice.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastroute import Pool, Router, Server, Zone
from fastroute.affinity.base import identity_of
from fastroute.affinity.binding import Bound
from fastroute.affinity.table import Affinity
from fastroute.errors import MemcacheError, NoServerAvailable
from fastroute.health.passive import Passive
from fastroute.memcache.cluster import Memcached
from tests.simulation.agreement.loop import Process, Scheduler

if TYPE_CHECKING:
    from tests.simulation.agreement.invariants import Checker
    from tests.simulation.agreement.network import Network

FLEET, POOL = "fr", "app"
POOL_SLOTS = 251
ATTEMPTS_MAX = 3
CONNECT_S = 0.001
WALL_START_S = 1_800_000_000.0


class MachineClock:
    """A machine's clocks: monotonic time is the world's, wall time may be stepped."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.step_s = 0.0

    def monotonic_s(self) -> float:
        return self._scheduler.now_s

    def wall_s(self) -> float:
        return WALL_START_S + self._scheduler.now_s + self.step_s


class Machine:
    """One machine: its zone and its clock."""

    def __init__(self, name: str, scheduler: Scheduler) -> None:
        self.name = name
        self.clock = MachineClock(scheduler)
        self.boots = 0
        self.zone: Zone
        self.boot()

    def boot(self) -> None:
        self.boots += 1
        self.zone = Zone(None, "1MiB", identity_of(None, FLEET))


class User:
    """Somebody with an affinity key, and the hints that his cookies carry."""

    def __init__(self, number: int) -> None:
        self.key = b"user-%d" % number
        self.hint: tuple[str, int, int] | None = None
        self.old_hint: tuple[str, int, int] | None = None


class WatchedAffinity(Affinity):
    """The product's, which remembers how the last steps ended, for the checker."""

    last: Any = None  # the Bound of the last bind or rebind, if it was decided by steps of its own
    ended: Callable[[bytes, Any], None]
    worker: Worker
    _drove: Any = None

    def _join(self) -> None:
        before = self._push
        super()._join()
        if self._push is not before and self._push is not None:
            self.worker.follow_clock(self._push.board.set_manual_ms)

    async def bind(self, view: Any, key: bytes, hint: Any = None) -> Any:
        bound = await super().bind(view, key, hint)
        self.last = bound if bound is self._drove else None  # else another request's steps were waited for
        return bound

    async def rebind(self, *what: Any, **more: Any) -> Any:
        bound = await super().rebind(*what, **more)
        self.last = bound
        return bound

    async def _drive(self, *what: Any, **more: Any) -> Any:
        name = what[0]
        outcome: Any = await super()._drive(*what, **more)
        if isinstance(outcome, Bound):  # else a touch or a release
            self._drove = outcome
            self.ended(name, outcome)
        return outcome


class Servers:
    """The servers as they really are."""

    def __init__(self, count: int) -> None:
        self.all = [Server(f"10.1.0.{n}:80", name=f"s{n}") for n in range(1, count + 1)]
        self.names = [server.name for server in self.all]
        self.up = dict.fromkeys(self.names, True)


class Worker:
    """One worker process of one replica."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        world: World,
        *,
        affinity_class: type[WatchedAffinity] = WatchedAffinity,
    ) -> None:
        self.name, self.machine, self.world = name, machine, world
        scheduler = world.scheduler
        self.process = Process(scheduler, name, world.network.connect)
        self.pool = Pool(POOL, world.configured, slots=POOL_SLOTS, policy=world.options.policy)
        self.passive = Passive()
        self.store = Memcached(
            world.node_list, copies=world.options.copies, timeout=world.options.timeout_s, watch=world.options.watch
        )
        self.affinity = affinity_class(
            self.store,
            ttl=world.options.ttl_s,
            fleet=FLEET,
            zone=machine.zone,
            near_ttl=world.options.near_ttl_s,
            clock=machine.clock,
        )
        self.affinity._writer = world.random.getrandbits(32)
        self.router = Router(self.pool, affinity=self.affinity, key="header:X-User")
        (self.view,) = self.affinity._binders
        self.affinity.ended, self.affinity.worker = self._ended, self
        self.process.clocks = [self.view.set_manual_ms, self.pool.hold_clock]
        self.process.clocks += [node.codec.set_clock_ms for node in self.store.nodes]
        self.process.hold_clocks(int(scheduler.now_s * 1000))
        self.bad_s: dict[str, float] = {}  # server -> last time this worker had a reason against it
        self.paused_s = 0.0  # seconds it has stood still so far
        self.releasing: dict[bytes, float] = {}

    def follow_clock(self, hold: Callable[[int], object]) -> None:
        """Something new has a clock of its own: hold it, too."""
        self.process.clocks.append(hold)
        hold(int(self.process.time() * 1000))

    # -- health as this worker sees it

    def takes(self, server: str) -> bool:
        slot = self.pool.slot_of(server)
        return slot >= 0 and self.pool.may_take_bound(slot)

    def see(self, server: str, up: bool) -> None:
        """A health check's verdict reaches this worker."""
        if not self.process.alive or self.pool.slot_of(server) < 0:
            return
        if not up:
            if self.takes(server) and self.pool.ready_count <= 1:
                return  # the last one stays in
            self.pool.set_state(server, "down")
        else:
            self.bad_s[server] = self.process.time()
            self.pool.set_state(server, "ready")

    def _refused(self, server: str) -> None:
        self.bad_s[server] = self.process.time()
        out_s = self.passive.refused(server, others_ready=self.pool.ready_count - 1)
        if out_s is not None and self.pool.slot_of(server) >= 0:
            self.pool.set_state(server, "down")
            self.process.call_later(out_s, self.see, server, True)

    def against(self, server: str, now_s: float) -> float:
        """When this worker last had a reason against the server; now, while it does not take requests for it."""
        return self.bad_s.get(server, -1.0) if self.takes(server) else now_s

    def _ended(self, name: bytes, bound: Any) -> None:
        server = self.pool.server_at(bound.slot).name
        self.world.checker.decided(self, name, server, bound)

    def configure(self, servers: list[Server]) -> None:
        """A new list of servers reaches this worker."""
        if self.process.alive:
            for name in self.world.servers.names:
                if not self.takes(name):
                    self.bad_s[name] = self.process.time()
            self.pool.update(servers)

    def recent_pause_s(self, now_s: float) -> float:
        """How long this worker stood still lately."""
        return max(
            (end - begin for worker, begin, end in self.world.pauses if worker is self and end > now_s - 5.0),
            default=0.0,
        )

    def machine_pause_s(self, now_s: float) -> float:
        """How long a worker of this machine stood still lately; its answers were old when it went on."""
        pauses = self.world.pauses
        since_s = now_s - self.world.options.near_ttl_s - 1.0
        return max(
            (end - begin for worker, begin, end in pauses if worker.machine is self.machine and end > since_s),
            default=0.0,
        )

    # -- requests

    async def serve(self, user: User, hinted: tuple[str, int, int] | None) -> None:
        """One request of that user."""
        checker, world = self.world.checker, self.world
        began_s, paused_s = self.process.time(), self.paused_s
        try:
            self.affinity.last = None
            selection = await self.router.route(user.key, hinted)
            bound = self.affinity.last
            for attempt in range(ATTEMPTS_MAX):
                checker.returned(self, user.key, began_s, selection, bound, self.paused_s - paused_s)
                server = selection.server.name
                await self._pass(CONNECT_S)
                if world.servers.up.get(server, False):
                    self.passive.accepted(server)
                    world.served += 1
                    if world.options.hints and selection.term:
                        user.old_hint, user.hint = user.hint, (server, selection.term, selection.generation)
                    return
                self._refused(server)
                if attempt + 1 == ATTEMPTS_MAX:
                    break
                began_s, paused_s = self.process.time(), self.paused_s
                self.affinity.last = None
                selection = await self.router.move(selection, ConnectionRefusedError(server))
                bound = self.affinity.last
            world.failed += 1  # every attempt met a server that was really away
        except NoServerAvailable:
            world.unserved += 1
            if self.pool.ready_count > 1:
                checker.fail("liveness", f"{self.name}: no server for {user.key!r} with {self.pool.ready_count} ready")
        except Exception as error:
            checker.fail("liveness", f"{self.name}: {user.key!r}: {type(error).__name__}: {error}")

    async def release(self, user: User) -> None:
        """An administrator ends the user's binding."""
        self.releasing[user.key] = self.process.time()
        self.world.checker.released(self, user.key)
        with contextlib.suppress(MemcacheError):  # the administrator is told that it may come back
            if await self.router.release(user.key) == "released":
                self.world.checker.ended(self, user.key)
        self.world.checker.released(self, user.key)

    def _pass(self, seconds: float) -> Any:
        future = self.process.create_future()

        def arrive() -> None:
            if not future.done():
                future.set_result(None)

        self.process.call_later(seconds, arrive)
        return future

    # -- life

    def stop(self) -> None:
        """SIGSTOP."""
        if self.process.alive and not self.process.stopped:
            self.process.stopped = True
            self.process.stopped_s = self.process.time()

    def resume(self) -> None:
        """SIGCONT."""
        if self.process.stopped:
            now_s, began_s = self.process.time(), self.process.stopped_s
            self.paused_s += now_s - began_s
            self.world.pauses.append((self, began_s, now_s))
            self.world.longest_pause_s = max(self.world.longest_pause_s, now_s - began_s)
            self.world.scheduler.resume(self.process)

    def kill(self) -> None:
        """kill -9: the kernel closes its connections."""
        self.process.kill()
        for node in self.world.network.nodes.values():
            for connection in self.world.network.connections_of(node):
                if connection.process is self.process:
                    connection.client_gone = True
                    connection._forget()


class World:
    """Everything of one run, as far as the other parts need it in one place; simulation.py makes it."""

    scheduler: Scheduler
    network: Network
    random: random.Random
    checker: Checker
    options: Any
    servers: Servers
    configured: list[Server]
    node_list: list[str]
    workers: list[Worker]
    pauses: list[tuple[Worker, float, float]]
    longest_pause_s: float
    wall_error_s: float
    homes_of: Callable[[Worker, bytes], tuple[str, ...]]
    served = failed = unserved = 0
