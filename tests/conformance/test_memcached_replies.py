"""The catalogue of odd memcached replies: meta rows against the compiled codec, text rows against the blocking client.

Rows whose point is what the bytes of a value mean are judged above the store (cache, affinity): here they must arrive
as untouched bytes with their flags, whatever they are. VALUE_ROWS lists them; nothing else is left out.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastroute import errors
from fastroute._core import mc_meta, mc_queue, mc_reply
from fastroute.memcache import sync
from tests.support.shared import shared

REPLIES = ("http", "memcached_replies.jsonl")


def rows(protocol: str) -> list[dict[str, str]]:
    """The catalogue's rows; each test asks for the catalogue again, so that it is skipped where there is none."""
    try:
        text = shared(*REPLIES).read_text(encoding="utf-8")
    except pytest.skip.Exception:
        return [{"id": "no catalogue"}]
    return [row for row in map(json.loads, text.splitlines()) if row["proto"] == protocol]


@pytest.fixture(autouse=True)
def catalogue() -> None:
    shared(*REPLIES)


VALUE_ROWS = {
    "m-flags-unknown": (b"hello", 1),
    "m-pickle-payload": (b"cos\nsystem\n(S'id'\ntR.", 0),
    "m-msgpack-bomb": (b"\xdd\xff\xff\xff\xff", 0),
    "m-wrong-schema": (b"\x81\xa1x\x01", 0),
    "m-truncated-value": (b"\x93\x01\x02", 0),
    "m-affinity-foreign-namespace": (b"\x92c\xa2s1", 0),
}
"""Rows for the layers that interpret values: the store hands over exactly these bytes and flags."""


# -- meta -------------------------------------------------------------------------------------------------------------


class Waiter:
    def __init__(self) -> None:
        self.result: Any = None

    def done(self) -> bool:
        return self.result is not None

    def set_result(self, result: object) -> None:
        self.result = result


def codec_for(row: dict[str, str]) -> tuple[Any, list[Any], list[str]]:
    """A codec that has sent what the row sent."""
    check = mc_queue.CHECK_KEY if " k\r\n" in row["sent"] else mc_queue.CHECK_NOTHING
    codec, failures = mc_meta.MetaCodec(check=check), []
    codec.attach(Waiter, lambda: None, codec.opening, None, failures.append)
    codec.hello()
    codec.feed(b"MN\r\n")
    waiters: list[Any] = []
    lines = row["sent"].split("\r\n")
    while lines:
        words = lines.pop(0).split()
        if words[:1] == ["mg"]:
            waiters.append(codec.get(words[1]))
        elif words[:1] == ["mn"]:
            waiters.append(codec.noop())
        elif words[:1] == ["ms"]:
            token = next((word[1:] for word in words[2:] if word[0] == "C"), None)
            value = lines.pop(0).encode()
            if token is None:
                waiters.append(codec.set(words[1], value))
            else:
                bound = mc_reply.make_reply(mc_reply.HIT, cas=int(token), generation=codec.generation).token
                assert bound is not None
                waiters.append(codec.cas_set(words[1], value, bound, 60))
    codec.take()
    return codec, waiters, failures


@pytest.mark.parametrize("row", rows("meta"), ids=lambda row: row["id"])
def test_a_meta_reply_is_taken_for_what_it_is_however_it_is_cut(row: dict[str, str]) -> None:
    reply = row["reply"].encode("latin-1")
    cuts: list[list[bytes]] = [[reply], [reply[n : n + 1] for n in range(len(reply))]]
    cuts += [[reply[:n], reply[n:]] for n in range(1, len(reply))]
    for pieces in cuts:
        codec, waiters, failures = codec_for(row)
        for piece in pieces:
            codec.feed(piece)
        if row["end"] == "hold":
            assert not waiters[-1].done()
            codec.expire()  # what the connection does when the answer does not come in time
        results = [waiter.result for waiter in waiters]
        last = results[-1]
        if row["expect"] == "error":
            assert not last.known
        elif row["expect"] == "stale+won":
            assert (last.status, last.stale, last.won) == (mc_reply.HIT, True, True)
        elif row["expect"].startswith("hit:"):
            assert last.value == row["expect"][4:].encode()
        else:
            assert last.status_name == row["expect"].replace("_", "-")
        assert bool(failures) == (row["conn"] == "close")
        assert codec.up == (row["conn"] == "keep")


