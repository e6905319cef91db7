"""Memcached: the store, one node or several, as everything above uses it.

What it is: which key lives on which node, and the same requests as on one node (client.py), by key.
What it is not: it neither copies records to other nodes nor decides what to do without one (affinity, cache).

The home of a key is found by rendezvous hashing over the CONFIGURED nodes (placement.py). A node that is away keeps
its keys: they are answered DOWN, never looked up elsewhere, because a node that comes back with old values would serve
them. Who keeps copies on several nodes knows how to tell old from new, and asks homes_of. The order of the nodes does
not matter, their spelling does: every replica has to write a node the same way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping

from fastroute._core.mc_meta import home_of
from fastroute._core.mc_queue import VALUE_BYTES_MAX
from fastroute._core.mc_reply import CasToken
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.memcache.client import Key, MemcacheNode, NodeStatistics, PairFuture, ReplyFuture
from fastroute.memcache.placement import GRACE_S, Placement
from fastroute.model import parse_duration_s

__all__ = ["Memcached", "tls_context"]

TlsOption = bool | ssl.SSLContext | Mapping[str, str] | None


def tls_context(tls: TlsOption) -> ssl.SSLContext | None:
    """A context from a context, from {"ca": ..., "certificate": ..., "key": ...} (files), or True for the system's CAs.

    Raises:
        UsageError: another value, or a file that cannot be used.
    """
    if tls is None or tls is False or isinstance(tls, ssl.SSLContext):
        return tls or None
    if tls is not True and (not isinstance(tls, Mapping) or set(tls) - {"ca", "certificate", "key"}):
        raise UsageError(f"tls {tls!r}: accepted are a context, true, or ca, certificate and key")
    files = {} if tls is True else dict(tls)
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "certificate" in files:
            context.load_cert_chain(files["certificate"], files.get("key"))
    except OSError as error:
        raise UsageError(f"tls {files}: {error}") from None
    return context


class Memcached:
    """The store.

    Args:
        nodes: addresses ("host:port", "[v6]:port", "unix:PATH"), or one of them.
        copies: nodes that hold each binding, 1 to 3 and at most as many as there are. The requests below go to a
            key's first home whatever it is; who keeps copies asks homes_of (affinity does).
        timeout: time limit of a request, "50ms" or seconds.
        tls: None, True, an ssl.SSLContext, or {"ca": ..., "certificate": ..., "key": ...}.
        username, password: credentials for memcached -Y, both or none.
        watch: whether those above may subscribe to the nodes' changes.
        value_bytes_max: longest value sent or taken.
        previous_nodes: the nodes of the list before this one, for the time of a change: they decide about bindings for
            `grace` more seconds, while the new ones learn them (placement.py). Others than bindings go by the new list
            at once.
        grace: how long, counted from now; by default an hour, twice the default ttl of bindings.
        clock: for the grace window.

    Raises:
        UsageError: an argument that is not accepted.

    Notes: belongs to the event loop of its first use; connects at first use or at `async with` / start().
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
        watch: bool = True,
        value_bytes_max: int = VALUE_BYTES_MAX,
        previous_nodes: str | Iterable[str] = (),
        grace: str | float = GRACE_S,
        clock: Clock = SYSTEM,
    ) -> None:
        self._placement = Placement(nodes, copies=copies, previous_nodes=previous_nodes, grace=grace, clock=clock)
        context = tls_context(tls)
        self.copies = copies
        self.watch = watch
        self._timeout_s = parse_duration_s(timeout, name="timeout")
        self.nodes = tuple(
            MemcacheNode(
                name,
                timeout=timeout,
                tls=context,
                username=username,
                password=password,
                value_bytes_max=value_bytes_max,
            )
            for name in self._placement.names
        )
        self._leaving: tuple[MemcacheNode, ...] = self.nodes[self._placement.count :]
        self._changing = self._placement.in_grace
        self._codecs = tuple(node.codec for node in self.nodes[: self._placement.count])
        self._seeds = self._placement.seeds
        self._only = self._codecs[0] if len(self._codecs) == 1 else None
        self._closing: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect to all nodes now; returns when the first attempts are over, with or without success."""
        await asyncio.gather(*(node.start() for node in self.nodes))

    async def aclose(self) -> None:
        """Close for good; requests are answered DOWN afterwards."""
        await asyncio.gather(*(node.aclose() for node in {*self.nodes, *self._leaving}))

    async def __aenter__(self) -> Memcached:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def up_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are connected."""
        return tuple(node.name for node in self.nodes if node.up)

    @property
    def count(self) -> int:
        """Nodes of the configured list; the others among `nodes` are about to leave."""
        return self._placement.count

    @property
    def timeout_s(self) -> float:
        """Time limit of a request."""
        return self._timeout_s

    def node_of(self, key: Key) -> MemcacheNode:
        """The home of a key."""
        return self.nodes[0] if self._only is not None else self.nodes[home_of(key, self._seeds)]

    def homes_of(self, key: Key) -> tuple[MemcacheNode, ...]:
        """The nodes that hold this key's binding, in the order in which they decide: `copies` of them, or all."""
        if self._changing and not self._placement.in_grace:
            self._end_change()
        if self._only is not None and not self._changing:
            return self.nodes
        return tuple([self.nodes[index] for index in self._placement.homes_of(key)])

    def _end_change(self) -> None:
        """The grace window is over: let go of the nodes that are in the previous list alone."""
        self._changing = False
        self.nodes = self.nodes[: self._placement.count]
        if self._leaving:
            self._closing = asyncio.get_running_loop().create_task(self._close_leaving())

    async def _close_leaving(self) -> None:
        await asyncio.gather(*(node.aclose() for node in self._leaving))

    def statistics(self) -> tuple[NodeStatistics, ...]:
        """Per node, in the order of their names."""
        return tuple(node.statistics() for node in self.nodes)

    # ------------------------------------------------------------------ requests: as MemcacheNode's, on the key's home

    def get(self, key: Key, touch_s: float | None = None) -> ReplyFuture:
        """See MemcacheNode.get."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).get(key, touch_s)

    def get_and_touch(self, key: Key, ttl_s: float) -> ReplyFuture:
        """See MemcacheNode.get_and_touch."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).get(key, ttl_s)

    def get_or_lease(self, key: Key, lease_s: float) -> ReplyFuture:
        """See MemcacheNode.get_or_lease."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).get_or_lease(key, lease_s)

    def touch(self, key: Key, ttl_s: float) -> ReplyFuture:
        """See MemcacheNode.touch."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).touch(key, ttl_s)

    def set(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """See MemcacheNode.set."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).set(key, value, ttl_s, client_flags)

    def add(self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """See MemcacheNode.add."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).add(key, value, ttl_s, client_flags)

    def cas_set(self, key: Key, value: bytes, token: CasToken, ttl_s: float = 0, client_flags: int = 0) -> ReplyFuture:
        """See MemcacheNode.cas_set."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).cas_set(key, value, token, ttl_s, client_flags)

    def add_then_get(
        self, key: Key, value: bytes, ttl_s: float = 0, client_flags: int = 0, touch_s: float | None = None
    ) -> PairFuture:
        """See MemcacheNode.add_then_get."""
        codec = self._only or self._codecs[home_of(key, self._seeds)]
        return codec.add_then_get(key, value, ttl_s, client_flags, touch_s)

    def cas_then_get(
        self, key: Key, value: bytes, token: CasToken, ttl_s: float = 0, client_flags: int = 0
    ) -> PairFuture:
        """See MemcacheNode.cas_then_get."""
        codec = self._only or self._codecs[home_of(key, self._seeds)]
        return codec.cas_then_get(key, value, token, ttl_s, client_flags)

    def delete(self, key: Key, token: CasToken | None = None) -> ReplyFuture:
        """See MemcacheNode.delete."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).delete(key, token)

    def expire_key(self, key: Key, token: CasToken | None = None) -> ReplyFuture:
        """See MemcacheNode.expire_key."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).expire_key(key, token)

    def increment(self, key: Key, delta: int = 1, initial: int | None = None, ttl_s: float = 0) -> ReplyFuture:
        """See MemcacheNode.increment."""
        return (self._only or self._codecs[home_of(key, self._seeds)]).increment(key, delta, initial, ttl_s)
