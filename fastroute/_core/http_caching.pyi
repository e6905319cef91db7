from typing_extensions import disjoint_base

from fastroute._core.http_request import Request

FILL_PASS: int
FILL_TEE: int
FILL_SWALLOW: int
FILL_WATCH: int
ASKS: int
BYPASS: int

@disjoint_base
class Caching(Request):
    @property
    def cache_request(self) -> bytes | None: ...
    def waits(self, epoch: int) -> bool: ...
    def go(self, epoch: int, request: bytes, fill: object) -> bool: ...
    def serve(
        self, epoch: int, status: int, head: bytes, body: bytes | None, first: int, behind: int, result: int
    ) -> bool: ...
    def fail(self, epoch: int, status: int) -> bool: ...

def cache_key(request: bytes, tls: bool = False, trusted: bool = False) -> tuple[str | None, int]: ...
