from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring import Ring

SCORE_BITS: int

def exponential(z: int) -> int: ...

@disjoint_base
class RendezvousRing(Ring):
    def __init__(
        self, keys: Iterable[str | bytes], weights: Iterable[int], slots: Iterable[int] | None = None, *, seed: int = 0
    ) -> None: ...
