"""The admin interface of one replica: paths to answers.

Not here: HTTP (fastroute.admin.http), who may what (guard), forms (view, fastroute.metrics), changes of servers and
bindings (live). Rules of this file: reading changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import fastroute
from fastroute._core.board import Board
from fastroute.admin import guard, view
from fastroute.admin.asked import Wrong, body_of, by_of, known_pool, scope_of
from fastroute.admin.desk import Desk
from fastroute.admin.http import Request, Response, error, json_response
from fastroute.admin.live import Live
from fastroute.admin.mirror import Mirror
from fastroute.admin.page import dashboard
from fastroute.admin.replica import Replica
from fastroute.config.schema import Config
from fastroute.errors import UsageError
from fastroute.metrics import families
from fastroute.metrics.figures import Figures, PoolFigures, read
from fastroute.metrics.layout import Columns
from fastroute.metrics.text import CONTENT_TYPE
from fastroute.proxy.purging import Purger

__all__ = ["Api"]

RELOAD_S = 35.0
"""How long a reload may take: the longest start of a worker, and a moment."""

POLL_S = 0.01

log = logging.getLogger("fastroute.admin")


class Api:
    """Answers requests.

    Args:
        board, columns, config: of the replica.
        mirror: open.
        supervisor_pid: who reloads.
        desk: what changes the replica; None: made here, for the replica alone.
    """

    def __init__(
        self,
        board: Board,
        columns: Columns,
        config: Config,
        mirror: Mirror,
        supervisor_pid: int,
        desk: Desk | None = None,
    ) -> None:
        assert config.admin is not None
        self._board, self._columns, self._mirror = board, columns, mirror
        self._admin, self._supervisor_pid = config.admin, supervisor_pid
        self._desk = desk if desk is not None else Desk(Replica(board, columns, config), mirror)
        self._replica = self._desk.replica
        self._purger = Purger(self._replica.config)
        self._live = Live(self._desk)

    async def aclose(self) -> None:
        """Close what was opened for changes."""
        await self._purger.aclose()

    async def handle(self, request: Request) -> Response:
        """The answer to a request."""
        refusal = guard.refuse_host(self._admin, request)
        if refusal is not None:
            return refusal
        try:
            return await self._answer(request)
        except Wrong as wrong:
            return wrong.response
        except UsageError as wrong:
            return error(400, "refused", str(wrong))

    async def _answer(self, request: Request) -> Response:
        path = request.path[:-1] if len(request.path) > 1 and request.path[-1] == "" else request.path
        reading, changing = self._routes(path)
        if reading is None and changing is None:
            return error(404, "not-found", f"there is no /{'/'.join(path)}", "GET /api/v1/pools lists what there is")
        if request.method in ("GET", "HEAD") and reading is not None:
            if path not in (("healthz",), ("readyz",), ("",)):
                refusal = guard.may_read(self._admin, request)
                if refusal is not None:
                    return refusal
            return await reading(request)
        deleting = self._deletes(path)
        act = {"POST": changing, "DELETE": deleting}.get(request.method)
        if act is not None:
            refusal = guard.may_change(self._admin, request)
            return refusal if refusal is not None else await act(request)
        methods = [*(["GET", "HEAD"] if reading else []), *(["POST"] if changing else [])]
        allowed = ", ".join([*methods, *(["DELETE"] if deleting else [])])
        return error(
            405, "method", f"{request.method[:16]} is not accepted here", f"accepted: {allowed}", Allow=allowed
        )

    def _deletes(self, path: tuple[str, ...]) -> Callable[[Request], Awaitable[Response]] | None:
        """Who takes away what is at a path."""
        match path:
            case ("api", "v1", "pools", pool, "servers", name):
                return lambda request: self._live.remove(pool, name, request)
        return None

    def _routes(
        self, path: tuple[str, ...]
    ) -> tuple[Callable[[Request], Awaitable[Response]] | None, Callable[[Request], Awaitable[Response]] | None]:
        """(who reads, who changes) at a path."""
        match path:
            case ("",):
                return self._page, None
            case ("metrics",):
                return self._metrics, None
            case ("healthz",):
                return self._healthz, None
            case ("readyz",):
                return self._readyz, None
            case ("api", "v1", "pools"):
                return self._pools, None
            case ("api", "v1", "pools", pool):
                return (lambda request: self._pool(pool)), None
            case ("api", "v1", "pools", pool, "servers"):
                return (lambda _: self._servers(pool)), (lambda request: self._live.add(pool, request))
            case ("api", "v1", "pools", pool, "servers", name):
                return (lambda _: self._server(pool, name)), (lambda request: self._live.order(pool, name, request))
            case ("api", "v1", "fleet"):
                return self._fleet, None
            case ("api", "v1", "affinity", pool):
                return (lambda request: self._affinity(pool, request)), None
            case ("api", "v1", "affinity", pool, "release"):
                return (lambda _: self._releases(pool)), (lambda request: self._live.release(pool, request))
            case ("api", "v1", "explain", pool):
                return (lambda request: self._explain(pool, request)), None
            case ("api", "v1", "history"):
                return self._history, None
            case ("api", "v1", "statistics"):
                return self._statistics, None
            case ("api", "v1", "purge"):
                return None, self._purge
            case ("api", "v1", "reload"):
                return None, self._reload
        return None, None

    # ---- reading

    def _read(self) -> Figures:
        config = self._replica.config
        self._mirror.follow_members(config)
        return read(self._board, self._columns, config)

    async def _figures(self) -> Figures:
        figures = self._read()
        await self._mirror.count_bindings(figures)
        return figures

    async def _page(self, _: Request) -> Response:
        return dashboard()

    async def _metrics(self, _: Request) -> Response:
        figures = await self._figures()
        self._desk.count(figures)
        return Response(200, families.page(figures, fastroute.__version__), CONTENT_TYPE)

    async def _healthz(self, _: Request) -> Response:
        return json_response({"alive": True})

    async def _readyz(self, _: Request) -> Response:
        reasons = view.ready(self._read())
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _pools(self, _: Request) -> Response:
        figures = await self._figures()
        return json_response({"pools": [self._told(pool) for pool in figures.pools]})

    async def _pool(self, name: str) -> Response:
        return json_response(self._told(known_pool(await self._figures(), name)))

    async def _servers(self, name: str) -> Response:
        return json_response({"servers": self._told(known_pool(await self._figures(), name))["servers"]})

    async def _server(self, pool: str, name: str) -> Response:
        return json_response(self._live.server(pool, name, await self._figures()))

    async def _releases(self, pool: str) -> Response:
        known_pool(self._read(), pool)
        return self._live.releases(pool)

    async def _fleet(self, _: Request) -> Response:
        return json_response(await self._desk.told_fleet())

    async def _affinity(self, pool: str, request: Request) -> Response:
        figures = await self._figures()
        of = known_pool(figures, pool)
        if "key" in request.query:
            self._mirror.follow(figures)
            return json_response(await self._mirror.binding(pool, request.query["key"]))
        servers = {server.name: server.bindings for server in of.servers}
        return json_response({"pool": pool, "bindings": of.bindings, "servers": servers})

    async def _explain(self, pool: str, request: Request) -> Response:
        figures = self._read()
        known_pool(figures, pool)
        if "key" not in request.query:
            return error(400, "no-key", "which key?", f"/api/v1/explain/{pool}?key=KEY")
        self._mirror.follow(figures)
        return json_response(await self._mirror.explain(pool, request.query["key"]))

    async def _history(self, request: Request) -> Response:
        pool = request.query.get("pool", "")
        if pool:
            known_pool(self._read(), pool)
        return json_response(self._desk.history.told(pool))

    async def _statistics(self, _: Request) -> Response:
        return json_response(view.statistics_of(await self._figures(), fastroute.__version__))

    def _told(self, pool: PoolFigures) -> dict[str, Any]:
        replica, name = self._replica, pool.name
        servers = [
            view.server_of(one, replica.order_of(name, one.name), replica.deadline_of(name, one.name))
            for one in pool.servers
        ]
        more = {
            "rebalance": self._desk.told_rebalance(name),
            "warnings": view.warnings_of(name, replica.config.pools[name], replica.told.layers, time.time()),
        }
        return view.pool_of(pool, servers) | view.changes_of(replica.changes_of(name)) | more

    # ---- changing

    async def _purge(self, request: Request) -> Response:
        told = body_of(request, "url", "tag", "namespace", "soft", "scope", "by")
        scope_of(told)  # either: what the store has forgotten, every replica has
        by = by_of(told, "operator")
        named = {key: told[key] for key in ("url", "tag", "namespace") if key in told}
        soft = told.get("soft", False)
        hint = 'send one of {"url": ...}, {"tag": ...} and {"namespace": POOL}, with "soft": true or false'
        if len(named) != 1 or not all(isinstance(one, str) and one for one in named.values()):
            return error(400, "what", "what is to be purged?", hint)
        if not isinstance(soft, bool):
            return error(400, "refused", f"soft {soft!r}", hint)
        if not self._replica.config.cache.enabled:
            return error(400, "no-cache", "no response is cached here", "[cache] enabled = true, docs/http-cache.md")
        pools = await self._purger.purge(**named, soft=soft)
        if not all(pools.values()):
            missing = ", ".join(pool for pool, done in pools.items() if not done)
            hint = "a node that is away may come back with what it had; purge again then"
            return error(409, "unconfirmed", f"not confirmed by every node: {missing}", hint)
        what, which = next(iter(named.items()))
        log.info("cache: %s %s %s by %s", what, json.dumps(which), "was made stale" if soft else "was purged", by)
        return json_response({**named, "soft": soft, "pools": sorted(pools)})

    async def _reload(self, request: Request) -> Response:
        body_of(request)
        before, _, refused_before, _ = self._board.reloads()
        os.kill(self._supervisor_pid, signal.SIGHUP)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + RELOAD_S
        while loop.time() < end_s:
            over, _, refused, text = self._board.reloads()
            if over > before:
                break
            await asyncio.sleep(POLL_S)
        else:
            return error(409, "timeout", f"the reload did not end within {RELOAD_S:g} s", "the log says what it does")
        if refused > refused_before:
            return error(409, "refused", text, "the old configuration stays; fastroute check -c FILE says the same")
        return json_response({"result": "ok", "detail": text})
