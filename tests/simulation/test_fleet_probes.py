"""The probes of a whole fleet in one process: clock, chance, servers and store are the test's; everything else is real.

Each World step is 50 ms: replicas take their turns of presence and exchange as the keeper does, and checks are answered
at once by what the test says of each server, as each replica sees it.
"""

from __future__ import annotations

import collections
import random

import pytest

from fastroute.clock import ManualClock
from fastroute.fleet.messages import Mail, Message, Seal
from fastroute.fleet.presence import TTL_S, Presence
from fastroute.fleet.probes import CONFIRM_S, Plan, Probes, rank
from tests.support.fleet_store import DictStore

SECRET = b"0123456789abcdef0123456789abcdef"
STEP_S = 0.05
PLAN = Plan(interval_s=1.0, fast_interval_s=0.25, rise=2, fall=3)
SERVERS = [("app", f"s{i}") for i in range(8)]


class Replica:
    def __init__(self, world: World, name: str) -> None:
        self.line = world.store.connect()
        self.mail = Mail(self.line, Seal([SECRET], "fr"), name, clock=world.clock)
        self.presence = Presence(self.mail, dict, clock=world.clock)
        self.probes = Probes(name, world.plans, clock=world.clock, draw=world.random.random)
        self.name, self.turn_s, self.exchange_s = name, -1.0, -1.0
        self.flips: list[tuple[str, bool]] = []
        self.known: dict[str, bool] = {}


class World:
    def __init__(self, count: int, plan: Plan = PLAN, seed: int = 1) -> None:
        self.clock, self.random = ManualClock(), random.Random(seed)
        self.store = DictStore(self.clock)
        self.plans = dict.fromkeys(SERVERS, plan)
        self.bad: set[str] = set()
        self.bad_for: dict[str, set[str]] = collections.defaultdict(set)
        self.refuses: set[str] = set()
        self.boots: dict[str, str] = {}
        self.hooks: dict[str, bool] = collections.defaultdict(bool)
        self.checks: collections.Counter[str] = collections.Counter()
        self.joins: collections.Counter[str] = collections.Counter()
        self.replicas = [Replica(self, f"r{i}") for i in range(count)]

    def __getitem__(self, index: int) -> Replica:
        return self.replicas[index]

    def owner(self, server: str) -> Replica:
        name, _ = rank(("app", server), tuple(one.name for one in self.replicas))
        return next(one for one in self.replicas if one.name == name)

    def second(self, server: str) -> Replica:
        _, name = rank(("app", server), tuple(one.name for one in self.replicas))
        return next(one for one in self.replicas if one.name == name)

    async def run(self, seconds: float, until=None) -> float:
        """Until `until` holds, at most so long; how long it took."""
        began_s = now_s = self.clock.monotonic_s()
        while now_s - began_s < seconds:
            for replica in self.replicas:
                await self.step(replica, now_s)
            if until is not None and until():
                return now_s - began_s
            self.clock.advance(STEP_S)
            now_s = self.clock.monotonic_s()
        assert until is None, "never"
        return seconds

    async def step(self, replica: Replica, now_s: float) -> None:
        probes, presence = replica.probes, replica.presence
        if now_s - replica.turn_s >= presence.interval_s:
            replica.turn_s = now_s
            await presence.turn()
            probes.members(presence.names)
        if probes.dirty or now_s - replica.exchange_s >= 0.5:
            replica.exchange_s = now_s
            await replica.mail.publish("health", replica.name, probes.body(), 5)
            found = await replica.mail.fetch("health", [name for name in presence.names if name != replica.name])
            probes.hear({name: one.message.body for name, one in found.items() if one.message})
        for key, what in probes.due():
            server = key[1]
            if what == "join":
                self.joins[server] += 1
                probes.joined(key, self.hooks[server], "exit status 1")
                continue
            self.checks[server] += 1
            refused = server in self.refuses
            ok = not refused and server not in self.bad and server not in self.bad_for[replica.name]
            probes.checked(key, ok, "200" if ok else "503", 0.001, refused=refused, boot=self.boots.get(server, ""))
        for key in probes.touched():
            up = probes.held(key).up
            if replica.known.get(key[1]) != up:
                replica.known[key[1]] = up
                replica.flips.append((key[1], up))

    def up(self, server: str) -> set[bool | None]:
        """What the replicas hold of it."""
        return {one.probes.held(("app", server)).up for one in self.replicas}


