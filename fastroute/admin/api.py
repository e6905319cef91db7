"""The admin interface of one replica: paths to answers.

Not here: HTTP (fastroute.admin.http), who may what (guard), forms (view, fastroute.metrics). Rules of this file:
reading changes nothing; a change is checked whole before anything happens, and is answered when every worker follows
it, or when FOLLOW_S has passed, with how many do.
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
from fastroute.admin.http import Request, Response, error, json_response
from fastroute.admin.mirror import Mirror
from fastroute.admin.page import dashboard
from fastroute.config.kinds import NOT_YET
from fastroute.config.schema import Config
from fastroute.errors import MemcacheError, UsageError
from fastroute.metrics import families
from fastroute.metrics.figures import Figures, PoolFigures, ServerFigures, read
from fastroute.metrics.layout import Columns
from fastroute.metrics.text import CONTENT_TYPE
from fastroute.model import WEIGHT_MAX
from fastroute.proxy.orders import ORDERED_STATES, Order, Orders

__all__ = ["Api"]

FOLLOW_S = 1.0
"""How long a change waits for the workers: what a fleet is promised; each looks ten times a second."""

RELOAD_S = 35.0
"""How long a reload may take: the longest start of a worker, and a moment."""

POLL_S = 0.01

log = logging.getLogger("fastroute.admin")


class _Wrong(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Api:
    """Answers requests.

    Args:
        board, columns, config: of the replica.
        mirror: open.
        supervisor_pid: who reloads.
    """

    def __init__(self, board: Board, columns: Columns, config: Config, mirror: Mirror, supervisor_pid: int) -> None:
        assert config.admin is not None
        self._board, self._columns, self._config, self._mirror = board, columns, config, mirror
        self._admin, self._supervisor_pid = config.admin, supervisor_pid
        self._orders = Orders(board, columns.servers)

    async def handle(self, request: Request) -> Response:
        """The answer to a request."""
        refusal = guard.refuse_host(self._admin, request)
        if refusal is not None:
            return refusal
        try:
            return await self._answer(request)
        except _Wrong as wrong:
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
        if request.method == "POST" and changing is not None:
            refusal = guard.may_change(self._admin, request)
            return refusal if refusal is not None else await changing(request)
        allowed = ", ".join([*(["GET", "HEAD"] if reading else []), *(["POST"] if changing else [])])
        return error(
            405, "method", f"{request.method[:16]} is not accepted here", f"accepted: {allowed}", Allow=allowed
        )

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
                return (lambda request: self._servers(pool)), None
            case ("api", "v1", "pools", pool, "servers", name):
                return (lambda _: self._server(pool, name)), (lambda request: self._change(pool, name, request))
            case ("api", "v1", "fleet"):
                return self._fleet, None
            case ("api", "v1", "affinity", pool):
                return (lambda request: self._affinity(pool, request)), None
            case ("api", "v1", "affinity", pool, "release"):
                return None, (lambda request: self._release(pool, request))
            case ("api", "v1", "explain", pool):
                return (lambda request: self._explain(pool, request)), None
            case ("api", "v1", "statistics"):
                return self._statistics, None
            case ("api", "v1", "purge"):
                return None, self._purge
            case ("api", "v1", "reload"):
                return None, self._reload
        return None, None

    # ---- reading

    async def _figures(self) -> Figures:
        figures = read(self._board, self._columns, self._config)
        await self._mirror.count_bindings(figures)
        return figures

    async def _page(self, _: Request) -> Response:
        return dashboard()

    async def _metrics(self, _: Request) -> Response:
        return Response(200, families.page(await self._figures(), fastroute.__version__), CONTENT_TYPE)

    async def _healthz(self, _: Request) -> Response:
        return json_response({"alive": True})

    async def _readyz(self, _: Request) -> Response:
        reasons = view.ready(read(self._board, self._columns, self._config))
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _pools(self, _: Request) -> Response:
        figures = await self._figures()
        return json_response({"pools": [self._told(pool) for pool in figures.pools]})

    async def _pool(self, name: str) -> Response:
        return json_response(self._told(self._known(await self._figures(), name)))

    async def _servers(self, name: str) -> Response:
        return json_response({"servers": self._told(self._known(await self._figures(), name))["servers"]})

    async def _server(self, pool: str, name: str) -> Response:
        server = self._known_server(self._known(await self._figures(), pool), name)
        return json_response(view.server_of(server, self._orders.of(pool, name)))

    async def _fleet(self, _: Request) -> Response:
        return error(404, "not-available", f"the view over all replicas {NOT_YET}", "ask each replica by itself")

    async def _affinity(self, pool: str, request: Request) -> Response:
        figures = await self._figures()
        of = self._known(figures, pool)
        if "key" in request.query:
            self._mirror.follow(figures)
            return json_response(await self._mirror.binding(pool, request.query["key"]))
        servers = {server.name: server.bindings for server in of.servers}
        return json_response({"pool": pool, "bindings": of.bindings, "servers": servers})

    async def _explain(self, pool: str, request: Request) -> Response:
        figures = read(self._board, self._columns, self._config)
        self._known(figures, pool)
        if "key" not in request.query:
            return error(400, "no-key", "which key?", f"/api/v1/explain/{pool}?key=KEY")
        self._mirror.follow(figures)
        return json_response(await self._mirror.explain(pool, request.query["key"]))

    async def _statistics(self, _: Request) -> Response:
        return json_response(view.statistics_of(await self._figures(), fastroute.__version__))

    def _told(self, pool: PoolFigures) -> dict[str, Any]:
        servers = [view.server_of(one, self._order(pool.name, one.name)) for one in pool.servers]
        return view.pool_of(pool, servers)

    def _order(self, pool: str, server: str) -> Order:
        try:
            return self._orders.of(pool, server)
        except UsageError:  # it shares a column: nothing can be ordered
            return Order()

    def _known(self, figures: Figures, name: str) -> PoolFigures:
        for pool in figures.pools:
            if pool.name == name:
                return pool
        known = ", ".join(pool.name for pool in figures.pools)
        raise _Wrong(error(404, "no-such-pool", f"there is no pool {name!r}", f"there are: {known}"))

    def _known_server(self, pool: PoolFigures, name: str) -> ServerFigures:
        for server in pool.servers:
            if server.name == name:
                return server
        some = ", ".join(server.name for server in pool.servers[:10]) + (", ..." if len(pool.servers) > 10 else "")
        raise _Wrong(error(404, "no-such-server", f"pool {pool.name!r} has no server {name!r}", f"it has: {some}"))

    # ---- changing

    @staticmethod
    def _body(request: Request, *known: str) -> dict[str, Any]:
        """The JSON object of a change; nothing but these keys."""
        try:
            told = json.loads(request.body) if request.body else {}
        except (ValueError, RecursionError):
            raise _Wrong(
                error(400, "malformed", "the body is no JSON", 'send an object such as {"weight": 2}')
            ) from None
        if not isinstance(told, dict):
            raise _Wrong(error(400, "malformed", "the body is no JSON object"))
        unknown = sorted(set(told) - set(known))
        if unknown:
            accepted = f"accepted: {', '.join(known)}" if known else "accepted: nothing"
            raise _Wrong(error(400, "unknown-key", f"unknown: {', '.join(unknown)[:200]}", accepted))
        return told

    async def _change(self, pool: str, name: str, request: Request) -> Response:
        figures = read(self._board, self._columns, self._config)
        self._known_server(self._known(figures, pool), name)
        told = self._body(request, "state", "weight", "scope")
        scope, state, weight = told.get("scope", "replica"), told.get("state"), told.get("weight")
        if scope == "fleet":
            return error(400, "not-available", f'scope "fleet" {NOT_YET}', "give the order to each replica")
        if scope != "replica":
            return error(400, "refused", f"scope {scope!r}", 'accepted: "replica"')
        if not {"state", "weight"} & set(told):
            return error(400, "nothing", "nothing is ordered", 'send {"state": ...} or {"weight": ...}')
        if "state" in told and state not in ORDERED_STATES:
            hint = f"accepted: {', '.join(ORDERED_STATES)}; down and ejected are said by health"
            return error(400, "refused", f"state {state!r}", hint)
        if weight is not None and (
            not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= WEIGHT_MAX
        ):
            return error(400, "refused", f"weight {weight!r}", f"accepted: 0 to {WEIGHT_MAX}, or null for the file's")
        old = self._orders.of(pool, name)
        order = Order(
            (state if state != "ready" else None) if "state" in told else old.state,
            weight if "weight" in told else old.weight,
            int(time.time() * 1000),
        )
        version = self._orders.give(pool, name, order)
        log.info("pool %s: server %s was ordered: %s", pool, name, json.dumps({k: told[k] for k in sorted(told)}))
        follow, workers = await self._followed(version)
        of = self._known(await self._figures(), pool)
        answer = view.server_of(self._known_server(of, name), order)
        answer["workers"], answer["workers_following"] = workers, follow
        if not any(server.state == "ready" and server.weight for server in of.servers):
            answer["warning"] = f"pool {pool} has no ready server now: new users are answered 503"
        return json_response(answer)

    async def _followed(self, version: int) -> tuple[int, int]:
        """(workers that follow, workers) when all do, or after FOLLOW_S."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + FOLLOW_S
        while True:
            workers = self._board.workers()
            follow = sum(follows >= version for _, _, _, follows in workers)
            if follow == len(workers) or loop.time() >= end_s:
                return follow, len(workers)
            await asyncio.sleep(POLL_S)

    async def _release(self, pool: str, request: Request) -> Response:
        figures = read(self._board, self._columns, self._config)
        self._known(figures, pool)
        key = self._body(request, "key").get("key")
        if not isinstance(key, str) or not key:
            return error(400, "no-key", "which key?", 'send {"key": "KEY"}')
        self._mirror.follow(figures)
        try:
            result = await self._mirror.release(pool, key)
        except MemcacheError as unreachable:
            hint = "this machine has forgotten the key; try again when the store is back"
            return error(409, "store-unreachable", str(unreachable), hint)
        log.info("pool %s: a key was released: %s", pool, result)
        return json_response({"pool": pool, "result": result, "released": result == "released"})

    async def _purge(self, request: Request) -> Response:
        self._body(request, "url", "tag", "namespace")
        return error(400, "not-available", f"the cache of HTTP responses {NOT_YET}: nothing to purge")

    async def _reload(self, request: Request) -> Response:
        self._body(request)
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
