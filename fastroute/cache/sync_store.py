"""A node of the store for threads, with leases: memcached's meta commands over the connections of memcache.sync.

What it is: the requests that a blocking cache makes, each answered by a reply, none by an exception about the node.
What it is not: a general client, a pool, or an asyncio one (fastroute.memcache).

Why not the text commands: they know no leases. A classic `get` shows a lease's stub as an empty value and takes no
part in it, and a lock key beside the value (`add`) would not be seen by the asyncio side, so that a key would be
computed once by each. So these keys are read and written by meta commands on both sides. An empty value is a stub,
never a value.

Source: doc/protocol.txt of memcached 1.6, "Meta Get", "Meta Set", "Meta Delete", "Meta Arithmetic".
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from fastroute._core.mc_reply import (
    CLIENT_ERROR,
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
    CasToken,
    Reply,
    make_reply,
)
from fastroute.errors import MemcacheDown, MemcacheError
from fastroute.memcache.sync import Memcached

__all__ = ["BlockingNode", "StoreReply", "read_meta", "read_pair"]

# Flags come in the order in which they were asked for, W and Z last.
_VALUE = re.compile(rb"VA ([0-9]{1,10})(?: c([0-9]{1,20}))?( W)?(?: Z)?(?: X)?\Z")
_CAS = re.compile(rb" c([0-9]{1,20})(?= |\Z)")
_CODES = {b"EX": EXISTS, b"NF": NOT_FOUND, b"NS": NOT_STORED, b"SERVER_ERROR": SERVER_ERROR}
_DONE = {b"mg": HIT, b"ms": STORED, b"md": DELETED}
_NO_NUMBER = b"CLIENT_ERROR cannot increment or decrement"


class StoreReply(NamedTuple):
    """As fastroute.memcache's Reply, as far as a cache looks at it."""

    status: int
    value: bytes | None = None
    won: bool = False
    token: CasToken | None = None


def read_meta(verb: bytes) -> Any:
    """Reads the reply to one meta command, from a connection of fastroute.memcache.sync."""

    reads = verb in (b"mg", b"ma")

    def read(connection: Any) -> StoreReply:
        line: bytes = connection.line()
        value, won, cas = None, False, 0
        if found := _VALUE.match(line):
            size = int(found[1])
            if not reads or size > connection.value_bytes_max:
                raise connection.unexpected(line)
            value = connection.block(size)
            status, won, cas = HIT, found[3] is not None, int(found[2] or 0)
        elif line[:3] in (b"HD", b"HD ") and verb in _DONE:
            status = _DONE[verb]
        elif line[:3] in (b"EN", b"EN ") and verb == b"mg":
            status = MISS
        elif verb == b"ma" and line.startswith(_NO_NUMBER):
            status = CLIENT_ERROR
        elif (code := line.split(b" ", 1)[0]) in _CODES:
            status = _CODES[code]
        else:
            raise connection.unexpected(line)
        if value is None and status in (HIT, STORED) and (found := _CAS.search(line)):
            cas = int(found[1])
        if not cas:
            return StoreReply(status, value)
        token = make_reply(HIT, b"", cas & (1 << 64) - 1, connection.incarnation, 0).token
        return StoreReply(status, value, won, token)

    return read


_READERS = {verb: read_meta(verb) for verb in (b"mg", b"ms", b"md", b"ma")}


def read_pair(connection: Any) -> tuple[StoreReply, StoreReply]:
    """Reads the replies to `ms` and `mg` that were sent together."""
    return _READERS[b"ms"](connection), _READERS[b"mg"](connection)


def _life(ttl_s: float) -> int:
    return max(1, math.ceil(ttl_s))


