from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring_point import PointRing

VNODES: dict[str, int]
VNODES_MAX: int

@disjoint_base
class UhashringRing(PointRing):
    def __init__(
        self,
        keys: Iterable[str | bytes],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        hash: str = "default",
        vnodes: int | None = None,
    ) -> None: ...
