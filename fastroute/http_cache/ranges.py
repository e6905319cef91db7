"""Parts of a stored response (RFC 9110, 14): one range of bytes, or the whole.

Not here: whether the stored response may be used at all. Several ranges get the whole (RFC 9110, 14.2 lets a server
ignore them): a multipart answer would cost more than it saves, and many ranges are an attack.
"""

from __future__ import annotations

import re

__all__ = ["UNSATISFIABLE", "byte_range"]

_ONE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*")

UNSATISFIABLE = (-1, -1)
"""The range begins behind the end: 416."""


def byte_range(text: str, size: int) -> tuple[int, int] | None:
    """(first, behind the last) byte of the one range that is asked for.

    Args:
        text: value of Range.
        size: bytes of the whole.

    Returns:
        None where the whole is the answer: another unit, several ranges, or not well-formed. UNSATISFIABLE.
    """
    match = _ONE.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        count = min(int(last), size)
        return (size - count, size) if count else UNSATISFIABLE
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return UNSATISFIABLE
    return int(first), min(int(last) + 1, size) if last else size
