"""router.explain: the pick that routing makes, its reason, why the others were passed over; asking changes nothing."""

from __future__ import annotations

import contextlib
import json

import pytest

from fastroute import Affinity, Pool, Router, Server
from fastroute.errors import UsageError
from fastroute.routing.explain import Explanation, StoreAnswer, ZoneBinding, explain, ring_order

KEYS = [f"user-{n}" for n in range(200)]
NOW_MS = 1_000_000_000


def pool_of(count: int, **options) -> Pool:
    return Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, count + 1)], **options)


def candidate(explanation: Explanation, name: str):
    return next(one for one in explanation.candidates if one.name == name)


def test_explained_pick_of_a_hash_pool_is_what_select_gives():
    pool = pool_of(7, policy="hash")
    pool.set_state("S3", "down")
    router = Router(pool)
    for key in KEYS:
        found = router.explain(key)
        assert (found.pick, found.reason, found.certain) == (pool.select(key).name, "policy", True)


def test_explained_candidates_of_a_hash_pool_are_the_pools_and_then_those_passed_over():
    pool = pool_of(5, policy="hash")
    pool.set_state("S2", "maintenance")
    router = Router(pool)
    for key in KEYS[:20]:
        found = router.explain(key)
        ordered = [one.name for one in found.candidates if one.order is not None]
        assert ordered == [server.name for server in pool.candidates(key, 5)]
        assert [one.name for one in found.candidates if one.order is None] == ["S2"]
        assert candidate(found, "S2").verdict == "passed over"
        assert candidate(found, "S2").why == "maintenance"


def test_numbers_of_a_hash_pool_are_hash_cell_and_each_servers_place_in_the_ring():
    pool = pool_of(4, policy="hash", slots=1024)
    found = Router(pool).explain("user-1")
    assert int(found.numbers["hash"], 16) == pool.hash("user-1")
    assert found.numbers["cell"] == pool.hash("user-1") * 1024 >> 64
    assert found.numbers["cells"] == 1024
    assert sorted(one.ring_rank for one in found.candidates) == [0, 1, 2, 3]
    assert found.candidates[0].ring_rank == 0


def test_server_that_is_down_keeps_its_place_in_the_rings_order():
    pool = pool_of(4, policy="hash")
    first = pool.select("user-1").name
    pool.set_state(first, "down")
    found = Router(pool).explain("user-1")
    assert candidate(found, first).ring_rank == 0
    assert found.candidates[0].ring_rank == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_ring_order_lists_every_server_once_and_agrees_with_the_fallbacks(count):
    pool = pool_of(count, policy="hash", slots=64)
    for key in KEYS[:50]:
        slots = ring_order(pool, pool.hash(key))
        assert sorted(slots) == list(range(count))
        assert [pool.server_at(slot) for slot in slots] == list(pool.candidates(key, count))


def test_explaining_leaves_round_robins_turn_where_it_was():
    pool = pool_of(3)
    router = Router(pool)
    for expected in ("S1", "S2", "S3", "S1"):
        for _ in range(5):
            found = router.explain(None)
            assert (found.pick, found.key) == (expected, None)
        assert pool.select().name == expected


def test_explaining_counts_nothing_and_claims_nothing():
    pool = pool_of(3)
    affinity = Affinity()
    router = Router(pool, affinity=affinity)
    before = pool.statistics()
    for key in KEYS[:10]:
        router.explain(key)
    assert pool.statistics() == before
    assert affinity.zone.statistics().live_records == 0


async def test_bound_key_is_explained_by_its_binding_in_the_zone():
    pool = pool_of(3)
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        bound = await router.route("u")
        found = router.explain("u")
        assert (found.pick, found.reason) == (bound.server.name, "affinity-near")
        assert isinstance(found.zone, ZoneBinding)
        assert (found.zone.server, found.zone.term, found.zone.generation) == (bound.server.name, bound.term, 1)
        assert found.zone.once
        assert all("the key is bound to" in one.why for one in found.candidates[1:])


