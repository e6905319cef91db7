from collections.abc import Sequence
from typing import final

from fastroute._core.http_sights import Sights
from fastroute._core.http_wire import Engine
from fastroute._core.token import TokenCodec

RULES_MAX: int
JSON_BYTES_MAX: int
KINDS: dict[str, int]

def json_key(body: bytes, name: bytes) -> bytes | None: ...

@final
class Sticky:
    def __init__(
        self,
        engine: Engine,
        *,
        rules: Sequence[tuple[str, str]] = (),
        codec: TokenCodec | None = None,
        hint_name: str = "",
        mark_key: bytes = ...,
        term_random_bits: int = 32,
        ttl_s: float = 0,
        cookie_attributes: str = "",
    ) -> None: ...
    def watch(self, sights: Sights | None, most: int) -> None: ...
    @property
    def reads_json(self) -> bool: ...
