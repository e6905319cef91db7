"""The desk of a replica: what changes it while it runs, by itself or because somebody ordered it.

It holds the replica's changes, the errands that release bindings, the fleet's record; and it keeps time: drains end at
their deadline or when nothing is left, the fleet's record is looked at, sources of servers are asked.
Not here: HTTP (main, api), what each of these is (replica, releases, fastroute.fleet.changes).

Rules of this file: one process of a replica has it, and carries no request; what fails is logged and tried again at
the next turn, never in a tight loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastroute.admin.history import EVERY_S, History
from fastroute.admin.mirror import Mirror
from fastroute.admin.rebalance import TURN_EVERY_S, Rebalancer
from fastroute.admin.releases import Releases
from fastroute.admin.replica import Replica, parse_server
from fastroute.admin.restarts import Restarts
from fastroute.admin.sourcing import Sourcing
from fastroute.config.membership import name_of
from fastroute.errors import UsageError
from fastroute.fleet.changes import POLL_S, Entry, FleetChanges
from fastroute.fleet.messages import Mail, Seal
from fastroute.fleet.presence import read_fleet
from fastroute.metrics.figures import Figures, read
from fastroute.proxy.orders import Order

__all__ = ["Desk"]

DEADLINES_S = 0.25
"""Between two looks at the drains that have a deadline."""

SAMPLE_SHARE = 50
"""A sample is followed by a pause of that many times what it took: never more than 2 % of a core."""

log = logging.getLogger("fastroute.admin")


class Desk:
    """One replica's.

    Args:
        replica: what may be changed.
        mirror: open.
    """

    def __init__(self, replica: Replica, mirror: Mirror) -> None:
        self.replica, self.mirror = replica, mirror
        self.releases = Releases(mirror)
        self.history = History()
        self.sourcing = Sourcing(replica, lambda pool, text: self.history.note("member", text, pool=pool))
        self.mail: Mail | None = None
        self.fleet: FleetChanges | None = None
        self._restarts = Restarts(replica, self._release)
        self._rebalancer: Rebalancer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        config = replica.config
        if mirror.store is not None and config.secret:
            sender = f"{socket.gethostname().partition('.')[0][:32] or 'host'}-{os.getpid()}"
            self.mail = Mail(mirror.store, Seal(config.secret, config.fleet), sender)
            kept = replica.told.fleet if isinstance(replica.told.fleet, dict) else {}
            self.fleet = FleetChanges(
                self.mail,
                self._follow,
                known=kept.get("record"),
                followed={(kind, pool, server): at_us for kind, pool, server, at_us in kept.get("followed", ())},
                keep=self._keep,
            )
        rebalancer = Rebalancer(
            replica, mirror, self.mail, lambda pool, text: self.history.note("rebalance", text, pool=pool)
        )
        if rebalancer.wanted:
            self._rebalancer = rebalancer

    async def start(self) -> None:
        """Begin to keep time; what sources found and the fleet ordered is in force afterwards, if they answer."""
        loop = asyncio.get_running_loop()
        await self.sourcing.start()
        if self.fleet is not None:
            before = self.replica.board.version
            await self._turn_fleet()
            if self.replica.board.version != before:
                await self.replica.followed(self.replica.board.version)
            self._tasks.append(loop.create_task(self._again(POLL_S, self._turn_fleet)))
        self._tasks.append(loop.create_task(self._again(DEADLINES_S, self._end_drains)))
        if self._restarts.wanted:
            self._tasks.append(loop.create_task(self._again(DEADLINES_S, self._restarts.look)))
        if self._rebalancer is not None:
            self._tasks.append(loop.create_task(self._again(TURN_EVERY_S, self._rebalancer.turn)))
        if self.replica.file.admin is not None:
            self._tasks.append(loop.create_task(self._again(EVERY_S, self._sample)))

    async def aclose(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._rebalancer is not None:
            self._rebalancer.close()
        await self.sourcing.aclose()
        await self.releases.aclose()

    def count(self, figures: Figures) -> None:
        """Add what the fleet's record and the evening out come to, for the metrics."""
        if self._rebalancer is not None:
            figures.extra["rebalanced"] = self._rebalancer.counts()
        if self.fleet is not None and self.mail is not None:
            figures.extra["orders"] = len(self.fleet.told()["entries"])
            figures.extra["orders_restored"] = self.fleet.restored
            figures.extra["orders_refused"] = dict(self.mail.statistics.refused)

    def told_rebalance(self, pool: str) -> dict[str, Any] | None:
        """What evening a pool out has come to; None where it is off."""
        return self._rebalancer.told(pool) if self._rebalancer is not None else None

    async def told_fleet(self) -> dict[str, Any]:
        """The fleet as JSON: replicas, what was ordered, and what in the store was not believed."""
        if self.fleet is None or self.mail is None:
            return {"replicas": [], "store": None, "changes": [], "refused": {}, "note": "no [store], or no secret"}
        found = await read_fleet(self.mail)
        told = self.fleet.told()
        return {
            "replicas": [
                {"name": one.name, "here": one.name == self.replica.board.name, **one.facts} for one in found or ()
            ],
            "store": found is not None,
            "changes": told["entries"],
            "version": told["version"],
            "restored": told["restored"],
            "refused": dict(self.mail.statistics.refused),
            "note": "",
        }

    # Keeping time -----------------------------------------------------------------------------------------------------

    async def _again(self, every_s: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await act()
            except Exception:
                log.exception("the admin process failed at one of its duties; this is a bug in fastroute")
                await asyncio.sleep(5.0)

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        config = self.replica.config
        self.mirror.follow_members(config)
        figures = read(self.replica.board, self.replica.columns, config)
        await self.mirror.count_bindings(figures)
        self.history.sample(figures, loop.time())
        await asyncio.sleep(SAMPLE_SHARE * (loop.time() - began_s))

    async def _turn_fleet(self) -> None:
        assert self.fleet is not None
        await self.fleet.turn()

    async def _end_drains(self) -> None:
        """Drains with a deadline: over when it has passed, or when nothing is left."""
        _ = self.replica.config
        due = {
            (pool, server): at_s
            for pool, changes in self.replica.told.pools.items()
            for server, at_s in changes.deadlines.items()
            if pool in self.replica.config.pools
        }
        if not due:
            return
        config = self.replica.config
        self.mirror.follow_members(config)
        figures = read(self.replica.board, self.replica.columns, config)
        await self.mirror.count_bindings(figures)
        left = {(pool.name, one.name): one for pool in figures.pools for one in pool.servers}
        for (pool, server), at_s in due.items():
            one, order = left.get((pool, server)), self.replica.order_of(pool, server)
            if one is None or order.state != "draining":
                continue
            late = time.time() >= at_s
            if not late and (one.bindings or one.in_flight or one.state != "draining"):
                continue
            why = "its deadline has passed" if late else "nothing is left"
            log.info("pool %s: server %s has drained: %s (%s bindings)", pool, server, why, one.bindings)
            self.history.note("drain", f"{server} has drained: {why}", pool=pool, server=server)
            self.replica.give(pool, server, Order("maintenance", order.weight, int(time.time() * 1000)))

    # The fleet's orders -----------------------------------------------------------------------------------------------

    def _follow(self, entry: Entry) -> None:
        kind, pool, server = entry.key
        replica, value = self.replica, entry.value
        if kind == "order":
            state = value.get("state")
            order = Order(state if state != "ready" else None, value.get("weight"), entry.at_us // 1000)
            replica.give(pool, server, order, value.get("deadline_at"))
        elif kind == "release":
            self._release(pool, server)
        elif pool not in replica.config.pools:
            raise UsageError(f"there is no pool {pool!r}")
        else:
            known = any(name_of(one) == server for one in replica.config.pools[pool].servers)
            if "added" in value and not known:
                replica.add(pool, parse_server(dict(value["added"])))
            elif value.get("removed") and known:
                replica.remove(pool, server)
        log.info("fleet: followed %s of %s/%s by %s", kind, pool, server, entry.by)
        self.history.note("order", f"{entry.by}, whole fleet: {server}: {kind}", pool=pool, server=server)

    def _release(self, pool: str, server: str) -> None:
        """Begin to move all bindings away from a server."""
        replica = self.replica
        figures = read(replica.board, replica.columns, replica.config)
        self.mirror.follow_members(replica.config)
        self.mirror.follow(figures)
        self.releases.start(pool, server)

    def _keep(self, record: list[Any], followed: dict[tuple[str, str, str], int]) -> None:
        def change(told: Any) -> None:
            told.fleet = {"record": record, "followed": [[*key, at_us] for key, at_us in followed.items()]}

        self.replica.columns.notice.write(change)
