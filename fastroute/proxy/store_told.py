"""Says in the log when a node of the store goes and comes back: once per replica, with the node's address.

Not here: what workers do meanwhile (fastroute.affinity), the metric fastroute_store_up. Rules of this file: the board
has what every worker knows of its own connections; a node is away when a worker has missed it for AWAY_S, so that the
start of a replica and one lost connection say nothing.
"""

from __future__ import annotations

import logging

from fastroute._core.board import Board
from fastroute.metrics.layout import NODE_GAUGES, NODE_GAUGES_AT

__all__ = ["AWAY_S", "StoreTold"]

AWAY_S = 1.0
"""A connection that was only cut is made again within a tenth of this (memcache/connection.py)."""

_UP = NODE_GAUGES_AT + NODE_GAUGES.index("up")

log = logging.getLogger("fastroute.store")


class StoreTold:
    """What was told of a replica's nodes.

    Args:
        board: of the replica.
        nodes: name -> column.
    """

    def __init__(self, board: Board, nodes: dict[str, int]) -> None:
        self._board, self._nodes = board, nodes
        self._since_s: dict[str, float] = {}
        self._away: set[str] = set()

    def turn(self, now_s: float) -> None:
        """Look at every node and say what has changed.

        Args:
            now_s: monotonic.
        """
        for name, column in self._nodes.items():
            up = [words[0] for _, words in self._board.words_by_row("node", column, _UP, 1)]
            if not up:
                continue
            if all(up):
                self._since_s.pop(name, None)
                if name in self._away:
                    self._away.remove(name)
                    log.warning("store %s: answers again", name)
            elif name not in self._away and now_s - self._since_s.setdefault(name, now_s) >= AWAY_S:
                self._away.add(name)
                whose = "no worker reaches it" if not any(up) else f"{up.count(0)} of {len(up)} workers do not reach it"
                log.warning("store %s: %s; is memcached running there? it is tried again until it answers", name, whose)
