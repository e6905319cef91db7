"""Policies of a pool: who takes the next request. Numbers in names are those of the requirements."""

import collections
import ctypes
import itertools

import pytest

from fastroute import Server
from fastroute.errors import NoServerAvailable
from fastroute.routing.pool import Pool
from tests.support import selection_oracles as oracles


def pool_of(weights: dict[str, int] | int, **options) -> Pool:
    named = {f"s{i:03}": 1 for i in range(weights)} if isinstance(weights, int) else weights
    return Pool(
        "app",
        [Server(f"10.0.0.1:{1000 + i}", name=name, weight=weight) for i, (name, weight) in enumerate(named.items())],
        **{"slots": 4096, **options},
    )


def picks(pool: Pool, count: int) -> list[str]:
    return [pool.select().name for _ in range(count)]


KEYS = [f"session-{i:016d}" for i in range(2000)]


def test_requirement_2_two_users_whose_requests_mix():
    pool = pool_of({"S1": 1, "S2": 1})
    got = {"user 1": [], "user 2": []}
    for user in ("user 1", "user 2", "user 2", "user 1", "user 1", "user 2"):
        got[user].append(pool.select(user).name)
    assert got == {"user 1": ["S1", "S2", "S1"], "user 2": ["S2", "S1", "S2"]}


def test_requirement_2_one_user_after_the_other():
    pool = pool_of({"S1": 1, "S2": 1})
    assert picks(pool, 3) == ["S1", "S2", "S1"], "user 1"
    assert picks(pool, 3) == ["S2", "S1", "S2"], "user 2"


def test_requirement_3_a_new_user_gets_the_next_server_in_turn_and_a_bound_one_takes_no_turn():
    pool = pool_of({"S1": 1, "S2": 1})
    bound = {}
    for user in ("user 1", "user 2", "user 1", "user 2", "user 1", "user 2"):
        if user not in bound:
            bound[user] = [pool.select().name]
        else:
            bound[user].append(bound[user][0])
    assert bound == {"user 1": ["S1"] * 3, "user 2": ["S2"] * 3}


def test_requirement_13_round_robin_is_the_default():
    assert pool_of(2).policy == "round-robin"


def test_nginx_published_example_comes_out_in_its_order():
    assert picks(pool_of({"a": 5, "b": 1, "c": 1}), 14) == list("aabacaa" * 2)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 2, "b": 1},
        {"a": 1, "b": 2, "c": 3},
        {"a": 10, "b": 20, "c": 30},
        {"a": 7, "b": 5, "c": 3, "d": 1},
        {"a": 100, "b": 1},
    ],
    ids=str,
)
def test_weighted_round_robin_equals_nginx_steps(weights):
    assert picks(pool_of(weights), 300) == oracles.smooth_sequence(weights, 300)


def test_a_sequence_too_long_to_precompute_is_stepped_and_the_same():
    weights = {"a": 65535, "b": 65534, "c": 65533, "d": 4001}
    assert picks(pool_of(weights), 2000) == oracles.smooth_sequence(weights, 2000)


def test_requirement_7_weight_two_gets_twice_weight_one_in_every_window():
    weights = {"a": 2, "b": 1, "c": 4}
    made = picks(pool_of(weights), 70)
    for start in range(63):
        assert collections.Counter(made[start : start + 7]) == weights


def test_requirement_7_no_bursts():
    made = picks(pool_of({"a": 5, "b": 4, "c": 3}), 120)
    assert max(len(list(run)) for _, run in itertools.groupby(made)) <= 2


def test_requirement_7_weight_zero_takes_no_unbound_request():
    for policy in ("round-robin", "random", "hash"):
        pool = pool_of({"a": 1, "b": 0, "c": 1}, policy=policy)
        assert {pool.select(key).name for key in KEYS} == {"a", "c"}


def test_requirement_7_a_weight_changes_at_run_time():
    pool = pool_of({"a": 1, "b": 1})
    pool.set_weight("a", 3)
    assert collections.Counter(picks(pool, 40)) == {"a": 30, "b": 10}
    assert {server.name: server.weight for server in pool.servers} == {"a": 3, "b": 1}
    pool.set_weight("b", 0)
    assert set(picks(pool, 10)) == {"a"}


