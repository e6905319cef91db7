"""Memcached: the store, one node or several, as everything above uses it.

What it is: which key lives on which node, and the same requests as on one node (client.py), by key.
What it is not: it neither copies records to other nodes nor decides what to do without one (affinity, cache).

The home of a key is found by rendezvous hashing over the CONFIGURED nodes: the node with the highest
XXH64(key, seed = XXH64(node's name)). A node that is away keeps its keys: they are answered DOWN, never looked up
elsewhere, because a node that comes back with old values would serve them. The order of the nodes does not matter,
their spelling does: every replica has to write a node the same way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping

from fastroute._core.mc_meta import HOMES_MAX, home_of, homes_of, seed_of
from fastroute._core.mc_queue import VALUE_BYTES_MAX
from fastroute._core.mc_reply import CasToken
from fastroute.errors import UsageError
from fastroute.memcache.client import Key, MemcacheNode, NodeStatistics, PairFuture, ReplyFuture
from fastroute.model import parse_address

__all__ = ["COPIES_MAX", "Memcached", "check_copies", "node_names", "node_seeds", "tls_context"]

NODES_MAX = 64
"""Nodes of one store; the home of a key costs some 10 ns for each."""

COPIES_MAX = 3
"""Copies of a binding: each more costs a round trip per new binding; three outlive two nodes that are away at once."""

assert COPIES_MAX * 2 <= HOMES_MAX  # two orders of nodes while the list of nodes changes

TlsOption = bool | ssl.SSLContext | Mapping[str, str] | None


def node_names(nodes: str | Iterable[str]) -> tuple[str, ...]:
    """The nodes' names, checked, in the order of their spelling.

    Raises:
        UsageError: none, too many, one twice, or something that is not an address.
    """
    names = [nodes] if isinstance(nodes, str) else list(nodes)
    if not 1 <= len(names) <= NODES_MAX:
        raise UsageError(f"{len(names)} nodes of the store: accepted are 1 to {NODES_MAX}")
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"node {name!r}: accepted are strings such as '10.0.0.5:11211'")
        parse_address(name)
        if names.count(name) > 1:
            raise UsageError(f"node {name!r} stands twice in the list")
    return tuple(sorted(names))


def check_copies(copies: int, names: tuple[str, ...]) -> None:
    """Refuse a number of copies that these nodes cannot hold.

    Raises:
        UsageError: not 1..COPIES_MAX, or more than there are nodes.
    """
    if not isinstance(copies, int) or isinstance(copies, bool) or not 1 <= copies <= min(COPIES_MAX, len(names)):
        raise UsageError(f"copies {copies!r} on {len(names)} nodes: accepted are 1 to {min(COPIES_MAX, len(names))}")


def node_seeds(names: tuple[str, ...]) -> tuple[int, ...]:
    """What home_of wants to know of the nodes."""
    return tuple(seed_of(name) for name in names)


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
    ) -> None:
        names = node_names(nodes)
        check_copies(copies, names)
        context = tls_context(tls)
        self.copies = copies
        self.watch = watch
        self.nodes = tuple(
            MemcacheNode(
                name,
                timeout=timeout,
                tls=context,
                username=username,
                password=password,
                value_bytes_max=value_bytes_max,
            )
            for name in names
        )
        self._codecs = tuple(node.codec for node in self.nodes)
        self._seeds = node_seeds(names)
        self._only = self._codecs[0] if len(names) == 1 else None
        self._alone = len(names) == 1

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect to all nodes now; returns when the first attempts are over, with or without success."""
        await asyncio.gather(*(node.start() for node in self.nodes))

    async def aclose(self) -> None:
        """Close for good; requests are answered DOWN afterwards."""
        await asyncio.gather(*(node.aclose() for node in self.nodes))

    async def __aenter__(self) -> Memcached:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def up_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are connected."""
        return tuple(node.name for node in self.nodes if node.up)

    def node_of(self, key: Key) -> MemcacheNode:
        """The home of a key."""
        return self.nodes[0] if self._only is not None else self.nodes[home_of(key, self._seeds)]

    def homes_of(self, key: Key) -> tuple[MemcacheNode, ...]:
        """The nodes that hold this key's binding, in the order in which they decide: `copies` of them, or all."""
        if self._alone:
            return self.nodes
        return tuple([self.nodes[index] for index in homes_of(key, self._seeds, self.copies)])

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
