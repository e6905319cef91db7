from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring import Ring
from fastroute._core.ring_point import PointRing

FUNCTIONS: tuple[str, ...]
WEIGHT_MAX: int
ID_MAX: int

@disjoint_base
class HaproxyRing(PointRing):
    def __init__(
        self,
        ids: Iterable[int],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        function: str | None = None,
        avalanche: bool | None = None,
    ) -> None: ...

@disjoint_base
class HaproxyMap(Ring):
    @property
    def size(self) -> int: ...
    def __init__(
        self,
        ids: Iterable[int],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        function: str | None = None,
        avalanche: bool | None = None,
    ) -> None: ...
    def map(self) -> list[int]: ...
