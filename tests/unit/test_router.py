"""Router and Affinity with the zone as the agreement: stickiness, expiry, failover, hints. No store, no waiting."""

from __future__ import annotations

import collections

import pytest

from fastroute import Affinity, Pool, Router, Server, Zone
from fastroute.errors import ConnectError, DownstreamProtocolError, NoServerAvailable, UsageError

NOW_MS = 1_000_000_000


def pool_of(count: int, **options) -> Pool:
    return Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, count + 1)], **options)


class Clocked:
    """A router over a private zone whose clock stands still until told."""

    def __init__(self, pool: Pool, zone: Zone | None = None, **options) -> None:
        self.affinity = Affinity(zone=zone, **options)
        self.router = Router(pool, affinity=self.affinity, key="cookie:sid")
        self.now_ms = NOW_MS
        self.view = next(iter(self.affinity._binders))
        self.view.set_manual_ms(self.now_ms)

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.view.set_manual_ms(self.now_ms)


@pytest.fixture
async def clocked():
    made = []

    def make(pool: Pool, **options) -> Clocked:
        made.append(Clocked(pool, **options))
        return made[-1]

    yield make
    for one in made:
        await one.affinity.aclose()


async def test_requirement_3_sticky_round_robin_s1_s1_s1_and_s2_s2_s2(clocked):
    router = clocked(pool_of(2)).router
    answers = collections.defaultdict(list)
    for user in ("user 1", "user 2", "user 1", "user 2", "user 1", "user 2"):
        answers[user].append((await router.route(user)).server.name)
    assert answers == {"user 1": ["S1", "S1", "S1"], "user 2": ["S2", "S2", "S2"]}


async def test_a_new_key_is_bound_by_the_policy_and_then_known_near(clocked):
    router = clocked(pool_of(3)).router
    assert router.route_nowait("u") is None
    first = await router.route("u")
    again = router.route_nowait("u")
    assert (first.reason, again.reason) == ("policy", "affinity-near")
    assert (first.server, first.term, first.generation) == (again.server, again.term, again.generation)
    assert first.term
    assert first.generation == 1


async def test_str_and_bytes_of_one_key_are_one_key(clocked):
    router = clocked(pool_of(3)).router
    assert (await router.route("schlüssel")).server is (await router.route("schlüssel".encode())).server


@pytest.mark.parametrize("key", [None, "", b""])
async def test_a_request_without_a_key_follows_the_policy_and_is_not_bound(clocked, key):
    router = clocked(pool_of(2)).router
    assert [router.route_nowait(key).server.name for _ in range(4)] == ["S1", "S2", "S1", "S2"]
    assert router.route_nowait(key).term == 0


async def test_binding_of_a_key_seen_once_ends_after_a_minute_and_of_one_seen_again_after_the_ttl(clocked):
    one = clocked(pool_of(3), ttl="30m")
    await one.router.route("robot")
    await one.router.route("user")
    assert one.router.route_nowait("user")
    one.advance(61)
    assert one.router.route_nowait("robot") is None
    assert one.router.route_nowait("user")
    one.advance(29 * 60)
    assert one.router.route_nowait("user"), "used within the ttl: slid"
    one.advance(31 * 60)
    assert one.router.route_nowait("user") is None


async def test_binding_lives_as_long_as_it_is_used(clocked):
    one = clocked(pool_of(3), ttl="10m")
    server = (await one.router.route("u")).server
    one.router.route_nowait("u")
    for _ in range(100):
        one.advance(8 * 60)
        assert one.router.route_nowait("u").server is server


async def test_users_of_a_server_that_is_down_move_once_and_stay_when_it_returns(clocked):
    pool = pool_of(3)
    router = clocked(pool).router
    users = [f"u{n}" for n in range(60)]
    before = {user: (await router.route(user)).server.name for user in users}
    pool.set_state("S2", "down")
    after = {user: await router.route(user) for user in users}
    for user in users:
        if before[user] == "S2":
            assert after[user].server.name != "S2"
            assert (after[user].reason, after[user].generation) == ("moved", 2)
        else:
            assert after[user].server.name == before[user]
    pool.set_state("S2", "ready")
    assert {user: (await router.route(user)).server for user in users} == {u: s.server for u, s in after.items()}
    assert {after[user].server.name for user in users if before[user] == "S2"} == {"S1", "S3"}, "spread over the rest"


