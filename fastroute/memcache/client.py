"""One memcached node for asyncio: requests that are answered with a Reply, never with an exception about the node.

What it is: the requests of mc_meta under one name per node, with its connection and its figures.
What it is not: it does not choose a node (cluster.py) and does not interpret values or records (affinity, cache).

Every request returns a future: `await node.get("k")`, or gather several; those asked in one turn of the event loop
travel together. Look at `reply.status` (a constant of this module) or at `reply.hit`, `reply.known`:
UNKNOWN (sent, no answer) and DOWN (not sent) say nothing about the key and are never folded into MISS.
A key, value or time to live outside the limits raises UsageError at the call; nothing was sent then.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import Any

from fastroute._core.mc_meta import MetaCodec
from fastroute._core.mc_queue import IN_FLIGHT_MAX, VALUE_BYTES_MAX
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
)
from fastroute.errors import UsageError
from fastroute.memcache.connection import NodeConnection
from fastroute.model import parse_address, parse_duration_s

__all__ = [
    "CLIENT_ERROR",
    "DELETED",
    "DOWN",
    "EXISTS",
    "HIT",
    "MISS",
    "NOT_FOUND",
    "NOT_STORED",
    "SERVER_ERROR",
    "STORED",
    "UNKNOWN",
    "CasToken",
    "MemcacheNode",
    "NodeStatistics",
    "Reply",
]

Key = str | bytes
ReplyFuture = asyncio.Future[Reply]
PairFuture = asyncio.Future[tuple[Reply, Reply]]

TIMEOUT_S_MAX = 60.0
"""Longest time limit of a request that is accepted; a store that needs seconds is no store for a request path."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatistics:
    """What one node did since its object was made; counters only grow."""

    name: str
    up: bool
    generation: int
    failure: str | None
    in_flight: int
    requests: int
    unknown: int
    down: int
    busy: int
    timeouts: int
    protocol_errors: int
    server_errors: int
    stale_tokens: int
    connections: int
    reconnects: int
    attempts_failed: int
    bytes_out: int
    bytes_in: int
    state: str
    """ "idle", "connecting", "up", "away", "probing" or "closed"; see NodeConnection.state."""
    trips: int
    """How often a late answer ended a connection."""
    trips_in_a_row: int
    """Of these, since there was a stable connection."""
    roundtrip_sum_s: float
    roundtrip_counts: tuple[int, ...]
    """Per bucket of fastroute._core.mc_queue.ROUNDTRIP_BOUNDS_S and one above; one request per write is measured."""

    @property
    def roundtrips(self) -> int:
        """How many round trips were measured."""
        return sum(self.roundtrip_counts)


