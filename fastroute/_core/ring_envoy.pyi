from collections.abc import Iterable

from fastroute._core.ring_point import PointRing

SIZE_MIN: int
SIZE_MAX: int
HASHES: tuple[str, ...]

class EnvoyRing(PointRing):
    def __init__(
        self,
        keys: Iterable[str | bytes],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        min_size: int = 1024,
        max_size: int = 8388608,
        hash: str = "xxh64",
        seed: int = 0,
    ) -> None: ...
