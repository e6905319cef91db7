"""Verdicts: what the replica's keeper says of servers, from the board to a worker. The twin of orders.py.

The board has one word per server (fastroute.health.verdict); whoever changes one raises the board's version, and each
worker then looks what changed. Only the keeper writes.
"""

from __future__ import annotations

from fastroute._core.board import Board
from fastroute.health.verdict import Verdict

__all__ = ["Verdicts"]


class Verdicts:
    """The verdicts on one configuration's servers.

    Args:
        board: where they stand.
        columns: pool -> server -> column.
    """

    def __init__(self, board: Board, columns: dict[str, dict[str, int]]) -> None:
        self._board, self._columns = board, columns
        self._seen: dict[int, int] = {}

    def of(self, pool: str, server: str) -> Verdict | None:
        """What holds for a server; None where nothing is said, or it has no column of its own."""
        column = self._columns.get(pool, {}).get(server, 0)
        return Verdict.of(self._board.verdict(column)) if column else None

    def give(self, pool: str, server: str, verdict: Verdict | None) -> bool:
        """Say what holds; False where the server has no column of its own."""
        column = self._columns.get(pool, {}).get(server, 0)
        if column:
            self._board.give_verdict(column, verdict.word() if verdict is not None else 0)
        return bool(column)

    def changed(self) -> list[tuple[str, str, Verdict | None]]:
        """(pool, server, verdict) of what changed since the last call; None where nothing is said any more."""
        found = []
        for pool, servers in self._columns.items():
            for server, column in servers.items():
                if column:
                    word = self._board.verdict(column)
                    if word != self._seen.get(column, 0):
                        self._seen[column] = word
                        found.append((pool, server, Verdict.of(word)))
        return found
