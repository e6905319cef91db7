"""A hasher for pymemcache's HashClient: one key, one node, whether the key is str or bytes.

    HashClient(servers, hasher=fastroute.integrations.pymemcache.Hasher)

pymemcache's own RendezvousHash formats the key into a string, so that "k" and b"k" go to different nodes for most keys,
and scores every node per key. This one looks the key up in a `table` ring: the same node for both, in O(1), and a node
more or less moves only its own share of keys.

Not here: dead nodes. HashClient decides when a node is out and calls remove_node and add_node.
"""

from __future__ import annotations

from fastroute._core.hashes import xxh64
from fastroute._core.ring_table import TableRing
from fastroute.errors import UsageError

__all__ = ["Hasher"]

CELLS = 65_536
"""Cells of the ring: for tens of cache nodes the shares are within a few per cent, and a rebuild takes milliseconds."""


class Hasher:
    """Maps keys to nodes as pymemcache's HashClient asks for it; the order of the nodes does not matter.

    Args:
        nodes: names of the first nodes; HashClient calls the class without arguments and adds them later.
    """

    def __init__(self, nodes: list[str] | None = None) -> None:
        self.nodes: list[str] = sorted(nodes or [])
        self._ring = self._built()

    def _built(self) -> TableRing:
        return TableRing(self.nodes, [1] * len(self.nodes), cells=CELLS)

    def add_node(self, node: str) -> None:
        """Add a node; one that is already there changes nothing."""
        if node not in self.nodes:
            self.nodes = sorted([*self.nodes, node])
            self._ring = self._built()

    def remove_node(self, node: str) -> None:
        """Remove a node.

        Raises:
            UsageError (a ValueError): there is none of this name.
        """
        if node not in self.nodes:
            raise UsageError(f"node {node!r} is not one of {', '.join(self.nodes) or 'none'}")
        self.nodes = [one for one in self.nodes if one != node]
        self._ring = self._built()

    def get_node(self, key: str | bytes) -> str | None:
        """The key's node, None when there are no nodes."""
        chosen = self._ring.choices(self._ring.cell_of(xxh64(key)))
        return self.nodes[chosen[0]] if chosen else None
