"""A fleet of real processes and a crowd of users, for fault_scenarios.py, its tests and benchmarks/faults.py.

    with Rig(directory, replicas=2, nodes=1) as rig:            # servers, memcached, balancers, all running
        crowd = Crowd(rig.ports, users=200)
        await crowd.seed()                                      # half known to every replica, half to one each
        async with crowd.load() as log:                         # requests all the time
            rig.nodes[0].kill()
            ...
        report = crowd.judge(log, await crowd.survey())

A user is "moved" when a server that lives answered before and another one after; "split" when two replicas, asked
together, name different servers. Users keep the cookies they are given unless `hints=False`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any

from tests.support import memcached
from tests.support.fault_proxy import FaultProxyProcess
from tests.support.fleet import Process, free_ports, start_replica, start_upstreams, unlink_zone

SLICE_S = 0.025
"""Latencies are judged in slices of so much; the 99th percentile is back when that of a slice is."""
NOISE_S = 0.015
"""What a shared machine adds to a slice's 99th percentile without any fault."""
SEED_S = 20.0
"""Until the replicas agree on the users that all of them know, before a fault."""
REQUEST_S = 12.0
"""Longer than any fault lasts: a request that waits it out counts as late, not as lost."""


class Rig:
    """Servers, memcached nodes and balancers as processes.

    Args:
        directory: for configurations and logs.
        replicas, workers, servers, nodes: how many.
        on: sticky.on of the pool.
        ways: put a fault proxy between each replica and each node: `rig.ways[replica][node]`.
        product: "fastroute" or "haproxy" (replicas with a peers section, no memcached).
        node_arguments: of memcached, such as ("-m", "2").
        named: further arguments of start_replica.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        replicas: int = 2,
        workers: int = 2,
        servers: int = 4,
        nodes: int = 1,
        on: str = "cookie:sid",
        ways: bool = False,
        product: str = "fastroute",
        node_arguments: tuple[str, ...] = (),
        store_timeout: str = "50ms",
        **named: Any,
    ) -> None:
        self.directory, self.workers, self.on, self.product = directory, workers, on, product
        ports = free_ports(servers + 2 * replicas)  # at once, so that they differ
        self.server_ports, self.ports, self._peer_ports = ports[:servers], ports[servers:-replicas], ports[-replicas:]
        self.store_timeout, self.named = store_timeout, named
        self.stack = contextlib.ExitStack()
        self.servers: dict[str, Process] = {}
        self.replicas: list[Process | None] = [None] * replicas
        self.nodes: list[memcached.Memcached] = []
        self.ways: list[list[FaultProxyProcess]] = [[] for _ in range(replicas)]
        self._counts = (nodes if product == "fastroute" else 0, ways)
        self._starts = 0
        self._node_arguments = node_arguments

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Rig:
        try:
            node_count, ways = self._counts
            for _ in range(node_count):
                self.nodes.append(self.stack.enter_context(memcached.Memcached(*self._node_arguments)))
            if ways and self.product == "haproxy":  # of two: the way to the other one
                for index, row in enumerate(self.ways):
                    row.append(self.stack.enter_context(FaultProxyProcess(self._peer_ports[1 - index])))
            elif ways:
                for row in self.ways:
                    row += [self.stack.enter_context(FaultProxyProcess(node.port)) for node in self.nodes]
            self.start_servers(self.server_ports)
            for index in range(len(self.ports)):
                self.start_replica(index)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for process in [*self.replicas, *self.servers.values()]:
            if process is not None:
                process.kill()
        for process in [*self.replicas, *self.servers.values()]:
            if process is not None:
                process.popen.wait(10)
        self.stack.close()
        if self.product == "fastroute":
            unlink_zone(*(self._zone(index) for index in range(len(self.ports))))

    def _zone(self, index: int) -> str:
        return f"faults-{self.ports[index]}"

    def start_servers(self, ports: Iterable[int]) -> None:
        for port, process in zip(ports, start_upstreams(self.directory, list(ports)), strict=True):
            self.servers[f"up-{port}"] = process

    def start_replica(self, index: int, **changed: Any) -> None:
        """Start the balancer; the zone of an earlier run of it is still there, as on a real machine."""
        if self.product == "haproxy":
            self._start_haproxy(index)
            return
        self._starts += 1  # a log of its own: "ready" of an earlier run is not that of this one
        addresses = [way.address for way in self.ways[index]] or [node.address for node in self.nodes]
        self.replicas[index] = start_replica(
            self.directory,
            f"replica-{index}-{self._starts}",
            port=self.ports[index],
            upstream_ports=self.server_ports,
            zone=self._zone(index),
            memcached=addresses or None,
            workers=self.workers,
            on=self.on,
            store_timeout=self.store_timeout,
            **{**self.named, **changed},
        )

    def _start_haproxy(self, index: int) -> None:
        binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
        peers = "".join(
            f"  peer r{n} 127.0.0.1:{self.ways[index][0].port if self.ways[index] and n != index else port}\n"
            for n, port in enumerate(self._peer_ports)
        )
        servers = "".join(f"  server up-{p} 127.0.0.1:{p} check inter 500ms\n" for p in self.server_ports)
        config = self.directory / f"haproxy-{index}.cfg"
        config.write_text(
            "global\n  maxconn 4096\n"
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 30s\n"
            "  retries 3\n  option redispatch\n"
            f"peers fleet\n{peers}"
            f"frontend web\n  bind 127.0.0.1:{self.ports[index]}\n  default_backend app\n"
            "backend app\n  balance roundrobin\n"
            "  stick-table type string len 64 size 200k expire 30m peers fleet\n"
            f"  stick on req.cook(sid)\n{servers}"
        )
        log = self.directory / f"haproxy-{index}.log"
        self.replicas[index] = Process([binary, "-db", "-L", f"r{index}", "-f", str(config)], log)
        end_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[index]), 1).close()
                return
            except OSError:
                if time.monotonic() > end_s:
                    raise AssertionError(f"haproxy did not start: {log.read_text()}") from None
                time.sleep(0.02)

    # ------------------------------------------------------------------ faults

    def kill_server(self, name: str) -> None:
        self.servers[name].kill()
        self.servers[name].popen.wait(10)

    def return_server(self, name: str) -> None:
        self.start_servers([int(name.removeprefix("up-"))])

    def kill_replica(self, index: int) -> None:
        replica = self.replicas[index]
        assert replica is not None
        replica.kill()
        replica.popen.wait(10)
        self.replicas[index] = None

    def forget_zone(self, index: int) -> None:
        """What the replica's machine remembers is gone, as after a restart of the machine."""
        unlink_zone(self._zone(index))

    def kill_worker(self, index: int) -> None:
        replica = self.replicas[index]
        assert replica is not None
        children = pathlib.Path(f"/proc/{replica.pid}/task/{replica.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


@dataclasses.dataclass(slots=True)
class Answer:
    """One request: when it began and ended (monotonic), through which replica, what came of it."""

    user: int
    replica: int
    began_s: float
    ended_s: float
    server: str | None
    failure: str = ""


@dataclasses.dataclass(slots=True)
class Report:
    """What a fault did. `*_one`: of users whom one replica knows, asked through all of them at the end."""

    requests: int = 0
    failed: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    p99_before_ms: float = 0.0
    p99_during_ms: float = 0.0
    back_ms: float = 0.0
    moved_all: int = 0
    moved_one: int = 0
    moved_one_at_home: int = 0
    split_all: int = 0
    split_one: int = 0
    answered_by_moves: int = 0
    stale_ms: float = 0.0
    agree_ms: float = 0.0

    def row(self) -> dict[str, object]:
        return dataclasses.asdict(self)


class _Line:
    """A keep-alive connection to one replica."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, cookies: str) -> tuple[int, str, list[str]]:
        """(status, server, Set-Cookie values); OSError and the like for what is no answer."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        try:
            writer.write(f"GET /who HTTP/1.1\r\nHost: t.test\r\nCookie: {cookies}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:]) if value]
            named = dict(fields)
            await reader.readexactly(int(named.get("content-length", "0")))
        except BaseException:
            self.drop()
            raise
        if named.get("connection") == "close":
            self.drop()
        return int(head.split(" ", 2)[1]), named.get("x-served-by", ""), [v for n, v in fields if n == "set-cookie"]

    def drop(self) -> None:
        streams, self.streams = self.streams, None
        if streams is not None:
            streams[1].transport.abort()


class Crowd:
    """Users of a fleet. The first half is seeded through every replica, user k of the rest through replica k % R only.

    Args:
        ports: of the replicas.
        users: how many.
        hints: keep cookies that balancers set beside the application's.
        insert: no cookie of the application at all: the balancer's own one is the key.
        seed: of the choice of users and replicas.
    """

    def __init__(
        self, ports: list[int], *, users: int, hints: bool = True, insert: bool = False, tasks: int = 16, seed: int = 1
    ) -> None:
        self.ports, self.count, self.hints, self.insert, self.tasks = ports, users, hints, insert, tasks
        self.random = random.Random(seed)
        name = f"{self.random.getrandbits(64):016x}"
        self.jars: list[dict[str, str]] = [{} if insert else {"sid": f"{name}-{n}"} for n in range(users)]
        self.before: list[str | None] = [None] * users
        self.dead: set[str] = set()
        self._lines = [[_Line(port) for port in ports] for _ in range(tasks)]  # of surveys
        self._load_lines = [[_Line(port) for port in ports] for _ in range(tasks)]

    def known_everywhere(self, user: int) -> bool:
        return user < self.count // 2

    def home(self, user: int) -> int:
        """The one replica that has seen a user of the second half."""
        return user % len(self.ports)

    async def _ask(self, line: _Line, user: int) -> tuple[str | None, str]:
        jar = self.jars[user]
        try:
            async with asyncio.timeout(REQUEST_S):
                status, server, given = await line.get("; ".join(f"{name}={value}" for name, value in jar.items()))
        except ConnectionRefusedError:
            return None, "refused"
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            return None, type(error).__name__
        if self.hints or self.insert:
            for text in given:
                name, _, value = text.partition(";")[0].partition("=")
                jar[name] = value
        return (server, "") if status == 200 else (None, str(status))

    async def _each(self, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[str | None, str]]:
        """Ask for these (user, replica) pairs, several at a time."""
        answers = {}
        waiting = collections.deque(pairs)

        async def work(task: int) -> None:
            while waiting:
                user, replica = waiting.popleft()
                answers[user, replica] = await self._ask(self._lines[task][replica], user)

        await asyncio.gather(*(work(task) for task in range(self.tasks)))
        return answers

    async def seed(self, rounds: int = 2) -> None:
        """Make the users known: bound, seen again (full lifetime), and seen by whom they shall be seen."""
        for _ in range(rounds):
            answers = await self._each([(n, self.home(n)) for n in range(self.count)])
            assert all(server for server, _ in answers.values()), collections.Counter(f for _, f in answers.values())
        # A starved machine misses the time limit before any fault: then replicas differ, until near_ttl has passed.
        assert await self.agree_within(SEED_S) < SEED_S, "replicas disagree before any fault"
        answers = await self._each([(n, self.home(n)) for n in range(self.count)])
        for n in range(self.count):
            self.before[n] = answers[n, self.home(n)][0]

    async def survey(self) -> dict[tuple[int, int], tuple[str | None, str]]:
        """Every user through every replica, the replicas of one user close together."""
        return await self._each([(user, replica) for user in range(self.count) for replica in range(len(self.ports))])

    @contextlib.asynccontextmanager
    async def load(self, pause_s: float = 0.002, elsewhere: bool = False) -> AsyncIterator[list[Answer]]:
        """Requests of random users while the block runs: the first half through any replica, the others at home.

        Args:
            pause_s: of each task between its requests.
            elsewhere: the second half through any replica too.
        """
        log: list[Answer] = []
        stop = False
        down: dict[int, float] = {}

        async def work(task: int) -> None:
            lines = self._load_lines[task]
            choice = random.Random(self.random.getrandbits(32))
            while not stop:
                user = choice.randrange(self.count)
                replica = choice.randrange(len(self.ports))
                if not elsewhere and not self.known_everywhere(user):
                    replica = self.home(user)
                if down.get(replica, 0.0) > time.monotonic():  # whoever sends users to replicas knows that it is away
                    await asyncio.sleep(pause_s)
                    continue
                began_s = time.monotonic()
                server, failure = await self._ask(lines[replica], user)
                if failure == "refused":
                    down[replica] = time.monotonic() + 0.05
                else:
                    log.append(Answer(user, replica, began_s, time.monotonic(), server, failure))
                await asyncio.sleep(pause_s)

        tasks = [asyncio.create_task(work(task)) for task in range(self.tasks)]
        try:
            yield log
        finally:
            stop = True
            await asyncio.gather(*tasks)

    async def at_home(self) -> int:
        """How many of the second half, asked through the replica that knows them, were moved off a living server."""
        mine = [n for n in range(self.count) if not self.known_everywhere(n) and self.before[n] not in self.dead]
        answers = await self._each([(n, self.home(n)) for n in mine])
        return sum(answers[n, self.home(n)][0] != self.before[n] for n in mine)

    async def agree_within(self, limit_s: float, everybody: bool = False) -> float:
        """Ask until no user is split: of the first half, or everybody; -> seconds it took, or infinity."""
        asked = [n for n in range(self.count) if everybody or self.known_everywhere(n)]
        began_s = time.monotonic()
        while time.monotonic() - began_s < limit_s:
            started_s = time.monotonic()
            answers = await self._each([(user, replica) for user in asked for replica in range(len(self.ports))])
            by_user: dict[int, set[str | None]] = collections.defaultdict(set)
            for (user, _), (server, _) in answers.items():
                by_user[user].add(server)
            if all(len(servers) == 1 and None not in servers for servers in by_user.values()):
                return started_s - began_s
        return float("inf")

    def judge(
        self,
        log: list[Answer],
        answers: dict[tuple[int, int], tuple[str | None, str]],
        fault_s: float = 0.0,
    ) -> Report:
        """Numbers from a load and the survey after it. `fault_s`: when the fault began (monotonic)."""
        report = Report(requests=len(log), failed=sum(a.server is None for a in log))
        report.failures = dict(collections.Counter(a.failure for a in log if a.server is None))
        for user in range(self.count):
            found = {replica: server for (n, replica), (server, _) in answers.items() if n == user}
            everywhere = self.known_everywhere(user)
            moved = self.before[user] not in self.dead and any(s != self.before[user] for s in found.values())
            split = len(set(found.values())) > 1
            if everywhere:
                report.moved_all += moved
                report.split_all += split
            else:
                report.moved_one += moved
                report.split_one += split
        if fault_s:
            before = [a.ended_s - a.began_s for a in log if a.ended_s < fault_s]
            during = [a for a in log if a.ended_s >= fault_s]
            report.p99_before_ms = round(_p99(before) * 1000, 1)
            report.p99_during_ms = round(_p99([a.ended_s - a.began_s for a in during]) * 1000, 1)
            usual_s = max(3 * _p99(before), _p99(before) + NOISE_S)
            slices: dict[int, list[float]] = collections.defaultdict(list)
            for a in during:
                slices[int((a.began_s - fault_s) / SLICE_S)].append(a.ended_s - a.began_s)
            slow = 0
            while slow in slices and _p99(slices[slow]) > usual_s:
                slow += 1
            report.back_ms = round(slow * SLICE_S * 1000, 1)
            per_user: dict[int, list[Answer]] = collections.defaultdict(list)
            for a in log:
                if a.server is not None:
                    per_user[a.user].append(a)
            for those in per_user.values():
                changes = sum(x.server != y.server for x, y in itertools.pairwise(those))
                report.answered_by_moves = max(report.answered_by_moves, changes)
                last = those[-1].server
                first_new_s = next((a.ended_s for a in those if a.server == last and a.began_s > fault_s), float("inf"))
                stale = [a.began_s - first_new_s for a in those if a.server != last and a.began_s > first_new_s]
                report.stale_ms = max([report.stale_ms, *(round(s * 1000, 1) for s in stale)])
        return report

    def hang_up(self) -> None:
        """Close the connections; new ones are made when they are needed."""
        for lines in self._lines + self._load_lines:
            for line in lines:
                line.drop()

    def close(self) -> None:
        self.hang_up()


def _p99(values: list[float]) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[98]