async def rate(count: int, seed: int = 1, seconds: float = 60.0) -> float:
    """Checks per server and second of a fleet that has found together."""
    world = World(count, seed=seed)
    await world.run(5)
    world.checks.clear()
    await world.run(seconds)
    assert set(world.checks) == {server for _, server in SERVERS}
    return world.checks.total() / len(SERVERS) / seconds


@pytest.mark.parametrize("count", [1, 2, 4, 8])
async def test_the_probe_rate_per_server_does_not_grow_with_the_replicas(count):
    alone = await rate(1)
    assert alone == pytest.approx(1.0, rel=0.05)
    assert await rate(count, seed=2) == pytest.approx(alone, rel=0.1)


async def test_the_servers_are_shared_out():
    world = World(4)
    await world.run(5)
    owned = collections.Counter(world.owner(server).name for _, server in SERVERS)
    assert len(owned) >= 3
    for _, server in SERVERS:
        roles = [one.probes.role_of(("app", server)) for one in world.replicas]
        assert sorted(roles) == ["owner", "reader", "reader", "second"]


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_a_server_that_fails_is_down_for_all_and_comes_back_for_all(count):
    world = World(count)
    await world.run(5)
    world.bad.add("s3")
    assert await world.run(10, lambda: world.up("s3") == {False}) < 5
    for replica in world.replicas:
        assert replica.flips[-1:] == [("s3", False)]
    if count > 1:
        assert "confirmed by" in world.owner("s3").probes.held(("app", "s3")).why
    world.bad.clear()
    assert await world.run(10, lambda: world.up("s3") == {True}) < 4
    assert world.up("s0") == {True}


async def test_a_server_that_only_its_owner_cannot_reach_is_down_for_nobody():
    world = World(4)
    await world.run(5)
    world.bad_for[world.owner("s3").name].add("s3")
    await world.run(CONFIRM_S + 10)
    assert world.up("s3") == {True}
    world.checks.clear()
    await world.run(20)
    assert world.checks["s3"] <= 2.2 * 20 / PLAN.fast_interval_s  # owner and second, no storm
    world.bad.add("s3")
    await world.run(10, lambda: world.up("s3") == {False})


async def test_a_second_that_lacks_the_server_does_not_keep_it_up_for_ever():
    world = World(2)
    await world.run(5)
    second = world.second("s3")
    second.probes.update({key: plan for key, plan in world.plans.items() if key[1] != "s3"})
    world.bad.add("s3")
    owner = world.owner("s3")
    took_s = await world.run(CONFIRM_S + 10, lambda: owner.probes.held(("app", "s3")).up is False)
    assert took_s > CONFIRM_S


async def test_a_replica_that_cannot_see_the_store_asks_for_itself():
    world = World(4)
    await world.run(5)
    away = next(one for one in world.replicas if one is not world.owner("s3"))
    away.line.cut = True
    await world.run(TTL_S + 1)
    world.bad_for[away.name].add("s3")
    await world.run(10, lambda: away.probes.held(("app", "s3")).up is False)
    assert world.owner("s3").probes.held(("app", "s3")).up is True
    away.line.cut = False
    await world.run(10, lambda: world.up("s3") == {True})


async def test_when_an_owner_dies_another_goes_on_from_what_was_held():
    world = World(4)
    await world.run(5)
    world.bad.add("s3")
    await world.run(10, lambda: world.up("s3") == {False})
    gone = world.owner("s3")
    world.replicas.remove(gone)
    for replica in world.replicas:
        replica.flips.clear()
    await world.run(TTL_S + 5)
    assert all(replica.flips == [] for replica in world.replicas)
    world.bad.clear()
    await world.run(10, lambda: world.up("s3") == {True})


async def test_a_replica_that_joins_reads_before_it_asks_and_flips_nothing():
    world = World(3)
    await world.run(5)
    world.bad.add("s3")
    await world.run(10, lambda: world.up("s3") == {False})
    world.replicas.append(Replica(world, "r9"))
    world.checks.clear()
    await world.run(5, lambda: world.up("s3") == {False})
    await world.run(20)
    assert sum(world.checks.values()) <= 1.35 * len(SERVERS) * 25
    assert ("s3", True) not in world[-1].flips


