"""A pool's control plane, counters, batches and what it refuses."""

import array
import threading

import pytest

from fastroute import Server
from fastroute.errors import UsageError
from fastroute.routing.policies import POLICIES
from fastroute.routing.pool import Pool

KEYS = [f"session-{i:016d}" for i in range(1000)]


def servers(*names: str, **options) -> list[Server]:
    return [Server(f"10.0.0.{i + 1}:80", name=name, **options) for i, name in enumerate(names)]


@pytest.fixture(params=POLICIES)
def pool(request) -> Pool:
    return Pool("app", servers("a", "b", "c", "d"), policy=request.param, slots=1024, seed=1)


def row(pool: Pool, name: str):
    return next(row for row in pool.statistics().servers if row.name == name)


def state_of_everything(pool: Pool):
    slots = {server.name: slot for slot in range(64) for server in [at(pool, slot)] if server}
    return pool.servers, pool.statistics(), slots, [pool.candidates(key, 4) for key in KEYS[:50]]


def at(pool: Pool, slot: int):
    try:
        return pool.server_at(slot)
    except UsageError:
        return None


def test_servers_stand_in_the_order_of_their_names():
    assert [server.name for server in Pool("app", servers("c", "a", "b")).servers] == ["a", "b", "c"]


def test_an_update_keeps_slots_counters_and_states_of_who_stays(pool):
    slots = {server.name: slot for slot in range(8) for server in [at(pool, slot)] if server}
    pool.set_state("b", "draining")
    with pool.request("k") as selection:
        counted = selection.server.name
        pool.update(servers("x", "b", counted, "y"))
        assert row(pool, counted).in_flight == 1
        for name in {"b", counted}:
            assert pool.server_at(slots[name]).name == name
    assert (row(pool, counted).in_flight, row(pool, counted).requests_total) == (0, 1)
    assert pool.state_of("b") == "draining"
    assert pool.state_of("x") == "ready"


def test_the_slot_of_a_server_that_left_with_requests_in_flight_is_given_to_nobody():
    pool = Pool("app", servers("a"))
    with pool.request() as selection:
        assert selection.server.name == "a"
        pool.update(servers("b"))
        pool.update(servers("b", "c"))
        assert [at(pool, slot) and at(pool, slot).name for slot in range(3)] == [None, "b", "c"]
    pool.update(servers("b", "c", "d"))
    assert pool.server_at(0).name == "d"
    assert row(pool, "d").requests_total == 0


def test_a_pool_grows_and_shrinks_and_grows():
    pool = Pool("app", servers("s0"), policy="hash", slots=4096)
    for count in (200, 3, 1000, 0, 50):
        pool.update(servers(*(f"s{i}" for i in range(count))))
        assert len(pool) == pool.ready_count == count
        if count:
            assert {server.name for server in pool.select_many(KEYS)} <= {f"s{i}" for i in range(count)}


def test_select_many_equals_select(pool):
    twin = Pool("app", pool.servers, policy=pool.policy, slots=1024, seed=1)
    pool.hold_clock(1_000)  # probes of `prequal` age
    twin.hold_clock(1_000)
    mixed = [*KEYS, None, b"bytes", "ä", ""]
    assert pool.select_many(mixed) == [twin.select(key) for key in mixed]
    assert pool.select_many(iter(["k"])) == [twin.select("k")]
    assert pool.select_many([]) == []


def test_slots_of_equals_what_hash_selects():
    pool = Pool("app", servers("a", "b", "c", "d", "e"), policy="hash", slots=1024, seed=9)
    for down in (None, "a", "b", "c"):
        if down:
            pool.set_state(down, "down")
        hashes, out = array.array("Q", [pool.hash(key) for key in KEYS]), array.array("H", bytes(2000))
        pool.slots_of(hashes, out)
        assert [pool.server_at(slot) for slot in out] == pool.select_many(KEYS)


def test_slots_of_says_65535_where_nobody_is_ready():
    pool = Pool("app", servers("a"), slots=64)
    pool.set_state("a", "down")
    out = array.array("H", [1, 2])
    pool.slots_of(array.array("Q", [0, 2**64 - 1]), out)
    assert list(out) == [65535, 65535]


