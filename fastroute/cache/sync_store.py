"""The store for threads, with leases: memcached's meta commands over pymemcache's connections, one answer at a time.

What it is: the five requests that a blocking cache needs. What it is not: a general client (pymemcache is one), nor the
asyncio one (fastroute.memcache).

Why not pymemcache's own methods: the classic commands know no leases. A classic `get` shows a lease's stub as an empty
value and takes no part in it, and a lock key beside the value (`add`) would not be seen by the asyncio side, so that a
key would be computed once by each. pymemcache opens the connection (addresses, timeouts, TLS); the request and its
length-counted answer are written and read here.

Rules of this file:
  - One request is one answer. Whatever else comes, or nothing in time, closes the connection: DOWN where nothing was
    sent, UNKNOWN where something was.
  - A cas token is only sent on the connection that it was read on: after a restart memcached counts again from 1, and a
    restart breaks every connection.
  - A key's home is found as in fastroute.memcache.cluster, so that both sides look at the same node.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from pymemcache.client.base import Client

from fastroute._core.mc_meta import (
    DELETED,
    DOWN,
    EXISTS,
    HIT,
    MISS,
    NOT_FOUND,
    NOT_STORED,
    SERVER_ERROR,
    STORED,
    UNKNOWN,
    check_key,
    home_of,
)
from fastroute.memcache.cluster import node_names, node_seeds
from fastroute.model import parse_address, parse_duration_s

__all__ = ["BlockingStore", "StoreReply"]

CONNECTIONS_MAX = 64
"""Connections to one node: as many threads ask at once, more wait. memcached's default is 1024 for all clients."""

AWAY_S = 1.0
"""After a refused or failed connection nobody tries again for so long: requests do not wait for a node that is away."""

LINE_BYTES_MAX = 2048
"""Longest answer line: memcached's own are below 512."""

VALUE_BYTES_MAX = 1 << 21
"""Longest value that is read: twice the default item limit."""

_RECV_BYTES = 65536


class Token(NamedTuple):
    """A cas with the connection that it was read on."""

    cas: int
    connection: _Connection
    generation: int


class StoreReply(NamedTuple):
    """As fastroute.memcache's Reply, as far as a cache looks at it."""

    status: int
    value: bytes | None = None
    won: bool = False
    token: Token | None = None


_DOWN, _UNKNOWN, _EXISTS = StoreReply(DOWN), StoreReply(UNKNOWN), StoreReply(EXISTS)


class _ProtocolError(Exception):
    """The answer is not one to what was asked."""


class _Connection(Client):  # type: ignore[misc]
    """One connection; used by the thread that holds `lock`."""

    def __init__(self, address: tuple[str, int] | str, timeout_s: float) -> None:
        server = address if isinstance(address, tuple) else f"unix:{address}"
        super().__init__(server, connect_timeout=timeout_s, timeout=timeout_s, no_delay=True)
        self.lock = threading.Lock()
        self.generation = 0
        self._buffer = b""

    def open(self) -> None:
        if self.sock is None:
            self._connect()
            self.generation += 1
            self._buffer = b""

    def ask(self, request: bytes) -> StoreReply:
        self.sock.sendall(request)
        line = self._line()
        code, *flags = line.split(b" ")
        value = None
        if code == b"VA" and flags:
            size = int(flags.pop(0))
            if not 0 <= size <= VALUE_BYTES_MAX:
                raise _ProtocolError(line)
            value = self._exactly(size + 2)
            if value[-2:] != b"\r\n":
                raise _ProtocolError(line)
            value = value[:-2]
        if self._buffer:
            raise _ProtocolError("more than one answer")
        marks = {flag[:1]: flag[1:] for flag in flags if flag}
        cas = marks.get(b"c")
        token = None if cas is None else Token(int(cas), self, self.generation)
        return StoreReply(_status(code, request), value, b"W" in marks, token)

    def _more(self) -> None:
        data = self.sock.recv(_RECV_BYTES)
        if not data:
            raise ConnectionResetError("closed by memcached")
        self._buffer += data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise _ProtocolError("a line without an end")
            self._more()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data


def _status(code: bytes, request: bytes) -> int:
    if code == b"HD":
        return DELETED if request.startswith(b"md") else STORED if request.startswith(b"ms") else HIT
    found = {b"VA": HIT, b"EN": MISS, b"EX": EXISTS, b"NF": NOT_FOUND, b"NS": NOT_STORED, b"SERVER_ERROR": SERVER_ERROR}
    if code not in found:
        raise _ProtocolError(code)
    return found[code]


