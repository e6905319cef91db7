from typing import Any

from fastroute._core.pool import Pool
from fastroute._core.ring_table import TableRing

def rings_in_force(pool: Pool) -> tuple[Any, TableRing | None]: ...
def now_tick() -> int: ...