async def test_explaining_does_not_slide_a_bindings_expiry():
    pool = pool_of(3)
    async with Affinity(ttl="10m") as affinity:
        router = Router(pool, affinity=affinity)
        view = next(iter(affinity._binders))
        view.set_manual_ms(NOW_MS)
        await router.route("u")
        view.set_manual_ms(NOW_MS + 59_000)
        assert router.explain("u").zone is not None
        view.set_manual_ms(NOW_MS + 62_000)
        assert router.explain("u").zone is None, "a key seen once lives for a minute, explained or not"


@pytest.mark.parametrize("state", ["down", "ejected", "maintenance"])
async def test_key_of_a_server_that_cannot_take_it_is_explained_as_the_move_that_route_makes(state):
    pool = pool_of(4)
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        for key in KEYS[:20]:
            await router.route(key)
        pool.set_state("S2", state)
        for key in KEYS[:20]:
            found = router.explain(key)
            moved = await router.route(key)
            assert (found.pick, found.reason) == (moved.server.name, moved.reason), key


async def test_draining_server_keeps_its_bound_key_and_takes_no_other():
    pool = pool_of(2)
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        name = (await router.route("u")).server.name
        pool.set_state(name, "draining")
        assert router.explain("u").pick == name
        other = router.explain("new")
        assert other.pick != name
        assert candidate(other, name).why == "draining"


@pytest.mark.parametrize("key", [None, "", b""])
async def test_request_without_a_key_is_explained_by_the_policy(key):
    async with Affinity() as affinity:
        found = Router(pool_of(2), affinity=affinity).explain(key)
        assert (found.pick, found.reason, found.key, found.zone) == ("S1", "policy", None, None)


def test_random_pool_has_no_pick_before_it_draws_but_shares():
    pool = Pool("app", [Server("a:1", weight=1), Server("b:1", weight=3)], policy="random")
    found = Router(pool).explain("u")
    assert (found.pick, found.reason) == (None, "policy")
    assert [(one.name, one.share, one.verdict) for one in found.candidates] == [
        ("a:1", 0.25, "next"),
        ("b:1", 0.75, "next"),
    ]


def test_weight_zero_and_backup_are_named_as_what_they_are():
    pool = Pool("app", [Server("a:1"), Server("b:1", weight=0), Server("c:1", backup=True)], policy="hash")
    found = Router(pool).explain("u")
    assert candidate(found, "b:1").why == "weight 0 takes no unbound request"
    assert candidate(found, "c:1").why == "backup, and 1 main server is ready"
    pool.set_state("a:1", "down")
    assert Router(pool).explain("u").pick == "c:1"


def test_no_server_left_is_explained_too():
    pool = pool_of(2, policy="hash")
    for name in ("S1", "S2"):
        pool.set_state(name, "down")
    found = Router(pool).explain("u")
    assert (found.pick, found.reason) == (None, "none")
    assert "no server is ready" in found.notes
    assert str(found)


def test_empty_pool_is_explained_too():
    found = Router(Pool("app", [])).explain("u")
    assert (found.pick, found.reason, found.candidates) == (None, "none", ())
    assert str(found)


@pytest.mark.parametrize("key", [7, "\ud800", ["k"]])
def test_key_that_route_refuses_is_refused(key):
    with pytest.raises(UsageError):
        Router(pool_of(2)).explain(key)


class Stored:
    """A pool with a view, explained as if there were a store behind."""

    def __init__(self, affinity: Affinity, near_ttl_s: float = 2.0) -> None:
        self.pool = pool_of(3)
        self.view = affinity.attach(self.pool)
        self.near_ttl_s = near_ttl_s
        self.view.set_manual_ms(NOW_MS)

    def bind(self, key: str, name: str, generation: int = 1) -> None:
        fingerprint = self.view.fingerprint(key.encode())
        self.view.learn(fingerprint, self.pool.slot_of(name), 99, generation)

    def explain(self, key: str, store: StoreAnswer | None = None) -> Explanation:
        return explain(self.pool, self.view, key, stored=True, near_ttl_s=self.near_ttl_s, store=store)


