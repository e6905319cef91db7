"""preview: shares that would move, exact where the ring allows, beside many keys hashed; and orphaned bindings."""

from __future__ import annotations

import collections
import json
import math

import pytest

from fastroute import Affinity, Pool, Router, Server
from fastroute.errors import UsageError
from fastroute.routing import preview as module
from fastroute.routing.preview import live_bindings, preview, scratch

KEYS = [f"session-{n:07d}" for n in range(40_000)]


def servers_of(count: int, weights: dict[int, int] | None = None) -> list[Server]:
    return [Server(f"10.0.0.{n}:80", name=f"S{n}", weight=(weights or {}).get(n, 1)) for n in range(1, count + 1)]


def counted(before: Pool, after: Pool) -> dict[tuple[str, str], float]:
    pairs = collections.Counter(
        (old.name, new.name) for old, new in zip(before.select_many(KEYS), after.select_many(KEYS), strict=True)
    )
    return {pair: count / len(KEYS) for pair, count in pairs.items()}


CHANGES = {
    "one leaves": servers_of(4),
    "two join": servers_of(7),
    "one replaced": [*servers_of(4), Server("10.0.0.9:80", name="S9")],
    "heavier": servers_of(5, {2: 3}),
    "drained": servers_of(5, {3: 0}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_exact_preview_of_the_table_ring_is_what_keys_do(change):
    pool = Pool("app", servers_of(5), policy="hash", slots=4096)
    found = preview(pool, CHANGES[change])
    after = Pool("app", CHANGES[change], policy="hash", slots=4096)
    assert (found.method, found.cells, found.error) == ("exact", 4096, 0.0)
    seen = counted(pool, after)
    for move in found.moves:
        expected = seen.get((move.source, move.target), 0.0)
        assert abs(move.share - expected) < 5 * math.sqrt(move.share / len(KEYS)) + 1e-4, move
    assert sum(share for (a, b), share in seen.items() if a != b) == pytest.approx(found.moved, abs=0.012)
    assert sum(found.shares_before.values()) == pytest.approx(1)
    assert sum(found.shares_after.values()) == pytest.approx(1)


def test_table_ring_moves_no_key_needlessly_when_a_server_leaves():
    found = preview(Pool("app", servers_of(20), policy="hash"), servers_of(19))
    assert found.needless == 0
    assert {move.source for move in found.moves} == {"S20"}
    assert found.moved == found.shares_before["S20"]


def test_nothing_moves_when_nothing_changes():
    found = preview(Pool("app", servers_of(3), policy="hash"), reversed(servers_of(3)))
    assert (found.moved, found.moves, found.added, found.removed, found.changed) == (0, (), (), (), ())
    assert "the servers stay as they are" in str(found)


def test_states_count_as_they_are_and_stay_with_the_names():
    pool = Pool("app", servers_of(3), policy="hash", slots=1024)
    pool.set_state("S1", "down")
    found = preview(pool, servers_of(4))
    assert found.shares_before["S1"] == found.shares_after["S1"] == 0
    assert scratch(pool, servers_of(4)).state_of("S1") == "down"


def test_backups_take_over_in_the_preview_too():
    pool = Pool("app", [Server("a:1"), Server("b:1", backup=True)], policy="hash", slots=1024)
    found = preview(pool, [Server("b:1", backup=True)])
    assert [(move.source, move.target, move.share) for move in found.moves] == [("a:1", "b:1", 1.0)]


def test_last_server_leaving_moves_all_keys_to_nobody():
    found = preview(Pool("app", [Server("a:1")], policy="hash", slots=64), [])
    assert [(move.source, move.target) for move in found.moves] == [("a:1", None)]
    assert "after the change no server could take a request" in found.notes
    assert str(found)


@pytest.mark.parametrize("policy", ["round-robin", "random"])
def test_policy_that_hashes_no_key_moves_none_and_shares_follow_the_weights(policy):
    pool = Pool("app", servers_of(2), policy=policy)
    found = preview(pool, servers_of(2, {2: 3}))
    assert (found.method, found.moved, found.ring) == ("none", 0, None)
    assert found.shares_before == {"S1": 0.5, "S2": 0.5}
    assert found.shares_after == {"S1": 0.25, "S2": 0.75}


def test_preview_changes_neither_pool_nor_turn():
    pool = Pool("app", servers_of(3))
    before = (pool.servers, pool.version, pool.statistics())
    preview(pool, servers_of(2))
    assert (pool.servers, pool.version, pool.statistics()) == before
    assert pool.select().name == "S1"


def test_address_that_changes_under_a_name_keeps_the_keys_and_says_so():
    pool = Pool("app", servers_of(2), policy="hash", slots=64)
    found = preview(pool, [Server("10.9.9.9:80", name="S1"), servers_of(2)[1]])
    assert (found.moved, found.changed) == (0, ("S1",))
    assert any("keeps its name and its bindings" in note for note in found.notes)


async def test_live_bindings_of_servers_that_leave_are_orphaned():
    pool = Pool("app", servers_of(3))
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        view = next(iter(affinity._binders))
        for number in range(31):
            await router.route(f"u{number}")
        assert live_bindings(view) == {"S1": 11, "S2": 10, "S3": 10}
        found = preview(pool, servers_of(2), bindings=view)
        assert (found.bindings, found.orphaned) == (31, 10)
        assert [(one.server, one.bindings) for one in found.orphans] == [("S3", 10)]
        assert "orphaned: 10" in str(found)


async def test_bindings_of_another_pool_in_the_same_zone_are_not_counted():
    async with Affinity() as affinity:
        one, two = Pool("one", servers_of(2)), Pool("two", servers_of(2))
        router = Router(two, affinity=affinity)
        await router.route("u")
        assert live_bindings(affinity.attach(one)) == {"S1": 0, "S2": 0}


def test_bindings_can_be_given_as_numbers():
    found = preview(Pool("app", servers_of(2)), servers_of(1), bindings={"S1": 5, "S2": 7})
    assert (found.bindings, found.orphaned) == (12, 7)


def test_sampled_preview_states_its_error_and_is_repeatable(monkeypatch):
    monkeypatch.setattr(module, "_starts", lambda old, new: None)
    pool = Pool("app", servers_of(5), policy="hash", slots=4096)
    exact_share = 1 - 4 / 5
    found = preview(pool, servers_of(4), samples=20_000)
    assert (found.method, found.samples, found.cells) == ("sampled", 20_000, 0)
    assert found.error == pytest.approx(math.sqrt(found.moved * (1 - found.moved) / 20_000))
    assert abs(found.moved - exact_share) < 0.02
    assert found == preview(pool, servers_of(4), samples=20_000)
    assert "+-" in str(found)


@pytest.mark.parametrize("samples", [0, 999, 10_000_001, 5000.0, True])
def test_samples_out_of_range_are_refused(samples):
    with pytest.raises(UsageError, match="samples"):
        preview(Pool("app", servers_of(2), policy="hash", slots=64), servers_of(1), samples=samples)


def test_list_that_a_pool_refuses_is_refused():
    with pytest.raises(UsageError, match="twice"):
        preview(Pool("app", servers_of(2)), [Server("a:1"), Server("a:1")])


def test_dictionary_is_json():
    plain = json.loads(
        json.dumps(preview(Pool("app", servers_of(2), policy="hash", slots=64), servers_of(3)).to_dict())
    )
    assert plain["added"] == ["S3"]
    assert plain["moves"][0]["target"] == "S3"


EXACT = ("maglev", "ketama", "ketama-spy", "libketama", "nginx", "envoy-ring", "haproxy", "haproxy-map", "uhashring")


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("ring", [*EXACT, "rendezvous", "jump"])
def test_preview_of_a_dialect_is_what_keys_do(ring, down):
    pool = Pool("app", servers_of(5), policy="hash", ring=ring)
    after = Pool("app", CHANGES["one replaced"], policy="hash", ring=ring)
    if down:
        pool.set_state("S1", "down")
        after.set_state("S1", "down")
    found = preview(pool, CHANGES["one replaced"], samples=20_000)
    assert found.method == ("exact" if ring in EXACT else "sampled")
    assert sum(found.shares_after.values()) == pytest.approx(1)
    seen = counted(pool, after)
    moves = {(move.source, move.target): move.share for move in found.moves}
    for pair in {*seen, *moves}:
        if pair[0] != pair[1]:
            share, expected = moves.get(pair, 0.0), seen.get(pair, 0.0)
            assert abs(share - expected) < 6 * math.sqrt(max(share, expected) / 20_000) + 1e-3, pair


@pytest.mark.parametrize("change", ["one leaves", "heavier", "drained"])
@pytest.mark.parametrize("ring", EXACT)
def test_exact_preview_agrees_with_a_sampled_one(ring, change, monkeypatch):
    pool = Pool("app", servers_of(5), policy="hash", ring=ring)
    exact = preview(pool, CHANGES[change])
    monkeypatch.setattr(module, "_starts", lambda old, new: None)
    monkeypatch.setattr(module, "_modulus", lambda ring: 0)
    sampled = preview(pool, CHANGES[change], samples=20_000)
    assert (exact.method, sampled.method) == ("exact", "sampled")
    assert abs(exact.moved - sampled.moved) < 5 * sampled.error + 1e-3