@pytest.mark.parametrize(
    ("hashes", "out", "message"),
    [
        ([1, 2], array.array("H", [0, 0]), "hashes: found list"),
        (array.array("q", [1, 2]), array.array("H", [0, 0]), "hashes: found items 'q'"),
        (array.array("I", [1, 2]), array.array("H", [0, 0]), "hashes: found items 'I'"),
        (array.array("d", [1, 2]), array.array("H", [0, 0]), "hashes: found items 'd'"),
        (b"12345678", array.array("H", [0]), "hashes: found items 'B'"),
        (array.array("Q", [1, 2]), array.array("h", [0, 0]), "out: found items 'h'"),
        (array.array("Q", [1, 2]), memoryview(array.array("H", [0, 0])).toreadonly(), "out: found memoryview"),
        (array.array("Q", [1, 2]), b"1234", "out: found bytes"),
        (array.array("Q", [1, 2]), array.array("H", [0]), "out holds 1 slots, hashes 2"),
        (memoryview(array.array("Q", [1, 2, 3, 4]))[::2], array.array("H", [0, 0]), "hashes: found memoryview"),
    ],
)
def test_slots_of_refuses_other_buffers(hashes, out, message):
    with pytest.raises(UsageError, match=message):
        Pool("app", servers("a", "b"), slots=64).slots_of(hashes, out)


def test_candidates_are_distinct_ready_and_begin_with_the_pick(pool):
    pool.set_state("c", "down")
    for key in KEYS[:200]:
        found = pool.candidates(key, 10)
        assert sorted(server.name for server in found) == ["a", "b", "d"]
        assert pool.candidates(key, 2) == found[:2]
        if pool.policy in ("round-robin", "hash", "least-connections"):
            assert pool.select(key) == found[0]


def test_the_first_candidates_are_who_takes_over():
    pool = Pool("app", servers(*(f"s{i}" for i in range(12))), policy="hash", slots=1024)
    for key in KEYS[:50]:
        for server in pool.candidates(key, 3):
            assert pool.select(key) == server
            pool.set_state(server.name, "down")
        for server in pool.servers:
            pool.set_state(server.name, "ready")


def test_fallbacks_of_a_selection_are_other_ready_servers(pool):
    with pool.request("k") as selection:
        assert len(selection.fallbacks) == 3
        assert selection.server not in selection.fallbacks
        assert (selection.reason, selection.term, selection.generation) == ("policy", 0, 0)
        assert selection.server.name in repr(selection)


def test_a_request_counts_itself_in_and_out(pool):
    pool.hold_clock(1000)
    with pool.request("k") as selection:
        name = selection.server.name
        assert row(pool, name).in_flight == 1
        pool.hold_clock(1250)
    found = row(pool, name)
    assert (found.in_flight, found.requests_total, found.failures_total, found.latency_ms) == (0, 1, 0, 250.0)


def test_an_exception_counts_as_the_servers_failure_and_passes(pool):
    with pytest.raises(ConnectionError), pool.request("k") as selection:
        raise ConnectionError("refused")
    found = row(pool, selection.server.name)
    assert (found.in_flight, found.requests_total, found.failures_total, found.latency_ms) == (0, 1, 1, 0.0)


def test_failed_counts_as_the_servers_failure(pool):
    with pool.request("k") as selection:
        selection.failed(ConnectionError("reset"))
    assert row(pool, selection.server.name).failures_total == 1


def test_a_cancelled_task_is_not_the_servers_failure(pool):
    import asyncio

    with pytest.raises(asyncio.CancelledError), pool.request("k") as selection:
        raise asyncio.CancelledError
    assert row(pool, selection.server.name).failures_total == 0


def test_a_request_is_entered_once(pool):
    request = pool.request("k")
    with request, pytest.raises(UsageError, match="once"):
        request.__enter__()
    assert sum(found.in_flight for found in pool.statistics().servers) == 0


def test_the_latency_average_moves_an_eighth_of_the_way():
    pool = Pool("app", servers("a"))
    for latency_ms in (800, 1600):
        pool.hold_clock(1000)
        with pool.request():
            pool.hold_clock(1000 + latency_ms)
    assert row(pool, "a").latency_ms == pytest.approx(900)


def test_statistics_are_a_frozen_copy(pool):
    before = pool.statistics()
    pool.set_state("a", "down")
    assert before.servers[0].state == "ready"
    assert pool.statistics().servers[0].state == "down"
    assert (before.ready_count, pool.statistics().ready_count, pool.ready_count) == (4, 3, 3)
    with pytest.raises(AttributeError):
        before.name = "other"