class _Node:
    """A memcached and the connections to it."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.address, self.timeout_s = parse_address(name), timeout_s
        self.lock = threading.Lock()
        self.connections: list[_Connection] = []
        self.away_until_s = 0.0

    def take(self) -> _Connection:
        """A connection whose lock is held by this thread."""
        with self.lock:
            for connection in self.connections:
                if connection.lock.acquire(blocking=False):
                    return connection
            if len(self.connections) < CONNECTIONS_MAX:
                connection = _Connection(self.address, self.timeout_s)
                connection.lock.acquire()
                self.connections.append(connection)
                return connection
            connection = self.connections[threading.get_ident() % CONNECTIONS_MAX]
        connection.lock.acquire()
        return connection


class BlockingStore:
    """Leases, values and deletes on one or several memcached, for threads.

    Args:
        nodes: addresses as fastroute.Memcached takes them, in any order.
        timeout: of connecting and of each answer.

    Notes: safe with threads; after a fork the child opens connections of its own.
    """

    def __init__(self, nodes: str | Iterable[str], *, timeout: str | float = "200ms") -> None:
        names = node_names(nodes)
        self.timeout_s = parse_duration_s(timeout, name="timeout")
        self._seeds = node_seeds(names)
        self._names = names
        self._pid = os.getpid()
        self._nodes = [_Node(name, self.timeout_s) for name in names]

    def close(self) -> None:
        """Close every connection; a later request opens new ones."""
        for node in self._nodes:
            for connection in node.connections:
                with connection.lock:
                    connection.close()

    def get(self, key: str) -> StoreReply:
        """HIT or MISS."""
        return self._ask(key, b"mg %s v c\r\n" % key.encode())

    def get_or_lease(self, key: str, lease_s: float) -> StoreReply:
        """HIT with the value, or with an empty one: `won`, or somebody else's stub."""
        return self._ask(key, b"mg %s v c N%d\r\n" % (key.encode(), max(1, round(lease_s))))

    def set(self, key: str, value: bytes, ttl_s: float) -> StoreReply:
        """STORED."""
        return self._ask(key, b"ms %s %d T%d c\r\n%b\r\n" % (key.encode(), len(value), round(ttl_s), value))

    def cas_set(self, key: str, value: bytes, token: Token, ttl_s: float) -> StoreReply:
        """STORED, EXISTS or NOT_FOUND."""
        request = b"ms %s %d C%d T%d c\r\n%b\r\n" % (key.encode(), len(value), token.cas, max(1, round(ttl_s)), value)
        return self._ask(key, request, token)

    def delete(self, key: str, token: Token) -> StoreReply:
        """DELETED, EXISTS or NOT_FOUND."""
        return self._ask(key, b"md %s C%d\r\n" % (key.encode(), token.cas), token)

    def expire_key(self, key: str) -> StoreReply:
        """Delete so that watchers see it: STORED."""
        return self._ask(key, b"ms %s 0 T-1\r\n\r\n" % key.encode())

    def _ask(self, key: str, request: bytes, token: Token | None = None) -> StoreReply:
        check_key(key)
        if self._pid != os.getpid():
            # The parent's connections stay the parent's: the child closes its copies and opens its own.
            self._pid = os.getpid()
            for left in (connection for node in self._nodes for connection in node.connections):
                left.close()
            self._nodes = [_Node(name, self.timeout_s) for name in self._names]
        node = self._nodes[home_of(key, self._seeds) if len(self._nodes) > 1 else 0]
        if token is not None:
            token.connection.lock.acquire()
            connection = token.connection
            if connection.sock is None or connection.generation != token.generation:
                connection.lock.release()
                return _EXISTS
        else:
            if time.monotonic() < node.away_until_s:
                return _DOWN
            connection = node.take()
        try:
            return self._exchange(node, connection, request, again=token is None and request.startswith(b"mg"))
        finally:
            connection.lock.release()

    def _exchange(self, node: _Node, connection: _Connection, request: bytes, *, again: bool) -> StoreReply:
        was_open = connection.sock is not None
        try:
            connection.open()
        except Exception:  # OSError, and what TLS and name resolution have of their own
            connection.close()
            node.away_until_s = time.monotonic() + AWAY_S
            return _DOWN
        try:
            return connection.ask(request)
        except ConnectionError:
            connection.close()
            # An idle connection that broke says nothing about the node now; reading twice does no harm.
            return self._exchange(node, connection, request, again=False) if again and was_open else _UNKNOWN
        except (OSError, ValueError, _ProtocolError):
            connection.close()
            return _UNKNOWN
        except BaseException:
            connection.close()  # interrupted: the answer is still to come, the next request must not get it
            raise


def addresses_of(store: Any) -> Iterable[str]:
    """Addresses from addresses, or from a Memcached (asyncio or blocking) by its nodes' names."""
    if isinstance(store, str):
        return [store]
    return [getattr(node, "name", node) for node in getattr(store, "nodes", store)]
