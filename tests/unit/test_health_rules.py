"""The pure rules of sweeps, contents and the fleet's load, and the row of a zone that load is written into."""

from __future__ import annotations

import os

import pytest

from fastroute import Pool, Server, Zone
from fastroute._core.zone_guest import GuestLoads
from fastroute.clock import ManualClock
from fastroute.errors import UsageError
from fastroute.fleet.load import AGE_S, SERVERS_MAX, TURN_S, Load, turn_of
from fastroute.fleet.messages import Mail, Seal
from fastroute.health.content import current_of, digest_of, odd_ones
from fastroute.health.sweep import Window, suspects
from tests.support.fleet_store import DictStore

SECRET = b"0123456789abcdef0123456789abcdef"


def named(found: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in found]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([("a", 100, 90), ("b", 100, 0), ("c", 100, 3)], ["a"]),
        ([("a", 49, 49), ("b", 100, 0)], []),
        ([("a", 50, 50), ("b", 100, 85)], ["a", "b"]),
        ([("a", 100, 84), ("b", 0, 0)], []),
    ],
    ids=["one", "too-few-requests", "worst-first", "below"],
)
def test_a_share_of_failures_counts_from_a_minimum_volume_on(windows, expected):
    rows = [Window(name, requests, failures, 0.01) for name, requests, failures in windows]
    assert named(suspects(rows, failure_ratio=0.85, latency_factor=0, min_requests=50)) == expected
    assert suspects(rows, failure_ratio=0, latency_factor=0, min_requests=50) == []


@pytest.mark.parametrize(
    ("latencies_ms", "expected"),
    [
        ([10, 11, 9, 100], ["d"]),
        ([10, 11, 9, 29], []),
        ([10, 100], []),
        ([10, 10, 40, 50], ["d", "c"]),
        ([10, 0, 0, 100], []),
    ],
    ids=["one", "within", "two-servers", "median-of-the-others", "not-measured"],
)
def test_a_latency_is_compared_with_the_median_of_the_others(latencies_ms, expected):
    rows = [Window(name, 100, 0, ms / 1000) for name, ms in zip("abcd", latencies_ms, strict=False)]
    assert named(suspects(rows, failure_ratio=0, latency_factor=3, min_requests=50)) == expected


def test_in_a_rolling_deploy_the_current_contents_change_once_and_nobody_flips_back():
    builds = dict.fromkeys("abcdef", "old")
    current, seen, odd = "", [], []
    for server in "abcdef":
        current = current_of(builds, current)
        builds[server] = "new"
        current = current_of(builds, current)
        seen.append(current)
        odd.append("".join(sorted(odd_ones(builds, current))))
    assert seen == ["old", "old", "old", "new", "new", "new"]
    assert odd == ["a", "ab", "abc", "ef", "f", ""]


def test_a_tie_and_an_empty_pool_change_nothing():
    assert current_of({"a": "x", "b": "y"}, "y") == "y"
    assert current_of({"a": "x", "b": "y"}, "x") == "x"
    assert current_of({}, "y") == "y"
    assert current_of({"a": "x"}, "") == "x"


def test_a_digest_tells_paths_statuses_and_bodies_apart():
    pages = [[("/a", 200, b"xy")], [("/a", 200, b"x"), ("/b", 200, b"y")], [("/a", 404, b"xy")], [("/a", 200, b"yx")]]
    assert len({digest_of(one) for one in pages}) == 4
    assert digest_of(pages[0]) == digest_of(list(pages[0]))


# ---- load


class Machines:
    def __init__(self, zones: dict[str, str]) -> None:
        self.clock = ManualClock()
        self.store = DictStore(self.clock)
        self.in_flight: dict[str, dict[str, int]] = {name: {} for name in zones}
        self.lines = {name: self.store.connect() for name in zones}
        self.loads = {
            name: Load(
                Mail(self.lines[name], Seal([SECRET], "fr"), name, clock=self.clock),
                lambda name=name: {"app": self.in_flight[name]},
                zone=zone,
                clock=self.clock,
            )
            for name, zone in zones.items()
        }

    async def turn(self, name: str) -> dict[str, int]:
        return (await self.loads[name].turn(tuple(self.loads))).get("app", {})


async def test_what_others_have_in_flight_is_summed_and_ones_own_is_not():
    machines = Machines({"a": "", "b": "", "c": ""})
    machines.in_flight.update(a={"s1": 2, "s2": 0}, b={"s1": 3}, c={"s2": 5})
    for name in "abc":
        await machines.turn(name)
    assert await machines.turn("a") == {"s1": 3, "s2": 5}
    assert await machines.turn("b") == {"s1": 2, "s2": 5}


async def test_what_was_said_too_long_ago_counts_no_more():
    machines = Machines({"a": "", "b": ""})
    machines.in_flight["b"] = {"s1": 3}
    await machines.turn("b")
    assert await machines.turn("a") == {"s1": 3}
    machines.clock.advance(AGE_S * 0.9)
    assert await machines.turn("a") == {"s1": 3}
    machines.clock.advance(AGE_S * 0.2)
    assert await machines.turn("a") == {}
    machines.lines["a"].cut = True
    await machines.turn("b")
    assert await machines.turn("a") == {}


