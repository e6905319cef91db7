"""A hasher for pymemcache's HashClient: one key, one node, whether the key is str or bytes, by any ring.

    HashClient(servers, hasher=Hasher)                                   # the `table` ring
    HashClient(servers, hasher=hasher("ketama"))                         # where libmemcached's clients look
    HashClient(servers, hasher=hasher("ketama", weights={"10.0.0.5:11211": 2}))

pymemcache's own RendezvousHash formats the key into a string, so that "k" and b"k" go to different nodes for most keys,
and scores every node per key. This one picks from a ring: the same node for both, in O(1) for most rings.

A ring hashes of a node what its rule says (fastroute.routing.dialects). Where positions count (haproxy, envoy-ring)
they are those in which the nodes were first added: a node that leaves and returns gets its own keys back.

Not here: dead nodes. HashClient decides when a node is out and calls remove_node and add_node. Safe settings, with
which it raises instead of moving keys: retry_attempts=1 << 30, retry_timeout=0, ignore_exc=False.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fastroute._core.pool import Pool
from fastroute.errors import UsageError
from fastroute.model import Server

__all__ = ["Hasher", "hasher"]

CELLS = 65_536
"""Cells of the table ring: for tens of cache nodes the shares are within a few per cent, and a rebuild takes 20 ms."""

BY_NAME = ("table", "rendezvous", "jump")
"""Rings that hash a node's name: here the text that HashClient calls it by."""


class Hasher:
    """Maps keys to nodes as pymemcache's HashClient asks for it.

    Args:
        nodes: names of the first nodes, "host:port" or a socket's path; HashClient calls the class without arguments
            and adds them later.

    Raises:
        UsageError (a ValueError): a name that is neither.
    """

    ring: ClassVar[str] = "table"
    weights: ClassVar[Mapping[str, int]] = {}
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, nodes: Iterable[str] | None = None) -> None:
        self._servers: dict[str, Server] = {}  # of all nodes ever added, in the order in which they first were
        self._present: set[str] = set()
        self._node_of: dict[str, str] = {}
        self._pool = Pool(
            "nodes", [], policy="hash", ring=self.ring, slots=CELLS, ring_options=dict(self.options) or None
        )
        names = list(nodes or [])
        self._put(names, {*names})

    @classmethod
    def with_ring(cls, ring: str, *, weights: Mapping[str, int] | None = None, **options: Any) -> type[Hasher]:
        """The class of hashers over another ring; see hasher()."""
        made = type("Hasher", (cls,), {"ring": ring, "weights": dict(weights or {}), "options": options})
        made()  # a ring or option that is not known is refused now, not when the client is made
        return made

    @property
    def nodes(self) -> list[str]:
        """The nodes' names, sorted."""
        return sorted(self._present)

    def _server(self, node: str, number: int) -> Server:
        host, colon, port = node.removeprefix("unix:").rpartition(":")
        if "/" in node or not colon:
            address = "unix:" + node.removeprefix("unix:")
        else:
            address = f"[{host.strip('[]')}]:{port}" if ":" in host else node
        name = node if self.ring in BY_NAME else None
        return Server(address, weight=self.weights.get(node, 1), hash_key=name, id=number)

    def _put(self, new: list[str], present: set[str]) -> None:
        servers = dict(self._servers)
        for node in new:
            if node not in servers:
                servers[node] = self._server(node, len(servers) + 1)
        self._pool.update([server for node, server in servers.items() if node in present])
        self._servers, self._present = servers, present
        self._node_of = {server.name: node for node, server in servers.items()}

    def add_node(self, node: str) -> None:
        """Add a node; one that is already there changes nothing."""
        if node not in self._present:
            self._put([node], self._present | {node})

    def remove_node(self, node: str) -> None:
        """Remove a node.

        Raises:
            UsageError (a ValueError): there is none of this name.
        """
        if node not in self._present:
            raise UsageError(f"node {node!r} is not one of {', '.join(self.nodes) or 'none'}")
        self._put([], self._present - {node})

    def get_node(self, key: str | bytes) -> str | None:
        """The key's node, None when there are no nodes.

        Raises:
            UsageError (a ValueError): an empty key, or one that is neither str nor bytes; memcached has none either.
        """
        if not key:
            raise UsageError(f"key {key!r}: accepted are str and bytes that are not empty")
        return self._node_of[self._pool.select(key).name] if self._pool.ready_count else None


def hasher(ring: str = "table", *, weights: Mapping[str, int] | None = None, **options: Any) -> type[Hasher]:
    """A hasher class for HashClient(hasher=...), which calls it without arguments.

    Args:
        ring: "table", or a dialect such as "ketama" (fastroute.routing.dialects).
        weights: node's name as HashClient calls it ("host:port") -> weight; 1 for those not named.
        options: of the dialect, such as hash="md5".

    Raises:
        UsageError: an unknown ring or option.
    """
    return Hasher.with_ring(ring, weights=weights, **options)
