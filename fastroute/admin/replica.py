"""What may be changed in a running replica: states, weights, servers, deadlines of drains. Its checks, and its doing.

Not here: who asks (fastroute.admin.live, fastroute.admin.duties), how workers follow (fastroute.proxy.seat). Rules of
this file: a change is checked whole before anything happens; what it cannot do it says in one UsageError; what it does
is in force for workers and admin processes that start later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from fastroute._core.board import Board
from fastroute.config import rules
from fastroute.config.kinds import Mistake, build
from fastroute.config.membership import applied, name_of, servers_of
from fastroute.config.schema import Config, ServerConfig
from fastroute.errors import UsageError
from fastroute.metrics.layout import OTHER_SERVER, Columns, give_column
from fastroute.metrics.notice import PoolChanges, Told
from fastroute.model import WEIGHT_MAX, parse_duration_s
from fastroute.proxy.orders import ORDERED_STATES, Order, Orders

__all__ = ["FOLLOW_S", "SERVERS_MAX", "Replica", "parse_order", "parse_server"]

FOLLOW_S = 1.0
"""How long a change waits for the workers: what a fleet is promised; each looks ten times a second."""

DEADLINE_MAX_S = 30 * 86400.0

SERVERS_MAX = 65_000
"""Of a pool; a slot is 16 bits."""

POLL_S = 0.01


def parse_server(told: dict[str, Any]) -> ServerConfig:
    """A server as the file would have it.

    Raises:
        UsageError: a key or value that the file would not take either.
    """
    try:
        made: ServerConfig = build(ServerConfig, told)
    except Mistake as mistake:
        raise UsageError(mistake.message) from None
    return made


def parse_order(told: dict[str, Any], old: Order) -> tuple[Order, float | None]:
    """(the order that holds from now on, seconds until its drain ends or None) of {"state", "weight", "deadline"}.

    Raises:
        UsageError: something that is not accepted.
    """
    state, weight, deadline = told.get("state"), told.get("weight"), told.get("deadline")
    if "state" in told and state not in ORDERED_STATES:
        accepted = ", ".join(ORDERED_STATES)
        raise UsageError(f"state {state!r}; accepted: {accepted}; down and ejected are said by health")
    if weight is not None and (
        not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= WEIGHT_MAX
    ):
        raise UsageError(f"weight {weight!r}; accepted: 0 to {WEIGHT_MAX}, or null for the file's")
    left_s = None
    if deadline is not None:
        if state != "draining":
            raise UsageError('deadline: it is of "state": "draining"')
        left_s = parse_duration_s(deadline, name="deadline")
        if not 0 <= left_s <= DEADLINE_MAX_S:
            raise UsageError(f"deadline {deadline!r}; accepted: 0 to 30 days")
    order = Order(
        (state if state != "ready" else None) if "state" in told else old.state,
        weight if "weight" in told else old.weight,
        int(time.time() * 1000),
    )
    return order, left_s


class Replica:
    """One replica, seen from its admin process.

    Args:
        board, columns: of the replica.
        config: of the file.
    """

    def __init__(self, board: Board, columns: Columns, config: Config) -> None:
        self.board, self.columns, self.file = board, columns, config
        self.orders = Orders(board, columns.servers)
        self._config, self._version = config, -1
        self.told = Told()

    @property
    def config(self) -> Config:
        """The configuration with the servers that its pools have now."""
        version, told = self.columns.notice.read()
        if version != self._version:
            self.columns.learn(told)
            self.told, self._version = told, version
            self._config = applied(self.file, told.pools)
        return self._config

    def order_of(self, pool: str, server: str) -> Order:
        """What holds for a server; nothing for one that shares a column."""
        try:
            return self.orders.of(pool, server)
        except UsageError:
            return Order()

    def deadline_of(self, pool: str, server: str) -> float | None:
        """Wall clock, s, at which a server's drain ends."""
        changes = self.told.pools.get(pool)
        return changes.deadlines.get(server) if changes is not None else None

    def changes_of(self, pool: str) -> PoolChanges:
        """What differs from the file."""
        return self.told.pools.get(pool, PoolChanges())

    # Changes: each answers with the version from which on workers follow it -------------------------------------------

    def give(self, pool: str, server: str, order: Order, deadline_s: float | None = None) -> int:
        """Give an order.

        Args:
            deadline_s: wall clock at which a drain ends; None: none, and one that was given before is taken back.

        Raises:
            UsageError: no such server, or one without a column of its own.
        """
        self._known(pool, server)
        self.orders.of(pool, server)
        if deadline_s is not None or self.deadline_of(pool, server) is not None:

            def change(told: Told) -> None:
                deadlines = told.pools.setdefault(pool, PoolChanges()).deadlines
                deadlines.pop(server, None)
                if deadline_s is not None:
                    deadlines[server] = deadline_s

            self.columns.notice.write(change)
        return self.orders.give(pool, server, order)

    def add(self, pool: str, server: ServerConfig) -> int:
        """Take a server into a pool.

        Raises:
            UsageError: no such pool, a name that is there already, or a server that the file would not take either.
        """
        now, name = self._pool(pool).servers, name_of(server)
        if any(name_of(one) == name for one in now):
            raise UsageError(f"pool {pool!r} has a server {name!r} already; a name is one server")
        self.check(pool, (*now, server), beside=now)

        def change(told: Told) -> None:
            changes = told.pools.setdefault(pool, PoolChanges())
            changes.added = [*(one for one in changes.added if name_of(one) != name), server]
            if not any(name_of(one) == name for one in self.file.pools[pool].servers) and not changes.found:
                changes.removed = [one for one in changes.removed if one != name]
            if give_column(self.board, told, pool, name) == OTHER_SERVER:
                raise UsageError("this replica has no room for another server's counts; restart it")

        self.columns.notice.write(change)
        return self._say(pool)

    def remove(self, pool: str, server: str) -> int:
        """Take a server out of a pool: it gets no request from now on, and its users move; what is under way ends.

        Raises:
            UsageError: no such pool or server.
        """
        self._known(pool, server)

        def change(told: Told) -> None:
            changes = told.pools.setdefault(pool, PoolChanges())
            changes.added = [one for one in changes.added if name_of(one) != server]
            changes.deadlines.pop(server, None)
            elsewhere = (*self.file.pools[pool].servers, *(changes.found or ()))
            if any(name_of(one) == server for one in elsewhere) and server not in changes.removed:
                changes.removed.append(server)

        self.columns.notice.write(change)
        if self.order_of(pool, server) != Order():
            self.orders.give(pool, server, Order())
        return self._say(pool)

    def set_found(self, pool: str, servers: Sequence[ServerConfig] | None, note: str) -> int:
        """What a source found for a pool.

        Args:
            servers: all of them; None: it found nothing that can be used, and what it found before stays.
            note: what is wrong with the source, "" for nothing.

        Raises:
            UsageError: servers that the pool cannot have.
        """
        if servers is not None:
            held = msgspec.structs.replace(self.changes_of(pool), found=list(servers))
            self.check(pool, servers_of(self.file.pools[pool].servers, held), beside=self._pool(pool).servers)

        def change(told: Told) -> None:
            changes = told.pools.setdefault(pool, PoolChanges())
            changes.found_note = note
            if servers is not None:
                changes.found, changes.found_at_s = list(servers), time.time()
                for one in servers:
                    give_column(self.board, told, pool, name_of(one))

        self.columns.notice.write(change)
        return self._say(pool)

    def check(self, pool: str, servers: Sequence[ServerConfig], *, beside: Sequence[ServerConfig]) -> None:
        """May a pool have these servers, where it has those of `beside` now?

        Raises:
            UsageError: not.
        """
        if len(servers) > SERVERS_MAX:
            raise UsageError(f"{len(servers)} servers: a pool holds at most {SERVERS_MAX}")
        known = {name_of(one) for one in beside}
        for server in servers:
            if name_of(server) in known:
                continue
            if server.max_connections and not (self._pool(pool).limited or self._pool(pool).sticky):
                raise UsageError("max_connections: no server of this pool has them; give them in the file and reload")
            for name, listener in self.file.listeners.items():
                if any(rules.points_to_itself(bind, server.address) for bind in listener.bind):
                    raise UsageError(f"{server.address} is listener {name!r} itself")
        changed = msgspec.structs.replace(self.file.pools[pool], servers=tuple(servers))
        if changed.policy == "hash" and servers:
            for _, message in rules.ring_mistakes(changed):
                raise UsageError(message)

    async def followed(self, version: int) -> tuple[int, int]:
        """(workers that follow, workers) when all do, or after FOLLOW_S."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + FOLLOW_S
        while True:
            workers = self.board.workers()
            follow = sum(follows >= version for _, _, _, follows in workers)
            if follow == len(workers) or loop.time() >= end_s:
                return follow, len(workers)
            await asyncio.sleep(POLL_S)

    def _say(self, pool: str) -> int:
        _ = self.config  # learn the columns
        return self.board.raise_version()

    def _pool(self, pool: str) -> Any:
        found = self.config.pools.get(pool)
        if found is None:
            raise UsageError(f"there is no pool {pool!r}; there are: {', '.join(self.config.pools)}")
        return found

    def _known(self, pool: str, server: str) -> None:
        if not any(name_of(one) == server for one in self._pool(pool).servers):
            raise UsageError(f"pool {pool!r} has no server {server!r}")
