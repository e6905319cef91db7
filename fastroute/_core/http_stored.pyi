from typing import final

@final
class Stored:
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    head: bytes
    number: bytes
    born_ms: int
    made_ms: int
    lifetime_ms: int
    stale_while_revalidate_ms: int
    stale_if_error_ms: int
    no_cache: bool
    must_revalidate: bool
    def __init__(
        self,
        status: int,
        reason: str,
        fields: tuple[tuple[str, str], ...],
        body: bytes,
        number: bytes,
        *,
        born_ms: int,
        made_ms: int,
        lifetime_ms: int,
        stale_while_revalidate_ms: int = 0,
        stale_if_error_ms: int = 0,
        no_cache: bool = False,
        must_revalidate: bool = False,
    ) -> None: ...
    @property
    def lowered(self) -> list[tuple[str, str]]: ...
    def __sizeof__(self) -> int: ...