async def test_move_excludes_the_failed_server_even_while_its_state_says_ready(clocked):
    router = clocked(pool_of(3)).router
    first = await router.route("u")
    moved = await router.move(first, ConnectError("refused", server=first.server.name))
    assert moved.server is not first.server
    assert (moved.term, moved.generation) == (first.term, 2)
    assert router.route_nowait("u").server is moved.server


async def test_two_movers_of_one_failure_end_on_one_server(clocked):
    router = clocked(pool_of(5)).router
    first = await router.route("u")
    error = ConnectError("refused", server=first.server.name)
    one, two = await router.move(first, error), await router.move(first, error)
    assert one.server is two.server
    assert two.generation == 2


async def test_move_of_an_unbound_request_goes_to_another_server_and_binds_nothing(clocked):
    router = clocked(pool_of(2)).router
    first = router.route_nowait(None)
    other = await router.move(first, ConnectError("refused", server=first.server.name))
    assert other.server is not first.server
    assert other.term == 0


async def test_draining_keeps_bound_users_and_takes_no_new_ones(clocked):
    pool = pool_of(2)
    router = clocked(pool).router
    assert (await router.route("old")).server.name == "S1"
    pool.set_state("S1", "draining")
    assert router.route_nowait("old").server.name == "S1"
    assert {(await router.route(f"new{n}")).server.name for n in range(6)} == {"S2"}


async def test_binding_to_a_server_that_left_the_pool_moves(clocked):
    pool = pool_of(3)
    router = clocked(pool).router
    first = await router.route("u")
    pool.update([server for server in pool.servers if server is not first.server])
    moved = await router.route("u")
    assert moved.server is not first.server
    assert (moved.term, moved.generation) == (first.term, 2)


async def test_changing_weights_moves_nobody(clocked):
    pool = pool_of(3)
    router = clocked(pool).router
    before = {n: (await router.route(f"u{n}")).server.name for n in range(30)}
    pool.set_weight("S1", 50)
    pool.set_weight("S3", 0)
    assert {n: (await router.route(f"u{n}")).server.name for n in range(30)} == before


async def test_hint_of_a_cookie_restores_a_binding_that_no_zone_knows(clocked):
    router = clocked(pool_of(5)).router
    hinted = await router.route("u", hint=("S4", 77, 3))
    assert (hinted.server.name, hinted.term, hinted.generation, hinted.reason) == ("S4", 77, 3, "affinity-cookie")
    assert router.route_nowait("u").server.name == "S4"


async def test_zone_wins_over_a_hint_of_another_term_or_an_older_generation(clocked):
    router = clocked(pool_of(5)).router
    first = await router.route("u")
    for hint in (("S5", 123, 9), ("S5", first.term, 1)):
        assert (await router.route("u", hint=hint)).server is first.server


async def test_hint_to_a_dead_server_moves_with_the_term_kept(clocked):
    pool = pool_of(3)
    router = clocked(pool).router
    pool.set_state("S2", "down")
    moved = await router.route("u", hint=("S2", 77, 3))
    assert moved.server.name != "S2"
    assert (moved.term, moved.generation) == (77, 4)


async def test_hint_to_an_unknown_server_is_a_new_user(clocked):
    router = clocked(pool_of(2)).router
    assert (await router.route("u", hint=("gone", 77, 3))).reason == "policy"


async def test_release_ends_a_binding(clocked):
    router = clocked(pool_of(3)).router
    await router.route("u")
    await router.release("u")
    assert router.route_nowait("u") is None


async def test_two_routers_on_one_zone_give_one_answer(clocked):
    with Zone(None, size="4MiB") as zone:
        one, two = clocked(pool_of(7), zone=zone).router, clocked(pool_of(7), zone=zone).router
        for number in range(50):
            asked = (one, two) if number % 2 else (two, one)
            answers = [(await router.route(f"u{number}")).server.name for router in asked]
            assert len(set(answers)) == 1


async def test_pools_of_one_zone_do_not_share_bindings():
    async with Affinity() as affinity:
        servers = [Server("10.0.0.1:80", name="S1"), Server("10.0.0.2:80", name="S2")]
        a = Router(Pool("a", servers), affinity=affinity)
        b = Router(Pool("b", servers), affinity=affinity)
        await a.route("u")
        assert b.route_nowait("u") is None


