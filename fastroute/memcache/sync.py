"""The store for threads: the same names as the asyncio client, blocking, on pymemcache's pooled connections.

What it is: pymemcache makes, pools and closes the connections (TCP, unix socket, TLS, timeouts). The text commands are
written here and their answers read strictly (sync_connection.py), because pymemcache 4 takes for an answer what is no
answer: lengths such as "+5" or "0_5", a value that does not end where its length says, the same key twice, bytes behind
the end of a reply. `mg`, which a blocking cache sends for each hit in the store, is asked and read in one compiled call
over the same sockets (read_key, mc_exchange.pyx).
What it is not: HashClient is not used. It takes nodes out of its ring and answers None for a node that is away, and
even with retries without end it compares wall-clock times, so that a clock set back makes misses. A dead node keeps its
keys here and raises; nothing is ever looked up elsewhere.

A reply that is a result comes back as a Reply; what is none raises: MemcacheDown (not sent), MemcacheUnknown (sent, no
answer: a write may have happened), MemcacheProtocolError (the answer was none; the connection is closed).
Pairs of one round trip need other meta commands: asyncio, and cache/sync_store.py.
Notes: safe to share between threads, and usable after a fork. One connection per thread that is waiting, no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator

from fastroute._core import mc_meta
from fastroute._core.mc_meta import TTL_S_MAX, check_key, home_of
from fastroute._core.mc_queue import VALUE_BYTES_MAX
from fastroute._core.mc_reply import (
    DELETED,
    EXISTS,
    HIT,
    MISS,
    NOT_FOUND,
    NOT_STORED,
    STORED,
    CasToken,
    Reply,
    make_reply,
)
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import MemcacheDown, MemcacheProtocolError, MemcacheUnknown, UsageError
from fastroute.memcache.client import TIMEOUT_S_MAX, Key
from fastroute.memcache.cluster import Memcached as AsyncMemcached
from fastroute.memcache.cluster import TlsOption, tls_context
from fastroute.memcache.forks import begin_anew, forks
from fastroute.memcache.placement import GRACE_S, Placement
from fastroute.memcache.sync_connection import (
    CONNECT_TIMEOUT_S,
    Connection,
    Node,
    Reader,
    read_number,
    read_stored,
    read_value,
    read_word,
)
from fastroute.model import parse_address, parse_duration_s

__all__ = ["Home", "Memcached", "read_stored", "read_value"]

AWAY_S = 0.25
"""After a failed connection requests raise MemcacheDown at once for this long; then one thread tries, the others go on
raising until it knows."""


class Memcached:
    """The store, blocking.

    Args:
        nodes, copies, timeout, tls, username, password, value_bytes_max, previous_nodes, grace, clock: as for
            fastroute.Memcached.

    Raises:
        UsageError: an argument that is not accepted.
    """

    def __init__(
        self,
        nodes: str | Iterable[str],
        *,
        copies: int = 1,
        timeout: str | float = "50ms",
        tls: TlsOption = None,
        username: str | None = None,
        password: str | None = None,
        value_bytes_max: int = VALUE_BYTES_MAX,
        previous_nodes: str | Iterable[str] = (),
        grace: str | float = GRACE_S,
        clock: Clock = SYSTEM,
    ) -> None:
        self._placement = Placement(nodes, copies=copies, previous_nodes=previous_nodes, grace=grace, clock=clock)
        self.copies = copies
        self._timeout_s = parse_duration_s(timeout, name="timeout")
        if not 0.001 <= self._timeout_s <= TIMEOUT_S_MAX:
            raise UsageError(f"timeout {timeout!r}: accepted are 1ms to {TIMEOUT_S_MAX:.0f}s")
        if (username is None) != (password is None):
            raise UsageError("username and password of the store: accepted are both or none")
        if username is not None:
            mc_meta.MetaCodec().hello(username, password)  # refuses what cannot be sent
        self._credentials = None if username is None else f"{username} {password}".encode()
        self._tls: ssl.SSLContext | None = tls_context(tls)
        self._value_bytes_max = value_bytes_max
        self.names = self._placement.names
        self._seeds = self._placement.seeds
        self._open()

    def _open(self) -> None:
        self._homes = tuple(Home(self, index) for index in range(len(self.names)))
        self._away_until_s = [0.0] * len(self.names)  # 0: reached the last time it was asked
        self._turn = threading.Lock()
        nodes = []
        for name in self.names:
            node = Node(
                parse_address(name),
                connect_timeout=CONNECT_TIMEOUT_S,
                timeout=self._timeout_s,
                no_delay=not name.startswith("unix:"),
                ignore_exc=False,
                default_noreply=False,
                tls_context=self._tls,
            )
            node.name, node.credentials, node.value_bytes_max = name, self._credentials, self._value_bytes_max
            node.at_hand = []
            nodes.append(node)
        self._nodes = nodes
        self._born = forks.count  # last: another thread may look while this is made

    def for_asyncio(self) -> AsyncMemcached:
        """The same nodes for asyncio, not started: for what listens beside the requests."""
        username, password = self._credentials.decode().split(" ", 1) if self._credentials else (None, None)
        return AsyncMemcached(
            list(self.names[: self.count]),
            timeout=self._timeout_s,
            tls=self._tls,
            username=username,
            password=password,
            value_bytes_max=self._value_bytes_max,
        )

    @property
    def up_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that were reached the last time they were asked, or have not been asked yet."""
        return tuple([name for name, away_s in zip(self.names, self._away_until_s, strict=True) if not away_s])

    @property
    def timeout_s(self) -> float:
        """Time limit of a request."""
        return self._timeout_s

    def close(self) -> None:
        """Close the connections; the next request makes new ones. Requests that are under way end as unknown."""
        for node in self._nodes:
            node.close()

    def __enter__(self) -> Memcached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _connection(self, key: bytes, node: int | None = None) -> Iterator[Connection]:
        # To that node, else to the key's home; the connection goes back to the pool unless something was wrong with it.
        if self._born != forks.count:
            begin_anew(self, self._open)  # forked: the parent's connections must not be used by two
        index = home_of(key, self._seeds) if node is None else node
        with self._turn:
            if self._away_until_s[index]:
                now_s = time.monotonic()
                if now_s < self._away_until_s[index]:
                    raise MemcacheDown(f"{self.names[index]}: could not be reached a moment ago")
                self._away_until_s[index] = now_s + CONNECT_TIMEOUT_S  # this thread looks; no other one waits with it
        with self._nodes[index].lent() as connection:
            try:
                connection.ready()
            except MemcacheDown:
                self._away_until_s[index] = time.monotonic() + AWAY_S
                raise
            self._away_until_s[index] = 0.0
            yield connection

    def homes_of(self, key: Key) -> tuple[Home, ...]:
        """The nodes that hold this key's binding, in the order in which they decide: `copies` of them, or all."""
        return tuple([self._homes[index] for index in self._placement.homes_of(key)])

    def _ask(self, key: bytes, command: bytes, read: Reader, node: int | None = None) -> Reply:
        with self._connection(key, node) as connection:
            return connection.exchange(command, read)

    # ------------------------------------------------------------------ requests

    # `node`: the number of the node to ask instead of the key's first home; see Home.

    def get(self, key: Key, touch_s: float | None = None, *, node: int | None = None) -> Reply:
        """HIT with value, token and client flags, or MISS; `touch_s` renews the time to live in the same request."""
        name = _name(key)
        verb = b"gets" if touch_s is None else b"gats %d" % _ttl(touch_s)
        return self._ask(name, b"%b %b\r\n" % (verb, name), read_value(name), node)

    def get_and_touch(self, key: Key, ttl_s: float) -> Reply:
        """get, and set the time to live."""
        return self.get(key, ttl_s)

    def set(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0) -> Reply:
        """STORED, or SERVER_ERROR, after which the old value is gone too."""
        return self._store(b"set", key, value, ttl_s, client_flags)

    def add(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0, *, node: int | None = None) -> Reply:
        """STORED or NOT_STORED."""
        return self._store(b"add", key, value, ttl_s, client_flags, node=node)

    def cas_set(
        self,
        key: Key,
        value: bytes,
        token: CasToken,
        ttl_s: float = 0,
        client_flags: int = 0,
        *,
        node: int | None = None,
    ) -> Reply:
        """STORED, EXISTS or NOT_FOUND; a token of an earlier run of the server is not sent: EXISTS."""
        return self._store(b"cas", key, value, ttl_s, client_flags, token, node)

    def delete(self, key: Key, token: CasToken | None = None, *, node: int | None = None) -> Reply:
        """DELETED, NOT_FOUND, or with a token EXISTS where the value has changed."""
        name = _name(key)
        if token is None:
            words = {b"DELETED": DELETED, b"NOT_FOUND": NOT_FOUND}
            return self._ask(name, b"delete %b\r\n" % name, read_word(words), node)
        # The text protocol has no conditional delete: an empty value that is expired at once is the same to readers.
        with self._connection(name, node) as connection:
            if token.generation != connection.incarnation:
                return make_reply(EXISTS)
            command = b"cas %b 0 -1 0 %d\r\n\r\n" % (name, token.cas)
            return connection.exchange(
                command, read_word({b"STORED": DELETED, b"EXISTS": EXISTS, b"NOT_FOUND": NOT_FOUND})
            )

    def touch(self, key: Key, ttl_s: float) -> Reply:
        """Set the time to live: HIT or MISS."""
        name = _name(key)
        command = b"touch %b %d\r\n" % (name, _ttl(ttl_s))
        return self._ask(name, command, read_word({b"TOUCHED": HIT, b"NOT_FOUND": MISS}))

    def increment(self, key: Key, delta: int = 1, initial: int | None = None, ttl_s: float = 0) -> Reply:
        """HIT with the new number as digits; NOT_FOUND where there is none and no `initial`."""
        name = _name(key)
        if not (isinstance(delta, int) and -(1 << 64) < delta < 1 << 64):
            raise UsageError(f"delta {delta!r}: accepted are whole numbers of at most 64 bits")
        if initial is not None and not (isinstance(initial, int) and 0 <= initial < 1 << 64):
            raise UsageError(f"initial {initial!r}: accepted are whole numbers of at most 64 bits, not negative")
        command = b"%b %b %d\r\n" % (b"decr" if delta < 0 else b"incr", name, abs(delta))
        reply = self._ask(name, command, read_number)
        if reply.status != NOT_FOUND or initial is None:
            return reply
        digits = b"%d" % initial
        added = self._store(b"add", key, digits, ttl_s, 0)
        if added.status == STORED:
            return make_reply(HIT, digits, generation=added.generation)
        return self._ask(name, command, read_number) if added.status == NOT_STORED else added

    def noop(self) -> dict[str, bool]:
        """Which nodes answer now."""
        if self._born != forks.count:
            begin_anew(self, self._open)
        answers = {}
        for index, name in enumerate(self.names):
            try:
                with self._nodes[index].lent() as connection:
                    connection.ready()
                    connection.exchange(b"mn\r\n", read_word({b"MN": HIT}))
                self._away_until_s[index] = 0.0
                answers[name] = True
            except (MemcacheDown, MemcacheUnknown, MemcacheProtocolError):
                answers[name] = False
        return answers

    # ------------------------------------------------------------------ for who speaks other commands (cache)

    @property
    def count(self) -> int:
        """Nodes of the configured list; the others among `names` are about to leave."""
        return self._placement.count

    def node_of(self, key: Key) -> int:
        """Number of the key's home, an index of `names`."""
        return home_of(key, self._seeds)

    def reachable(self, node: int) -> bool:
        """Whether a node was reached the last time it was asked, or has not been asked yet."""
        return not self._away_until_s[node]

    @property
    def plain(self) -> bool:
        """Whether read_key can be used: there is no TLS."""
        return self._tls is None

    def read_key(self, key: Key, lease_s: float = 0, node: int | None = None) -> Reply:
        """HIT or MISS; with a lease, where there is nothing, HIT with an empty value that says who has `won` it.

        Not over TLS (`plain`): the bytes are taken from the socket itself.

        Args:
            key: as everywhere.
            lease_s: how long the empty value lives, in whole seconds upwards; 0 leaves none.
            node: number of the node to ask instead of the key's home.

        Raises:
            MemcacheDown, MemcacheUnknown, MemcacheProtocolError: as everywhere.
        """
        index = home_of(key, self._seeds) if node is None else node
        # The usual case without a lock: a node that is not known to be away, and a connection at hand that is fit.
        if not self._away_until_s[index] and self._born == forks.count:
            lender = self._nodes[index]
            try:
                connection = lender.at_hand.pop()
            except IndexError:
                connection = lender.take()
            if connection.descriptor >= 0:
                try:
                    reply = connection.read_key(key, lease_s)
                except (OSError, MemcacheProtocolError) as error:
                    lender.drop(connection)
                    raise connection.failed(error) from error
                except UsageError:  # nothing was sent
                    lender.give(connection)
                    raise
                except BaseException:
                    lender.drop(connection)
                    raise
                if reply is not None:
                    lender.at_hand.append(connection)
                    if connection.ended:
                        lender.reap(connection)
                    return reply
            lender.give(connection)
        with self._connection(_name(key), index) as connection:
            try:
                reply = connection.read_key(key, lease_s)
            except (OSError, MemcacheProtocolError) as error:
                raise connection.failed(error) from error
            if reply is None:
                raise MemcacheUnknown(f"{self.names[index]}: a new connection was closed at once")
            return reply

    def exchange(
        self, key: Key, command: bytes, read: Reader, *, node: int | None = None, token: CasToken | None = None
    ) -> Reply:
        """Send one command about a key and read its answer.

        Args:
            key: checked as everywhere; finds the node where none is given.
            command: whole, with line ends.
            read: reads the answer from the connection: `line()`, `block(size)`, `unexpected(line)`, `incarnation`.
            node: number of the node to ask.
            token: what the command carries; a token of an earlier run of the server is not sent: EXISTS.

        Raises:
            MemcacheDown, MemcacheUnknown, MemcacheProtocolError: as everywhere.
        """
        with self._connection(_name(key), node) as connection:
            if token is not None and token.generation != connection.incarnation:
                return make_reply(EXISTS)
            return connection.exchange(command, read)

    def _store(
        self,
        verb: bytes,
        key: Key,
        value: bytes,
        ttl_s: float,
        client_flags: int,
        token: CasToken | None = None,
        node: int | None = None,
    ) -> Reply:
        name = _name(key)
        if not isinstance(value, bytes):
            raise UsageError(f"value of type {type(value).__name__}: accepted are bytes")
        if len(value) > self._value_bytes_max:
            raise UsageError(f"value of {len(value)} bytes: accepted are at most {self._value_bytes_max}")
        if not 0 <= client_flags <= 0xFFFFFFFF:
            raise UsageError(f"client_flags {client_flags!r}: accepted are 32 bits, not negative")
        head = b"%b %b %d %d %d" % (verb, name, client_flags, _ttl(ttl_s), len(value))
        with self._connection(name, node) as connection:
            if token is not None:
                if token.generation != connection.incarnation:
                    return make_reply(EXISTS)
                head += b" %d" % token.cas
            return connection.exchange(head + b"\r\n" + value + b"\r\n", read_stored)


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """One node of the store, for who keeps copies on several (Memcached.homes_of): the requests of an affinity."""

    store: Memcached
    node: int

    def get(self, key: Key, touch_s: float | None = None) -> Reply:
        """See Memcached.get."""
        return self.store.get(key, touch_s, node=self.node)

    def add(self, key: Key, value: bytes, ttl_s: float = 0) -> Reply:
        """See Memcached.add."""
        return self.store.add(key, value, ttl_s, node=self.node)

    def cas_set(self, key: Key, value: bytes, token: CasToken, ttl_s: float = 0) -> Reply:
        """See Memcached.cas_set."""
        return self.store.cas_set(key, value, token, ttl_s, node=self.node)

    def delete(self, key: Key, token: CasToken | None = None) -> Reply:
        """See Memcached.delete."""
        return self.store.delete(key, token, node=self.node)


def _name(key: Key) -> bytes:
    check_key(key)
    return key if isinstance(key, bytes) else key.encode()


def _ttl(ttl_s: float) -> int:
    if ttl_s is None or not 0 <= ttl_s <= TTL_S_MAX:
        raise UsageError(f"ttl_s {ttl_s!r}: accepted are 0 (no expiry) to {TTL_S_MAX} seconds (30 days), relative")
    return math.ceil(ttl_s)
