"""The line on which a key of a TOML text stands; tomllib gives values without places.

It is no TOML parser: it runs over a text that tomllib has accepted, and only when there is a mistake to point at.
What it knows of the grammar (TOML 1.0): comments, four kinds of strings, dotted and quoted keys, [table] and
[[array of tables]], nested arrays and inline tables.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_BLANK = re.compile(r"[ \t]*")
_PLAIN = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.S),
    re.compile(r"'''.*?'{3,5}", re.S),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)


def line_of(text: str, path: Path) -> int | None:
    """1-based line of the key path, or of the nearest table above it that stands in the text; None if there is none.

    Args:
        text: a text that tomllib accepts.
        path: keys, and indices within arrays, such as ("pools", "app", "servers", 1, "weight").
    """
    places = places_of(text)
    for size in range(len(path), 0, -1):
        if (at := places.get(path[:size])) is not None:
            return text.count("\n", 0, at) + 1
    return None


def places_of(text: str) -> dict[Path, int]:
    """Offset of the first mention of every table, key and array item in the text."""
    return _Scan(text).places


class _Scan:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.places: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # array of tables -> tables so far
        table: Path = ()
        while True:
            self._skip(_GAP)
            if self.at >= len(text):
                return
            if text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, what: re.Pattern[str]) -> str:
        found = what.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def _note(self, path: Path, at: int) -> None:
        for size in range(1, len(path) + 1):
            self.places.setdefault(path[:size], at)

    def _header(self) -> Path:
        at, double = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        keys = self._keys()
        self.at += 2 if double else 1
        path: Path = ()
        for index, key in enumerate(keys):
            path += (key,)
            if double and index == len(keys) - 1:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts:
                path += (self.counts[path] - 1,)
        self._note(path, at)
        return path

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at] in "\"'":
                raw = self._string()
                keys.append(_unquoted(raw))
            else:
                before = self.at
                keys.append(self._skip(_BARE))
                if self.at == before:
                    raise ValueError(f"no key at offset {self.at}")
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                return found[0]
        raise ValueError(f"no string at offset {self.at}")

    def _pair(self, table: Path) -> None:
        at = self.at
        path = table + tuple(self._keys())
        self._note(path, at)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self.at += 1
            self._skip(_GAP)
            index = 0
            while self.text[self.at] != "]":
                self._note((*path, index), self.at)
                self._value((*path, index))
                index += 1
                self._separator()
            self.at += 1
        elif opening == "{":
            self.at += 1
            self._skip(_GAP)
            while self.text[self.at] != "}":
                self._pair(path)
                self._separator()
            self.at += 1
        else:
            self._skip(_PLAIN)

    def _separator(self) -> None:
        self._skip(_GAP)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_GAP)


def _unquoted(raw: str) -> str:
    import tomllib

    return str(tomllib.loads(f"k = {raw}")["k"])
