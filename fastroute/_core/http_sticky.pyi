from typing import final

from fastroute._core.http_wire import Engine
from fastroute._core.token import TokenCodec

KEY_BYTES_MAX: int

@final
class Sticky:
    def __init__(
        self,
        engine: Engine,
        *,
        kind: str = "",
        name: str = "",
        codec: TokenCodec | None = None,
        hint_name: str = "",
        mark_key: bytes = ...,
        term_random_bits: int = 32,
        ttl_s: float = 0,
        cookie_attributes: str = "",
    ) -> None: ...
