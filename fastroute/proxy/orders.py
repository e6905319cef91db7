"""Orders: the state and weight that an operator gives a server, from the admin listener to every worker of a replica.

Theory of operation. The board has one 64-bit word per server and a version. Who gives an order stores the whole word
and then raises the version; each worker looks at the version a few times a second, does what changed, and writes
down which version it follows. So an order is seen whole or not at all, a process killed in between stops nobody, a
worker that starts later finds what holds before it accepts, and nothing has to be sent to anybody. Orders live as
long as the replica, through reloads.

Rules of this file: what an operator ordered outranks the file; health alone says down and ejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastroute._core.board import Board
from fastroute.errors import UsageError
from fastroute.health.standing import Standing
from fastroute.model import WEIGHT_MAX

__all__ = ["ORDERED_STATES", "Order", "Orders", "apply"]

ORDERED_STATES = ("ready", "draining", "maintenance")
"""States that an operator may give; "ready" takes an order back."""

_WEIGHT = 1 << 8
_ANY = 1 << 63


@dataclass(frozen=True, slots=True)
class Order:
    """What holds for one server.

    Attributes:
        state: "draining", "maintenance", or None: as health says.
        weight: None: as configured.
        given_ms: when it was given last, wall clock; 0: never.
    """

    state: str | None = None
    weight: int | None = None
    given_ms: int = 0

    def word(self) -> int:
        """As the board has it; 0 for no order."""
        if self.state is None and self.weight is None:
            return 0
        state = ORDERED_STATES.index(self.state) if self.state else 0
        return _ANY | state | (_WEIGHT | self.weight << 16 if self.weight is not None else 0)

    @staticmethod
    def of(word: int, given_ms: int) -> Order:
        """Of a word of the board."""
        state = word & 0xFF
        return Order(
            ORDERED_STATES[state] if 0 < state < len(ORDERED_STATES) else None,
            min(word >> 16 & 0xFFFFFFFF, WEIGHT_MAX) if word & _WEIGHT else None,
            given_ms,
        )


def apply(standing: Standing, name: str, order: Order, configured_weight: int) -> None:
    """Make a pool follow an order; doing it again changes nothing."""
    standing.order(name, order.state)
    if standing.pool.slot_of(name) >= 0:
        standing.pool.set_weight(name, configured_weight if order.weight is None else order.weight)


class Orders:
    """The orders for one configuration's servers.

    Args:
        board: where they stand.
        columns: pool -> server -> column.
    """

    def __init__(self, board: Board, columns: dict[str, dict[str, int]]) -> None:
        self._board, self._columns = board, columns
        self._seen: dict[int, int] = {}

    def of(self, pool: str, server: str) -> Order:
        """What holds for a server.

        Raises:
            UsageError: no such pool or server.
        """
        return Order.of(*self._board.order(self._column(pool, server)))

    def give(self, pool: str, server: str, order: Order) -> int:
        """Give an order; the version from which on workers follow it.

        Raises:
            UsageError: no such pool or server, or one without a column of its own.
        """
        return self._board.give_order(self._column(pool, server), order.word(), order.given_ms)

    def _column(self, pool: str, server: str) -> int:
        column = self._columns.get(pool, {}).get(server)
        if column is None:
            raise UsageError(f"pool {pool!r} has no server {server!r}")
        if column == 0:
            raise UsageError(f"server {server!r}: this replica has no room for orders of its own; restart it")
        return column

    def forget(self, pool: str, servers: Iterable[str]) -> None:
        """What these servers were ordered counts as changed: they may have just joined the pool."""
        for server in servers:
            self._seen.pop(self._columns.get(pool, {}).get(server, 0), None)

    def changed(self) -> list[tuple[str, str, Order]]:
        """(pool, server, order) of what changed since the last call."""
        found = []
        for pool, servers in self._columns.items():
            for server, column in servers.items():
                if column:
                    word, given_ms = self._board.order(column)
                    if word != self._seen.get(column, 0):
                        self._seen[column] = word
                        found.append((pool, server, Order.of(word, given_ms)))
        return found
