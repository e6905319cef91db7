from typing_extensions import disjoint_base

from fastroute._core.http_upstream import Sink

@disjoint_base
class Reading(Sink):
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
