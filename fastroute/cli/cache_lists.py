"""What `fastroute cache` reads: lists of keys, tags, URLs and values, line by line or as msgpack.

Not here: what is done with them (cache), how (long_work). An item that cannot be read is an error in its place, so that
one bad line does not end the work.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from fastroute.cli.long_work import Failed, Item
from fastroute.errors import UsageError

__all__ = ["Entry", "List", "key_of", "read_entries", "read_lines"]

ITEM_BYTES_MAX = 64 << 20
"""Of one line or msgpack object; the cache itself stores 8 MiB by default."""


class Entry(NamedTuple):
    """A value to be stored; None where the command's own options hold."""

    key: Any
    value: Any
    ttl: float | str | None = None
    stale: float | str | None = None
    tags: tuple[str, ...] | None = None


class List:
    """An opened input, to be used as a context.

    Attributes:
        items: to be worked off.
        size_bytes: of the whole, None for a pipe.
    """

    def __init__(self, items: Iterator[Item], size_bytes: int | None = None, file: IO[bytes] | None = None) -> None:
        self.items, self.size_bytes, self._file = items, size_bytes, file

    def __enter__(self) -> List:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def key_of(plain: Any) -> Any:
    """A cache key from JSON or msgpack: a string, bytes, or a list of plain values for a tuple.

    Raises:
        Failed: neither.
    """
    if isinstance(plain, str | bytes) and plain:
        return plain
    if isinstance(plain, list) and plain:
        return tuple(tuple(part) if isinstance(part, list) else part for part in plain)
    raise Failed(f"a key is a string or a list of plain values, not {type(plain).__name__}")


def _opened(path: str) -> tuple[IO[bytes], int | None]:
    if path == "-":
        return sys.stdin.buffer, None
    try:
        file = pathlib.Path(path).open("rb")  # noqa: SIM115 - lives as long as its items
        return file, os.fstat(file.fileno()).st_size or None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def read_lines(path: str, parse: Callable[[str], Any]) -> List:
    """One item per line that is neither empty nor begins with #.

    Args:
        path: "-" for standard input.
        parse: a line's value; raises Failed.

    Raises:
        UsageError: it cannot be opened.
    """
    file, size_bytes = _opened(path)

    def items() -> Iterator[Item]:
        read = 0
        while raw := file.readline(ITEM_BYTES_MAX):
            read += len(raw)
            text = raw.decode("utf-8", "replace").strip()
            if not text or text.startswith("#"):
                continue
            raw = raw if raw.endswith(b"\n") else raw + b"\n"
            try:
                yield Item(raw, parse(text), read)
            except Failed as error:
                yield Item(raw, error, read)

    return List(items(), size_bytes, file)


def read_entries(path: str, form: str) -> List:
    """Values to be stored, from JSON lines or msgpack objects one after the other.

    Each is {"key": ..., "value": ..., "ttl": ..., "stale": ..., "tags": [...]} with the last three left out as one
    likes, or [key, value].

    Args:
        path: "-" for standard input.
        form: "json" or "msgpack".
    """
    if form == "json":
        return read_lines(path, lambda text: _entry(_json(text)))
    file, size_bytes = _opened(path)

    def items() -> Iterator[Item]:
        unpacker = msgpack.Unpacker(file, max_buffer_size=ITEM_BYTES_MAX, strict_map_key=False)
        while True:
            try:
                plain = unpacker.unpack()
            except msgpack.OutOfData:
                return
            except (ValueError, msgpack.UnpackException) as error:
                # Where the next object begins is not known any more.
                broken = Failed(f"no msgpack from byte {unpacker.tell()} on: {error}")
                yield Item(b"", broken, unpacker.tell())
                return
            try:
                yield Item(msgpack.packb(plain), _entry(plain), unpacker.tell())
            except Failed as error:
                yield Item(msgpack.packb(plain), error, unpacker.tell())

    return List(items(), size_bytes, file)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failed(f"no JSON: {error}") from None


def _entry(plain: Any) -> Entry:
    if isinstance(plain, list) and len(plain) == 2:
        return Entry(key_of(plain[0]), plain[1])
    if not isinstance(plain, dict) or "key" not in plain or "value" not in plain:
        raise Failed(
            'accepted are {"key": ..., "value": ..., "ttl": ..., "stale": ..., "tags": [...]} and [key, value]'
        )
    unknown = set(plain) - set(Entry._fields)
    if unknown:
        raise Failed(f"unknown: {', '.join(sorted(map(str, unknown)))}")
    tags = plain.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise Failed("tags: accepted is a list of strings")
    return Entry(
        key_of(plain["key"]),
        plain["value"],
        plain.get("ttl"),
        plain.get("stale"),
        None if tags is None else tuple(tags),
    )
