"""Bindings leave a server that has restarted, where the file says so ([pools.NAME.health] on_restart = "move").

The keeper says in the board that a server has restarted (fastroute.health.verdict); each replica then moves the
bindings that its machine's zone holds, as for an operator (releases). Not here: how a restart is recognised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastroute.admin.replica import Replica
from fastroute.errors import UsageError
from fastroute.health.verdict import Verdict

__all__ = ["Restarts"]

log = logging.getLogger("fastroute.admin")


class Restarts:
    """Watches one replica's board.

    Args:
        replica: whose.
        release: called with (pool, server) when bindings are to leave a server.
    """

    def __init__(self, replica: Replica, release: Callable[[str, str], None]) -> None:
        self._replica, self._release = replica, release
        self._seen: dict[tuple[str, str], int] = {}
        pools = replica.config.pools.items()
        self.wanted = [name for name, pool in pools if pool.health is not None and pool.health.on_restart == "move"]

    async def look(self) -> None:
        """Begin what has become due; what this process saw first is no restart."""
        for pool in self.wanted:
            for server, column in self._replica.columns.servers[pool].items():
                verdict = Verdict.of(self._replica.board.verdict(column)) if column else None
                if verdict is None:
                    continue
                before = self._seen.setdefault((pool, server), verdict.restarts)
                if verdict.restarts != before:
                    self._seen[pool, server] = verdict.restarts
                    log.info("pool %s: server %s has restarted: its bindings are moved", pool, server)
                    try:
                        self._release(pool, server)
                    except UsageError as error:
                        log.warning("pool %s: server %s: %s", pool, server, error)
