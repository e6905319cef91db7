"""Pages of errors: the texts and files that a configuration names, read once, when it is loaded.

Not here: when a page is sent (http_relay). Rules of this file: a page is read whole or refused; what cannot be read is
an error of the configuration, so that a reload with it is refused and the old pages stay.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterator

from fastroute.config.kinds import Kind, Mistake, quote

__all__ = ["PAGE_BYTES_MAX", "STATUSES", "PageSources", "read_pages"]

PAGE_BYTES_MAX = 64 << 10
"""Of one page; it is written into one buffer. HAProxy bounds its errorfiles by bufsize, 16 KiB."""

STATUSES = (400, 403, 404, 408, 413, 414, 417, 421, 429, 431, 500, 501, 502, 503, 504, 505)
"""What the balancer answers by itself (ext/fr_answer.h)."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}


class PageSources(Kind):
    """error_pages: status or class -> text or file:PATH; or dir:PATH."""

    accepted = (
        'a table such as { "503" = "file:/etc/fastroute/503.html", "5xx" = "Sorry" }, or "dir:PATH" with files such as '
        "503.html"
    )

    def convert(self, value: object) -> dict[str, str]:
        if isinstance(value, str) and value.startswith("dir:") and len(value) > 4:
            return {"dir": value[4:]}
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        for name, source in value.items():
            if name not in ("4xx", "5xx") and name not in map(str, STATUSES):
                known = ", ".join(map(str, STATUSES))
                raise Mistake(f"status {quote(name)}; accepted: 4xx, 5xx, {known}", (name,), whole=True)
            if not isinstance(source, str) or not source:
                raise Mistake(f'page of {quote(name)}; accepted: a text, or "file:PATH"', (name,), whole=True)
        return dict(value)


def read_pages(sources: dict[str, str]) -> dict[int, tuple[str, bytes]]:
    """status -> (Content-Type, body).

    Raises:
        Mistake: a file that cannot be read, is too large, or is of no known kind.
    """
    if "dir" in sources:
        sources = dict(_in_directory(sources["dir"]))
    found: dict[int, tuple[str, bytes]] = {}
    for name in sorted(
        sources, key=lambda one: one.isdigit()
    ):  # classes first: a status of its own goes over its class
        try:
            page = _read(sources[name])
        except Mistake as mistake:
            raise mistake.below(name) from None
        for status in STATUSES if name.endswith("xx") else (int(name),):
            if str(status)[0] == name[0]:
                found[status] = page
    return found


def _in_directory(path: str) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise Mistake(f"the directory {quote(path)} cannot be read: {error.strerror}", whole=True) from None
    known = {"4xx", "5xx", *map(str, STATUSES)}
    pages = [
        (stem, name) for name in names for stem, kind in [os.path.splitext(name)] if stem in known and kind in _TYPES
    ]
    if not pages:
        raise Mistake(f"the directory {quote(path)} has no page; accepted: files such as 503.html", whole=True)
    for stem, name in pages:
        yield stem, f"file:{os.path.join(path, name)}"


def _read(source: str) -> tuple[str, bytes]:
    if not source.startswith("file:"):
        body = source.encode()
        kind = {"<": ".html", "{": ".json"}.get(source.lstrip()[:1], ".txt")
    else:
        path = source[5:]
        kind = os.path.splitext(path)[1].lower()
        if kind not in _TYPES:
            raise Mistake(f"page {quote(path)}: accepted are files ending in {', '.join(_TYPES)}", whole=True)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
                raise Mistake(f"page {quote(path)} is no regular file", whole=True)
            with pathlib.Path(path).open("rb") as file:
                body = file.read(PAGE_BYTES_MAX + 1)
        except OSError as error:
            raise Mistake(f"page {quote(path)} cannot be read: {error.strerror}", whole=True) from None
    if len(body) > PAGE_BYTES_MAX:
        raise Mistake(f"a page of more than {PAGE_BYTES_MAX} bytes; accepted are smaller ones", whole=True)
    return _TYPES[kind], body