@pytest.fixture
async def stored():
    async with Affinity() as affinity:
        yield Stored(affinity)


async def test_fresh_near_entry_is_used_without_the_store(stored):
    stored.bind("u", "S2")
    found = stored.explain("u")
    assert (found.pick, found.reason, found.certain) == ("S2", "affinity-near", True)


async def test_old_near_entry_waits_for_the_stores_word(stored):
    stored.bind("u", "S2")
    stored.view.set_manual_ms(NOW_MS + 5000)
    found = stored.explain("u")
    assert (found.pick, found.reason, found.certain) == ("S2", "affinity-store", False)
    assert any("the store was not asked" in note for note in found.notes)


async def test_store_overrules_the_zone(stored):
    stored.bind("u", "S2")
    stored.view.set_manual_ms(NOW_MS + 5000)
    found = stored.explain("u", StoreAnswer("hit", "S3", 100, 1))
    assert (found.pick, found.reason, found.certain) == ("S3", "affinity-store", True)
    assert "zone and store differ: different terms, the store's wins" in found.notes


async def test_later_generation_of_the_same_term_in_the_zone_overrules_the_store(stored):
    stored.bind("u", "S2", generation=2)
    stored.view.set_manual_ms(NOW_MS + 5000)
    found = stored.explain("u", StoreAnswer("hit", "S3", 99, 1))
    assert (found.pick, found.reason) == ("S2", "affinity-store")
    assert "zone and store differ: same term, the higher generation wins" in found.notes


async def test_key_that_the_store_does_not_know_follows_the_policy(stored):
    found = stored.explain("u", StoreAnswer("miss"))
    assert (found.pick, found.reason, found.certain) == ("S1", "policy", True)
    assert stored.explain("u").certain is False


@pytest.mark.parametrize("status", ["down", "unknown"])
async def test_without_the_store_the_zone_holds_and_strangers_get_the_deterministic_answer(stored, status):
    stored.bind("u", "S2")
    stored.view.set_manual_ms(NOW_MS + 5000)
    found = stored.explain("u", StoreAnswer(status))
    assert (found.pick, found.reason) == ("S2", "affinity-near")
    stranger = stored.explain("v", StoreAnswer(status))
    expected = stored.pool.server_at(stored.pool.fallback_slots(b"v", 1)[0]).name
    assert (stranger.pick, stranger.reason) == (expected, "fallback-hash")


async def test_record_of_a_server_that_is_gone_is_a_move(stored):
    found = stored.explain("u", StoreAnswer("hit", None, 100, 4))
    assert found.reason == "moved"
    assert "a server that this pool does not have" in found.why


async def test_dictionary_is_json_and_holds_what_the_text_says(stored):
    stored.bind("u", "S2")
    found = stored.explain("u", StoreAnswer("hit", "S2", 99, 1))
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["pick"] == "S2"
    assert plain["zone"]["term"] == plain["store"]["term"] == "0x63"
    assert plain["candidates"][0]["name"] == "S2"
    text = str(found)
    for part in ("pool app", "'u' -> S2 (10.0.0.2:80)", "reason: affinity-near", "term 0x63", "S3"):
        assert part in text


def test_bytes_that_are_no_utf8_can_be_explained():
    found = Router(pool_of(3, policy="hash")).explain(b"\xff\x00")
    assert found.key == "\\xff\x00"
    json.dumps(found.to_dict())


def test_text_shortens_a_long_key():
    assert len(str(Router(pool_of(2, policy="hash")).explain("k" * 4000)).splitlines()[1]) < 140


