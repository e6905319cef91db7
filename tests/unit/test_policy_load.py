"""Policies that look at load: least-connections, two-choices, peak-ewma, prequal, and hash with a bound."""

import collections
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute import Server
from fastroute.errors import UsageError
from fastroute.routing.pool import Pool
from tests.support.policy_oracles import PeakEwma, haproxy_slots, least

SEED = 20261122


def pool_of(weights: dict[str, int] | int, policy: str, **options) -> Pool:
    named = {f"s{i:03}": 1 for i in range(weights)} if isinstance(weights, int) else weights
    servers = [
        Server(f"10.0.0.1:{1000 + i}", name=name, weight=weight) for i, (name, weight) in enumerate(named.items())
    ]
    return Pool("app", servers, policy=policy, **{"slots": 4096, "seed": 5, **options})


def load(pool: Pool, in_flight: dict[str, int]) -> list:
    return [pool.request_to(name).__enter__() for name, count in in_flight.items() for _ in range(count)]


def end(requests: list) -> None:
    for request in requests:
        request.__exit__(None, None, None)


NAMES = "abcdef"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1, 1, 2, 3, 100, 65535])), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_least_connections_picks_the_exact_least_by_weight(rows, picks):
    weights = {name: weight for name, (_, weight) in zip(NAMES, rows, strict=False)}
    in_flight = {name: count for name, (count, _) in zip(NAMES, rows, strict=False)}
    pool = pool_of(weights, "least-connections")
    held = load(pool, in_flight)
    for _ in range(picks):
        request = pool.request()
        assert request.server.name in least(in_flight, weights)
        held.append(request.__enter__())
        in_flight[request.server.name] += 1
    end(held)


def test_requirement_8_ties_of_least_connections_are_fair():
    pool = pool_of(7, "least-connections")
    picks = [pool.select().name for _ in range(70)]
    assert set(collections.Counter(picks).values()) == {10}
    assert len(set(picks[:7])) == 7


def test_ties_are_fair_while_some_servers_are_busy():
    pool = pool_of(10, "least-connections")
    held = load(pool, {"s000": 3, "s004": 1, "s009": 2})
    counts = collections.Counter(pool.select().name for _ in range(700))
    assert set(counts.values()) == {100}
    end(held)


def test_an_idle_pool_with_unequal_weights_follows_them():
    counts = collections.Counter(pool_of({"a": 5, "b": 2, "c": 1}, "least-connections").select().name for _ in range(1))
    pool = pool_of({"a": 5, "b": 2, "c": 1}, "least-connections")
    counts = collections.Counter(pool.select().name for _ in range(800))
    assert (counts["a"], counts["b"], counts["c"]) == pytest.approx((500, 200, 100), abs=3)


@pytest.mark.parametrize("policy", ["two-choices", "peak-ewma", "prequal"])
def test_drawn_policies_follow_the_weights_when_idle(policy):
    pool = pool_of({"a": 1, "b": 2, "c": 5}, policy)
    counts = collections.Counter(pool.select().name for _ in range(8000))
    assert set(counts) == {"a", "b", "c"}
    if policy == "two-choices":
        assert counts["c"] > counts["b"] > counts["a"]


def test_two_choices_never_takes_the_busiest():
    pool = pool_of(5, "two-choices")
    held = load(pool, {"s000": 9, "s001": 1, "s002": 1, "s003": 1, "s004": 1})
    assert "s000" not in {pool.select().name for _ in range(2000)}
    end(held)


def test_two_choices_keeps_the_most_loaded_far_below_random():
    def most(policy: str) -> int:
        pool, draw = pool_of(100, policy), random.Random(SEED)
        held: list = []
        for _ in range(5000):
            if len(held) >= 500:
                held.pop(draw.randrange(len(held))).__exit__(None, None, None)
            held.append(pool.request().__enter__())
        found = max(row.in_flight for row in pool.statistics().servers)
        end(held)
        return found

    assert most("two-choices") <= 8 < most("random")


