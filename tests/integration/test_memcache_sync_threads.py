"""The blocking client where threads, forks and a hostile node meet: whose descriptor it is, and how long one waits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fastroute import errors
from fastroute.cache.sync import SharedCache
from fastroute.memcache import HIT, MISS
from fastroute.memcache.forks import forks
from fastroute.memcache.sync import Memcached
from tests.support import memcached

PATIENT = "20s"
"""Time limit of what is answered within microseconds unless the machine is starved."""

STATS = b"STAT pid 1\r\nSTAT uptime 1\r\nSTAT time 2\r\nEND\r\n"


@pytest.fixture(scope="module")
def process() -> Iterator[memcached.Memcached]:
    with memcached.Memcached() as running:
        yield running


@pytest.fixture
def store(process: memcached.Memcached) -> Iterator[Memcached]:
    process.command("flush_all")
    with Memcached(process.address, timeout=PATIENT) as made:
        yield made


class Scripted:
    """A node that answers `stats`, with `stats` again and again, and does with everything else what it is told."""

    def __init__(self, then: Callable[[Scripted, socket.socket], None], stats: bytes = b"") -> None:
        self._stats = stats
        self.asked = threading.Event()
        self.over = threading.Event()
        self._then = then
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.address = "{}:{}".format(*self._listener.getsockname())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(made,)))
                self._threads[-1].start()

    def _serve(self, made: socket.socket) -> None:
        with made, contextlib.suppress(OSError):
            while data := made.recv(1000):
                if data == b"stats\r\n":
                    made.sendall(self._stats or STATS)
                    while self._stats and not self.over.is_set():
                        made.sendall(self._stats)
                else:
                    self.asked.set()
                    self._then(self, made)

    def __enter__(self) -> Scripted:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def silence(node: Scripted, made: socket.socket) -> None:
    pass


def dripping(answer: bytes) -> Callable[[Scripted, socket.socket], None]:
    def drip(node: Scripted, made: socket.socket) -> None:
        while not node.over.wait(0.02):  # sooner than the limit of one wait
            made.sendall(answer)

    return drip


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def in_child(work: Callable[[], bool], fork: Callable[[], int] = os.fork) -> bool:
    """What it came to in a child, False when that hung."""
    child = fork()
    if child == 0:
        try:
            signal.alarm(20)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


# -- closing beside threads ------------------------------------------------------------------------------------------


def test_a_descriptor_that_a_thread_uses_is_closed_by_that_thread_alone(store: Memcached) -> None:
    store.read_key("k")
    node = store._nodes[0]
    connection = node.take()
    descriptor = connection.descriptor
    theirs = inode(descriptor)
    store.close()
    assert inode(descriptor) == theirs, "its number may be another's by the time the thread asks with it"
    node.give(connection)
    assert not node.at_hand
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("ask", [Memcached.read_key, Memcached.get])
def test_a_thread_that_waits_while_the_store_is_closed_ends_at_once(ask: Callable[..., object]) -> None:
    with Scripted(silence) as node, Memcached(node.address, timeout="60s") as store:
        seen: list[object] = []

        def work() -> None:
            try:
                ask(store, "k")
            except Exception as error:
                seen.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert node.asked.wait(20)
        store.close()
        thread.join()
        assert isinstance(seen[0], errors.MemcacheUnknown)
        assert not store._nodes[0].client_pool.used


def test_a_closed_store_is_used_again_with_connections_of_its_own(store: Memcached) -> None:
    store.set("k", b"v")
    store.close()
    assert store.read_key("k").value == b"v"


def test_a_key_that_is_refused_costs_no_connection(store: Memcached) -> None:
    store.read_key("k")
    connection = store._nodes[0].at_hand[-1]
    with pytest.raises(errors.UsageError):
        store.read_key("a b", node=0)
    assert store._nodes[0].at_hand == [connection]
    assert connection.descriptor >= 0


def test_closing_while_threads_ask_leaves_no_connection_behind(store: Memcached) -> None:
    store.set("k", b"v")
    over = threading.Event()
    wrong: list[object] = []

    def work() -> None:
        while not over.is_set():
            try:
                reply = store.read_key("k")
                if reply.status != HIT or reply.value != b"v":
                    wrong.append(reply)
            except (errors.MemcacheUnknown, errors.MemcacheDown):
                pass
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        store.close()
        # The numbers that were closed are somebody else's now.
        pair = socket.socketpair()
        for one in pair:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                wrong.append(one.recv(100))
        for one in pair:
            one.close()
    over.set()
    for thread in threads:
        thread.join()
    store.close()
    assert not wrong
    assert not store._nodes[0].client_pool.used


# -- forks -----------------------------------------------------------------------------------------------------------


def test_a_sign_of_life_in_a_child_is_asked_for_on_a_connection_of_its_own(
    process: memcached.Memcached, store: Memcached
) -> None:
    store.read_key("k")
    before = process.statistics()["total_connections"]
    assert in_child(lambda: all(store.noop().values()))
    assert int(process.statistics()["total_connections"]) - int(before) == 2, "the child's, and the look's"
    assert store.read_key("k").status == MISS


def test_forks_that_python_does_not_know_of_are_counted() -> None:
    before = forks.count
    fork = ctypes.PyDLL(None).fork
    assert in_child(lambda: forks.count == before + 1, fork)
    assert forks.count == before


def test_a_child_that_c_code_forked_uses_connections_of_its_own(process: memcached.Memcached, store: Memcached) -> None:
    store.set("k", b"v")
    before = process.statistics()["total_connections"]
    assert in_child(lambda: store.read_key("k").value == b"v", ctypes.PyDLL(None).fork)
    assert int(process.statistics()["total_connections"]) - int(before) == 2
    assert store.read_key("k").value == b"v"


def test_a_near_value_with_tags_is_read_in_a_child_whatever_another_thread_held(store: Memcached) -> None:
    with SharedCache(store, namespace="test", watch=False) as cache:
        assert cache.get_or_compute("k", lambda: 1, ttl=600, tags=("t",)) == 1
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with cache._lock:
                held.set()
                over.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            assert in_child(lambda: cache.get_or_compute("k", lambda: 1, ttl=600, tags=("t",)) == 1)
        finally:
            over.set()
            thread.join()


def test_threads_of_a_child_that_begin_together_share_nothing_with_the_parent(store: Memcached) -> None:
    store.set("k", b"v")
    store.read_key("k")
    ours = store._nodes[0]

    def work() -> bool:
        right: list[bool] = []
        start = threading.Barrier(8)

        def read() -> None:
            start.wait()
            right.append(store.read_key("k").value == b"v" and store._nodes[0] is not ours)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return right == [True] * 8 and len(ours.at_hand) == 1

    assert in_child(work)
    assert store.read_key("k").value == b"v"


# -- a node that drips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [Memcached.read_key, Memcached.get])
@pytest.mark.parametrize("answer", [b"x", b"VA 100000 c1\r\nVALUE k 0 100000 1\r\n"])
def test_a_node_that_drips_its_answer_keeps_no_thread(ask: Callable[..., object], answer: bytes) -> None:
    with (
        Scripted(dripping(answer)) as node,
        Memcached(node.address, timeout="100ms") as store,
        pytest.raises((errors.MemcacheUnknown, errors.MemcacheProtocolError)),
    ):
        ask(store, "k")


def test_a_node_whose_statistics_never_end_is_away() -> None:
    with (
        Scripted(silence, stats=b"STAT a 1\r\n" * 1000) as node,
        Memcached(node.address, timeout="100ms") as store,
        pytest.raises(errors.MemcacheDown),
    ):
        store.get("k")
