from typing import final

from fastroute._core.http_attempt import Attempt

@final
class Watch:
    def __init__(self, connections: set[Attempt]) -> None: ...
    def look(self) -> None: ...