def test_peak_ewma_prefers_the_load_that_finagle_computes():
    pool = pool_of({"a": 1, "b": 1}, "peak-ewma")
    oracle, draw, now = {"a": PeakEwma(), "b": PeakEwma()}, random.Random(SEED), 1_000_000
    held: dict[str, list] = {"a": [], "b": []}
    for turn in range(600):
        pool.hold_clock(now)
        costs = {name: oracle[name].load(now, len(held[name])) for name in "ab"}
        if costs["a"] != costs["b"]:
            assert pool.select().name == min(costs, key=costs.__getitem__), (SEED, turn, costs)
        name = draw.choice("ab")
        if len(held[name]) < 4:
            held[name].append((pool.request_to(name).__enter__(), now))
        now += draw.choice([1, 10, 300])
        pool.hold_clock(now)
        if draw.random() < 0.6:
            name = draw.choice("ab")
            if held[name]:
                request, began = held[name].pop(0)
                request.__exit__(None, None, None)
                oracle[name].observe(now, (now - began) * 1e6)
    end([request for requests in held.values() for request, _ in requests])


def test_peak_ewma_tries_an_unknown_server_with_one_request():
    pool = pool_of({"a": 1, "b": 1}, "peak-ewma")
    pool.hold_clock(1000)
    with pool.request_to("a"):
        pool.hold_clock(1005)
    assert pool.select().name == "b"
    with pool.request_to("b"):
        assert {pool.select().name for _ in range(20)} == {"a"}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 1, 2, 7, 300]), st.integers(0, 30)), min_size=1, max_size=6),
    st.sampled_from([101, 110, 125, 150, 200, 1000]),
)
def test_max_load_is_haproxys_formula_in_the_key_s_order(rows, factor):
    weights = {name: weight for name, (weight, _) in zip(NAMES, rows, strict=False)}
    in_flight = {name: count for name, (_, count) in zip(NAMES, rows, strict=False)}
    pool = pool_of(weights, "hash", max_load=factor / 100, max_load_floor=1)
    held = load(pool, in_flight)
    slots = dict(zip(weights, haproxy_slots([*weights.values()], sum(in_flight.values()), factor), strict=True))
    for key in ("k1", "k2", "k3", "k4"):
        order = [server.name for server in pool.candidates(key, 6)]
        assert pool.select(key).name == next(name for name in order if in_flight[name] < slots[name])
    end(held)


def test_the_slots_of_the_bound_add_up_and_one_is_always_free():
    for weights in ([1, 1, 1], [1, 2, 3, 4], [7, 100, 3]):
        for total in (0, 1, 5, 17, 1000):
            tot_slots = ((total + 1) * 125 + 99) // 100
            assert sum(haproxy_slots(weights, total, 125)) >= tot_slots > total


def test_a_floor_keeps_a_key_where_it_belongs_while_load_is_low():
    pool = pool_of(3, "hash", max_load=1.25, max_load_floor=6)
    home = pool.select("user").name
    held = []
    for _ in range(6):
        request = pool.request("user").__enter__()
        assert request.server.name == home
        held.append(request)
    assert pool.select("user").name != home
    end(held)
    assert pool.select("user").name == home


def test_requirement_12_one_hot_key_stays_within_the_bound():
    pool = pool_of(10, "hash", max_load=1.25, max_load_floor=1)
    held = [pool.request("the one NAT").__enter__() for _ in range(1000)]
    counts = [row.in_flight for row in pool.statistics().servers]
    assert max(counts) <= 126
    end(held)


def test_bound_users_are_never_moved_by_load():
    pool = pool_of(3, "hash", max_load=1.25)
    held = load(pool, {"s000": 100})
    assert pool.may_take_bound(pool.slot_of("s000"))
    assert pool.fallback_slots(b"user", 3) == pool_of(3, "hash").fallback_slots(b"user", 3)
    end(held)