async def test_lies_in_the_store_change_nothing():
    world = World(2)
    await world.run(5)
    liar = Mail(world.store.connect(), Seal([b"another secret of at least 32 byt"], "fr"), "r0", clock=world.clock)
    body = {"app": [["s3", 2, 0, 0, 0, False, 0, "", "", "down"]]}
    for _ in range(20):
        await liar.publish("health", "r0", body, 5)
        await liar.publish("health", "r1", body, 5)
        await world.run(STEP_S)
    assert world.up("s3") == {True}
    assert sum(one.mail.statistics.refused["forged"] for one in world.replicas) > 0


@pytest.mark.parametrize(
    "body",
    [None, 7, [], {"app": 3}, {"app": [[]]}, {"app": [["s3", 9, 0, 0, 0, True, 0, "", "", ""]]}, {7: [["s3"]]}],
)
async def test_what_is_said_in_another_form_is_as_if_not_said(body):
    world = World(2)
    await world.run(5)
    world[0].probes.hear({"r1": body})
    assert world.up("s3") == {True}


@pytest.mark.parametrize("how", ["boot", "refused"])
async def test_a_restart_is_seen_by_all_and_once(how):
    world = World(4)
    world.boots["s3"] = "life 1"
    await world.run(5)
    before = {one.name: one.probes.held(("app", "s3")).restarts for one in world.replicas}
    assert set(before.values()) == {0}
    if how == "boot":
        world.boots["s3"] = "life 2"
    else:
        world.boots.clear()
        world.refuses.add("s3")
        checks = world.checks["s3"]
        await world.run(5, lambda: world.checks["s3"] > checks)
        world.refuses.clear()
    held = lambda: {one.probes.held(("app", "s3")).restarts for one in world.replicas}  # noqa: E731
    took_s = await world.run(5, lambda: len(held()) == 1 and held() != {0})
    assert took_s < 2.5
    assert world.up("s3") == {True}
    after = held()
    world.replicas.remove(world.owner("s3"))
    await world.run(TTL_S + 5)
    assert held() == after


async def test_a_hook_that_fails_keeps_a_server_out_and_is_run_by_one_replica():
    world = World(4, Plan(interval_s=1.0, rise=1, fall=1, join=True))
    await world.run(5)
    assert all(one.probes.held(("app", "s3")).joining for one in world.replicas)
    assert world.joins["s3"] <= 6
    world.hooks["s3"] = True
    await world.run(5, lambda: not any(one.probes.held(("app", "s3")).joining for one in world.replicas))
    world.joins.clear()
    await world.run(20)
    assert world.joins["s3"] == 0
    world.bad.add("s3")
    await world.run(5, lambda: world.up("s3") == {False})
    world.bad.clear()
    await world.run(5, lambda: world.up("s3") == {True})
    assert world.joins["s3"] == 1


async def test_a_hook_on_a_schedule_is_run_by_one_replica_and_its_failure_takes_nobody_out():
    world = World(4, Plan(interval_s=1.0, rise=1, fall=1, join=True, join_interval_s=2.0))
    for _, server in SERVERS:
        world.hooks[server] = True
    await world.run(8)
    assert not any(one.probes.held(("app", "s3")).joining for one in world.replicas)
    world.joins.clear()
    await world.run(20)
    assert world.joins["s3"] == pytest.approx(10, abs=2)
    world.hooks["s3"] = False
    await world.run(5)
    assert not any(one.probes.held(("app", "s3")).joining for one in world.replicas)
    assert world.up("s3") == {True}


def test_what_one_replica_publishes_is_bounded_and_what_changed_last_comes_first():
    keys = [("app", f"s{i}-{'x' * 50}") for i in range(6000)]
    clock = ManualClock()
    probes = Probes("r0", dict.fromkeys(keys, Plan(rise=1, fall=1)), clock=clock)
    probes.members(["r0"])
    for key in keys:
        probes.checked(key, True, "y" * 160, 0.001, boot="z" * 100)
    clock.advance(1)
    probes.checked(keys[-1], False, "it is down", 0.001)
    body = probes.body()
    assert body["app"][0][0] == keys[-1][1]
    assert 1000 < len(body["app"]) < len(keys)
    Seal([SECRET], "fr").seal(Message("health", "r0", "r0", 1, body))


def test_one_replica_more_takes_only_its_share_of_the_servers():
    keys = [("app", f"s{i}") for i in range(2000)]
    four, five = tuple(f"r{i}" for i in range(4)), tuple(f"r{i}" for i in range(5))
    moved = [key for key in keys if rank(key, four)[0] != rank(key, five)[0]]
    assert all(rank(key, five)[0] == "r4" for key in moved)
    assert len(moved) == pytest.approx(400, abs=80)
