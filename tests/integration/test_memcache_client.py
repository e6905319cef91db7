"""The asyncio client against real memcached processes, and against a fake one where no real one would misbehave."""

from __future__ import annotations

import asyncio
import pathlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pymemcache.client.base import Client

from fastroute import errors
from fastroute.memcache import DOWN, EXISTS, HIT, MISS, STORED, UNKNOWN, Memcached
from tests.support import memcached
from tests.support.fake_memcached import CLOSE, FakeMemcached, opaque_of

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:  # not on Windows
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop

WAIT_S = 40.0
"""How long a test waits for what has to come; it comes within milliseconds unless the machine is starved."""

PATIENT = "5s"
"""Time limit of requests in tests that are not about time: a starved machine must not make them fail."""


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition that has to come true."""
    deadline_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline_s, "it did not come"
        await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def shared_process() -> Iterator[memcached.Memcached]:
    with memcached.Memcached() as process:
        yield process


@pytest.fixture
async def store(shared_process: memcached.Memcached) -> AsyncIterator[Memcached]:
    shared_process.command("flush_all")
    async with Memcached(shared_process.address, timeout=PATIENT) as store:
        yield store


@pytest.mark.parametrize("loop", LOOPS)
def test_every_request_does_what_it_says_on_both_loops(loop: str, shared_process: memcached.Memcached) -> None:
    async def run() -> None:
        async with Memcached(shared_process.address, timeout=PATIENT) as store:
            assert store.up_nodes == (shared_process.address,)
            assert (await store.get("k")).status == MISS
            assert (await store.set("k", b"one", 60, 77)).status == STORED
            reply = await store.get("k")
            assert (reply.status, reply.value, reply.client_flags, reply.ttl_s) == (HIT, b"one", 77, 60)
            assert (await store.add("k", b"two")).status_name == "not-stored"
            token = reply.token
            assert token is not None
            assert (await store.cas_set("k", b"three", token, 60)).status == STORED
            assert (await store.cas_set("k", b"four", token, 60)).status == EXISTS
            assert (await store.cas_set("other", b"four", token, 60)).status_name == "not-found"
            added, there = await store.add_then_get("k", b"five", 60)
            assert (added.status_name, there.value) == ("not-stored", b"three")
            added, there = await store.add_then_get("new", b"six", 60)
            assert (added.status_name, there.value) == ("stored", b"six")
            assert there.token is not None
            moved, there = await store.cas_then_get("new", b"seven", there.token, 60)
            assert (moved.status_name, there.value) == ("stored", b"seven")
            lost, there = await store.cas_then_get("new", b"eight", token, 60)
            assert (lost.status_name, there.value) == ("exists", b"seven")
            assert (await store.touch("new", 1000)).status == HIT
            assert (await store.get_and_touch("new", 2000)).ttl_s in (999, 1000)
            assert (await store.get("new")).ttl_s in (1999, 2000)
            assert (await store.increment("n")).status_name == "not-found"
            assert (await store.increment("n", 1, 5, 60)).value == b"5"
            assert (await store.increment("n", 3)).value == b"8"
            assert (await store.increment("n", -30)).value == b"0"
            assert (await store.increment("new")).status_name == "client-error"
            won, sent = await store.get_or_lease("lease", 30), await store.get_or_lease("lease", 30)
            assert (won.won, won.sent, sent.won, sent.sent) == (True, False, False, True)
            assert won.token is not None
            assert (await store.cas_set("lease", b"done", won.token, 60)).status == STORED
            done = await store.get_or_lease("lease", 30)
            assert (done.value, done.won, done.sent) == (b"done", False, False)
            assert (await store.delete("k", token)).status == EXISTS
            assert (await store.delete("k")).status_name == "deleted"
            assert (await store.delete("k")).status_name == "not-found"
            assert (await store.expire_key("new")).status == STORED
            assert (await store.get("new")).status == MISS
            assert (await store.node_of("k").noop()).status == HIT
            for key in ("k", "n", "lease"):
                await store.delete(key)
            statistics = store.statistics()[0]
            assert statistics.up
            assert (statistics.unknown, statistics.down, statistics.protocol_errors) == (0, 0, 0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


async def test_the_first_request_connects_by_itself(shared_process: memcached.Memcached) -> None:
    store = Memcached(shared_process.address, timeout=PATIENT)
    assert (await store.get("nothing")).status == MISS
    await store.aclose()
    assert (await store.get("nothing")).status == DOWN
    await store.aclose()


async def test_what_is_asked_while_the_node_is_still_being_connected_to_waits_and_disturbs_nothing(
    shared_process: memcached.Memcached,
) -> None:
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    store = Memcached(shared_process.address, timeout=PATIENT)
    asked = [store.get("nothing")]
    while not store.up_nodes:  # in each turn of the loop until the connection stands
        asked.append(store.get("nothing"))
        await asyncio.sleep(0)
    assert {(await one).status for one in asked} == {MISS}
    await store.aclose()
    assert said == []


def test_a_request_outside_an_event_loop_is_a_usage_error() -> None:
    with pytest.raises(errors.UsageError, match="event loop"):
        Memcached("127.0.0.1:1").get("k")


async def test_a_unix_socket_serves(tmp_path: pathlib.Path) -> None:
    with memcached.Memcached(unix_path=str(tmp_path / "m")) as process:
        async with Memcached([process.address], timeout=PATIENT) as store:
            assert (await store.set("k", b"v")).status == STORED
            assert (await store.get("k")).value == b"v"


async def test_credentials_open_a_store_that_wants_them(tmp_path: pathlib.Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    with memcached.Memcached("-Y", str(users)) as process:
        async with Memcached(process.address, timeout=PATIENT, username="alice", password="secret") as store:
            assert (await store.set("k", b"v")).status == STORED
        async with Memcached(process.address, timeout=PATIENT, username="alice", password="wrong") as store:
            assert (await store.get("k")).status == DOWN
            assert "credentials refused" in str(store.statistics()[0].failure)
        async with Memcached(process.address, timeout=PATIENT) as store:
            assert (await store.get("k")).status == DOWN
            assert "unauthenticated" in str(store.statistics()[0].failure)


async def test_replies_stay_with_their_requests_under_random_cancellation(store: Memcached) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    await asyncio.gather(*(store.set(f"k{n}", b"value of k%d" % n + b"x" * (n * 37 % 3000)) for n in range(200)))
    answered = cancelled = 0

    async def client() -> None:
        nonlocal answered, cancelled
        for _ in range(150):
            n = draw.randrange(220)
            request = store.get(f"k{n}")
            if draw.random() < 0.3:
                if draw.random() < 0.5:
                    await asyncio.sleep(0)
                request.cancel()
                cancelled += 1
                continue
            reply = await request
            answered += 1
            if n < 200:
                assert reply.value == b"value of k%d" % n + b"x" * (n * 37 % 3000)
            else:
                assert reply.status == MISS

    await asyncio.gather(*(client() for _ in range(40)))
    assert answered > 3000
    assert cancelled > 1000
    assert store.statistics()[0].connections == 1


async def test_requests_of_one_turn_travel_in_one_write(store: Memcached) -> None:
    replies = await asyncio.gather(*(store.set(f"k{n}", b"%d" % n) for n in range(1000)))
    assert all(reply.status == STORED for reply in replies)
    cas = [reply.cas for reply in replies]
    assert cas == sorted(cas), "executed in the order they were asked"


@pytest.mark.parametrize("size", [0, 1, 60_000, 1_000_000, 1_048_064])
async def test_values_of_every_size_come_back_as_they_were(store: Memcached, size: int) -> None:
    value = random.Random(size).randbytes(size)
    key = "k" * 250
    assert (await store.set(key, value)).status == STORED
    replies = await asyncio.gather(*(store.get(key) for _ in range(8)))
    assert all(reply.value == value for reply in replies)


async def test_a_value_over_the_limit_of_the_server_is_refused_and_the_connection_stays(store: Memcached) -> None:
    async with Memcached(store.nodes[0].name, timeout=PATIENT, value_bytes_max=4 << 20) as large:
        reply = await large.set("large", b"x" * (3 << 20))
        assert reply.status_name == "server-error"
        assert (await large.get("large")).status == MISS
        assert large.statistics()[0].connections == 1


async def test_another_client_reads_what_was_written_and_the_other_way_round(
    store: Memcached, shared_process: memcached.Memcached
) -> None:
    other = Client(("127.0.0.1", shared_process.port), default_noreply=False, timeout=5, connect_timeout=5)
    try:
        for n, value in enumerate([b"", b"x", b"\r\nEND\r\n", bytes(range(256)) * 500]):
            assert (await store.set(f"ours{n}", value, 60)).status == STORED
            assert other.get(f"ours{n}") == value
            assert other.set(f"theirs{n}", value, expire=60)
            reply = await store.get(f"theirs{n}")
            assert (reply.value, reply.ttl_s) == (value, 60)
        there = await store.get("ours1")
        assert other.gets("ours1") == (b"x", b"%d" % there.cas)
        assert other.cas("ours1", b"theirs", str(there.cas))
        assert there.token is not None
        assert (await store.cas_set("ours1", b"late", there.token)).status == EXISTS
    finally:
        other.close()


async def test_a_flush_is_a_miss_and_keeps_connection_and_generation(
    store: Memcached, shared_process: memcached.Memcached
) -> None:
    await store.set("k", b"v")
    generation = store.nodes[0].generation
    shared_process.command("flush_all")
    assert (await store.get("k")).status == MISS
    assert (await store.add("k", b"w")).status == STORED
    assert store.nodes[0].generation == generation


async def test_after_a_kill_nobody_waits_and_a_token_from_before_the_restart_is_refused() -> None:
    with memcached.Memcached() as process:
        async with Memcached(process.address, timeout=PATIENT) as store:
            await store.set("k", b"before", 60)
            old = await store.get("k")
            assert old.token is not None
            process.kill()
            lost = await asyncio.gather(*(store.get("k") for _ in range(10)))
            assert {reply.status for reply in lost} <= {UNKNOWN, DOWN}
            await until(lambda: not store.up_nodes)
            assert (await store.get("k")).status == DOWN
            assert (await store.cas_set("k", b"x", old.token)).status == DOWN
            process.start()
            await until(lambda: store.up_nodes)
            assert store.nodes[0].generation > old.generation
            while (await store.set("k", b"after", 60)).cas < old.cas:
                pass
            current = await store.get("k")
            assert current.cas == old.cas, "memcached counts from 1 again: the same number names another value"
            assert (await store.cas_set("k", b"overwritten", old.token, 60)).status == EXISTS
            refused, there = await store.cas_then_get("k", b"overwritten", old.token, 60)
            assert (refused.status, there.value) == (EXISTS, b"after")
            assert (await store.delete("k", old.token)).status == EXISTS
            assert store.statistics()[0].stale_tokens == 3
            assert store.statistics()[0].reconnects == 1


async def test_a_stopped_store_costs_one_time_limit_then_nothing_until_it_is_back() -> None:
    with memcached.Memcached() as process:
        async with Memcached(process.address, timeout="300ms") as store:
            node = store.nodes[0]
            await until(lambda: node.up)
            assert (await store.set("k", b"before")).status == STORED
            generation = node.generation
            process.suspend()
            began_s = time.monotonic()
            replies = await asyncio.gather(*(store.set("k", b"late") for _ in range(5)), store.get("k"))
            assert {reply.status for reply in replies} == {UNKNOWN}
            assert time.monotonic() - began_s >= 0.3
            assert node.statistics().timeouts == 1
            at_once = store.get("k")
            assert at_once.done(), "nobody waits for a store that is known to be away"
            assert at_once.result().status == DOWN
            process.resume()
            await until(lambda: node.up)
            assert node.generation > generation
            deadline_s = time.monotonic() + WAIT_S
            while (reply := await store.get("k")).status != HIT:
                assert time.monotonic() < deadline_s
            assert reply.value in (b"before", b"late"), "an unknown write may have happened"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_held_up_event_loop_is_not_taken_for_a_late_store(loop: str, shared_process: memcached.Memcached) -> None:
    async def run() -> None:
        async with Memcached(shared_process.address, timeout="40ms") as store:
            await until(lambda: store.up_nodes)
            for _ in range(5):
                request = store.get("k")
                for _ in range(3):
                    await asyncio.sleep(0)  # it is on its way
                time.sleep(0.1)  # noqa: ASYNC251  the answer lies in the socket meanwhile
                assert (await request).known
            assert store.statistics()[0].timeouts == 0

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


async def test_a_store_that_is_away_at_the_start_is_found_when_it_comes() -> None:
    process = memcached.Memcached(start=False)
    async with Memcached(process.address) as store:
        assert (await store.get("k")).status == DOWN
        assert store.statistics()[0].attempts_failed >= 1
        with process:
            process.start()
            await until(lambda: store.up_nodes)
    assert not process.alive


async def test_many_requests_during_an_outage_make_one_connection_attempt_at_a_time() -> None:
    with memcached.Memcached() as process:
        async with Memcached(process.address, timeout=PATIENT) as store:
            for _ in range(3):
                process.kill()
                replies = await asyncio.gather(*(store.get(f"k{n}") for n in range(500)))
                assert {reply.status for reply in replies} <= {UNKNOWN, DOWN}
                process.start()
                await until(lambda: store.up_nodes)
                assert (await store.get("k")).status in (MISS, UNKNOWN, DOWN)
                await until(lambda: store.up_nodes)
            assert int(process.statistics()["total_connections"]) < 12


@pytest.mark.parametrize("chunk_bytes", [1, 2, 5])
async def test_replies_cut_anywhere_on_their_way_are_put_together(chunk_bytes: int) -> None:
    def script(line: bytes) -> bytes:
        if line.startswith(b"ms"):
            return b"HD c5" + opaque_of(line) + b"\r\n"
        return b"VA 7 c5 t60 f1%b\r\na\r\nEN\r\n\r\n" % opaque_of(line)

    async with (
        FakeMemcached(script, chunk_bytes=chunk_bytes) as fake,
        Memcached(fake.address, timeout=PATIENT) as store,
    ):
        for _ in range(3):
            stored, reply = await store.add_then_get("k", b"v")
            assert (stored.status, reply.value, reply.cas) == (STORED, b"a\r\nEN\r\n", 5)


async def test_a_protocol_error_disturbs_only_its_own_connection_and_it_is_made_again() -> None:
    answers = iter([b"VA five\r\nhello\r\n"])

    def script(line: bytes) -> bytes:
        return next(answers, b"EN\r\n")

    async with FakeMemcached(script) as fake, Memcached(fake.address, timeout=PATIENT) as store:
        replies = await asyncio.gather(*(store.get("k") for _ in range(3)))
        assert {reply.status for reply in replies} == {UNKNOWN}
        await until(lambda: store.up_nodes)
        assert (await store.get("k")).status == MISS
        statistics = store.statistics()[0]
        assert (statistics.protocol_errors, statistics.reconnects, statistics.unknown) == (1, 1, 3)


async def test_a_node_that_closes_without_an_answer_leaves_unknown() -> None:
    async with FakeMemcached(lambda line: CLOSE) as fake, Memcached(fake.address, timeout=PATIENT) as store:
        assert (await store.get("k")).status == UNKNOWN


async def test_a_node_that_accepts_but_does_not_answer_the_probe_is_not_up() -> None:
    async with FakeMemcached(lambda line: None, probe=False) as fake:
        store = Memcached(fake.address, timeout="30ms")
        assert (await store.get("k")).status == DOWN
        assert (await store.get("k")).status == DOWN
        assert store.up_nodes == ()
        await store.aclose()


async def test_keys_are_spread_over_the_nodes_and_a_dead_node_keeps_its_keys() -> None:
    with memcached.Memcached() as one, memcached.Memcached() as two:
        async with (
            Memcached([one.address, two.address], timeout=PATIENT) as store,
            Memcached([two.address, one.address], timeout=PATIENT) as reversed_store,
        ):
            for n in range(100):
                assert (await store.set(f"k{n}", b"%d" % n)).status == STORED
            for n in range(100):
                assert (await reversed_store.get(f"k{n}")).value == b"%d" % n
            counts = [int(process.statistics()["curr_items"]) for process in (one, two)]
            assert sum(counts) == 100
            assert min(counts) > 25
            two.kill()
            await until(lambda: store.up_nodes == (one.address,))
            for n in range(100):
                away = store.node_of(f"k{n}").name == two.address
                assert (await store.get(f"k{n}")).status == (DOWN if away else HIT)


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([], {}, "0 nodes"),
        (["127.0.0.1:1", "127.0.0.1:1"], {}, "twice"),
        ("127.0.0.1", {}, "host:port"),
        ([1], {}, "strings"),
        ("127.0.0.1:1", {"copies": 2}, "accepted are 1 to 1"),
        ("127.0.0.1:1", {"timeout": 0}, "timeout"),
        ("127.0.0.1:1", {"timeout": "2m"}, "timeout"),
        ("127.0.0.1:1", {"username": "alice"}, "both or none"),
        ("127.0.0.1:1", {"username": "al ice", "password": "x"}, "credentials"),
        ("127.0.0.1:1", {"tls": {"cert": "x"}}, "tls"),
        ("127.0.0.1:1", {"tls": {"ca": "/nonexistent"}}, "tls"),
    ],
)
def test_a_store_that_cannot_be_is_a_usage_error(nodes: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        Memcached(nodes, **options)  # type: ignore[arg-type]


async def test_many_requests_of_one_turn_begin_to_leave_within_it(shared_process: memcached.Memcached) -> None:
    async with Memcached(shared_process.address, timeout="2s") as store:
        await until(lambda: store.up_nodes)
        before = store.statistics()[0].bytes_out
        first = [store.get("burst") for _ in range(4)]
        assert store.statistics()[0].bytes_out == before, "few requests wait for the end of the turn, in one write"
        more = [store.get("burst") for _ in range(12)]
        assert store.statistics()[0].bytes_out > before
        assert {reply.status for reply in await asyncio.gather(*first, *more)} == {MISS}