def test_requirement_1_the_spread_of_random_is_worse_than_round_robins():
    def spread(policy: str) -> int:
        counts = collections.Counter(picks(pool_of(8, policy=policy, seed=7), 8000))
        return max(counts.values()) - min(counts.values())

    assert spread("round-robin") == 0
    assert spread("random") > 20


def test_random_follows_the_weights():
    counts = collections.Counter(picks(pool_of({"a": 1, "b": 2, "c": 7}, policy="random", seed=3), 20000))
    for name, share in {"a": 0.1, "b": 0.2, "c": 0.7}.items():
        assert counts[name] / 20000 == pytest.approx(share, abs=0.015)


def test_random_with_a_seed_repeats_and_without_one_does_not():
    assert picks(pool_of(50, policy="random", seed=5), 40) == picks(pool_of(50, policy="random", seed=5), 40)
    assert picks(pool_of(50, policy="random"), 40) != picks(pool_of(50, policy="random"), 40)


def test_requirement_14_the_spread_is_flat_for_hundreds_of_servers():
    pool = pool_of(300)
    assert set(collections.Counter(picks(pool, 900)).values()) == {3}


def test_hash_gives_one_server_per_key_whatever_the_order_of_the_list():
    servers = list(pool_of(20).servers)
    left = Pool("app", servers, policy="hash", slots=4096)
    right = Pool("app", servers[::-1], policy="hash", slots=4096)
    assert [left.select(key).name for key in KEYS] == [right.select(key).name for key in KEYS]


def test_requirement_11_a_removed_server_moves_only_its_own_keys():
    pool = pool_of(10, policy="hash")
    before = {key: pool.select(key).name for key in KEYS}
    pool.update([server for server in pool.servers if server.name != "s003"])
    for key in KEYS:
        assert pool.select(key).name == before[key] or before[key] == "s003"


def test_requirement_11_an_added_server_takes_its_fair_share_and_no_key_moves_elsewhere():
    pool = pool_of(9, policy="hash")
    before = {key: pool.select(key).name for key in KEYS}
    pool.update([*pool.servers, Server("10.0.0.2:80", name="new")])
    moved = {key for key in KEYS if pool.select(key).name != before[key]}
    assert {pool.select(key).name for key in moved} == {"new"}
    assert len(moved) / len(KEYS) == pytest.approx(0.1, abs=0.03)


def test_hash_without_a_key_is_round_robin():
    pool = pool_of({"a": 5, "b": 1, "c": 1}, policy="hash")
    assert [pool.select(key).name for key in (None, "", b"", None, "", b"", None)] == list("aabacaa")


def test_hash_treats_str_and_its_utf8_bytes_alike():
    pool = pool_of(50, policy="hash")
    for key in ("user", "benutzer-ä", "用户", "x" * 500, "\U0001f600"):
        assert pool.select(key) is pool.select(key.encode())
        assert pool.hash(key) == pool.hash(key.encode())


def test_the_seed_changes_where_keys_go():
    one, other = pool_of(50, policy="hash", seed=1), pool_of(50, policy="hash", seed=2)
    assert sum(one.select(key).name != other.select(key).name for key in KEYS) > 1800


def test_hash_key_is_what_the_ring_hashes():
    named = Pool(
        "app", [Server(f"10.0.0.{i}:80", name=f"n{i}", hash_key=f"k{i}") for i in range(9)], policy="hash", slots=512
    )
    keyed = Pool("app", [Server(f"10.0.0.{i}:80", name=f"k{i}") for i in range(9)], policy="hash", slots=512)
    assert [named.select(key).address for key in KEYS] == [keyed.select(key).address for key in KEYS]


