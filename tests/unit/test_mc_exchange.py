"""One key read over a socket: what is asked, what is taken for an answer, and what never is."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute._core.mc_exchange import prepare, read_key
from fastroute._core.mc_reply import HIT, MISS, SERVER_ERROR
from fastroute.errors import MemcacheProtocolError, UsageError

LIMIT_S = 20.0
"""Of what must happen; it happens within microseconds unless the machine is starved."""


class Server:
    """The other end: reads one command, then writes pieces, each when the one before has been taken."""

    def __init__(self, *pieces: bytes, end: bool = False) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.fd = prepare(self.ours, LIMIT_S)
        self.asked = b""
        self._pieces, self._end = pieces, end
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.asked.endswith(b"\r\n"):
            self.asked += self.theirs.recv(1000)
        for piece in self._pieces:
            until_s = time.monotonic() + LIMIT_S
            while struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0"))[0]:
                assert time.monotonic() < until_s
            self.theirs.sendall(piece)
        if self._end:
            self.theirs.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.ours.close()
        self.theirs.close()

    def read(self, lease_s: float = 0, key: str | bytes = "k") -> Any:
        return read_key(self.fd, key, lease_s, 1 << 20, 77, round(LIMIT_S * 1000))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    ("lease_s", "key", "asked"),
    [(0, "k1", b"mg k1 v c\r\n"), (5, b"k1", b"mg k1 v c N5\r\n"), (2.1, "\xe9", "mg \xe9 v c N3\r\n".encode())],
)
def test_a_key_is_asked_for_with_or_without_a_lease(lease_s: float, key: str | bytes, asked: bytes) -> None:
    with Server(b"EN\r\n") as server:
        assert server.read(lease_s, key).status == MISS
    assert server.asked == asked


def test_an_answer_is_the_same_however_it_is_cut() -> None:
    answer = b"VA 7 c12 W\r\na\r\nEN\r\n\r\n"
    for at in range(1, len(answer)):
        with Server(answer[:at], answer[at:]) as server:
            reply = server.read()
        assert (reply.status, reply.value, reply.won, reply.token.cas, reply.token.generation) == (
            HIT, b"a\r\nEN\r\n", True, 12, 77,
        )  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 8178, 8179, 8180, 8181, 8182, 8183, 100_000])
def test_a_value_of_every_length_comes_whole(size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    with Server(b"VA %d c1\r\n%b\r\n" % (size, value[:size])) as server:
        assert server.read().value == value[:size]


def test_what_the_server_refuses_is_an_answer() -> None:
    with Server(b"SERVER_ERROR out of memory storing object\r\n") as server:
        assert server.read(5).status == SERVER_ERROR


@pytest.mark.parametrize(
    "answer",
    [b"\r\n", b"\n", b"VA\r\n", b"VA x c1\r\n", b"VA 2000000 c1\r\n", b"HD\r\n", b"EN\n", b"STORED\r\n", b"ERROR\r\n",
     b"VA 3 c1\r\nabcde", b"VA 0 c1\r\nxx", b"x" * 3000, b"VA 9000 c1\r\n" + b"x" * 9002],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with Server(answer) as server, pytest.raises(MemcacheProtocolError):
        server.read()


@pytest.mark.parametrize("answer", [b"", b"VA 3 c", b"VA 3 c1\r\nab", b"VA 3 c1\r\nabc\r", b"VA 9000 c1\r\nab"])
def test_a_connection_that_ends_midway_is_an_error(answer: bytes) -> None:
    with Server(answer, end=True) as server, pytest.raises(ConnectionResetError):
        server.read()


def test_nothing_is_sent_where_something_lies(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fd = prepare(ours, LIMIT_S)
    theirs.sendall(b"EN\r\n")
    assert read_key(fd, "k", 0, 100, 1, 1000) is None
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_nothing_is_sent_on_a_connection_that_has_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fd = prepare(ours, LIMIT_S)
    theirs.close()
    assert read_key(fd, "k", 0, 100, 1, 1000) is None


def test_more_than_was_asked_for_ends_the_connection() -> None:
    with Server(b"EN\r\nVA 1 c1\r\nx\r\n") as server:
        assert server.read().status == MISS
        assert server.read() is None


def test_an_answer_that_does_not_come_is_late(pair: tuple[socket.socket, socket.socket]) -> None:
    fd = prepare(pair[0], 0.02)
    with pytest.raises(TimeoutError):
        read_key(fd, "k", 0, 100, 1, 20)


def test_pythons_own_calls_on_the_socket_keep_their_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(0.02)
    prepare(pair[0], 0.02)
    with pytest.raises(TimeoutError):
        pair[0].recv(1)


def test_signals_are_handled_and_do_not_lengthen_the_wait_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        fd = prepare(pair[0], 0.2)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        with pytest.raises(TimeoutError):
            read_key(fd, "k", 0, 100, 1, 200)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen


def test_what_a_signals_handler_raises_ends_the_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        fd = prepare(pair[0], LIMIT_S)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            read_key(fd, "k", 0, 100, 1, 1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("key", "lease_s"), [("", 0), ("a b", 0), ("k" * 251, 0), (7, 0), ("k", -1), ("k", 1e9)])
def test_what_cannot_be_asked_is_refused(pair: tuple[socket.socket, socket.socket], key: Any, lease_s: float) -> None:
    with pytest.raises(UsageError):
        read_key(prepare(pair[0], 1.0), key, lease_s, 100, 1, 1000)