DIALECTS = (
    "maglev",
    "rendezvous",
    "jump",
    "ketama",
    "ketama-spy",
    "libketama",
    "nginx",
    "envoy-ring",
    "haproxy",
    "uhashring",
)


@pytest.mark.parametrize("ring", [*DIALECTS, "haproxy-map"])
def test_explained_pick_of_a_dialect_is_what_select_gives_and_the_ranks_are_its_order(ring):
    pool = pool_of(5, policy="hash", ring=ring)
    router = Router(pool)
    for key in KEYS[:50]:
        found = router.explain(key)
        assert (found.pick, found.ring) == (pool.select(key).name, ring)
        assert found.candidates[0].ring_rank == 0
        assert int(found.numbers["hash"], 16) == pool.hash(key)
    pool.set_state("S3", "down")
    for key in KEYS[:50]:
        found = router.explain(key)
        assert found.pick == pool.select(key).name
        assert candidate(found, "S3").why == "down"


async def test_bound_key_of_a_dialect_pool_falls_back_by_the_table_all_the_same():
    pool = pool_of(5, policy="hash", ring="ketama")
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        for key in KEYS[:20]:
            bound = await router.route(key)
            found = router.explain(key)
            assert (found.pick, found.ring) == (bound.server.name, "table")
            pool.set_state(bound.server.name, "down")
            expected = router.explain(key)
            assert (await router.route(key)).server.name == expected.pick
            pool.set_state(bound.server.name, "ready")


@pytest.mark.parametrize("limit", [{"max_connections": 1}, {"max_load": 1.25}])
def test_server_first_in_the_ring_that_is_full_or_over_its_bound_is_passed_over_and_says_so(limit):
    connections = limit.get("max_connections", 0)
    servers = [Server(f"10.0.0.{n}:80", name=f"S{n}", max_connections=connections) for n in range(1, 4)]
    options = {} if connections else {"max_load": limit["max_load"], "max_load_floor": 1}
    pool = Pool("app", servers, policy="hash", **options)
    router = Router(pool)
    first = router.explain("u").pick
    with contextlib.ExitStack() as busy:
        while (found := router.explain("u")).pick == first and found.candidates[0].in_flight < 9:
            busy.enter_context(pool.request("u"))
        assert found.pick == pool.select("u").name != first
        passed = candidate(found, first)
        assert (passed.verdict, passed.ring_rank) == ("passed over", 0)
        assert passed.in_flight >= 1
        assert ("max_connections" if connections else "bound") in passed.why
    assert router.explain("u").pick == first


def test_every_server_full_is_explained_too():
    pool = Pool("app", [Server("a:1", max_connections=1)], policy="hash")
    with pool.request("u"):
        found = Router(pool).explain("u")
        assert (found.pick, found.reason, found.candidates[0].verdict) == (None, "none", "passed over")


@pytest.mark.parametrize("policy", ["round-robin", "hash", "least-connections"])
def test_panic_is_named_as_the_reason_and_not_counted_by_asking(policy):
    pool = pool_of(4, policy=policy, panic=0.5)
    for name in ("S1", "S2", "S3"):
        pool.set_state(name, "down")
    before = pool.statistics()
    found = Router(pool).explain("u")
    assert before.panicking
    assert found.reason == "panic"
    assert pool.statistics() == before
    assert found.pick == pool.select("u").name


@pytest.mark.parametrize("policy", ["two-choices", "peak-ewma", "prequal"])
def test_policies_that_draw_have_no_pick_before_they_do(policy):
    found = Router(pool_of(3, policy=policy)).explain("u")
    assert (found.pick, found.reason) == (None, "policy")
    assert {one.verdict for one in found.candidates} == {"next"}


def test_least_connections_is_explained_by_the_load():
    pool = pool_of(2, policy="least-connections")
    with pool.request() as busy:
        found = Router(pool).explain("u")
        assert found.pick != busy.server.name
        assert candidate(found, busy.server.name).in_flight == 1
