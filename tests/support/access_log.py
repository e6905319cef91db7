"""Reading an access log that somebody else writes."""

from __future__ import annotations

import pathlib

from tests.support.relaying import until


def read(path: pathlib.Path) -> str:
    """What is written so far."""
    return path.read_text() if path.exists() else ""


async def lines_of(path: pathlib.Path, count: int) -> list[str]:
    """The lines, once there are so many; no more than that."""
    await until(lambda: read(path).count("\n") >= count, f"{count} lines in {path}")
    found = read(path).splitlines(keepends=True)
    assert len(found) == count
    return found
