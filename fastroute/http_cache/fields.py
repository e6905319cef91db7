"""Values of HTTP fields as the cache reads them: lists, dates, cache directives, structured fields, entity tags.

Not here: what follows from them. Rules of this file: text is latin-1 as it came; nothing raises; what is malformed is
None, empty or absent, as each function says.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DELTA_S_MAX",
    "INVALID",
    "Fields",
    "directives",
    "entity_tags",
    "list_items",
    "parse_date_s",
    "parse_delta_s",
    "targeted",
    "tokens",
    "values",
]

Fields = Sequence[tuple[str, str]]
"""(name, value) of each field line, in order; names in lower case."""

DELTA_S_MAX = 2**31
"""Longest number of seconds: what is longer counts as this (RFC 9111, 1.2.2)."""

INVALID = -1
"""A number of seconds that is none."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MONTHS = {
    name: at
    for at, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_DAYS = "(?:mon|tue|wed|thu|fri|sat|sun)"
_IMF = re.compile(_DAYS + r", (\d\d) ([a-z]{3}) (\d{4}) (\d\d):(\d\d):(\d\d) gmt")
_RFC850 = re.compile(_DAYS + r"[a-z]*, (\d\d)-([a-z]{3})-(\d\d) (\d\d):(\d\d):(\d\d) gmt")
_ASCTIME = re.compile(_DAYS + r" ([a-z]{3}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})")
_ETAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
_KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_SF_INTEGER = re.compile(r"-?\d{1,15}(?![\d.])")
_SF_DECIMAL = re.compile(r"-?\d{1,12}\.\d{1,3}(?!\d)")
_SF_STRING = re.compile(r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')
_SF_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_SF_BYTES = re.compile(r":[A-Za-z0-9+/=]*:")
_SF_BOOLEAN = re.compile(r"\?[01]")


def values(fields: Fields, name: str) -> list[str]:
    """The values of every line of a field, in order."""
    return [value for found, value in fields if found == name]


def list_items(texts: Iterable[str]) -> list[str]:
    """The members of a comma-separated list over several lines, without empty ones; quoted commas do not count."""
    found = []
    for text in texts:
        if '"' not in text:
            found += [item for part in text.split(",") if (item := part.strip(" \t"))]
            continue
        start = at = 0
        quoted = False
        while at <= len(text):
            letter = text[at] if at < len(text) else ","
            if quoted and letter == "\\" and at < len(text):
                at += 1
            elif letter == '"':
                quoted = not quoted
            if at >= len(text) or (letter == "," and not quoted):
                if item := text[start:at].strip(" \t"):
                    found.append(item)
                start = at + 1
            at += 1
    return found


def tokens(texts: Iterable[str]) -> list[str]:
    """Members of a list of names, in lower case."""
    return [item.lower() for item in list_items(texts)]


def parse_delta_s(text: str | None) -> int:
    """A number of seconds, at most DELTA_S_MAX; INVALID where it is none."""
    if text is None or not text.isascii() or not text.isdigit():
        return INVALID
    return min(int(text[-20:]) if len(text.lstrip("0")) <= 12 else DELTA_S_MAX, DELTA_S_MAX)


def parse_date_s(text: str | None, now_s: float = 0.0) -> int | None:
    """Seconds since 1970 of an HTTP date in one of its three forms, letter case aside; None where it is none.

    Args:
        text: the field's value.
        now_s: the present, which decides the century of a year of two digits (RFC 9110, 5.6.7).
    """
    if not text:
        return None
    text = text.strip(" \t").lower()
    if match := _IMF.fullmatch(text):
        day, month, year, hour, minute, second = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, year, hour, minute, second = match.groups()
        this_year = 1970 + int(now_s // 31_556_952)
        full = this_year - this_year % 100 + int(year)
        year = str(full - 100 if full > this_year + 50 else full)
    elif match := _ASCTIME.fullmatch(text):
        month, day, hour, minute, second, year = match.groups()
    else:
        return None
    at = _MONTHS.get(month)
    if at is None or not 1 <= int(day) <= 31 or int(hour) > 23 or int(minute) > 59 or int(second) > 60:
        return None
    return calendar.timegm((int(year), at, int(day), int(hour), int(minute), int(second)))


def directives(texts: Iterable[str]) -> dict[str, str | None]:
    """Cache-Control as name -> value, None where a directive has none; of several with one name the first counts.

    no-cache and private add up: without a list of fields beats any list, lists are joined.
    """
    found: dict[str, str | None] = {}
    for item in list_items(texts):
        match = _TOKEN.match(item)
        if match is None:
            continue
        name, rest = match.group().lower(), item[match.end() :]
        value: str | None
        if not rest:
            value = None
        elif rest[0] != "=":
            continue
        elif quoted := _QUOTED.fullmatch(rest[1:]):
            value = re.sub(r"\\(.)", r"\1", quoted.group(1))
        else:
            value = rest[1:]
        if name not in found:
            found[name] = value
        elif name in ("no-cache", "private"):
            before = found[name]
            found[name] = None if before is None or value is None else f"{before},{value}"
    return found


def targeted(texts: Sequence[str]) -> dict[str, str | None] | None:
    """A targeted cache-control field (RFC 9213, 2.1): a dictionary of structured fields, as `directives` gives it.

    None: absent, empty, or not well-formed in any part, which makes a cache ignore it. Lists of field names do not
    exist in it; a number that is none of a directive that wants one makes the whole ignored too.
    """
    if not texts:
        return None
    text, at = ", ".join(texts).strip(" "), 0
    found: dict[str, str | None] = {}
    while at < len(text):
        match = _KEY.match(text, at)
        if match is None:
            return None
        name, at = match.group(), match.end()
        value: str | None = None
        if text[at : at + 1] == "=":
            for form in (_SF_DECIMAL, _SF_INTEGER, _SF_STRING, _SF_TOKEN, _SF_BYTES, _SF_BOOLEAN):
                match = form.match(text, at + 1)
                if match is not None:
                    break
            if match is None:
                return None
            value, at = match.group(), match.end()
            if name in _NUMBERS and parse_delta_s(value) < 0:
                return None
        elif name in _NUMBERS:
            return None
        while text[at : at + 1] == ";":  # parameters have no meaning here
            match = re.compile(r'; *[a-z*][a-z0-9_\-.*]*(?:=(?:"[^"]*"|[^;,\s]*))?').match(text, at)
            if match is None:
                return None
            at = match.end()
        if value == "?0":
            found.pop(name, None)
        else:
            found[name] = None if value == "?1" else value
        match = re.compile(r"[ \t]*,[ \t]*").match(text, at)
        if match is None:
            if at < len(text):
                return None
        elif match.end() >= len(text):
            return None
        else:
            at = match.end()
    return found or None


_NUMBERS = frozenset(("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"))


def entity_tags(text: str) -> list[str] | None:
    """The entity tags of an If-None-Match or If-Match; None where they are not well-formed. "*" stands for itself."""
    text = text.strip(" \t")
    if text == "*":
        return ["*"]
    found, at = [], 0
    while at < len(text):
        match = _ETAG.match(text, at)
        if match is None:
            return None
        found.append(match.group(1))
        at = match.end()
    return found
