from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring_point import PointRing

HASHES: tuple[str, ...]
UNWEIGHTED_POINTS: int

@disjoint_base
class KetamaRing(PointRing):
    @property
    def weighted(self) -> bool: ...
    def __init__(
        self,
        keys: Iterable[str | bytes],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        rule: str = "libmemcached",
        weighted: bool | None = None,
        hash: str = "md5",
    ) -> None: ...
