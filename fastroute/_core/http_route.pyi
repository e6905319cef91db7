from collections.abc import Sequence
from typing import Any, Protocol, final

from fastroute._core.http_attempt import Attempt
from fastroute._core.http_fields import FieldRules
from fastroute._core.http_sticky import Sticky
from fastroute._core.http_upstream import Lines, ServerLine
from fastroute._core.http_waiting import Waiting
from fastroute._core.near_cache import NearCache
from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.selection import Selection

class _Slow(Protocol):
    def route(self, request: Attempt, epoch: int, key: bytes, hint: tuple[int, int, int] | None) -> None: ...
    def move(self, request: Attempt, epoch: int, selection: Selection, timed_out: bool) -> None: ...
    def connect(self, request: Attempt, epoch: int, line: ServerLine) -> None: ...
    def eject(self, line: ServerLine) -> None: ...
    def full(self) -> bool: ...

class _Responses(Protocol):
    near_cache: NearCache
    object_bytes_max: int
    variant_keys: dict[bytes, str]

    def learn_variant(
        self, variants: Any, url_key: str, raw: bytes, fields: Sequence[tuple[str, str]]
    ) -> str | None: ...
    def look(
        self, request: Any, epoch: int, read_key: str | None, any_key: str | None, head: bytes, is_head: bool, asks: int
    ) -> bool: ...

@final
class Route:
    def __init__(
        self,
        lines: Lines | None = None,
        router: Router | None = None,
        slow: _Slow | None = None,
        sticky: Sticky | None = None,
        waiting: Waiting | None = None,
        *,
        attempts: int = 0,
        cache: bool = False,
        request_fields: FieldRules | None = None,
        response_fields: FieldRules | None = None,
        responses: _Responses | None = None,
    ) -> None: ...
    @property
    def lines(self) -> Lines | None: ...
    @property
    def router(self) -> Router | None: ...
    @property
    def pool(self) -> Pool | None: ...
    @property
    def cache(self) -> bool: ...
