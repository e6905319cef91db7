from typing import Any

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
