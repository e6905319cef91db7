"""A pool whose `hash` policy picks by another product's ring."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from fastroute._core.pool import Pool
from fastroute.errors import NoServerAvailable, UsageError
from fastroute.model import Server
from fastroute.routing.dialects import DIALECTS, build_ring
from fastroute.routing.rings import RINGS

NAMES = sorted(DIALECTS)
KEYS = [f"key-{i}" for i in range(300)]
DIALECT = pytest.mark.parametrize("ring", NAMES)


def servers(*without: int) -> list[Server]:
    # Names sort against the order of declaration, which is what HAProxy's positions and Envoy's sums go by.
    return [Server(f"10.0.0.{i}:8080", name=f"web-{9 - i}", weight=i) for i in range(1, 7) if i not in without]


def expected(ring: str, rows: list[Server], **options: Any) -> list[str]:
    made = build_ring(ring, rows, **options)
    return [rows[made.pick(key)].name for key in KEYS]


def found(pool: Pool) -> list[str]:
    return [pool.select(key).name for key in KEYS]


def test_every_dialect_is_a_ring_of_pools() -> None:
    assert set(RINGS) == {"table", *NAMES}


@DIALECT
def test_a_pool_picks_as_its_ring_does(ring: str) -> None:
    pool = Pool("app", servers(), policy="hash", ring=ring)
    assert found(pool) == expected(ring, servers())
    assert [server.name for server in pool.select_many(KEYS)] == expected(ring, servers())
    assert [pool.server_at(pool.pick_slot(key.encode())).name for key in KEYS] == expected(ring, servers())


@DIALECT
def test_hash_and_slots_of_go_together(ring: str) -> None:
    pool = Pool("app", servers(), policy="hash", ring=ring)
    assert pool.hash("key") == build_ring(ring, servers()).hash("key")
    hashes, out = array("Q", [pool.hash(key) for key in KEYS]), array("H", [0] * len(KEYS))
    pool.slots_of(hashes, out)
    assert [pool.server_at(slot).name for slot in out] == expected(ring, servers())


@DIALECT
def test_candidates_are_the_rings(ring: str) -> None:
    pool, rows = Pool("app", servers(), policy="hash", ring=ring), servers()
    made = build_ring(ring, rows)
    for key in KEYS[:50]:
        assert [server.name for server in pool.candidates(key, 4)] == [rows[s].name for s in made.candidates(key, 4)]
        assert len(pool.candidates(key, 100)) == made.server_count


@DIALECT
def test_a_server_that_is_down_is_passed_over_as_the_product_does(ring: str) -> None:
    pool, rows = Pool("app", servers(), policy="hash", ring=ring), servers()
    before = found(pool)
    pool.set_state("web-6", "down")
    made = build_ring(ring, rows)
    if DIALECTS[ring].rebuilds:
        # Ids and positions stay those of the declaration; the ring is built over the others.
        left = [row.replace(id=i) for i, row in enumerate(rows, 1) if row.name != "web-6"]
        assert found(pool) == expected(ring, left)
    else:
        allowed = [slot for slot, row in enumerate(rows) if row.name != "web-6"]
        walked = [rows[made.candidates_of_hash(made.hash(key), 1, allowed=allowed)[0]].name for key in KEYS]
        assert found(pool) == walked
    assert all("web-6" not in [server.name for server in pool.candidates(key, 6)] for key in KEYS[:30])
    pool.set_state("web-6", "ready")
    assert found(pool) == before


@DIALECT
def test_pick_other_is_another_candidate(ring: str) -> None:
    pool = Pool("app", servers(), policy="hash", ring=ring)
    for key in KEYS[:50]:
        first = pool.pick_slot(key.encode())
        second = pool.pick_other_slot(key.encode(), [first])
        assert pool.server_at(second) == pool.candidates(key, 2)[1]
        others = [pool.slot_of(row.name) for row in servers()]
        assert pool.pick_other_slot(key.encode(), others) == -1


@DIALECT
def test_update_builds_the_ring_of_the_new_list(ring: str) -> None:
    pool = Pool("app", servers(3), policy="hash", ring=ring)
    pool.update(servers())
    assert found(pool) == expected(ring, servers())
    pool.update(servers(2, 5))
    assert found(pool) == expected(ring, servers(2, 5))


@DIALECT
def test_a_weight_change_builds_the_ring_anew_in_the_same_order(ring: str) -> None:
    pool = Pool("app", servers(), policy="hash", ring=ring)
    pool.set_weight("web-8", 9)
    rows = [row.replace(weight=9) if row.name == "web-8" else row for row in servers()]
    assert found(pool) == expected(ring, rows)


@DIALECT
def test_backups_are_out_of_the_ring_until_nobody_else_is_ready(ring: str) -> None:
    rows = [
        *servers(),
        Server("10.0.0.9:8080", name="spare-1", backup=True),
        Server("10.0.0.8:8080", name="spare-2", backup=True),
    ]
    pool = Pool("app", rows, policy="hash", ring=ring)
    assert not {"spare-1", "spare-2"} & set(found(pool))
    for row in servers():
        pool.set_state(row.name, "down")
    assert set(found(pool)) == {"spare-1", "spare-2"}
    for name in ("spare-1", "spare-2"):
        pool.set_state(name, "down")
    with pytest.raises(NoServerAvailable):
        pool.select("key")
    assert pool.candidates("key", 3) == ()


@DIALECT
def test_without_a_key_round_robin_decides(ring: str) -> None:
    pool = Pool("app", [Server(f"10.0.0.{i}:80") for i in range(1, 4)], policy="hash", ring=ring)
    assert {pool.select(key).name for key in (None, "", b"")} == {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}


@DIALECT
def test_an_empty_pool_has_no_server_and_its_hash(ring: str) -> None:
    pool = Pool("app", [], policy="hash", ring=ring)
    with pytest.raises(NoServerAvailable):
        pool.select("key")
    assert pool.hash("key") == build_ring(ring, []).hash("key")


@DIALECT
def test_the_fallback_is_the_table_whatever_the_ring(ring: str) -> None:
    pool, table = Pool("app", servers(), policy="hash", ring=ring), Pool("app", servers(), policy="hash")
    for key in KEYS[:50]:
        names = [pool.server_at(slot).name for slot in pool.fallback_slots(key.encode(), 3)]
        assert names == [server.name for server in table.candidates(key, 3)]
    assert found(pool) == expected(ring, servers())


def test_the_seed_goes_into_the_hash_where_the_dialect_has_none_of_its_own() -> None:
    pool = Pool("app", servers(), policy="hash", ring="rendezvous", seed=7)
    assert found(pool) == expected("rendezvous", servers(), seed=7)


def test_ring_options_reach_the_ring() -> None:
    pool = Pool("app", servers(), policy="hash", ring="maglev", ring_options={"table_size": 251})
    assert found(pool) == expected("maglev", servers(), table_size=251)


def test_a_ring_that_cannot_be_built_leaves_the_pool_as_it_was() -> None:
    pool = Pool("app", servers(), policy="hash", ring="haproxy")
    before = found(pool)
    for rows in (
        [Server("10.0.0.1:80", weight=300)],
        [Server("10.0.0.1:80", id=5), Server("10.0.0.2:80", id=5)],
    ):
        with pytest.raises(UsageError):
            pool.update(rows)
    with pytest.raises(UsageError, match="accepts 0 to 256"):
        pool.set_weight("web-8", 257)
    assert found(pool) == before
    assert len(pool) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ring": "circle"}, "'circle' is unknown; accepted: table, maglev"),
        ({"ring": "maglev", "ring_options": {"size": 7}}, "'size' is unknown; accepted: table_size"),
        ({"ring": "maglev", "ring_options": {"table_size": 8}}, "prime"),
        ({"ring": "maglev", "ring_options": 7}, "accepted is a mapping"),
        ({"ring": "table", "ring_options": {"slots": 7}}, "table ring has none"),
    ],
)
def test_bad_rings_and_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pool("app", servers(), policy="hash", **arguments)


def test_two_servers_of_one_address_are_refused_where_the_address_is_hashed() -> None:
    rows = [Server("10.0.0.1:80", name="a"), Server("10.0.0.1:80", name="b")]
    with pytest.raises(UsageError, match="same key"):
        Pool("app", rows, policy="hash", ring="nginx")
    assert len(Pool("app", rows, policy="hash", ring="haproxy")) == 2