async def test_of_replicas_that_share_a_zone_one_writes_and_none_counts_the_other():
    machines = Machines({"a": "host:/dev/shm/z", "b": "host:/dev/shm/z", "c": "other:/dev/shm/z"})
    for name in "abc":
        machines.in_flight[name] = {"s1": 1 + "abc".index(name)}
    for name in "abc":
        await machines.turn(name)
    assert await machines.turn("a") == {"s1": 3}
    assert await machines.turn("b") == {}
    assert await machines.turn("c") == {"s1": 3}


async def test_of_a_load_that_is_too_long_the_busiest_servers_are_told():
    machines = Machines({"a": "", "b": ""})
    machines.in_flight["b"] = {f"server-{i:06}": 1 + i for i in range(2 * SERVERS_MAX)}
    await machines.turn("b")
    told = await machines.turn("a")
    assert len(told) == SERVERS_MAX
    assert min(told.values()) == SERVERS_MAX + 1


async def test_a_load_in_another_form_is_as_if_not_said():
    machines = Machines({"a": "", "b": ""})
    for wrong in ({"s1": -1}, {"s1": "many"}, {"s1": 1 << 40}, {"s1": True}):
        machines.in_flight["b"] = wrong
        await machines.turn("b")
        assert await machines.turn("a") == {}


@pytest.mark.parametrize(("count", "servers"), [(1, 4), (2, 4), (3, 8), (4, 4), (5, 3), (4, 1000)])
def test_machines_begin_in_parts_of_their_own_and_each_begins_everywhere_in_time(count, servers):
    for turn in range(count):
        parts = [turn_of((index, count), servers, turn * TURN_S) for index in range(count)]
        assert all(0 <= begin < end <= servers for begin, end in parts)
        places = [place for begin, end in parts for place in range(begin, end)]
        assert set(places) == set(range(servers))
        assert count > servers or len(places) == servers
    turns = range(count)
    reached = {place for turn in turns for place in range(*turn_of((0, count), servers, turn * TURN_S))}
    assert reached == set(range(servers))


async def test_machines_know_which_of_how_many_they_are():
    machines = Machines({"a": "host:/dev/shm/z", "b": "host:/dev/shm/z", "c": "", "d": "other:/dev/shm/z"})
    for _ in range(2):
        for name in "abcd":
            await machines.turn(name)
    assert [machines.loads[name].machine for name in "acd"] == [(0, 3), (1, 3), (2, 3)]


@pytest.fixture
def zone():
    made = Zone(f"guest{os.getpid()}", "4MiB")
    yield made
    made.close()
    Zone.unlink(f"guest{os.getpid()}")


def test_least_connections_avoids_the_server_that_others_use(zone: Zone):
    servers = [Server(f"127.0.0.1:{i}", name=f"s{i}") for i in range(1, 4)]
    pool = Pool("app", servers, policy="least-connections", zone=zone, fleet="fr")
    guest = GuestLoads(zone)
    guest.set("fr", "app", {"s1": 4, "s2": 4, "s3": 0})
    assert guest.of("fr", "app", "s1") == 4
    assert {pool.select().name for _ in range(6)} == {"s3"}
    guest.set("fr", "app", {"s1": 0, "s2": 4, "s3": 4})
    assert {pool.select().name for _ in range(6)} == {"s1"}
    guest.close()
    assert len({pool.select().name for _ in range(6)}) == 3
    with pytest.raises(UsageError):
        guest.set("fr", "app", {"s1": 1})


def test_equals_are_taken_from_the_part_that_is_said(zone: Zone):
    servers = [Server(f"10.0.0.{i}:80", name=f"s{i}") for i in range(6)]
    pool = Pool("app", servers, policy="least-connections", zone=zone)
    guest = GuestLoads(zone)
    try:
        taken = []
        for _ in range(4):  # all are idle each time
            guest.turn_within("fr", "app", 2, 4, 7)
            taken.append(pool.select().name)
        assert taken == ["s2", "s3", "s2", "s3"]
        first = set()
        for count in range(1, 9):  # of unequal weight: a sequence that begins elsewhere
            weighed = [one.replace(weight=1 + i % 2) for i, one in enumerate(servers)]
            guest.turn_within("fr", f"weighed-{count}", 0, 6, count)
            first.add(Pool(f"weighed-{count}", weighed, policy="least-connections", zone=zone).select().name)
        assert len(first) > 3
    finally:
        guest.close()


def test_a_bound_on_load_counts_what_others_have_in_flight(zone: Zone):
    servers = [Server(f"127.0.0.1:{i}", name=f"s{i}") for i in range(1, 4)]
    pool = Pool("app", servers, policy="hash", max_load=1.25, zone=zone, fleet="fr")
    guest = GuestLoads(zone)
    key = "somebody"
    first = pool.select(key).name
    guest.set("fr", "app", {one.name: 200 if one.name == first else 1 for one in servers})
    assert pool.select(key).name != first
    guest.close()
    assert pool.select(key).name == first


def test_a_row_that_its_owner_forgot_is_given_back(zone: Zone):
    for _ in range(300):  # a zone has fewer rows
        GuestLoads(zone)
    pool = Pool("app", [Server("127.0.0.1:1", name="s1")], policy="least-connections", zone=zone, fleet="fr")
    assert pool.statistics().servers[0].in_flight_zone == 0
