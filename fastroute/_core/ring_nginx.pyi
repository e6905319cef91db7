from collections.abc import Iterable

from fastroute._core.ring_point import PointRing

POINTS_PER_WEIGHT: int

class NginxRing(PointRing):
    def __init__(
        self, keys: Iterable[str | bytes], weights: Iterable[int], slots: Iterable[int] | None = None
    ) -> None: ...
