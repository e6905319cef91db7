"""Changes of a running replica, as the admin interface takes them: orders, servers, releases; here or on the fleet.

Not here: what may be changed and how (fastroute.admin.replica, fastroute.fleet.changes), who may (guard), paths (api).
Rules of this file: a change is checked whole before anything happens, and is answered when every worker of this replica
follows it, or when FOLLOW_S has passed, with how many do. What is for the fleet is first in the store, then here.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from fastroute.admin import view
from fastroute.admin.asked import Wrong, body_of, by_of, known_pool, known_server, scope_of
from fastroute.admin.desk import Desk
from fastroute.admin.http import Request, Response, error, json_response
from fastroute.admin.replica import parse_order, parse_server
from fastroute.errors import MemcacheError
from fastroute.fleet.changes import FleetChanges
from fastroute.metrics.figures import Figures, PoolFigures, read

__all__ = ["Live"]

SERVER_KEYS = ("name", "address", "weight", "backup", "max_connections", "id", "hash_key")

log = logging.getLogger("fastroute.admin")


class Live:
    """Answers changes.

    Args:
        desk: of this replica.
    """

    def __init__(self, desk: Desk) -> None:
        self._replica, self._mirror, self._releases, self._fleet = desk.replica, desk.mirror, desk.releases, desk.fleet
        self._history = desk.history

    def _read(self) -> Figures:
        replica = self._replica
        config = replica.config
        self._mirror.follow_members(config)
        return read(replica.board, replica.columns, config)

    def _for_fleet(self) -> FleetChanges:
        if self._fleet is None:
            hint = "give the order to each replica"
            raise Wrong(error(400, "no-fleet", 'scope "fleet" needs a [store] and a secret in the file', hint))
        return self._fleet

    def server(self, pool: str, name: str, figures: Figures) -> dict[str, Any]:
        """One server as JSON."""
        one = known_server(known_pool(figures, pool), name)
        replica = self._replica
        return view.server_of(one, replica.order_of(pool, name), replica.deadline_of(pool, name))

    async def order(self, pool: str, name: str, request: Request) -> Response:
        """State and weight."""
        known_server(known_pool(self._read(), pool), name)
        told = body_of(request, "state", "weight", "deadline", "scope", "by")
        everywhere, by = scope_of(told), by_of(told, "operator")
        if not {"state", "weight"} & set(told):
            return error(400, "nothing", "nothing is ordered", 'send {"state": ...} or {"weight": ...}')
        order, left_s = parse_order(told, self._replica.order_of(pool, name))
        deadline_s = None if left_s is None else time.time() + left_s
        if everywhere:
            fleet = self._for_fleet()
            await self._published(fleet.order(pool, name, order.state, order.weight, deadline_s, by))
        version = self._replica.give(pool, name, order, deadline_s)
        where = " (whole fleet)" if everywhere else ""
        words = ", ".join(
            f"{key} {'as the file says' if told[key] is None else told[key]}"
            for key in ("state", "weight", "deadline")
            if key in told
        )
        self._history.note("order", f"{by}: {name}: {words}{where}", pool=pool, server=name)
        log.info(
            "pool %s: server %s: %s ordered %s%s",
            pool,
            name,
            by,
            words,
            " for the whole fleet" if everywhere else "",
        )
        return await self._said(pool, name, version)

    async def add(self, pool: str, request: Request) -> Response:
        """Take in a server."""
        known_pool(self._read(), pool)
        told = body_of(request, *SERVER_KEYS, "scope", "by")
        everywhere, by = scope_of(told), by_of(told, "operator")
        server = parse_server(told)
        version = self._replica.add(pool, server)
        name = server.name or server.address
        if everywhere:
            fleet = self._for_fleet()
            await self._published(fleet.add(pool, name, told, by))
        self._history.note("order", f"{by}: {name} added", pool=pool, server=name)
        log.info("pool %s: server %s (%s) was added by %s", pool, name, server.address, by)
        return await self._said(pool, name, version)

    async def remove(self, pool: str, name: str, request: Request) -> Response:
        """Let a server go."""
        known_server(known_pool(self._read(), pool), name)
        told = body_of(request, "scope", "by")
        everywhere, by = scope_of(told), by_of(told, "operator")
        if everywhere:
            fleet = self._for_fleet()
            await self._published(fleet.remove(pool, name, by))
        version = self._replica.remove(pool, name)
        self._history.note("order", f"{by}: {name} removed", pool=pool, server=name)
        log.info("pool %s: server %s was removed by %s", pool, name, by)
        follow, workers = await self._replica.followed(version)
        answer: dict[str, Any] = {"pool": pool, "name": name, "removed": True}
        answer |= {"workers": workers, "workers_following": follow}
        return self._warned(answer, known_pool(self._read(), pool))

    async def release(self, pool: str, request: Request) -> Response:
        """End one key's binding, or move all of a server's."""
        figures = self._read()
        of = known_pool(figures, pool)
        told = body_of(request, "key", "server", "scope", "by")
        everywhere, by = scope_of(told), by_of(told, "operator")
        if ("key" in told) == ("server" in told):
            raise Wrong(error(400, "no-key", "which key, or which server's?", 'send {"key": "KEY"} or {"server": "S"}'))
        self._mirror.follow(figures)
        if "server" in told:
            known_server(of, str(told["server"]))
            if everywhere:
                fleet = self._for_fleet()
                await self._published(fleet.release(pool, str(told["server"]), by))
            job = self._releases.start(pool, str(told["server"]))
            self._history.note("order", f"{by}: bindings of {job.server} released", pool=pool, server=job.server)
            log.info("pool %s: the bindings of server %s are released by %s", pool, told["server"], by)
            return json_response(job.told())
        key = told["key"]
        if not isinstance(key, str) or not key:
            raise Wrong(error(400, "no-key", "which key?", 'send {"key": "KEY"}'))
        try:
            result = await self._mirror.release(pool, key)
        except MemcacheError as unreachable:
            hint = "this machine has forgotten the key; try again when the store is back"
            return error(409, "store-unreachable", str(unreachable), hint)
        said = {"absent": "which was not bound", "moved": "which was bound anew meanwhile and stays so"}
        log.info("pool %s: %s released a key%s", pool, by, f", {said[result]}" if result in said else "")
        return json_response({"pool": pool, "result": result, "released": result == "released"})

    def releases(self, pool: str) -> Response:
        """How far the releases of servers' bindings are."""
        return json_response({"pool": pool, "releases": [job.told() for job in self._releases.of(pool)]})

    async def _published(self, publishing: Any) -> None:
        try:
            await publishing
        except MemcacheError as unreachable:
            hint = "nothing was ordered; try again when the store is back, or give the order to each replica"
            raise Wrong(error(409, "store-unreachable", str(unreachable), hint)) from None

    async def _said(self, pool: str, name: str, version: int) -> Response:
        follow, workers = await self._replica.followed(version)
        figures = self._read()
        await self._mirror.count_bindings(figures)
        answer = self.server(pool, name, figures)
        answer["workers"], answer["workers_following"] = workers, follow
        return self._warned(answer, known_pool(figures, pool))

    @staticmethod
    def _warned(answer: dict[str, Any], of: PoolFigures) -> Response:
        if not any(server.state == "ready" and server.weight for server in of.servers):
            answer["warning"] = f"pool {of.name} has no ready server now: new users are answered 503"
        return json_response(answer)
