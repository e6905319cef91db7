"""Faults by name, each a few lines over a Rig and a Crowd: the tests run them short, benchmarks/faults.py longer.

A scenario breaks something, waits, and mends it unless the fault is that it stays broken. `run` wraps it: users are
seeded, requests run before, during and after, the replicas are asked until they agree, then every user is judged.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from tests.support.faults import Crowd, Report, Rig

Act = Callable[[Rig, Crowd, float], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A fault.

    Attributes:
        act: does it; the number is how long a pause or absence lasts.
        says: for the table.
        ways: needs fault proxies between replicas and store.
        haproxy: makes sense for two HAProxy with peers too.
        node_arguments: of memcached.
    """

    act: Act
    says: str
    ways: bool = False
    haproxy: bool = False
    nodes: int = 1
    node_arguments: tuple[str, ...] = ()


async def run(
    rig: Rig, crowd: Crowd, scenario: Scenario, *, hold_s: float, before_s: float = 1.0, after_s: float = 0.5
) -> Report:
    """One scenario from start to judgement."""
    await crowd.seed()
    async with crowd.load() as log:
        await asyncio.sleep(before_s)
        fault_s = time.monotonic()
        await scenario.act(rig, crowd, hold_s)
        agree_s = await crowd.agree_within(10.0)
        await asyncio.sleep(after_s)
    at_home = await crowd.at_home()  # before anybody else is asked for them
    report = crowd.judge(log, await crowd.survey(), fault_s)
    report.moved_one_at_home = at_home
    report.agree_ms = round(agree_s * 1000, 1)
    return report


def _most_used(crowd: Crowd) -> str:
    found = [server for server in crowd.before if server is not None]
    return max(sorted(set(found)), key=found.count)


async def server_killed(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    name = _most_used(crowd)
    crowd.dead.add(name)
    rig.kill_server(name)


async def server_killed_and_returned(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    await server_killed(rig, crowd, hold_s)
    await asyncio.sleep(hold_s)
    rig.return_server(next(iter(crowd.dead)))
    await asyncio.sleep(hold_s)


async def server_killed_while_the_store_is_away(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.nodes[0].kill()
    await asyncio.sleep(hold_s / 4)
    await server_killed(rig, crowd, hold_s)
    await asyncio.sleep(hold_s / 2)
    rig.nodes[0].start()
    await asyncio.sleep(hold_s / 4)
    rig.return_server(next(iter(crowd.dead)))
    await asyncio.sleep(hold_s / 2)


async def store_killed(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.nodes[0].kill()
    await asyncio.sleep(hold_s)


async def store_killed_and_returned(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    await store_killed(rig, crowd, hold_s)
    rig.nodes[0].start()


async def store_restarted(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.nodes[0].restart()


async def store_paused(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.nodes[0].suspend()
    try:
        await asyncio.sleep(hold_s)
    finally:
        rig.nodes[0].resume()


async def store_flushed(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.nodes[0].command("flush_all")


async def store_evicting(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    """Records of strangers push the users' records out."""
    filler = b"".join(b"ms fr:a:app:filler%015d 32 T600\r\n%b\r\n" % (n, b"x" * 32) for n in range(200_000))

    def fill() -> None:
        with rig.nodes[0].connect() as connection:
            connection.sendall(filler + b"mn\r\n")
            tail = b""
            while not tail.endswith(b"MN\r\n"):
                tail = (tail + connection.recv(1 << 20))[-8:]

    filling = asyncio.get_running_loop().run_in_executor(None, fill)
    await filling
    assert int(rig.nodes[0].statistics()["evictions"]) > 0, "nothing was evicted: the scenario tests nothing"


async def replica_killed_and_returned(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.kill_replica(0)
    await asyncio.sleep(hold_s / 4)
    rig.start_replica(0)


async def worker_killed(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    rig.kill_worker(0)


def _way(mode: str, delay_s: float = 0.0) -> Act:
    async def act(rig: Rig, crowd: Crowd, hold_s: float) -> None:
        for way in rig.ways[0]:
            way.set(mode, delay_s)
        await asyncio.sleep(hold_s)
        for way in rig.ways[0]:
            way.set("pass" if mode != "drop" else "cut")

    return act


async def each_node_killed_in_turn(rig: Rig, crowd: Crowd, hold_s: float) -> None:
    for node in rig.nodes:
        node.kill()
        await asyncio.sleep(hold_s)
        node.start()
        await asyncio.sleep(hold_s)


SCENARIOS = {
    "server killed": Scenario(server_killed, "kill -9 of a server", haproxy=True),
    "server killed and returned": Scenario(
        server_killed_and_returned, "kill -9 of a server; it comes back", haproxy=True
    ),
    "server killed while the store is away": Scenario(
        server_killed_while_the_store_is_away, "memcached killed, a server killed, memcached back, the server back"
    ),
    "store killed": Scenario(store_killed, "kill -9 of memcached; it stays away"),
    "store killed and returned": Scenario(store_killed_and_returned, "kill -9 of memcached; later an empty one"),
    "store restarted": Scenario(store_restarted, "kill -9 of memcached and an empty one at once"),
    "store paused": Scenario(store_paused, "SIGSTOP, later SIGCONT of memcached"),
    "store flushed": Scenario(store_flushed, "flush_all"),
    "store evicting": Scenario(store_evicting, "memcached -m 2 full of other records", node_arguments=("-m", "2")),
    "replica killed and returned": Scenario(
        replica_killed_and_returned, "kill -9 of a balancer; it is started again", haproxy=True
    ),
    "worker killed": Scenario(worker_killed, "kill -9 of a balancer's worker"),
    "one replica partitioned": Scenario(
        _way("drop"), "one balancer's packets to the store are swallowed", ways=True, haproxy=True
    ),
    "one replica refused": Scenario(_way("refuse"), "one balancer's connections to the store are reset", ways=True),
    "each of two nodes killed in turn": Scenario(
        each_node_killed_in_turn, "copies = 2: each of two memcached killed in turn, and back empty", nodes=2
    ),
    "one replica 20 ms away": Scenario(_way("delay", 0.01), "10 ms each way from one balancer to the store", ways=True),
    "one replica 200 ms away": Scenario(_way("delay", 0.1), "100 ms each way, over the time limit of 50 ms", ways=True),
}