async def test_no_server_that_can_take_it_is_an_error_with_the_reasons(clocked):
    pool = pool_of(2)
    router = clocked(pool).router
    pool.set_state("S1", "down")
    pool.set_state("S2", "maintenance")
    with pytest.raises(NoServerAvailable) as caught:
        await router.route("u")
    assert caught.value.reasons == {"S1": "down", "S2": "maintenance"}
    with pytest.raises(NoServerAvailable):
        router.route_nowait(None)


@pytest.mark.parametrize("key", [5, 1.5, ["u"], "\ud800"])
async def test_a_key_that_is_no_text_is_refused_by_type(clocked, key):
    router = clocked(pool_of(2)).router
    with pytest.raises(UsageError):
        router.route_nowait(key)
    with pytest.raises(UsageError):
        await router.route(key)


async def test_selection_offers_distinct_ready_fallbacks(clocked):
    router = clocked(pool_of(4)).router
    selection = await router.route("u")
    names = [server.name for server in selection.fallbacks]
    assert len(set(names)) == len(names) > 0
    assert selection.server.name not in names


@pytest.mark.parametrize(
    ("rule", "fields", "key"),
    [
        ("cookie:sid", {"Cookie": "a=1; sid=4711; b=2"}, b"4711"),
        ("cookie:sid", {"cookie": b'sid="quoted"'}, b"quoted"),
        ("cookie:sid", {"cookie": "SID=1"}, None),
        ("cookie:sid", {"cookie": "sid="}, None),
        ("cookie:sid", {}, None),
        ("header:X-User", {"x-user": " ann "}, b"ann"),
        ("header:X-User", {"X-USER": "ann"}, b"ann"),
        ("header:X-User", {"x-user": "a" * 4097}, None),
        ("client-ip", {"client-ip": "10.1.2.3"}, b"10.1.2.3"),
        (["cookie:sid", "header:X-User"], {"X-User": "ann"}, b"ann"),
        ("query:sid", {":path": "/a?x=1&sid=47%31&sid=2"}, b"47%31"),
        ("query:sid", {":path": "/a;sid=1"}, None),
        ("path-param:jsessionid", {":path": "/a;x=1;jsessionid=AB.n1/b?jsessionid=2"}, b"AB.n1"),
        ("path", {":path": "/a?b"}, b"/a"),
        ("url", {":path": "/a?b"}, b"/a?b"),
        ("client-ip/24", {"client-ip": "10.1.2.3"}, b"10.1.2.0/24"),
        ("client-ip/24", {"client-ip": "2001:db8:1:2:3::9"}, b"2001:db8:1:2::/64"),
        ("client-ip/20,48", {"client-ip": "2001:db8:1:2:3::9"}, b"2001:db8:1::/48"),
        ("json:user", {":body": b'{"a": [1, {"user": 2}], "user": "\\u0061nn"}'}, b"ann"),
    ],
)
def test_key_rules_find_the_key(rule, fields, key):
    assert Router(pool_of(1), key=rule).key_of(fields) == key


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "cookie:",
        "cookie:a b",
        "header",
        "ip",
        "query:",
        "query:a=b",
        "client-ip/33",
        "client-ip/8,129",
        "json:",
        [],
    ],
)
def test_an_unknown_key_rule_is_refused_with_what_is_accepted(rule):
    with pytest.raises(UsageError):
        Router(pool_of(1), key=rule)


HEAD = (
    b"GET /a;id=7/b?user=9 HTTP/1.1\r\nHost: a\r\ncookie: a=1\r\nCookie: sid=2\r\nX-User: 3\r\n"
    b"Client-IP: 6.6.6.6\r\n\r\nrest"
)


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("cookie:sid", b"2"),
        ("header:x-user", b"3"),
        ("query:user", b"9"),
        ("path-param:id", b"7"),
        ("path", b"/a;id=7/b"),
        ("client-ip", None),
        (["client-ip", "header:X-User"], b"3"),
    ],
)
def test_the_key_is_found_in_a_head_as_it_came(rule: str | list[str], key: bytes | None) -> None:
    of = Router(pool_of(1), key=rule)
    assert [of.key_of(HEAD), of.key_of(bytearray(HEAD)), of.key_of(memoryview(HEAD))] == [key] * 3
    assert of.key_of(HEAD[:40]) is None


def test_a_head_that_the_proxy_would_refuse_has_no_key() -> None:
    with pytest.raises(DownstreamProtocolError):
        Router(pool_of(1), key="cookie:sid").key_of(b"GET / HTTP/1.1\r\nHo st: a\r\nCookie: sid=2\r\n\r\n")