@pytest.mark.parametrize("ring", ["maglev", "ketama", "haproxy", "rendezvous", "envoy-ring"])
def test_max_load_works_with_every_ring(ring):
    servers = [Server(f"10.0.0.{i}:80", name=f"s{i}") for i in range(1, 6)]
    pool = Pool("app", servers, policy="hash", ring=ring, max_load=1.25, max_load_floor=1)
    plain = Pool("app", servers, policy="hash", ring=ring)
    assert [pool.select(f"k{i}") for i in range(50)] == [plain.select(f"k{i}") for i in range(50)]
    held = [pool.request("hot").__enter__() for _ in range(100)]
    assert max(row.in_flight for row in pool.statistics().servers) <= 26
    end(held)


class Prequal:
    """A prequal pool whose clock is held."""

    def __init__(self, count: int):
        self.pool, self.now = pool_of(count, "prequal"), 1_000_000
        self.tick(0)

    def tick(self, ms: int) -> None:
        self.now += ms
        self.pool.hold_clock(self.now)

    def answer(self, name: str, ms: int, error: Exception | None = None) -> None:
        request = self.pool.request_to(name).__enter__()
        self.tick(ms)
        request.__exit__(type(error) if error else None, error, None)


def test_prequal_takes_the_fastest_of_the_cold():
    fleet = Prequal(3)
    for name, latency_ms in {"s000": 30, "s001": 5, "s002": 60}.items():
        fleet.pool.probe_result(name, 0, latency_ms * 1_000_000)
    assert fleet.pool.select().name == "s001"


def test_prequal_takes_the_least_busy_when_all_are_hot():
    fleet = Prequal(3)
    for _ in range(40):
        for name in ("s000", "s001", "s002"):
            fleet.pool.probe_result(name, 0, 1_000_000)
    fleet.pool.probe_result("s000", 9, 1_000)
    fleet.pool.probe_result("s001", 7, 2_000)
    fleet.pool.probe_result("s002", 8, 1_500)
    assert fleet.pool.select().name == "s001"


def test_prequal_prefers_a_slow_cold_server_to_a_fast_hot_one():
    fleet = Prequal(2)
    for _ in range(60):
        fleet.pool.probe_result("s000", 1, 50_000_000)
    fleet.pool.probe_result("s001", 20, 1_000_000)
    assert fleet.pool.select().name == "s000"


def test_prequal_forgets_probes_after_a_second():
    fleet = Prequal(2)
    fleet.pool.probe_result("s000", 0, 1_000)
    fleet.pool.probe_result("s001", 0, 900_000_000)
    assert fleet.pool.select().name == "s000"
    fleet.tick(1500)
    assert {fleet.pool.select().name for _ in range(50)} == {"s000", "s001"}


def test_prequal_is_no_sinkhole_for_a_server_that_fails_fast():
    fleet, counts, draw = Prequal(4), collections.Counter(), random.Random(SEED)
    for _ in range(2000):
        name = fleet.pool.select().name
        counts[name] += 1
        if name == "s000":
            fleet.answer(name, 1, ConnectionError("refused"))
        else:
            fleet.answer(name, draw.randint(20, 40))
    assert counts["s000"] < 200, f"seed {SEED}: {counts}"


def test_prequal_sends_less_to_a_slow_server():
    fleet, counts = Prequal(4), collections.Counter()
    for _ in range(2000):
        name = fleet.pool.select().name
        counts[name] += 1
        fleet.answer(name, 200 if name == "s003" else 10)
    assert counts["s003"] < 300, counts
    assert min(counts[name] for name in ("s000", "s001", "s002")) > 100, counts


def test_prequal_asks_for_three_probes_per_pick():
    pool = pool_of(30, "prequal")
    for _ in range(5):
        pool.select()
    wanted = pool.probes_wanted()
    assert len(wanted) == 15
    assert pool.probes_wanted() == []
    assert set(wanted) <= {server.name for server in pool.servers}
    assert pool_of(3, "two-choices").probes_wanted() == []


@pytest.mark.parametrize(
    ("name", "in_flight", "latency_ns"), [("z", 0, 0), ("s000", -1, 0), ("s000", 0, 1.5), ("s000", True, 0)]
)
def test_a_bad_probe_result_is_refused(name, in_flight, latency_ns):
    with pytest.raises(UsageError):
        pool_of(2, "prequal").probe_result(name, in_flight, latency_ns)