@pytest.mark.parametrize("bad", [1, 1.5, ["k"], bytearray(b"k"), memoryview(b"k"), object(), "\ud800", "a\udfffb"])
def test_a_bad_key_is_refused_and_the_pool_is_as_it_was(pool, bad):
    before = state_of_everything(pool)
    for call in (
        pool.select,
        pool.hash,
        pool.request,
        lambda key: pool.select_many(["k", key][1:]),
        lambda key: pool.candidates(key, 2),
    ):
        with pytest.raises(UsageError, match="accepted are"):
            call(bad)
    assert state_of_everything(pool) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pool: pool.update([*servers("a", "b"), *servers("a")]), "'a' is there twice"),
        (
            lambda pool: pool.update([Server("h:1", name="p", hash_key="k"), Server("h:2", name="q", hash_key="k")]),
            "hash_key",
        ),
        (lambda pool: pool.update(["10.0.0.1:80"]), "found str"),
        (lambda pool: pool.update("10.0.0.1:80"), "found str"),
        (lambda pool: pool.update(Server("h:1")), "found Server"),
        (lambda pool: pool.set_state("z", "down"), "'z' is not in pool"),
        (lambda pool: pool.set_state("a", "up"), "accepted: ready, draining"),
        (lambda pool: pool.set_weight("a", -1), "weight -1"),
        (lambda pool: pool.set_weight("a", 65536), "weight 65536"),
        (lambda pool: pool.set_weight("a", 1.5), "weight 1.5"),
        (lambda pool: pool.set_weight("z", 1), "'z' is not in pool"),
        (lambda pool: pool.state_of("z"), "'z' is not in pool"),
        (lambda pool: pool.server_at(63), "no server"),
        (lambda pool: pool.server_at(-1), "no server"),
        (lambda pool: pool.server_at("a"), "no server"),
        (lambda pool: pool.candidates("k", -1), "n -1"),
        (lambda pool: pool.select_many("abc"), "found str"),
        (lambda pool: pool.__init__("app", []), "once"),
    ],
)
def test_a_bad_call_is_refused_and_the_pool_is_as_it_was(pool, change, message):
    before = state_of_everything(pool)
    with pytest.raises(UsageError, match=message):
        change(pool)
    assert state_of_everything(pool) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "fastest"}, "unknown; accepted: round-robin, random, hash, least-connections"),
        ({"ring": "circle"}, "unknown; accepted: table, maglev, rendezvous"),
        ({"slots": 15}, "slots 15"),
        ({"slots": 2**24 + 1}, "slots"),
        ({"slots": True}, "slots True"),
        ({"max_load": 1.25}, "it bounds policy .hash.; .round-robin. balances by itself"),
        ({"max_load": 1, "policy": "hash"}, "max_load 1: accepted"),
        ({"max_load": 101, "policy": "hash"}, "max_load 101: accepted"),
        ({"max_load": float("nan"), "policy": "hash"}, "max_load nan: accepted"),
        ({"max_load_floor": 0}, "max_load_floor 0"),
        ({"charge_sticky": 1}, "charge_sticky 1"),
        ({"charge_sticky": True, "policy": "random"}, "charges policy"),
        ({"slow_start": "30s"}, "slow_start: found str"),
        ({"slow_start": {"windows": 1}}, "windows unknown; accepted: window, aggression, min_weight, ramp"),
        ({"slow_start": {"window": -1}}, "slow_start window -1"),
        ({"slow_start": {"aggression": 0}}, "slow_start aggression 0"),
        ({"slow_start": {"min_weight": 2}}, "slow_start min_weight 2"),
        ({"slow_start": {"ramp": "linear"}}, "slow_start ramp 'linear': accepted: envoy, haproxy"),
        ({"panic": 1.1}, "panic 1.1"),
        ({"panic": True}, "panic True"),
        ({"pending": -1}, "pending -1"),
        ({"pending_time": "1 s"}, "pending_time '1 s'"),
        ({"max_load": "1"}, "max_load '1'"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed"),
        ({"fleet": "a b"}, "fleet name"),
        ({"name": ""}, "pool name"),
        ({"name": None}, "pool name"),
    ],
)
def test_a_bad_argument_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Pool(options.pop("name", "app"), servers("a"), **options)


def test_max_load_zero_means_unbounded():
    assert Pool("app", servers("a"), max_load=0).select() == Pool("app", servers("a"), max_load=None).select()


def test_picks_go_on_while_another_thread_changes_the_pool():
    pool = Pool("app", servers(*(f"s{i}" for i in range(8))), policy="hash", slots=4096)
    stop, wrong = threading.Event(), []

    def pick():
        while not stop.is_set():
            wrong.extend(server for server in pool.select_many(KEYS) if not isinstance(server, Server))

    threads = [threading.Thread(target=pick) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        pool.set_state(f"s{turn % 7}", ("down", "ready")[turn % 2])
        pool.set_weight("s7", 1 + turn % 3)
        pool.update(servers(*(f"s{i}" for i in range(8 + turn))))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
