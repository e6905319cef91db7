"""The push channel over real memcached: entries follow the store, losses are noticed, and what a node lost comes back.

No time is asserted but generous deadlines: each wait is for an event. Times that were seen are printed (pytest -s).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from fastroute import Affinity, Memcached, Pool, Router, Server, Zone
from fastroute._core.affinity_table import PROVISIONAL
from fastroute._core.zone_push import PushBoard
from fastroute.affinity.base import store_key
from fastroute.affinity.republish import walk
from tests.support.loops import settled
from tests.support.memcached import Memcached as MemcachedServer
from tests.support.push_worker import SECRET, USERS, Worker, pool_of, zone_of

DEADLINE_S = 40.0


async def until(what, *, deadline_s: float = DEADLINE_S) -> float:
    """Seconds until what() holds."""
    began_s = time.monotonic()
    while not what():
        assert time.monotonic() - began_s < deadline_s, "it did not come to pass"
        await asyncio.sleep(0.001)
    return time.monotonic() - began_s


class Replica:
    """One balancer on a machine of its own, or on that of the zone it is given."""

    def __init__(self, *addresses: str, zone: Zone | None = None, **options) -> None:
        store_options = {name: options.pop(name) for name in ("watch", "username", "password") if name in options}
        options.setdefault("near_ttl", "200ms")
        self.store = Memcached(addresses, timeout="1s", **store_options)
        self.affinity = Affinity(self.store, identity_secret=SECRET, zone=zone, **options)
        self.router = Router(pool_of(), affinity=self.affinity, key="cookie:sid")
        self.view = self.affinity.views[0]

    async def route(self, key: str) -> str:
        return (await self.router.route(key)).server.name

    @property
    def push(self):
        return self.affinity.statistics.push

    @property
    def mode(self) -> str:
        return self.affinity.statistics.near_mode

    def knows(self, key: str) -> bool:
        return self.router.route_nowait(key) is not None

    def name(self, key: str) -> bytes:
        return store_key("fr", "app", self.view.fingerprint(key.encode()))

    async def pushed(self) -> None:
        """Return when the channel is up, with the doubts of its beginning behind it."""
        await until(lambda: self.mode == "push")
        lines = self.push.lines
        await until(lambda: self.mode == "push" and (not self.push.owner or self.push.lines > lines + 8))

    async def __aenter__(self) -> Replica:
        await self.affinity.__aenter__()
        return self

    async def __aexit__(self, *_) -> None:
        await self.affinity.aclose()
        await self.store.aclose()


@pytest.fixture
def memcached():
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def zone_name():
    name = f"push-{os.getpid()}-{os.urandom(4).hex()}"
    yield name
    Zone.unlink(name)


@contextlib.asynccontextmanager
async def workers(*made: Worker):
    try:
        yield made
    finally:
        for one in made:
            one.end()


# -- what it is for ----------------------------------------------------------------------------------------------------


async def test_move_on_one_machine_is_known_on_the_other_at_once(memcached):
    async with Replica(memcached.address) as one, Replica(memcached.address) as other:
        await one.pushed()
        await other.pushed()
        seen_s = []
        for n in range(30):
            key = f"user-{n}"
            selection = await one.router.route(key)
            await until(
                lambda key=key: one.knows(key) and one.view.lookup(one.view.fingerprint(key.encode())).age_ms == 0
            )
            while not (other.knows(key) and other.view.lookup(other.view.fingerprint(key.encode())).age_ms == 0):
                await other.route(key)  # the line of the claim may come behind the first answer
                await asyncio.sleep(0.005)
            moved = await one.router.move(selection, None)
            began_s = time.monotonic()
            await until(lambda key=key: not other.knows(key))
            seen_s.append(time.monotonic() - began_s)
            assert await other.route(key) == moved.server.name
        seen_s.sort()
        print(f"a move was known after {seen_s[15] * 1000:.1f} ms (p50), {seen_s[-1] * 1000:.1f} ms (most of 30)")


async def test_watched_entries_cost_no_question_however_old_they_are(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        keys = [f"user-{n}" for n in range(100)]
        for key in keys:
            await one.route(key)
        await until(lambda: not one.affinity._touches)
        await asyncio.gather(*(one.route(key) for key in keys))  # seen a second time: touched once
        await until(lambda: not one.affinity._touches and one.push.lines > 100)
        await asyncio.sleep(0.3)  # the measurement: more than near_ttl
        await one.pushed()
        for key in keys:
            await one.route(key)
        before = one.store.statistics()[0].requests
        for _ in range(10):
            assert all(one.knows(key) for key in keys)
        assert one.store.statistics()[0].requests == before


async def test_own_writes_do_not_cost_their_writer_a_question(memcached):
    async with Replica(memcached.address, near_ttl="1h") as one:
        await one.pushed()
        for n in range(200):
            await one.route(f"user-{n}")
        await until(lambda: one.push.lines >= 200)
        await one.pushed()
        kept = sum(one.knows(f"user-{n}") for n in range(200))
        assert kept >= 190, "a few echoes may meet a doubt"


async def test_release_on_one_machine_is_known_on_the_other(memcached):
    async with Replica(memcached.address) as one, Replica(memcached.address) as other:
        await one.pushed()
        await other.pushed()
        await one.route("user")
        await until(lambda: one.push.lines >= 1 and other.push.lines >= 1)
        while not other.knows("user"):  # the line of the claim may come behind the first answer
            await other.route("user")
        await one.router.release("user")
        await until(lambda: not other.knows("user"))
        answers = {await replica.route("user") for replica in (other, one, other)}
        assert len(answers) == 1
        assert other.view.lookup(other.view.fingerprint(b"user")).generation == 1, "bound anew, not brought back"


async def test_flush_with_a_delay_is_noticed_when_it_comes_and_what_it_took_is_written_again(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        keys = [f"user-{n}" for n in range(50)]
        for key in [*keys, *keys]:
            await one.route(key)
        losses = one.push.losses["flush"]
        began_s = time.monotonic()
        assert memcached.command("flush_all 2") == b"OK\r\n"
        await until(lambda: one.push.losses["flush"] == losses + 1)
        await until(lambda: one.push.losses["flush"] == losses + 2)
        noticed_s = time.monotonic() - began_s
        async with asyncio.timeout(DEADLINE_S):
            while not all([(await one.store.get(one.name(key))).hit for key in keys]):
                await asyncio.sleep(0.01)
        # It may come before the order of it is noticed: then the first loss has nothing to write yet.
        assert one.push.republished + one.push.republish_adopted >= 50
        print(f"a flush that was asked for 2 s ahead was noticed after {noticed_s:.1f} s")


async def test_name_of_another_store_that_a_stopped_process_wrote_late_is_put_right_by_the_next_beat(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        late = PushBoard(one.affinity.table, one.affinity._push.board.store ^ 1, 77)
        late.serve()  # as from a process that was stopped on its way here, and has lost its lease since
        assert one.affinity._push.board.store != late.store
        await until(lambda: one.mode == "poll")
        await one.pushed()


async def test_eviction_makes_the_entry_a_hint_and_the_hint_restores_it(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        server = await one.route("user")
        await until(lambda: one.knows("user"))
        one.affinity._push.announced(one.name("user"), True)
        assert not one.knows("user")
        assert await one.route("user") == server


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_flushed_store_gets_its_bindings_back_and_no_user_moves(memcached):
    async with Replica(memcached.address) as one, Replica(memcached.address) as other:
        await one.pushed()
        await other.pushed()
        known = {f"user-{n}": await one.route(f"user-{n}") for n in range(120)}
        only = {f"lone-{n}": await other.route(f"lone-{n}") for n in range(80)}
        assert memcached.command("flush_all").startswith(b"OK")
        await until(lambda: one.push.losses["flush"] == 1 and other.push.losses["flush"] == 1)
        await until(lambda: one.push.republished + one.push.republish_adopted >= 120)
        await until(lambda: other.push.republished + other.push.republish_adopted >= 80)
        assert {key: await other.route(key) for key in known} == known
        assert {key: await one.route(key) for key in only} == only
        await one.pushed()


async def test_restarted_store_gets_its_bindings_back_also_when_it_may_not_be_watched(memcached):
    async with Replica(memcached.address, watch=False) as one, Replica(memcached.address, watch=False) as other:
        known = {f"user-{n}": await one.route(f"user-{n}") for n in range(120)}
        assert one.mode == "poll"
        await until(lambda: one.push is not None and one.affinity._push.board.life_of is not None)
        await until(lambda: bool(one.affinity._push._nodes) and one.affinity._push._nodes[0]._seen is not None)
        memcached.restart()
        await until(lambda: one.push.republished >= 120)
        assert {key: await other.route(key) for key in known} == known
        assert one.mode == "poll"


async def test_bindings_made_while_the_store_was_away_are_written_when_it_is_back(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        memcached.kill()
        await until(lambda: not one.store.up_nodes)
        made = {f"user-{n}": await one.route(f"user-{n}") for n in range(40)}
        tick = one.affinity._push.board.now_tick
        assert len(one.affinity.table.scan(0, 10_000, tick, any_flags=PROVISIONAL)[0]) == 40
        memcached.start()
        await until(lambda: one.push.republished >= 40)
        tick = one.affinity._push.board.now_tick
        assert one.affinity.table.scan(0, 10_000, tick, any_flags=PROVISIONAL)[0] == []
        async with Replica(memcached.address) as other:
            assert {key: await other.route(key) for key in made} == made


async def test_stopped_store_turns_to_polling_and_back_and_no_user_moves(memcached):
    async with Replica(memcached.address) as one:
        await one.pushed()
        known = {f"user-{n}": await one.route(f"user-{n}") for n in range(50)}
        memcached.suspend()
        await until(lambda: one.mode == "poll" and one.push.doubts["silence"] >= 1)
        memcached.resume()
        await one.pushed()
        assert {key: await one.route(key) for key in known} == known


async def test_store_that_forbids_watching_is_polled():
    with MemcachedServer("-W") as server:
        async with Replica(server.address) as one:
            await until(lambda: one.push is not None and one.push.losses["refused"] >= 1)
            server_of = await one.route("user")
            assert one.mode == "poll"
            assert await one.route("user") == server_of


async def test_twenty_watchers_are_the_limit_and_a_place_that_is_freed_is_taken(memcached):
    taken = []
    try:
        for _ in range(20):
            watcher = memcached.connect()
            watcher.sendall(b"watch fetchers\r\n")
            taken.append(watcher)
            assert watcher.recv(64) == b"OK\r\n"
        async with Replica(memcached.address) as one:
            await until(lambda: one.push is not None and one.push.losses["refused"] >= 1)
            assert one.mode == "poll"
            for watcher in taken:
                watcher.close()
            await until(lambda: one.mode == "push")
    finally:
        for watcher in taken:
            watcher.close()


async def test_credentials_go_first_on_the_channel_too(tmp_path):
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    users.chmod(0o644)
    tmp_path.chmod(0o755)
    with MemcachedServer("-Y", str(users)) as server:
        async with Replica(server.address, username="alice", password="secret") as one:
            await one.pushed()
            await one.route("user")


async def test_all_nodes_must_be_watched(memcached):
    with MemcachedServer() as second:
        async with Replica(memcached.address, second.address) as one:
            await one.pushed()
            second.kill()
            await until(lambda: one.mode == "poll")
            second.start()
            await one.pushed()


class Hostile:
    """A server that answers `stats` and says what it likes to those who watch."""

    def __init__(self, says: bytes) -> None:
        self.says, self.watched = says, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while line := await reader.readline():
                if line == b"mn\r\n":
                    writer.write(b"MN\r\n")
                elif line == b"stats\r\n":
                    writer.write(b"STAT pid 1\r\nSTAT uptime 5\r\nSTAT time 1005\r\nSTAT cmd_flush 0\r\nEND\r\n")
                elif line.startswith(b"watch"):
                    self.watched += 1
                    writer.write(self.says)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    "says",
    [
        b"OK\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"OK\r\n" + b"x" * 100_000,
        b"y" * 100_000,
        b"OK\r\nskipped=1\nskipped=x\n",
        b"\xff\x00\r\n",
    ],
)
async def test_lines_that_are_none_close_the_connection_and_no_more(says):
    hostile = Hostile(says)
    server = await asyncio.start_server(hostile.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Replica(f"127.0.0.1:{port}") as one:
        await until(lambda: hostile.watched >= 2 or (one.push is not None and one.push.losses["refused"] >= 1))
        assert one.mode == "poll"
    server.close()
    await settled()
    await server.wait_closed()


# -- the processes of one machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
async def test_process_that_runs_the_channel_is_followed_when_it_dies_or_stands_still(memcached, zone_name, fate):
    async with workers(Worker(zone_name, memcached.address)) as (first,):
        await first.says("owner")
        await first.says("push")
        with zone_of(zone_name) as zone:
            async with Replica(memcached.address, zone=zone) as one:
                assert one.mode == "push", "the zone's channel is everybody's"
                assert not one.push.owner
                known = {f"user-{n}": await one.route(f"user-{n}") for n in range(20)}
                first.process.send_signal(fate)
                poll_s = await until(lambda: one.mode == "poll")
                owner_s = await until(lambda: one.push.owner)
                push_s = await until(lambda: one.mode == "push")
                print(f"{fate.name}: poll after {poll_s:.2f} s, owner {owner_s:.2f} s later, push after {push_s:.2f} s")
                if fate == signal.SIGSTOP:
                    first.process.send_signal(signal.SIGCONT)
                    await first.says("other")
                    assert one.push.owner
                assert {key: await one.route(key) for key in known} == known


async def test_affinities_of_one_process_share_one_channel(memcached):
    with Zone(None, "1MiB") as zone:
        async with Replica(memcached.address, zone=zone) as one:
            second = Affinity(one.store, zone=zone, identity_secret=SECRET)
            async with second:
                assert second.statistics.push is one.push
                await one.pushed()
                Router(Pool("second", [Server("10.0.1.1:80", name="T1")]), affinity=second, key="cookie:sid")
                assert int(memcached.statistics()["curr_connections"]) <= 5
            assert one.push.owner, "the others go on"
            await one.pushed()


async def test_machine_touches_a_key_once_per_quarter_of_its_lifetime_however_many_workers_it_has(memcached, zone_name):
    ttl_s, seconds = 4.0, 2.5
    async with workers(
        Worker(zone_name, memcached.address, ttl_s=ttl_s, mode="hammer"),
        Worker(zone_name, memcached.address, ttl_s=ttl_s, mode="hammer"),
    ) as both:
        for worker in both:
            await worker.says("push")
        await until(lambda: int(memcached.statistics()["curr_items"]) >= USERS)
        await asyncio.sleep(0.5)  # users seen a second time are touched once, beside the quarters
        before = int(memcached.statistics()["cmd_touch"])
        began_s = time.monotonic()
        await asyncio.sleep(seconds)  # the measurement
        touches = int(memcached.statistics()["cmd_touch"]) - before
        quarters = (time.monotonic() - began_s) / (ttl_s / 4 * 0.9) + 1
    print(f"{touches} touches of {USERS} users in {seconds} s; a quarter of the lifetime is {ttl_s / 4} s")
    assert touches <= USERS * quarters * 1.5, "1.5: a doubt of the channel costs a question, which touches too"
    assert touches >= USERS * (int(seconds / (ttl_s / 4 * 1.1)) - 1)


# -- walking -----------------------------------------------------------------------------------------------------------


def test_walk_gives_every_binding_once_and_recently_used_ones_first():
    with Zone(None, "1MiB") as zone:
        affinity = Affinity(zone=zone)
        table, now, ttl = affinity.table, 1_000_000, 800
        for band in range(8):
            table.fill_for_test(band * 100, 100, now, now + band * 100 + 50)
        found = [record for chunk in walk(table, ttl, now) for _, record in chunk]
        assert sorted(record.term for record in found) == list(range(1, 801))
        expiries = [record.expires_tick for record in found]
        assert expiries == sorted(expiries, reverse=True)
