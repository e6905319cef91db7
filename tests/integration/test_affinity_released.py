"""A released key stays released: no zone of another machine, no copy and no cookie brings the binding back."""

from __future__ import annotations

import pytest

import fastroute.sync
from fastroute import Affinity, Memcached, Pool, Router, Server
from fastroute._core.affinity_view import Binding
from fastroute.affinity.base import store_key
from fastroute.affinity.record import Record
from fastroute.affinity.republish import Republisher
from tests.support.ages import grow_old
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"
SERVERS = [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 6)]


class Machine:
    """A balancer with a zone of its own, without the push channel."""

    def __init__(self, *addresses: str) -> None:
        self.store = Memcached(addresses, copies=len(addresses), timeout="2s", watch=False)
        self.affinity = Affinity(self.store, identity_secret=SECRET, near_ttl="1ms")
        self.router = Router(Pool("app", SERVERS, policy="random"), affinity=self.affinity, key="cookie:sid")
        self.view = self.affinity.views[0]

    async def __aenter__(self) -> Machine:
        return self

    async def __aexit__(self, *_) -> None:
        await self.affinity.aclose()
        await self.store.aclose()

    def near(self, key: str) -> Binding | None:
        return self.view.lookup(self.view.fingerprint(key.encode()))

    async def terms(self, key: str) -> list[int]:
        name = store_key("fr", "app", self.view.fingerprint(key.encode()))
        return [Record.unpack((await home.get(name)).value).term for home in self.store.homes_of(name)]


@pytest.fixture(params=[1, 2])
def addresses(request):
    servers = [MemcachedServer() for _ in range(request.param)]
    yield [server.address for server in servers]
    for server in servers:
        server.kill()


async def test_machine_that_still_knows_a_released_binding_does_not_bring_it_back(addresses):
    async with Machine(*addresses) as one, Machine(*addresses) as other:
        for n in range(50):
            key = f"user-{n}"
            before = await one.router.route(key)
            assert (await other.router.route(key)).term == before.term
            assert await one.router.release(key) == "released"
            grow_old(other.affinity)
            assert other.near(key).term == before.term, "it has not heard of it"
            after = await other.router.route(key)
            assert after.term != before.term
            assert set(await one.terms(key)) == {after.term}
            assert (await one.router.route(key)).term == after.term


async def test_cookie_of_a_released_binding_does_not_bring_it_back(addresses):
    async with Machine(*addresses) as one, Machine(*addresses) as other:
        before = await one.router.route("user")
        hint = (before.server.name, before.term, before.generation)
        await one.router.release("user")
        after = await other.router.route("user", hint)
        assert after.term != before.term
        assert (await one.router.route("user", hint)).term == after.term


async def test_walk_over_a_machines_bindings_does_not_write_a_released_one_again(addresses):
    async with Machine(*addresses) as one, Machine(*addresses) as other:
        before = await other.router.route("user")
        await one.router.release("user")
        for node in other.store.nodes:
            counts = other.affinity._push.statistics
            await Republisher([other.affinity], other.affinity._push.board, other.store, node.name, counts).run()
        assert other.near("user") is None, "and it forgets it"
        assert (await one.router.route("user")).term != before.term


async def test_touch_of_a_machine_that_still_knows_a_released_binding_makes_it_ask(addresses):
    async with Machine(*addresses) as one, Machine(*addresses) as other:
        before = await other.router.route("user")
        await one.router.release("user")
        name = store_key("fr", "app", other.view.fingerprint(b"user"))
        await other.affinity._touch(name, other.view, other.view.fingerprint(b"user"))
        assert (await other.router.route("user")).term != before.term


async def test_explanation_calls_a_released_key_unbound(addresses):
    async with Machine(*addresses) as one:
        await one.router.route("user")
        await one.router.release("user")
        assert (await one.affinity.look(one.view, b"user", 2.0)).status == "miss"


async def test_release_through_threads_is_one_for_event_loops_too(addresses):
    with (
        fastroute.sync.Memcached(addresses, copies=len(addresses), timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET, near_ttl="1ms") as affinity,
    ):
        router = fastroute.sync.Router(Pool("app", SERVERS), affinity=affinity)
        async with Machine(*addresses) as other:
            before = await other.router.route("user")
            assert router.release("user") == "released"
            grow_old(other.affinity)
            after = await other.router.route("user")
            assert after.term != before.term
            assert router.route("user").term == after.term
