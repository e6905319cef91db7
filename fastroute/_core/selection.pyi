from typing import Never

from typing_extensions import disjoint_base

from fastroute.model import Server

FALLBACKS_MAX: int

@disjoint_base
class Selection:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    @property
    def server(self) -> Server: ...
    @property
    def reason(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def fallbacks(self) -> tuple[Server, ...]: ...
