from collections.abc import Iterable

from typing_extensions import disjoint_base

VERSION: int
CELLS_MIN: int
CELLS_MAX: int
BLOCK_CELLS: int
SERVERS_MAX: int
OVERLAY_DOWN_MIN: int
RECORD_CELLS_MAX: int
CHANGED_SHARE_MAX: float
WEIGHT_DRIFT_MAX: int

def gap(low: int) -> int: ...

@disjoint_base
class TableRing:
    @property
    def cells(self) -> int: ...
    @property
    def server_count(self) -> int: ...
    @property
    def derived(self) -> bool: ...
    @property
    def raced_again(self) -> int: ...
    def __init__(
        self,
        keys: Iterable[str | bytes],
        weights: Iterable[int],
        slots: Iterable[int] | None = None,
        *,
        cells: int = 131072,
        only: bytes | bytearray | None = None,
        keep: bool = True,
    ) -> None: ...
    def changed(
        self, keys: Iterable[str | bytes], weights: Iterable[int], slots: Iterable[int] | None = None
    ) -> TableRing: ...
    def ranking(self, cell: int) -> list[int]: ...
    def cell_of(self, hash: int) -> int: ...
    def choices(self, cell: int) -> tuple[int, ...]: ...
    def column(self, rank: int) -> bytes: ...
