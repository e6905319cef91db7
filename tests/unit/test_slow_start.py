"""Slow start: the ramps, when one begins, and that it holds a server's share whatever the policy. Requirement 9."""

import collections

import pytest

from fastroute import Server
from fastroute.routing.pool import Pool
from fastroute.routing.slow_start import envoy_ramp, haproxy_ramp

WINDOW_MS = 30_000
START_MS = 1_000_000
DRIVEN = ["round-robin", "least-connections", "two-choices", "peak-ewma", "prequal", "random"]


def pool_of(count: int, policy: str = "round-robin", *, weight: int = 1, **ramp) -> Pool:
    servers = [Server(f"10.0.0.{i + 1}:80", name=f"s{i}", weight=weight) for i in range(count)]
    pool = Pool("app", servers, policy=policy, slots=4096, seed=3, slow_start={"window": "30s", **ramp})
    pool.hold_clock(START_MS)
    return pool


def restart(pool: Pool, name: str) -> None:
    pool.set_state(name, "down")
    pool.set_state(name, "ready")


def effective(pool: Pool, name: str) -> float:
    return next(row.weight_effective for row in pool.statistics().servers if row.name == name)


def test_envoy_s_ramp_is_its_formula():
    assert envoy_ramp(15, 30) == 0.5
    assert envoy_ramp(0, 30) == 0.1
    assert envoy_ramp(0, 30, min_weight=0.0) == pytest.approx(0.001 / 30)
    assert envoy_ramp(15, 30, aggression=2.0) == pytest.approx(0.5**0.5)
    assert (envoy_ramp(30, 30), envoy_ramp(99, 30), envoy_ramp(0, 0)) == (1.0, 1.0, 1.0)


def test_haproxy_s_ramp_goes_in_sixteen_steps():
    assert [haproxy_ramp(second, 16) for second in range(0, 18, 4)] == [1 / 16, 5 / 16, 9 / 16, 13 / 16, 1.0]
    assert haproxy_ramp(0.99, 16) == 1 / 16


@pytest.mark.parametrize(
    "options", [{}, {"aggression": 2.0}, {"aggression": 0.5, "min_weight": 0.02}, {"ramp": "haproxy"}]
)
def test_the_compiled_ramp_is_the_pure_function(options):
    pool = pool_of(3, weight=1000, **options)
    restart(pool, "s1")
    pure = haproxy_ramp if options.get("ramp") else envoy_ramp
    given = {key: value for key, value in options.items() if key != "ramp"}
    given.setdefault("min_weight", 0.1)
    for elapsed_ms in (0, 20, 700, 2_999, 15_000, 29_000, 30_000, 40_000):
        pool.hold_clock(START_MS + elapsed_ms)
        assert effective(pool, "s1") == pytest.approx(1000 * pure(elapsed_ms / 1000, 30, **given), abs=0.01)
        assert effective(pool, "s0") == 1000


def test_no_server_ramps_at_process_start():
    pool = pool_of(3)
    assert {row.weight_effective for row in pool.statistics().servers} == {1}
    pool.update([*pool.servers, Server("10.0.0.9:80", name="new")])
    assert effective(pool, "new") == 1


@pytest.mark.parametrize("state", ["draining", "maintenance", "ejected"])
def test_only_a_server_that_was_down_ramps(state):
    pool = pool_of(3)
    pool.set_state("s1", state)
    pool.set_state("s1", "ready")
    assert effective(pool, "s1") == 1
    pool.set_state("s1", "down")
    pool.set_state("s1", state)
    pool.set_state("s1", "ready")
    assert effective(pool, "s1") == 0.1


def test_a_ramp_survives_updates_and_changes_of_others():
    pool = pool_of(3)
    restart(pool, "s1")
    pool.hold_clock(START_MS + 15_000)
    pool.set_state("s0", "draining")
    pool.update([*pool.servers, Server("10.0.0.9:80", name="new")])
    pool.set_weight("s1", 10)
    assert effective(pool, "s1") == 5


def share(pool: Pool, name: str, picks: int = 4000, hold: int = 40) -> float:
    held: collections.deque = collections.deque()
    counts: collections.Counter = collections.Counter()
    for turn in range(picks):
        request = pool.request(f"key-{turn}").__enter__()
        counts[request.server.name] += 1
        held.append(request)
        if len(held) > hold:
            held.popleft().__exit__(None, None, None)
    for request in held:
        request.__exit__(None, None, None)
    return counts[name] / picks


@pytest.mark.parametrize("policy", [*DRIVEN, "hash"])
@pytest.mark.parametrize("part", [0.1, 0.5])
def test_requirement_9_a_restarted_server_gets_no_more_than_its_ramp(policy, part):
    pool = pool_of(10, policy)
    restart(pool, "s4")
    pool.hold_clock(START_MS + int(part * WINDOW_MS))
    fair = part / (9 + part)
    found = share(pool, "s4", 6000)
    assert found <= fair * (1.25 if policy == "hash" else 1.05) + 1 / 6000
    assert found >= fair * 0.3


@pytest.mark.parametrize("policy", DRIVEN)
def test_requirement_9_with_four_balancers_at_once_the_share_stays_within_the_ramp(policy):
    pools = [pool_of(10, policy) for _ in range(4)]
    for pool in pools:
        restart(pool, "s4")
    assert sum(share(pool, "s4", 1500, 5) for pool in pools) / 4 <= 1.2 * 0.1 / 9.1


def test_round_robin_s_share_is_exactly_the_ramp_s():
    pool = pool_of(4)
    restart(pool, "s2")
    pool.hold_clock(START_MS + 15_000)
    assert share(pool, "s2", 7000) == pytest.approx(0.5 / 3.5, abs=0.001)


def test_a_ramp_ends_and_the_pool_is_as_before():
    pool, plain = pool_of(4), pool_of(4)
    restart(pool, "s2")
    pool.hold_clock(START_MS + WINDOW_MS)
    assert share(pool, "s2", 400) == share(plain, "s2", 400) == 0.25


def test_all_servers_that_came_back_share_as_if_none_ramped():
    pool = pool_of(4)
    for name in ("s0", "s1", "s2", "s3"):
        restart(pool, name)
    counts = collections.Counter(pool.select().name for _ in range(4000))
    assert min(counts.values()) > 800


def test_hash_gives_a_ramping_server_more_and_more_of_its_own_keys_and_takes_none_back():
    pool, plain = pool_of(5, "hash"), pool_of(5, "hash")
    restart(pool, "s3")
    before: set[str] = set()
    for elapsed_ms in range(0, WINDOW_MS + 1, 3_000):
        pool.hold_clock(START_MS + elapsed_ms)
        now = {key for key in map(str, range(1000)) if pool.select(key).name == "s3"}
        assert before <= now <= {key for key in map(str, range(1000)) if plain.select(key).name == "s3"}
        for key in map(str, range(1000)):
            assert pool.select(key) == plain.select(key) or plain.select(key).name == "s3"
        before = now


def test_bound_requests_never_feel_a_ramp():
    pool = pool_of(3, "hash")
    restart(pool, "s1")
    assert pool.may_take_bound(pool.slot_of("s1"))
    assert pool.fallback_slots(b"k", 3) == pool_of(3, "hash").fallback_slots(b"k", 3)
