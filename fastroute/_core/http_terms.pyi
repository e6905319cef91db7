from collections.abc import Callable
from typing import Protocol

from typing_extensions import disjoint_base

from fastroute._core.board import Row
from fastroute._core.http_attempt import Attempt
from fastroute._core.http_sticky import Sticky
from fastroute._core.http_upstream import Lines, ServerLine
from fastroute._core.http_waiting import Waiting
from fastroute._core.http_wire import Engine
from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.selection import Selection
from fastroute.config.schema import ListenerLimits, ListenerTimeouts

class _Slow(Protocol):
    def route(self, request: Attempt, epoch: int, key: bytes, hint: tuple[int, int, int] | None) -> None: ...
    def move(self, request: Attempt, epoch: int, selection: Selection, timed_out: bool) -> None: ...
    def connect(self, request: Attempt, epoch: int, line: ServerLine) -> None: ...
    def eject(self, line: ServerLine) -> None: ...
    def full(self) -> bool: ...

@disjoint_base
class Terms:
    def __init__(
        self,
        engine: Engine,
        lines: Lines,
        router: Router,
        slow: _Slow,
        sticky: Sticky,
        waiting: Waiting,
        *,
        limits: ListenerLimits,
        timeouts: ListenerTimeouts,
        attempts: int,
        trusts: Callable[[str], bool] | None = None,
        debug: bool = False,
        tls: bool = False,
        row: Row | None = None,
        column: int = 0,
    ) -> None: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def lines(self) -> Lines: ...
    @property
    def router(self) -> Router: ...
    @property
    def pool(self) -> Pool: ...