class BlockingNode:
    """Leases, values and deletes for threads.

    Args:
        store: whose nodes and connections are used; it stays the caller's to close.
        node: number of the node; None asks each key's home.

    Notes: as safe with threads and forks as the store. A cas token is only sent to the run of the server that it was
    read from.
    """

    __slots__ = ("node", "plain", "store")

    def __init__(self, store: Memcached, node: int | None = None) -> None:
        self.store = store
        self.node = node
        self.plain = store.plain

    @property
    def up(self) -> bool:
        """False while it is known to be away."""
        return self.node is None or self.store.reachable(self.node)

    def get(self, key: str) -> StoreReply | Reply:
        """HIT or MISS."""
        return self.get_or_lease(key, 0)

    def get_or_lease(self, key: str, lease_s: float) -> StoreReply | Reply:
        """HIT with the value, or with an empty one: `won`, or somebody else's stub. Without a lease HIT or MISS."""
        try:
            if self.plain:
                return self.store.read_key(key, lease_s, self.node)
        except MemcacheDown:
            return StoreReply(DOWN)
        except MemcacheError:
            return StoreReply(UNKNOWN)
        lease = b" N%d" % _life(lease_s) if lease_s else b""
        return self._ask(key, b"mg %b v c%b\r\n" % (key.encode(), lease))

    def set(self, key: str, value: bytes, ttl_s: float) -> StoreReply:
        """STORED."""
        return self._ask(key, b"ms %b %d T%d c\r\n%b\r\n" % (key.encode(), len(value), _life(ttl_s), value))

    def add(self, key: str, value: bytes, ttl_s: float) -> StoreReply:
        """STORED or NOT_STORED."""
        return self._ask(key, b"ms %b %d ME T%d c\r\n%b\r\n" % (key.encode(), len(value), _life(ttl_s), value))

    def add_then_get(
        self, key: str, value: bytes, ttl_s: float, client_flags: int = 0, touch_s: float | None = None
    ) -> tuple[StoreReply, StoreReply]:
        """add, then get with a new time to live, in one round trip; client_flags are not used."""
        name = key.encode()
        touch = b"" if touch_s is None else b" T%d" % _life(touch_s)
        command = b"ms %b %d ME T%d c\r\n%b\r\nmg %b v c%b\r\n" % (name, len(value), _life(ttl_s), value, name, touch)
        try:
            reply: Any = self.store.exchange(key, command, read_pair, node=self.node)  # type: ignore[arg-type]
        except MemcacheDown:
            return StoreReply(DOWN), StoreReply(DOWN)
        except MemcacheError:
            return StoreReply(UNKNOWN), StoreReply(UNKNOWN)
        return reply  # type: ignore[no-any-return]

    def cas_set(self, key: str, value: bytes, token: CasToken, ttl_s: float) -> StoreReply:
        """STORED, EXISTS or NOT_FOUND."""
        head = b"ms %b %d C%d T%d c\r\n" % (key.encode(), len(value), token.cas, _life(ttl_s))
        return self._ask(key, head + value + b"\r\n", token)

    def delete(self, key: str, token: CasToken) -> StoreReply:
        """DELETED, EXISTS or NOT_FOUND."""
        return self._ask(key, b"md %b C%d\r\n" % (key.encode(), token.cas), token)

    def abandon(self, key: str, token: CasToken) -> None:
        """Nothing: a thread is not kept waiting by what it gives up; the lease runs out."""

    def expire_key(self, key: str) -> StoreReply:
        """Delete so that watchers see it: STORED."""
        return self._ask(key, b"ms %b 0 T-1\r\n\r\n" % key.encode())

    def touch(self, key: str, ttl_s: float) -> StoreReply:
        """Set the time to live: HIT or MISS."""
        return self._ask(key, b"mg %b T%d c\r\n" % (key.encode(), _life(ttl_s)))

    def increment(self, key: str, delta: int, initial: int | None, ttl_s: float) -> StoreReply:
        """HIT with the new number as digits, NOT_FOUND, or CLIENT_ERROR."""
        command = b"ma %b v c D%d" % (key.encode(), abs(delta))
        if delta < 0:
            command += b" MD"
        if initial is not None:
            command += b" N%d J%d" % (math.ceil(ttl_s), initial)
        return self._ask(key, command + b"\r\n")

    def _ask(self, key: str, command: bytes, token: CasToken | None = None) -> StoreReply:
        try:
            reader = _READERS[command[:2]]
            reply: Any = self.store.exchange(key, command, reader, node=self.node, token=token)
        except MemcacheDown:
            return StoreReply(DOWN)
        except MemcacheError:
            return StoreReply(UNKNOWN)
        return reply  # type: ignore[no-any-return]
