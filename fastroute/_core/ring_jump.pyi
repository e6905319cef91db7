from collections.abc import Iterable

from typing_extensions import disjoint_base

from fastroute._core.ring import Ring

BUCKETS_MAX: int

@disjoint_base
class JumpRing(Ring):
    @property
    def bucket_count(self) -> int: ...
    def __init__(
        self, keys: Iterable[str | bytes], weights: Iterable[int], slots: Iterable[int] | None = None, *, seed: int = 0
    ) -> None: ...
