from typing_extensions import disjoint_base

from fastroute._core.http_reading import Reading
from fastroute._core.http_route import Route

@disjoint_base
class Facts(Reading):
    @property
    def raw(self) -> bool: ...
    @property
    def route(self) -> Route: ...