class MemcacheNode:
    """One node.

    Args:
        address: "host:port", "[v6]:port" or "unix:PATH"; also its name.
        timeout: time limit of a request, "50ms" or seconds; over it the connection is given up.
        tls: context for TLS, or None.
        username, password: credentials for memcached -Y, both or none.
        value_bytes_max: longest value sent or taken; raise it together with memcached's -I.
        in_flight_max: requests waiting at a time; more are answered DOWN.

    Raises:
        UsageError: an argument that is not accepted.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: str | float = "50ms",
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: str | None = None,
        value_bytes_max: int = VALUE_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        timeout_s = parse_duration_s(timeout, name="timeout")
        if not 0.001 <= timeout_s <= TIMEOUT_S_MAX:
            raise UsageError(f"timeout {timeout!r}: accepted are 1ms to {TIMEOUT_S_MAX:.0f}s")
        if (username is None) != (password is None):
            raise UsageError("username and password of the store: accepted are both or none")
        self.name = address
        self.codec = MetaCodec(
            timeout_ms=round(timeout_s * 1000), value_bytes_max=value_bytes_max, in_flight_max=in_flight_max
        )
        if username is not None:
            self.codec.hello(username, password)  # refuses credentials that cannot be sent, now rather than later
        self.connection = NodeConnection(
            parse_address(address), self.codec, timeout_s=timeout_s, tls=tls, username=username, password=password
        )

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect now instead of at the first request; returns when the first attempt is over, up or not."""
        self.connection.start()
        await self.connection.wait_tried()

    async def aclose(self) -> None:
        """Close for good; requests are answered DOWN afterwards."""
        await self.connection.aclose()

    async def __aenter__(self) -> MemcacheNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def up(self) -> bool:
        """True while there is a connection that has answered its probe."""
        return self.codec.up

    @property
    def generation(self) -> int:
        """Number of the current (else of the last) connection: grows with each, and no two nodes share one."""
        return self.codec.generation

    def statistics(self) -> NodeStatistics:
        """The node's counters and state now."""
        codec = self.codec
        roundtrip_sum_s, roundtrip_counts = codec.roundtrips()
        return NodeStatistics(
            name=self.name,
            up=codec.up,
            generation=codec.generation,
            failure=codec.failure,
            in_flight=codec.in_flight,
            requests=codec.requests,
            unknown=codec.unknown,
            down=codec.down,
            busy=codec.busy,
            timeouts=codec.timeouts,
            protocol_errors=codec.protocol_errors,
            server_errors=codec.server_errors,
            stale_tokens=codec.stale_tokens,
            connections=codec.connections,
            reconnects=max(0, codec.connections - 1),
            attempts_failed=self.connection.attempts_failed,
            bytes_out=codec.bytes_out,
            bytes_in=codec.bytes_in,
            state=self.connection.state,
            trips=self.connection.trips,
            trips_in_a_row=self.connection.trips_in_a_row,
            roundtrip_sum_s=roundtrip_sum_s,
            roundtrip_counts=roundtrip_counts,
        )

    # ------------------------------------------------------------------ requests

    def get(self, key: Key, touch_s: float | None = None) -> ReplyFuture:
        """HIT with value, cas, client_flags and the time to live left, or MISS; `touch_s` renews it too."""
        return self.codec.get(key, touch_s)

    def get_and_touch(self, key: Key, ttl_s: float) -> ReplyFuture:
        """get, and set the time to live; `reply.ttl_s` is what was left before."""
        return self.codec.get(key, ttl_s)

    def get_or_lease(self, key: Key, lease_s: float) -> ReplyFuture:
        """get; where there is nothing, win the lease (`won`) or learn that somebody else holds it (`sent`)."""
        return self.codec.get_or_lease(key, lease_s)

    def get_or_lease_into(self, key: Key, lease_s: float, waiter: Any) -> None:
        """get_or_lease whose reply is given to waiter.set_result as soon as it is read; see MetaCodec.get_or_lease."""
        self.codec.get_or_lease(key, lease_s, waiter)

    def touch(self, key: Key, ttl_s: float) -> ReplyFuture:
        """Set the time to live: HIT or MISS."""
        return self.codec.touch(key, ttl_s)

    def set(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """Store: STORED, or SERVER_ERROR, after which the old value is gone too."""
        return self.codec.set(key, value, ttl_s, client_flags)

    def add(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """Store unless there is a value: STORED or NOT_STORED."""
        return self.codec.add(key, value, ttl_s, client_flags)

    def cas_set(self, key: Key, value: bytes, token: CasToken, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """Store if unchanged since `token` was read on this connection: STORED, EXISTS or NOT_FOUND."""
        return self.codec.cas_set(key, value, token, ttl_s, client_flags)

    def add_then_get(
        self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0, touch_s: float | None = None
    ) -> PairFuture:
        """add, then get (`touch_s` renews it), in one round trip: (reply of the add, what is stored now)."""
        return self.codec.add_then_get(key, value, ttl_s, client_flags, touch_s)

    def cas_then_get(
        self, key: Key, value: bytes, token: CasToken, ttl_s: float = 0, client_flags: int = 0
    ) -> PairFuture:
        """cas_set, then get, in one round trip: (reply of the cas_set, what is stored now)."""
        return self.codec.cas_then_get(key, value, token, ttl_s, client_flags)

    def delete(self, key: Key, token: CasToken | None = None) -> ReplyFuture:
        """DELETED, NOT_FOUND, or with a token EXISTS where the value has changed."""
        return self.codec.delete(key, token)

    def abandon(self, key: Key, token: CasToken | None) -> None:
        """Delete where that is still the token, without anybody who waits for the answer."""
        if token is not None:
            self.codec.delete(key, token)

    def expire_key(self, key: Key, token: CasToken | None = None) -> ReplyFuture:
        """Delete in a way that `watch mutations` announces on every memcached: STORED means gone."""
        return self.codec.expire_key(key, token)

    def increment(self, key: Key, delta: int = 1, initial: int | None = None, ttl_s: float = 0) -> ReplyFuture:
        """HIT with the new number as digits; NOT_FOUND where there is none and no `initial`."""
        return self.codec.increment(key, delta, initial, ttl_s)

    def noop(self) -> ReplyFuture:
        """A sign of life: HIT."""
        return self.codec.noop()
