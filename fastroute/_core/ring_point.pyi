from typing_extensions import disjoint_base

from fastroute._core.ring import Ring

POINTS_MAX: int

@disjoint_base
class PointRing(Ring):
    @property
    def point_count(self) -> int: ...
    def points(self) -> list[tuple[int, int]]: ...
    def point_at(self, hash: int) -> int: ...
