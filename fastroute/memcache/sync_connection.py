"""A blocking connection to one memcached node, read strictly, and the node's pool of them.

What it is: pymemcache makes, pools and closes the connections; what comes back on them is read here, line by line, for
every command but the commonest (`mg`, mc_exchange.pyx, on the same socket).
Not here: which node is asked, when one is away, the requests (sync.py).
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import time
from collections.abc import Callable, Iterator

from pymemcache.client.base import Client, PooledClient

from fastroute._core import mc_exchange
from fastroute._core.mc_meta import seed_of
from fastroute._core.mc_queue import LINE_BYTES_MAX, VALUE_BYTES_MAX
from fastroute._core.mc_reply import (
    CLIENT_ERROR,
    EXISTS,
    HIT,
    MISS,
    NOT_FOUND,
    NOT_STORED,
    SERVER_ERROR,
    STORED,
    Reply,
    make_reply,
)
from fastroute.errors import MemcacheDown, MemcacheProtocolError, MemcacheUnknown
from fastroute.memcache.forks import forks

__all__ = ["CONNECT_TIMEOUT_S", "Connection", "Node", "Reader", "read_number", "read_stored", "read_value", "read_word"]

CONNECT_TIMEOUT_S = 1.0
"""Limit for making a connection: a lost SYN is repeated after 1 s in Linux."""
RECEIVE_BYTES = 65_536
"""Read at once. An answer that comes in pieces has one time limit more, and one for each so many bytes of its value."""

_VALUE = re.compile(rb"VALUE ([!-~\x80-\xff]{1,250}) ([0-9]{1,10}) ([0-9]{1,10})(?: ([0-9]{1,20}))?\Z")
_STORE_RESULTS = {b"STORED": STORED, b"NOT_STORED": NOT_STORED, b"EXISTS": EXISTS, b"NOT_FOUND": NOT_FOUND}

Reader = Callable[["Connection"], Reply]


class Connection(Client):  # type: ignore[misc]
    """pymemcache's connection, read strictly.

    `incarnation` names the run of the server behind it (its process and the time it started): CAS numbers begin again
    with each run, so a token is only good for the run it was read from.
    """

    incarnation = 0
    credentials: bytes | None = None
    value_bytes_max = VALUE_BYTES_MAX
    descriptor = -1
    """For mc_exchange; none over TLS, and none while it is not connected."""
    limit_ms = 0
    ended = False
    """Its pool was closed while a thread had it: it is not to be used again."""
    _rest = b""
    _born = 0
    _until_s = 0.0

    def _connect(self) -> None:
        super()._connect()
        self._rest = b""
        try:
            descriptor = -1
            if type(self.sock) is socket.socket:
                descriptor = mc_exchange.prepare(self.sock, self.timeout)
                self.limit_ms = math.ceil(self.timeout * 1000)
            self._until_s = time.monotonic() + CONNECT_TIMEOUT_S + self.timeout
            if self.credentials is not None:
                self.sock.sendall(b"set fastroute 0 0 %d\r\n%b\r\n" % (len(self.credentials), self.credentials))
                answer = self.line()
                if answer != b"STORED":
                    raise MemcacheDown(f"{self.server}: credentials refused: {answer[:60]!r}")
            self.sock.sendall(b"stats\r\n")
            facts: dict[bytes, bytes] = {}
            while (line := self.line()) != b"END":
                words = line.split(b" ", 2)
                if len(words) != 3 or words[0] != b"STAT" or len(facts) > 1000:
                    raise MemcacheDown(f"{self.server}: not an answer to stats: {line[:60]!r}")
                facts[words[1]] = words[2]
            started_s = int(facts[b"time"]) - int(facts[b"uptime"])
            self.incarnation = seed_of(b"%d %d" % (int(facts[b"pid"]), started_s)) or 1
            self.descriptor, self._born = descriptor, forks.count
        except (KeyError, ValueError, MemcacheProtocolError) as error:
            self.close()
            raise MemcacheDown(f"{self.server}: not a memcached: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket, by the thread that has it; the next use makes a new one."""
        self.descriptor = -1
        super().close()

    def end(self) -> None:
        """Let another thread's use of it fail. It is that thread that closes it: a number that is still asked with may
        not become somebody else's.
        """
        self.ended = True
        connected = self.sock
        if connected is not None and self._born == forks.count:  # not the parent's: that one goes on with it
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of TLS too, whose own would go on in plain text

    def ready(self) -> None:
        """Be connected, with nothing to read: whatever lies there is the end of the connection or belongs to nobody."""
        if self.sock is not None:
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            if self._rest or poll.poll(0):
                self.close()
        if self.sock is None:
            try:
                self._connect()
            except OSError as error:
                self.close()
                raise MemcacheDown(f"{self.server}: {error}") from error

    def failed(self, error: OSError | MemcacheProtocolError) -> MemcacheUnknown | MemcacheProtocolError:
        """What mc_exchange raised, as everybody below raises it, with the name of the server."""
        if isinstance(error, MemcacheProtocolError):
            return MemcacheProtocolError(f"{self.server}: {error}")
        return MemcacheUnknown(f"{self.server}: {type(error).__name__}: {error}")

    def read_key(self, key: str | bytes, lease_s: float) -> Reply | None:
        """Memcached.read_key over this connection; None where it had ended before anything was answered."""
        return mc_exchange.read_key(
            self.descriptor, key, lease_s, self.value_bytes_max, self.incarnation, self.limit_ms
        )

    def exchange(self, command: bytes, read: Reader) -> Reply:
        """Send one command and read its reply."""
        try:
            self.sock.sendall(command)
            self._until_s = time.monotonic() + 2 * self.timeout
            reply = read(self)
        except OSError as error:  # a timeout is one too
            self.close()
            raise MemcacheUnknown(f"{self.server}: {type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise
        if self._rest:
            self.close()  # more than was asked for: whose it is, nobody knows
        return reply

    def line(self) -> bytes:
        """One line without its end."""
        while (end := self._rest.find(b"\r\n")) < 0:
            if len(self._rest) > LINE_BYTES_MAX:
                raise MemcacheProtocolError(f"{self.server}: a line without an end: {self._rest[:60]!r}")
            self._receive()
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        if len(line) > LINE_BYTES_MAX:
            raise MemcacheProtocolError(f"{self.server}: a line that is too long: {line[:60]!r}")
        return line

    def block(self, size: int) -> bytes:
        """A value of that many bytes, and the line end behind it."""
        self._until_s += self.timeout * (size / RECEIVE_BYTES)
        pieces, missing = [self._rest], size + 2 - len(self._rest)
        while missing > 0:
            self._rest = b""
            self._receive()
            pieces.append(self._rest)
            missing -= len(self._rest)
        joined = b"".join(pieces)
        if joined[size : size + 2] != b"\r\n":
            raise MemcacheProtocolError(f"{self.server}: a value that does not end where its length says")
        self._rest = joined[size + 2 :]
        return joined[:size]

    def unexpected(self, line: bytes) -> MemcacheProtocolError:
        return MemcacheProtocolError(f"{self.server}: not an answer to what was asked: {line[:60]!r}")

    def _receive(self) -> None:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("closed before the reply was complete")
        if time.monotonic() > self._until_s:  # each piece was in time
            raise TimeoutError("no whole answer within the time limit")
        self._rest += data


def read_value(key: bytes, with_cas: bool = True) -> Reader:
    """Reads the reply to `get` or `gets` of one key."""

    def read(connection: Connection) -> Reply:
        line = connection.line()
        if line == b"END":
            return make_reply(MISS)
        found = _VALUE.match(line)
        if found is None or found[1] != key or (found[4] is not None) != with_cas:
            raise connection.unexpected(line)
        flags, size, cas = int(found[2]), int(found[3]), int(found[4] or 0)
        if flags > 0xFFFFFFFF or size > connection.value_bytes_max or cas >= 1 << 64:
            raise connection.unexpected(line)
        value = connection.block(size)
        if (line := connection.line()) != b"END":
            raise connection.unexpected(line)
        return make_reply(HIT, value, cas, connection.incarnation, flags)

    return read


def read_stored(connection: Connection) -> Reply:
    """Reads the reply to set, add or cas."""
    line = connection.line()
    if line.startswith(b"SERVER_ERROR "):
        return make_reply(SERVER_ERROR)
    if line not in _STORE_RESULTS:
        raise connection.unexpected(line)
    return make_reply(_STORE_RESULTS[line], generation=connection.incarnation)


def read_word(words: dict[bytes, int]) -> Reader:
    """Reads one of these words."""

    def read(connection: Connection) -> Reply:
        line = connection.line()
        if line not in words:
            raise connection.unexpected(line)
        return make_reply(words[line], generation=connection.incarnation)

    return read


def read_number(connection: Connection) -> Reply:
    """Reads the reply to incr or decr; decr may leave blanks behind a number that became shorter."""
    line = connection.line()
    if line == b"NOT_FOUND":
        return make_reply(NOT_FOUND)
    if line.startswith(b"CLIENT_ERROR cannot increment or decrement"):
        return make_reply(CLIENT_ERROR)
    digits = line.rstrip(b" ")
    if not re.fullmatch(rb"[0-9]{1,20}", digits):
        raise connection.unexpected(line)
    return make_reply(HIT, digits, generation=connection.incarnation)


class Node(PooledClient):  # type: ignore[misc]
    """One node's pool.

    `at_hand` are connections of the pool that nobody uses now, last used first: the pool counts them as used, and
    taking one from a list and putting it back is one step of the interpreter each, without the pool's lock.
    """

    name: str
    at_hand: list[Connection]
    credentials: bytes | None
    value_bytes_max: int
    client_class = Connection

    def _create_client(self) -> Connection:
        connection: Connection = super()._create_client()
        connection.credentials = self.credentials
        connection.value_bytes_max = self.value_bytes_max
        return connection

    def take(self) -> Connection:
        """A connection for the calling thread alone: give it back, or drop it."""
        try:
            return self.at_hand.pop()
        except IndexError:
            connection: Connection = self.client_pool.get()
            return connection

    def give(self, connection: Connection) -> None:
        """It may be used again."""
        self.at_hand.append(connection)
        if connection.ended:
            self.reap(connection)

    def reap(self, connection: Connection) -> None:
        """The pool was closed while it was taken: it was given back, and is not to be taken again."""
        with contextlib.suppress(ValueError):  # another thread took it, and comes here too
            self.at_hand.remove(connection)
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Something was wrong with it."""
        connection.close()
        self.client_pool.destroy(connection)

    def close(self) -> None:
        """Close those at hand; those that threads have fail, and are closed when they are given back."""
        used = self.client_pool.used
        for connection in used:
            connection.ended = True
        with contextlib.suppress(IndexError):
            while True:
                self.drop(self.at_hand.pop())
        for connection in used:
            connection.end()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Connection]:
        """take, then give back unless something was wrong."""
        connection = self.take()
        try:
            yield connection
        except BaseException:
            self.drop(connection)
            raise
        self.give(connection)
