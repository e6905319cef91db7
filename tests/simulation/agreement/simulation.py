"""One run: a world made from a seed, faults until the events are used up, then calm, and agreement.

run(seed) -> Outcome; raises Violation when an invariant does not hold. The same seed gives the same run.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastroute import Server
from fastroute.affinity import push
from fastroute.memcache.watch import NodeWatch
from tests.simulation.agreement import faults
from tests.simulation.agreement.fleet import Machine, Servers, User, WatchedAffinity, Worker, World
from tests.simulation.agreement.invariants import Checker, Triple, Violation
from tests.simulation.agreement.loop import START_S, Scheduler
from tests.simulation.agreement.network import Network, Node

EVENTS = 2_000
"""Events of one run before the faults stop; the rest of the run comes on top."""

WATCHED_EVENTS = 3
"""With the push channel so many times the events: the most are beats."""

SETTLE_S = 4.0
"""After the faults, twice: longest pause between attempts to connect (5 s), one attempt's limit, late timers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a seed draws once."""

    machines: int
    workers_each: tuple[int, ...]
    nodes: int
    copies: int
    servers: int
    users: int
    ttl_s: float
    near_ttl_s: float
    timeout_s: float
    policy: str
    hints: bool
    watch: bool  # with the push channel
    rate: float  # requests per second
    fault_every_s: float
    kinds: tuple[str, ...] = ()  # of faults; empty: three to all of them are drawn

    @staticmethod
    def draw(seeded: random.Random) -> Options:
        machines = seeded.randint(1, 4)
        nodes = seeded.choice((1, 1, 2, 3))
        return Options(
            machines=machines,
            workers_each=tuple(seeded.randint(1, 2 if machines > 2 else 3) for _ in range(machines)),
            nodes=nodes,
            copies=1 if nodes == 1 else seeded.choice((1, 2, 2, min(3, nodes))),
            servers=seeded.randint(2, 5),
            users=seeded.choice((1, 2, 4, 8)),
            ttl_s=seeded.choice((8.0, 20.0, 90.0)),
            near_ttl_s=seeded.choice((0.3, 1.0, 2.0)),
            timeout_s=0.05,
            policy=seeded.choice(("round-robin", "round-robin", "hash", "least-connections")),
            hints=seeded.random() < 0.5,
            watch=seeded.random() < 0.3 and machines * nodes < 5,
            rate=seeded.choice((10.0, 30.0, 100.0)),
            fault_every_s=seeded.choice((0.2, 0.6, 2.0)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did."""

    seed: int
    events: int
    virtual_s: float
    digest: int
    counts: dict[str, int]
    trace: list[str] | None = None


class Simulation(World):
    """The world of one seed."""

    def __init__(
        self,
        seed: int,
        scheduler: Scheduler,
        *,
        affinity_class: type[WatchedAffinity],
        trace: bool,
        overrides: dict[str, Any],
    ):
        self.random = random.Random(seed)
        self.options = dataclasses.replace(Options.draw(self.random), **overrides)
        options = self.options
        self.scheduler = scheduler
        self.network = Network(self.scheduler, random.Random(seed + 1))
        self.servers = Servers(options.servers)
        self.configured = list(self.servers.all)
        self.nodes: list[Node] = [self.network.add_node(f"10.9.0.{n}") for n in range(1, options.nodes + 1)]
        self.node_list = [node.address for node in self.nodes]
        self.checker = Checker(self)
        if trace:
            self.checker.trace = []
        for node in self.nodes:
            node.changed = lambda *what, node=node: self.checker.changed(node, *what)  # type: ignore[misc]
        self.affinity_class = affinity_class
        self.machines = [Machine(f"m{n}", self.scheduler) for n in range(options.machines)]
        self.old_zones: list[Any] = []
        self.workers: list[Worker] = []
        self.buried: list[Worker] = []
        self.pauses: list[tuple[Worker, float, float]] = []
        self.longest_pause_s = 0.0
        self.wall_error_s = 0.0
        for machine, count in zip(self.machines, options.workers_each, strict=True):
            for number in range(count):
                self.workers.append(self._make_worker(f"{machine.name}/w{number}.0", machine))
        self.users = [User(number) for number in range(options.users)]
        for user in self.users:
            self.checker.track(self.workers[0], user.key)
        self.kinds = faults.draw(self.random)
        if options.kinds:
            self.kinds = [(fault, weight) for fault, weight in faults.KINDS if fault.__name__ in options.kinds]
        self.fault_counts: dict[str, int] = {}

    def _make_worker(self, name: str, machine: Machine) -> Worker:
        worker = Worker(name, machine, self, affinity_class=self.affinity_class)
        worker.process.worker = worker  # type: ignore[attr-defined]
        return worker

    def homes_of(self, worker: Worker, name: bytes) -> tuple[str, ...]:
        """The hosts that hold this name, the deciding one first."""
        store: Any = worker.store
        nodes = store.homes_of(name) if hasattr(store, "homes_of") else (store.node_of(name),)
        return tuple(node.name.rsplit(":", 1)[0] for node in nodes)

    # -- what faults do

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        self.scheduler.after(seconds, what)

    def start_node(self, node: Node) -> None:
        if node.model is None:
            node.start()

    def start_worker(self, index: int) -> None:
        old = self.workers[index]
        if old.process.alive:
            return
        self.buried.append(old)
        name, _, life = old.name.rpartition(".")
        self.workers[index] = self._make_worker(f"{name}.{int(life) + 1}", old.machine)

    def server_turns(self, name: str, up: bool) -> None:
        self.servers.up[name] = up
        for worker in self.workers:
            if self.random.random() < 0.6:
                self.later(self.random.uniform(0.01, 2.0), lambda worker=worker: worker.see(name, up))  # type: ignore[misc]

    def drain(self, worker: Worker, name: str) -> None:
        if worker.process.alive and worker.takes(name) and worker.pool.ready_count > 1:
            worker.pool.set_state(name, "draining")

    def change_servers(self, seeded: random.Random) -> None:
        servers = [
            Server(server.address, name=server.name, weight=seeded.choice((1, 1, 2)))
            for server in self.servers.all
            if seeded.random() < 0.75
        ]
        if servers:
            self.configured = servers
            for worker in self.workers:
                self.later(seeded.uniform(0.0, 2.0), lambda worker=worker: worker.configure(servers))  # type: ignore[misc]

    # -- the run

    def run(self, events_max: int) -> None:
        scheduler = self.scheduler
        scheduler.after_event = self.checker.after_event
        self.later(0.0, self._request)
        self.later(self.random.expovariate(1 / self.options.fault_every_s), self._fault)
        self.later(0.5, self._look)
        self._going = True
        scheduler.run(START_S + 1e9, events_max)
        self._going = False
        faults.calm(self)
        scheduler.run(scheduler.now_s + SETTLE_S, events_max * 20)
        faults.calm(self)  # ends of faults that had been arranged before may have undone some of it
        scheduler.run(scheduler.now_s + SETTLE_S, events_max * 20)
        for worker in self.workers:
            away = [node.name for node in worker.store.nodes if not node.up and node.codec.connections]
            if away:
                self.checker.fail("liveness", f"{worker.name} has not come back to {away}")
        self._converge(events_max)

    def _converge(self, events_max: int) -> None:
        scheduler = self.scheduler
        answers: dict[bytes, dict[str, Triple]] = {user.key: {} for user in self.users}
        for _ in range(2 if self.options.copies == 1 else 3):  # what a touch of followers found is answered next time
            order = [(worker, user) for worker in self.workers for user in self.users]
            self.random.shuffle(order)
            for worker, user in order:
                worker.process.spawn(self._ask, worker, user, answers)
                scheduler.run(scheduler.now_s + 0.02, events_max * 20)
            wait_s = self.options.near_ttl_s + 0.3
            if self.options.copies > 1:  # followers are looked at once per quarter of the ttl
                wait_s = max(wait_s, self.options.ttl_s / 4 * 1.1 + 0.3)
            scheduler.run(scheduler.now_s + wait_s, events_max * 20)
        self.checker.look()
        self.checker.converged(answers)
        self.checker.after_event()

    async def _ask(self, worker: Worker, user: User, answers: dict[bytes, dict[str, Triple]]) -> None:
        selection = await worker.router.route(user.key, None)
        self.checker.note(
            "asked",
            worker.name,
            user.key,
            selection.term,
            selection.generation,
            selection.reason,
            worker.store.up_nodes,
            worker.view.trust_stale,
            worker.affinity.near_ttl_s,
        )
        answers[user.key][worker.name] = (selection.term, selection.generation, selection.server.name)

    def _request(self) -> None:
        if not self._going:
            return
        seeded = self.random
        user, worker = seeded.choice(self.users), seeded.choice(self.workers)
        hinted = None
        if self.options.hints and user.hint is not None and seeded.random() < 0.9:
            hinted = user.hint if seeded.random() < 0.97 else user.old_hint
        burst = seeded.random() < 0.05
        for one in self.workers if burst else (worker,):  # first requests come in bursts
            if one.process.alive:
                one.process.spawn(one.serve, user, hinted)
        self.later(seeded.expovariate(self.options.rate), self._request)

    def _fault(self) -> None:
        if not self._going:
            return
        seeded = self.random
        (fault, _), *_rest = seeded.choices(self.kinds, [weight for _, weight in self.kinds])
        name = fault.__name__
        self.fault_counts[name] = self.fault_counts.get(name, 0) + 1
        self.checker.note("fault", name)
        fault(self, seeded)
        self.later(seeded.expovariate(1 / self.options.fault_every_s), self._fault)

    def _look(self) -> None:
        self.checker.look()
        self.later(0.5, self._look)

    def bury(self) -> None:
        """Take the world apart: the cycles through compiled queues are none that the collector sees."""
        workers = [*self.workers, *self.buried]
        for worker in workers:
            worker.process.bury()
            for node in worker.store.nodes:
                node.codec.close()
                node.connection.__dict__.clear()
        self.scheduler.clear()
        push._channels.clear()  # of processes that never ended in order
        for machine in self.machines:
            machine.zone.close()
        for zone in self.old_zones:
            zone.close()
        for worker in workers:
            worker.affinity.__dict__.clear()
            worker.process.__dict__.clear()
            worker.__dict__.clear()
        self.__dict__.clear()


@contextmanager
def one_world(seed: int, scheduler: Scheduler) -> Iterator[None]:
    """All that the product draws comes from the seed meanwhile, and the machine's clock is the world's."""
    seeded = random.Random(seed + 2)
    clock: Any = NodeWatch.__init__.__kwdefaults__
    clocks = time.monotonic, clock["monotonic_s"]
    before = secrets.randbits, os.urandom, random.getstate()
    secrets.randbits = seeded.getrandbits
    os.urandom = seeded.randbytes
    random.seed(seed + 3)
    time.monotonic = clock["monotonic_s"] = lambda: scheduler.now_s
    try:
        yield
    finally:
        time.monotonic, clock["monotonic_s"] = clocks
        secrets.randbits, os.urandom = before[:2]  # type: ignore[assignment]
        random.setstate(before[2])


def run(
    seed: int,
    *,
    events: int = EVENTS,
    affinity_class: type[WatchedAffinity] = WatchedAffinity,
    trace: bool = False,
    **overrides: Any,
) -> Outcome:
    """One run.

    Args:
        seed: what it is made from.
        events: after so many events the faults stop.
        affinity_class: the affinity of the workers, for deliberate bugs.
        trace: keep a line for each answer, change and fault; a Violation carries them as `trace`.
        overrides: fields of Options that are not to be drawn.

    Raises:
        Violation: an invariant does not hold.
    """
    logger = logging.getLogger("fastroute")
    level, collected = logger.level, gc.isenabled()
    logger.setLevel(logging.CRITICAL)
    gc.disable()
    world = None
    try:
        scheduler = Scheduler()
        with one_world(seed, scheduler):
            world = Simulation(seed, scheduler, affinity_class=affinity_class, trace=trace, overrides=overrides)
            try:
                world.run(events * WATCHED_EVENTS if world.options.watch else events)
            except Violation as violation:
                violation.trace = world.checker.trace  # type: ignore[attr-defined]
                violation.world = world.options  # type: ignore[attr-defined]
                violation.add_note(f"seed {seed}; replay: python -m tests.simulation.agreement --seed {seed} --trace")
                raise
        counts = {**world.checker.counts, "served": world.served, "failed": world.failed, "unserved": world.unserved}
        counts |= {f"fault {name}": count for name, count in world.fault_counts.items()}
        virtual_s = world.scheduler.now_s - START_S
        return Outcome(seed, world.scheduler.event_count, virtual_s, world.checker.digest, counts, world.checker.trace)
    finally:
        if world is not None:
            world.bury()
        logger.setLevel(level)
        if collected:
            gc.enable()
