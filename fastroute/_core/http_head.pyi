from collections.abc import Sequence
from typing import Any, Final

METHODS: Final[tuple[str, ...]]
BODIES: Final[tuple[str, ...]]
FIELD_IDS: Final[tuple[str, ...]]

def scan_request(
    data: bytes,
    *,
    request_line_bytes: int = 8192,
    head_bytes: int = 32768,
    fields: int = 100,
    method_bytes: int = 64,
    splits: Sequence[int] = (),
) -> dict[str, Any] | None: ...
def scan_response(
    data: bytes,
    *,
    status_line_bytes: int = 8192,
    head_bytes: int = 32768,
    fields: int = 100,
    splits: Sequence[int] = (),
) -> dict[str, Any] | None: ...
def decode_chunked(data: bytes, *, splits: Sequence[int] = ()) -> tuple[bytes, int, bool]: ...
def cookie_value(head_bytes: bytes, name: bytes) -> bytes | None: ...
def scan_time_ns(data: bytes, rounds: int, *, request: bool = True) -> float: ...
