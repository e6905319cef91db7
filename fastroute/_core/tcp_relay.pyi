import asyncio
from collections.abc import Callable
from typing import Any, final

from fastroute._core.http_terms import Terms
from fastroute._core.http_tunnel import Tunnel
from fastroute.routing.keys import KeyRule

@final
class TcpRelay(Terms):
    def __init__(
        self,
        *args: Any,
        rule: KeyRule | None = None,
        read_name: Callable[[bytes], str | None] | None = None,
        **named: Any,
    ) -> None: ...
    def make(self) -> TcpDownstream: ...
    def close_idle(self) -> None: ...
    def go_away(self, most: int) -> int: ...

@final
class TcpDownstream(Tunnel, asyncio.Protocol):
    def __init__(self, relay: TcpRelay) -> None: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
