"""The blocking store with leases: memcached's meta commands over the connections of fastroute.memcache.sync.

What it is: the six requests that a blocking cache needs, each answered by a reply, none by an exception.
What it is not: a general client, a pool, or an asyncio one (fastroute.memcache).

Why not the text commands: they know no leases. A classic `get` shows a lease's stub as an empty value and takes no
part in it, and a lock key beside the value (`add`) would not be seen by the asyncio side, so that a key would be
computed once by each. So these keys are read and written by meta commands on both sides. An empty value is a stub,
never a value.

Source: doc/protocol.txt of memcached 1.6, "Meta Get", "Meta Set", "Meta Delete".
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from fastroute._core.mc_meta import check_key
from fastroute._core.mc_reply import (
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
    make_reply,
)
from fastroute.errors import MemcacheDown, MemcacheError
from fastroute.memcache.sync import Memcached

__all__ = ["BlockingStore", "StoreReply", "read_meta"]

_VALUE = re.compile(rb"VA ([0-9]{1,10})((?: [!-~]+)*)\Z")
_CAS = re.compile(rb" c([0-9]{1,20})(?= |\Z)")
_CODES = {b"EN": MISS, b"EX": EXISTS, b"NF": NOT_FOUND, b"NS": NOT_STORED, b"SERVER_ERROR": SERVER_ERROR}
_DONE = {b"mg": HIT, b"ms": STORED, b"md": DELETED}


class StoreReply(NamedTuple):
    """As fastroute.memcache's Reply, as far as a cache looks at it."""

    status: int
    value: bytes | None = None
    won: bool = False
    token: CasToken | None = None


def read_meta(verb: bytes) -> Any:
    """Reads the reply to one meta command, from a connection of fastroute.memcache.sync."""

    def read(connection: Any) -> StoreReply:
        line: bytes = connection.line()
        value, flags = None, line[2:]
        if found := _VALUE.match(line):
            size, flags = int(found[1]), found[2]
            if verb != b"mg" or size > connection.value_bytes_max:
                raise connection.unexpected(line)
            value = connection.block(size)
            status = HIT
        elif line[:3] in (b"HD", b"HD "):
            status = _DONE[verb]
        elif (code := line.split(b" ", 1)[0]) in _CODES:
            status = _CODES[code]
        else:
            raise connection.unexpected(line)
        cas = _CAS.search(flags)
        if cas is None or status not in (HIT, STORED):
            return StoreReply(status, value)
        token = make_reply(HIT, b"", int(cas[1]) & (1 << 64) - 1, connection.incarnation, 0).token
        return StoreReply(status, value, b" W" in flags, token)

    return read


class BlockingStore:
    """Leases, values and deletes for threads.

    Args:
        store: whose nodes and connections are used; it stays the caller's to close.

    Notes: as safe with threads and forks as the store. A cas token is only sent to the run of the server that it was
    read from.
    """

    def __init__(self, store: Memcached) -> None:
        self.store = store

    def get(self, key: str) -> StoreReply:
        """HIT or MISS."""
        return self._ask(key, b"mg %b v c\r\n" % key.encode())

    def get_or_lease(self, key: str, lease_s: float) -> StoreReply:
        """HIT with the value, or with an empty one: `won`, or somebody else's stub."""
        return self._ask(key, b"mg %b v c N%d\r\n" % (key.encode(), max(1, round(lease_s))))

    def set(self, key: str, value: bytes, ttl_s: float) -> StoreReply:
        """STORED."""
        return self._ask(key, b"ms %b %d T%d c\r\n%b\r\n" % (key.encode(), len(value), round(ttl_s), value))

    def cas_set(self, key: str, value: bytes, token: CasToken, ttl_s: float) -> StoreReply:
        """STORED, EXISTS or NOT_FOUND."""
        head = b"ms %b %d C%d T%d c\r\n" % (key.encode(), len(value), token.cas, max(1, round(ttl_s)))
        return self._ask(key, head + value + b"\r\n", token)

    def delete(self, key: str, token: CasToken) -> StoreReply:
        """DELETED, EXISTS or NOT_FOUND."""
        return self._ask(key, b"md %b C%d\r\n" % (key.encode(), token.cas), token)

    def expire_key(self, key: str) -> StoreReply:
        """Delete so that watchers see it: STORED."""
        return self._ask(key, b"ms %b 0 T-1\r\n\r\n" % key.encode())

    def _ask(self, key: str, command: bytes, token: CasToken | None = None) -> StoreReply:
        check_key(key)
        try:
            with self.store._connection(key.encode()) as connection:
                if token is not None and token.generation != connection.incarnation:
                    return StoreReply(EXISTS)
                reply: Any = connection.exchange(command, read_meta(command[:2]))
                return reply  # type: ignore[no-any-return]
        except MemcacheDown:
            return StoreReply(DOWN)
        except MemcacheError:
            return StoreReply(UNKNOWN)
