from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring import Ring

TABLE_SIZE: int
TABLE_SIZE_MAX: int

@disjoint_base
class MaglevRing(Ring):
    @property
    def table_size(self) -> int: ...
    def __init__(
        self,
        keys: Iterable[str | bytes],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        table_size: int = 65537,
        seed: int = 0,
    ) -> None: ...
    def table(self) -> list[int]: ...
