from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Policies:
    def __init__(
        self,
        policy: int,
        seed: int,
        zone: Any,
        fleet: str,
        pool: str,
        charge_sticky: bool,
        bound: tuple[int, int],
        ramp: tuple[int, float, float, bool],
    ) -> None: ...