@pytest.mark.parametrize("down", [1, 2, 3, 5, 9])
def test_with_servers_down_the_answer_is_that_of_a_ring_over_the_ready_ones(down):
    pool = pool_of({f"s{i}": 1 + i % 3 for i in range(10)}, policy="hash")
    for i in range(down):
        pool.set_state(f"s{i}", "down")
    ready = Pool("app", pool.servers[down:], policy="hash", slots=4096)
    assert [pool.select(key).name for key in KEYS] == [ready.select(key).name for key in KEYS]
    pool.set_state("s0", "ready")
    ready.update([pool.servers[0], *pool.servers[down:]])
    assert [pool.select(key).name for key in KEYS] == [ready.select(key).name for key in KEYS]


@pytest.mark.parametrize("policy", ["round-robin", "random", "hash"])
@pytest.mark.parametrize("state", ["draining", "maintenance", "down", "ejected"])
def test_only_ready_servers_take_unbound_requests(policy, state):
    pool = pool_of(4, policy=policy)
    pool.set_state("s001", state)
    assert {pool.select(key).name for key in KEYS} == {"s000", "s002", "s003"}
    pool.set_state("s001", "ready")
    assert {pool.select(key).name for key in KEYS} == {"s000", "s001", "s002", "s003"}


@pytest.mark.parametrize("policy", ["round-robin", "random", "hash"])
def test_requirement_20_a_backup_is_used_only_when_no_other_is_ready(policy):
    servers = [
        Server("10.0.0.1:80", name="a"),
        Server("10.0.0.2:80", name="b"),
        Server("10.0.0.3:80", name="x", backup=True),
        Server("10.0.0.4:80", name="y", backup=True),
    ]
    pool = Pool("app", servers, policy=policy, slots=512)
    assert {pool.select(key).name for key in KEYS} == {"a", "b"}
    pool.set_state("a", "down")
    assert {pool.select(key).name for key in KEYS} == {"b"}
    pool.set_state("b", "draining")
    assert {pool.select(key).name for key in KEYS} == {"x", "y"}
    pool.set_state("x", "down")
    assert {pool.select(key).name for key in KEYS} == {"y"}
    pool.set_state("a", "ready")
    assert {pool.select(key).name for key in KEYS} == {"a"}


@pytest.mark.parametrize("policy", ["round-robin", "random", "hash"])
def test_no_ready_server_raises_with_a_reason_for_each(policy):
    pool = Pool(
        "app",
        [Server("10.0.0.1:80", name="a"), Server("10.0.0.2:80", name="b"), Server("10.0.0.3:80", name="c", weight=0)],
        policy=policy,
        slots=64,
    )
    pool.set_state("a", "down")
    pool.set_state("b", "draining")
    for call in (
        lambda: pool.select("k"),
        lambda: pool.select(),
        lambda: pool.select_many(["k"]),
        lambda: pool.request("k"),
    ):
        with pytest.raises(NoServerAvailable) as caught:
            call()
        assert (caught.value.pool, caught.value.reasons) == ("app", {"a": "down", "b": "draining", "c": "weight 0"})
    assert pool.candidates("k", 3) == ()


@pytest.mark.parametrize("policy", ["round-robin", "random", "hash"])
def test_an_empty_pool_has_no_server(policy):
    with pytest.raises(NoServerAvailable, match="no server"):
        Pool("app", [], policy=policy).select("k")


class SharedCursor:
    """A stand-in for the zone: one cursor for every pool that asks."""

    def __init__(self, start: int = 0):
        self.cursor = ctypes.c_uint64(start)
        self.asked = []

    def cursor_address(self, fleet: str, pool: str) -> int:
        self.asked.append((fleet, pool))
        return ctypes.addressof(self.cursor)


def test_workers_of_one_zone_continue_one_sequence():
    zone = SharedCursor()
    workers = [pool_of({"a": 5, "b": 1, "c": 1}, zone=zone, fleet="f1") for _ in range(3)]
    assert [workers[i % 3].select().name for i in range(14)] == list("aabacaa" * 2)
    assert zone.asked == [("f1", "app")] * 3
    assert zone.cursor.value == 14


def test_a_cursor_near_its_end_goes_on():
    pool = pool_of(4, zone=SharedCursor(2**64 - 2))
    assert picks(pool, 6) == ["s002", "s003", "s000", "s001", "s002", "s003"]
