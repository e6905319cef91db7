from collections.abc import Callable

from typing_extensions import disjoint_base

from fastroute._core.http_caching import Caching
from fastroute._core.http_relay import Relay
from fastroute._core.http_route import Route

@disjoint_base
class Fetch(Caching):
    def __init__(self, relay: Relay, route: Route, request: bytes, fill: object) -> None: ...
    def start(self, over: Callable[[], object]) -> None: ...
    def stop(self) -> None: ...
