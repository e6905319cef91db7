from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import disjoint_base

from fastroute._core.board import Row
from fastroute._core.http_fields import Page
from fastroute._core.http_log import AccessLog
from fastroute._core.http_route import Route
from fastroute._core.http_routes import Networks, RouteTable
from fastroute._core.http_wire import Engine
from fastroute.config.schema import ListenerLimits, ListenerTimeouts

@disjoint_base
class Terms:
    def __init__(
        self,
        engine: Engine,
        route: Route,
        *,
        limits: ListenerLimits,
        timeouts: ListenerTimeouts,
        table: RouteTable | None = None,
        targets: Iterable[Route] = (),
        trusts: Networks | None = None,
        forwarded: bool = False,
        request_id: str = "",
        pages: Mapping[int, Page] | None = None,
        log: AccessLog | None = None,
        hooks: object = None,
        name: str = "",
        debug: bool = False,
        tls: bool = False,
        row: Row | None = None,
        column: int = 0,
    ) -> None: ...
    @property
    def connections(self) -> set[Any]: ...
    def make_for(self, source: tuple[str, int] | None, destination: tuple[str, int] | None) -> Any: ...
    def abort(self) -> None: ...
    def only_ending(self) -> bool: ...
    def turns_away(self, address: str | None, waiting: int, of_address: int) -> bool: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def route(self) -> Route: ...
