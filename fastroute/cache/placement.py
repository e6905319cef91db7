"""Which nodes hold a cached value: the store's choice first, then the copies. The same for both drivers.

Not here: where bindings live (memcache/placement.py), which of its nodes a key is asked at (reading.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastroute._core.mc_meta import homes_of, seed_of
from fastroute.errors import UsageError

__all__ = ["COPIES_MAX", "Placement"]

COPIES_MAX = 3
"""Copies of a value: each more costs a write per value; three outlive two nodes that are away at once."""


class Placement:
    """The nodes of one store, and how many of them hold each value.

    Args:
        nodes: what is asked; not those that are about to leave: their values need no way back.
        names: of the nodes, by which the store places keys too.
        copies: 1 to COPIES_MAX, and not more than there are nodes.

    Attributes:
        nodes: all of them.
        only: the node where there is but one, else None.

    Raises:
        UsageError: more copies than these nodes can hold.
    """

    def __init__(self, nodes: Sequence[Any], names: Sequence[str], copies: int) -> None:
        most = min(COPIES_MAX, len(nodes))
        if not isinstance(copies, int) or isinstance(copies, bool) or not 1 <= copies <= most:
            raise UsageError(f"copies {copies!r} of a value on {len(nodes)} nodes: accepted are 1 to {most}")
        self.nodes = tuple(nodes)
        self.only: Any = self.nodes[0] if len(self.nodes) == 1 else None
        self._copies = copies
        self._seeds = tuple(seed_of(name) for name in names)

    def homes(self, store_key: str) -> Sequence[Any]:
        """The nodes that hold a key, in the order in which they decide."""
        if self.only is not None:
            return self.nodes
        return [self.nodes[index] for index in homes_of(store_key, self._seeds, self._copies)]
