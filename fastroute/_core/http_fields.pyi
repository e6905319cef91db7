from collections.abc import Iterable
from typing import final

PIECES: dict[str, int]

@final
class FieldRules:
    def __init__(self, drops: Iterable[bytes], pieces: Iterable[bytes | int]) -> None: ...

@final
class Page:
    def __init__(self, body: bytes, content_type: str = "", fields: Iterable[tuple[str, str]] = ()) -> None: ...
