"""Who is counted in which column of a replica's board, and what its words mean.

Not here: the memory (fastroute._core.board), who writes it (fastroute.proxy.seat) and reads it
(fastroute.metrics.figures).

A column belongs to a name for as long as the replica runs, through reloads: a server that leaves the configuration and
comes back goes on from its counts. Room is bounded: names beyond it share the last column of their kind (servers: the
first), which is reported as OTHER.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastroute._core.board import BOUNDS_S, CLASSES, REASONS, Board
from fastroute.config.schema import Config
from fastroute.metrics.notice import Notice, Told

__all__ = [
    "CACHE_RESULTS",
    "LAYER_SIDES",
    "NODE_COUNTED",
    "NODE_COUNTED_AT",
    "NODE_GAUGES",
    "NODE_GAUGES_AT",
    "OTHER",
    "POOL_CACHE_AT",
    "POOL_COUNTED",
    "POOL_COUNTED_AT",
    "POOL_GAUGES",
    "POOL_GAUGES_AT",
    "POOL_LAYERS_AT",
    "Columns",
    "Ledger",
    "give_column",
    "make_board",
]

OTHER = "(other)"
"""Name under which everything without a column of its own is reported."""

OTHER_SERVER = 0

ROWS_MIN = 64
"""Workers that may count at once, those that drain after reloads included."""

CLAIMS = ("won", "adopted", "conflict", "unknown")
MOVES = ("moved", "adopted", "conflict", "unknown")

POOL_COUNTED = (
    *(f"claims_{result}" for result in CLAIMS),
    *(f"moves_{result}" for result in MOVES),
    "touches",
    "touches_dropped",
    "learned",
    "learned_dropped",
)
"""Words of a pool's cell that the control plane counts, in their order."""

POOL_COUNTED_AT = len(REASONS) + len(CLASSES) + 2 + len(BOUNDS_S) + 2

POOL_GAUGES = ("servers", "ready", "panic", "pending", "near_mode")
"""near_mode: 0 there is none, 1 poll, 2 push."""

CACHE_RESULTS = ("hit", "stale", "revalidated", "miss", "bypass", "collapsed", "error")
"""What became of requests on routes with a cache, in the order of their words."""

LAYER_SIDES = ("front", "servers")
"""Where a sticky layer was seen, in the order of its words: in front by requests, among the servers by responses."""

POOL_LAYERS_AT = POOL_COUNTED_AT + 15

POOL_CACHE_AT = POOL_COUNTED_AT + 17

POOL_GAUGES_AT = POOL_COUNTED_AT + 24

ROUNDTRIP_WORDS = 16

NODE_COUNTED = (
    "requests",
    "unknown",
    "down",
    "busy",
    "timeouts",
    "protocol_errors",
    "server_errors",
    "stale_tokens",
    "connections",
    "reconnects",
    "attempts_failed",
    "bytes_out",
    "bytes_in",
    "trips",
    "roundtrip_sum_ns",
    *(f"roundtrips_{i}" for i in range(ROUNDTRIP_WORDS)),
)
NODE_COUNTED_AT = 0
NODE_GAUGES = ("up", "in_flight")
NODE_GAUGES_AT = 48

assert len(POOL_COUNTED) <= 15
assert len(LAYER_SIDES) == 2
assert len(CACHE_RESULTS) == 7
assert len(POOL_GAUGES) <= 13
assert len(NODE_COUNTED) <= NODE_GAUGES_AT


@dataclass(frozen=True)
class Columns:
    """Columns of one configuration.

    Attributes:
        servers: pool -> server -> column; learn() adds those that joined since.
        notice: what the replica's processes tell each other.
    """

    listeners: dict[str, int]
    pools: dict[str, int]
    nodes: dict[str, int]
    servers: dict[str, dict[str, int]]
    notice: Notice

    def learn(self, told: Told) -> None:
        """Take over the columns of servers that joined while the replica runs."""
        for pool, server, column in told.columns:
            if pool in self.servers:
                self.servers[pool].setdefault(server, column)


def give_column(board: Board, told: Told, pool: str, server: str) -> int:
    """A column for a server that is not in the file; to be called within Notice.write, which lets in one at a time."""
    known = {(pool, server): column for pool, server, column in told.columns}
    if (pool, server) not in known:
        column = max(board.servers_used, 1)
        if column >= board.servers:
            return OTHER_SERVER
        board.servers_used = column + 1
        known[pool, server] = column
        told.columns.append((pool, server, column))
    return known[pool, server]


class Ledger:
    """Gives out columns; the supervisor's."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._notice = Notice()
        self._listeners: dict[str, int] = {}
        self._pools: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._servers: dict[tuple[str, str], int] = {}

    def assign(self, config: Config) -> Columns:
        """Columns for everything in a configuration."""
        board = self._board
        nodes = config.store.memcached if config.store else ()
        servers: dict[str, dict[str, int]] = {}

        def assign_servers(told: Told) -> None:
            self._servers.update({(pool, server): column for pool, server, column in told.columns})
            for pool, of in config.pools.items():
                servers[pool] = {one.name: self._server(pool, one.name) for one in of.server_list()}

        self._notice.write(assign_servers)  # whoever adds a server meanwhile waits
        return Columns(
            _columns(self._listeners, config.listeners, board.listeners),
            _columns(self._pools, config.pools, board.pools),
            _columns(self._nodes, nodes, board.nodes),
            servers,
            self._notice,
        )

    def _server(self, pool: str, name: str) -> int:
        column = self._servers.get((pool, name))
        if column is None:
            column = max(self._board.servers_used, 1)
            if column >= self._board.servers:
                return OTHER_SERVER
            self._servers[pool, name] = column
            self._board.servers_used = column + 1
        return column


def _columns(known: dict[str, int], names: Iterable[str], limit: int) -> dict[str, int]:
    found = {}
    for name in names:
        if name not in known and len(known) < limit - 1:
            known[name] = len(known)
        found[name] = known.get(name, limit - 1)
    return found


def make_board(config: Config, *, rows: int | None = None) -> Board:
    """A board with room for this configuration and for what reloads may add.

    Args:
        rows: workers that may count at once; None: for several generations of this configuration's.
    """
    servers = sum(len(pool.servers) for pool in config.pools.values())
    return Board(
        max(ROWS_MIN, 4 * config.workers) if rows is None else rows,
        listeners=2 * len(config.listeners) + 16,
        pools=2 * len(config.pools) + 64,
        nodes=128,
        servers=min(2 * servers + 1024, 1 << 20),
    )
