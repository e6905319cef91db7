"""Compression of stored values: Zstandard, through the `zstandard` package.

Not here: whether a value is worth it (codec.py).

Rules of this file:
  - Where the package is missing nothing is compressed, and what others compressed is a miss: UNAVAILABLE says so.
  - The size of the result stands in the frame and is looked at first: a frame that would fill the memory is refused.
"""

from __future__ import annotations

import threading
from typing import Any

zstandard: Any
try:
    import zstandard as _package

    zstandard = _package
except ImportError:  # a platform without a wheel of it
    zstandard = None

__all__ = ["AVAILABLE", "LEVEL", "Refused", "compress", "decompress"]

AVAILABLE = zstandard is not None

LEVEL = 1
"""Zstandard's fastest regular level: a cache's values are written about as often as they are computed, and the gain of
higher levels on text is some 10 %."""

_local = threading.local()


class Refused(ValueError):
    """Bytes that are no frame, or one that is too large."""


def _context(name: str) -> Any:
    # A context of zstandard must not be used by two threads at once; one costs some 100 KB.
    found = getattr(_local, name, None)
    if found is None:
        found = zstandard.ZstdCompressor(level=LEVEL) if name == "out" else zstandard.ZstdDecompressor()
        setattr(_local, name, found)
    return found


def compress(data: bytes) -> bytes:
    """The frame of some bytes, with their number in it. Precondition: AVAILABLE."""
    frame: bytes = _context("out").compress(data)
    return frame


def decompress(frame: bytes, bytes_max: int) -> bytes:
    """What is in a frame.

    Raises:
        Refused: no whole frame, no or too large a size in it, or no package to read it.
    """
    if not AVAILABLE:
        raise Refused("the zstandard package is not installed")
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= bytes_max:
            raise Refused(f"a frame of {size} bytes: accepted are up to {bytes_max}")
        data: bytes = _context("in").decompress(frame, max_output_size=bytes_max)
    except zstandard.ZstdError as error:
        raise Refused(str(error)) from None
    if len(data) != size:
        raise Refused("a frame that does not hold what it says")
    return data