# -- text -------------------------------------------------------------------------------------------------------------


class OneReply:
    """Answers `stats`, then the row's command with the row's reply, and every later command with END."""

    def __init__(self, row: dict[str, str]) -> None:
        self.row = row
        self.connections = 0
        self.commands: list[bytes] = []
        self._answered = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if line == b"stats\r\n":
                        connection.sendall(b"STAT pid 1\r\nSTAT uptime 5\r\nSTAT time 1005\r\nEND\r\n")
                        continue
                    if line.startswith((b"set", b"add", b"cas")):
                        lines.read(int(line.split()[4]) + 2)
                    self.commands.append(line)
                    if self._answered:
                        connection.sendall(b"END\r\n")
                        continue
                    self._answered = True
                    connection.sendall(self.row["reply"].encode("latin-1"))
                    if self.row["end"] == "close":
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def fake(row: dict[str, str]) -> Iterator[OneReply]:
    server = OneReply(row)
    yield server
    server.close()


def ask(store: sync.Memcached, sent: str) -> mc_reply.Reply:
    """Ask what the row asks, through the client's own exchange."""
    words = sent.split("\r\n")[0].split()
    verb, key = words[0], words[1].encode()
    value = sent.split("\r\n")[1].encode()
    plain: dict[str, Callable[[], mc_reply.Reply]] = {
        # The client itself asks with `gets`; the rows with a plain `get` differ only in the number that is missing.
        "get": lambda: store._ask(key, b"get %b\r\n" % key, sync.read_value(key, with_cas=False)),
        "gets": lambda: store.get(key),
        "set": lambda: store.set(key, value, 60),
        "add": lambda: store.add(key, value, 60),
        "cas": lambda: store._ask(key, sent.encode(), sync.read_stored),
        "incr": lambda: store.increment(key, 1),
        "decr": lambda: store.increment(key, -1),
    }
    return plain[verb]()


@pytest.mark.parametrize("row", rows("text"), ids=lambda row: row["id"])
def test_a_text_reply_is_a_result_or_an_error_and_never_somebody_elses(row: dict[str, str], fake: OneReply) -> None:
    expect, keep = row["expect"], row["conn"] == "keep"
    with sync.Memcached(fake.address, timeout="300ms") as store:
        if row["id"] in VALUE_ROWS and expect == "miss":
            value, flags = VALUE_ROWS[row["id"]]
            reply = ask(store, row["sent"])
            assert (reply.value, reply.client_flags) == (value, flags)
        elif expect == "error" and not keep:
            with pytest.raises((errors.MemcacheUnknown, errors.MemcacheProtocolError)):
                ask(store, row["sent"])
        else:
            reply = ask(store, row["sent"])
            names = {"error": ("server-error", "client-error"), "value": ("hit",), "value:9": ("hit",)}
            expected = ("hit",) if expect.startswith("hit:") else names.get(expect, (expect.replace("_", "-"),))
            assert reply.status_name in expected
            if expect == "value:9":
                assert reply.value == b"9"
            if expect.startswith("hit:"):
                assert reply.value == b"END\r\nVALUE k1 0 4\r\nEVIL\r\nEND\r\n"[:28]
        # Whoever comes next gets an answer of its own, on the same connection only where that was in step.
        assert store.get("next").status == mc_reply.MISS
        assert fake.connections == (1 if keep else 2)
        assert fake.commands[-1] == b"gets next\r\n"
