"""The blocking client against real memcached processes, and beside the asyncio client on the same keys."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

from fastroute import errors
from fastroute.memcache import CLIENT_ERROR, DELETED, EXISTS, HIT, MISS, NOT_FOUND, NOT_STORED, STORED
from fastroute.memcache import Memcached as AsyncMemcached
from fastroute.memcache.sync import AWAY_S, Memcached
from tests.support import memcached

PATIENT = "5s"


@pytest.fixture(scope="module")
def process() -> Iterator[memcached.Memcached]:
    with memcached.Memcached() as process:
        yield process


@pytest.fixture
def store(process: memcached.Memcached) -> Iterator[Memcached]:
    process.command("flush_all")
    with Memcached(process.address, timeout=PATIENT) as store:
        yield store


def test_every_request_does_what_it_says(store: Memcached) -> None:
    assert store.get("k").status == MISS
    assert store.set("k", b"one\r\nEND\r\n", 60, 77).status == STORED
    reply = store.get("k")
    assert (reply.status, reply.value, reply.client_flags) == (HIT, b"one\r\nEND\r\n", 77)
    assert store.add("k", b"two").status == NOT_STORED
    assert reply.token is not None
    assert store.cas_set("k", b"three", reply.token).status == STORED
    assert store.cas_set("k", b"four", reply.token).status == EXISTS
    assert store.cas_set("other", b"four", reply.token).status == NOT_FOUND
    assert store.touch("k", 60).status == HIT
    assert store.touch("other", 60).status == MISS
    assert store.get_and_touch("k", 60).value == b"three"
    assert store.increment("n").status == NOT_FOUND
    assert store.increment("n", 1, 5, 60).value == b"5"
    assert store.increment("n", 10).value == b"15"
    assert store.increment("n", -8).value == b"7"
    assert store.increment("k").status == CLIENT_ERROR
    assert store.delete("k", reply.token).status == EXISTS
    current = store.get("k").token
    assert store.delete("k", current).status == DELETED
    assert store.get("k").status == MISS
    assert store.delete("n").status == DELETED
    assert store.delete("n").status == NOT_FOUND
    assert store.noop() == {store.names[0]: True}


async def test_both_clients_find_a_key_on_the_same_node() -> None:
    with memcached.Memcached() as one, memcached.Memcached() as two:
        nodes = [one.address, two.address]
        async with AsyncMemcached(nodes, timeout=PATIENT) as there:
            with Memcached(reversed(nodes), timeout=PATIENT) as here:
                for n in range(60):
                    assert here.set(f"k{n}", b"%d" % n).status == STORED
                    assert (await there.get(f"k{n}")).value == b"%d" % n
                assert min(int(process.statistics()["curr_items"]) for process in (one, two)) > 10


def test_a_dead_node_raises_every_time_and_is_used_when_it_is_back() -> None:
    with memcached.Memcached() as process, Memcached(process.address, timeout=PATIENT) as store:
        store.set("k", b"v")
        process.kill()
        for _ in range(30):
            with pytest.raises(errors.MemcacheDown):
                store.get("k")
        assert store.noop() == {process.address: False}
        process.start()
        deadline_s = time.monotonic() + 40
        while True:
            try:
                assert store.get("k").status == MISS
                break
            except errors.MemcacheDown:
                assert time.monotonic() < deadline_s
                time.sleep(AWAY_S / 10)


def test_a_token_from_before_a_restart_is_not_sent() -> None:
    with memcached.Memcached() as process, Memcached(process.address, timeout=PATIENT) as store:
        store.set("k", b"before")
        token = store.get("k").token
        assert token is not None
        process.restart()
        assert store.set("k", b"after").status == STORED
        current = store.get("k")
        assert current.cas == token.cas, "memcached counts from 1 again"
        assert store.cas_set("k", b"overwritten", token).status == EXISTS
        assert store.delete("k", token).status == EXISTS
        assert store.get("k").value == b"after"


def test_a_stopped_node_is_unknown_after_the_time_limit_and_its_late_reply_is_never_read() -> None:
    with memcached.Memcached() as process, Memcached(process.address, timeout="100ms") as store:
        store.set("a", b"value of a")
        process.suspend()
        with pytest.raises(errors.MemcacheUnknown):
            store.get("a")
        process.resume()
        assert store.get("b").status == MISS


def test_threads_get_their_own_answers(store: Memcached) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for n in range(100):
            store.set(f"t{number}", b"%d %d" % (number, n))
            if store.get(f"t{number}").value != b"%d %d" % (number, n):
                wrong.append((number, n))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_uses_connections_of_its_own(store: Memcached) -> None:
    store.set("k", b"v")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get("k").value == b"v" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("k").value == b"v"


def test_unix_sockets_and_credentials_work(tmp_path: pathlib.Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    with memcached.Memcached("-Y", str(users), unix_path=str(tmp_path / "m")) as process:
        with Memcached(process.address, timeout=PATIENT, username="alice", password="secret") as store:
            assert store.set("k", b"v").status == STORED
        for credentials in ({}, {"username": "alice", "password": "wrong"}):
            with (
                Memcached(process.address, timeout=PATIENT, **credentials) as store,
                pytest.raises(errors.MemcacheDown),
            ):
                store.get("k")


@pytest.mark.parametrize("key", ["", "a b", "x" * 251, b"\n"])
def test_bad_arguments_are_usage_errors_and_nothing_is_sent(key: str | bytes) -> None:
    store = Memcached("127.0.0.1:1")
    for call in (
        lambda: store.get(key),
        lambda: store.set(key, b"v"),
        lambda: store.set("k", b"v", 2592001),
        lambda: store.set("k", b"x" * (1 << 21)),
        lambda: store.set("k", "text"),  # type: ignore[arg-type]
        lambda: store.increment("k", 1 << 64),
        lambda: store.touch("k", -1),
        lambda: store.set("k", b"v", 0, -1),
    ):
        with pytest.raises(errors.UsageError):
            call()
