"""Kinds of values in a configuration: what each accepts and what it becomes. Pure functions; no file, no line numbers.

Rules of this file:
- A kind is an instance in an `Annotated[...]` of schema.py; `convert` returns the value as the program uses it
  (seconds, bytes, tuples) or raises Mistake with what is accepted. What was found is added by the caller, once.
- A value is never coerced: "5" is not a number, true is not 1, 5.0 is not a whole number.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fastroute.errors import UsageError
from fastroute.model import check_name, parse_address, parse_duration_s, parse_size_bytes
from fastroute.routing.keys import ACCEPTED, RULES_MAX, KeyRule, parse_rule

DURATION_MAX_S = 30 * 86400.0
"""Longest time limit: memcached reads longer ones as a date (protocol.txt, "Expiration times")."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_INHERITED = re.compile(r"(?:fd:(?:[3-9]|[1-9]\d{1,6})|systemd:[^\x00-\x20\x7f:]{1,255})\Z", re.ASCII)
_DOMAIN = re.compile(r"\.?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


class Mistake(Exception):
    """A value that is not accepted.

    Attributes:
        where: the key path below the value in hand, e.g. (0,) for the first item of a list.
        whole: True when the message already says what was found.
    """

    def __init__(self, message: str, where: tuple[str | int, ...] = (), *, whole: bool = False) -> None:
        super().__init__(message)
        self.message, self.where, self.whole = message, where, whole

    def below(self, *path: str | int) -> Mistake:
        """The same mistake seen from further up."""
        return Mistake(self.message, path + self.where, whole=self.whole)


class Kind:
    """Base of the kinds."""

    accepted = ""

    def convert(self, value: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Duration(Kind):
    """Seconds as float, from a number of seconds or "50ms", "30s", "30m", "12h"."""

    minimum_s: float = 0.001

    @property
    def accepted(self) -> str:  # type: ignore[override]
        least = "0 or more" if self.minimum_s == 0 else "longer than 0"
        return f'seconds as a number or "50ms", "30s", "30m", "12h", {least} and at most 30 days'

    def convert(self, value: Any) -> float:
        try:
            seconds = parse_duration_s(value)
        except UsageError:
            raise Mistake(self.accepted) from None
        if not self.minimum_s <= seconds <= DURATION_MAX_S:
            raise Mistake(self.accepted)
        return seconds


@dataclass(frozen=True)
class Size(Kind):
    """Bytes as int, from a whole number or "512KiB", "64MiB", "1GiB"."""

    minimum: int = 0
    maximum: int = 1 << 40

    @property
    def accepted(self) -> str:  # type: ignore[override]
        return f'bytes as a whole number or "512KiB", "64MiB", "1GiB", from {self.minimum} to {self.maximum}'

    def convert(self, value: Any) -> int:
        try:
            size = parse_size_bytes(value)
        except (UsageError, ValueError):
            raise Mistake(self.accepted) from None
        if not self.minimum <= size <= self.maximum:
            raise Mistake(self.accepted)
        return size


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number in a range."""

    minimum: int
    maximum: int

    @property
    def accepted(self) -> str:  # type: ignore[override]
        return f"a whole number from {self.minimum} to {self.maximum}"

    def convert(self, value: Any) -> int:
        if type(value) is not int or not self.minimum <= value <= self.maximum:
            raise Mistake(self.accepted)
        return value


@dataclass(frozen=True)
class Number(Kind):
    """A number in a range, as float."""

    minimum: float
    maximum: float

    @property
    def accepted(self) -> str:  # type: ignore[override]
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def convert(self, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not self.minimum <= value <= self.maximum:
            raise Mistake(self.accepted)
        return float(value)


class Flag(Kind):
    """true or false."""

    accepted = "true or false"

    def convert(self, value: Any) -> bool:
        if type(value) is not bool:
            raise Mistake(self.accepted)
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def accepted(self) -> str:  # type: ignore[override]
        return either([quote(word) for word in self.words])

    def convert(self, value: Any) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        raise Mistake(self.accepted)


class Text(Kind):
    """Any text without control characters."""

    accepted = "text without control characters"

    def convert(self, value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise Mistake(self.accepted)
        return value


class Name(Kind):
    """The name of a pool, server, fleet or zone."""

    accepted = "1-64 characters of A-Z a-z 0-9 . _ : -"

    def convert(self, value: Any) -> str:
        try:
            return check_name("", value)
        except UsageError:
            raise Mistake(self.accepted) from None


class Token(Kind):
    """The name of a cookie or header (RFC 9110, 5.6.2), at most 128 characters."""

    accepted = "1-128 characters of A-Z a-z 0-9 and !#$%&'*+-.^_`|~"

    def convert(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > 128 or not _TOKEN.match(value):
            raise Mistake(self.accepted)
        return value


class Domain(Kind):
    """A cookie's Domain attribute, or nothing."""

    accepted = 'a domain such as "example.org", or "" for the host alone'

    def convert(self, value: Any) -> str:
        if not isinstance(value, str) or (value and not _DOMAIN.match(value)):
            raise Mistake(self.accepted)
        return value


_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?\Z")


class HostPattern(Kind):
    """The host of a route: a name, "*." before one, or an address; kept in lower case."""

    accepted = 'a host without a port such as "a.example", "*.example", "10.0.0.1" or "[::1]", at most 253 characters'

    def convert(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > 253:
            raise Mistake(self.accepted)
        if value.startswith("[") and value.endswith("]"):
            try:
                return str(ipaddress.IPv6Address(value[1:-1]))
            except ValueError:
                raise Mistake(self.accepted) from None
        if not _HOST.match(value):
            raise Mistake(self.accepted)
        return value.lower().rstrip(".")


class PathPrefix(Kind):
    """The path prefix of a route, in the form in which requests are compared with it."""

    accepted = 'a path such as "/" or "/api": printable ASCII from "/" on, without "?", "#", "%", ";" and dot segments'

    def convert(self, value: Any) -> str:
        if (
            not isinstance(value, str)
            or not value.startswith("/")
            or len(value) > 1024
            or not all("!" <= c <= "~" and c not in "?#%;" for c in value)
            or any(part in (".", "..") for part in value.split("/"))
        ):
            raise Mistake(self.accepted)
        return value


class Address(Kind):
    """ "host:port", "[v6]:port" or "unix:PATH", as written."""

    accepted = '"host:port", "[v6]:port" (port 1-65535) or "unix:PATH"'

    def convert(self, value: Any) -> str:
        if isinstance(value, str):
            if value.startswith("fd:"):  # which would be a host
                raise Mistake(self.accepted)
            try:
                parsed = parse_address(value)
                if isinstance(parsed, tuple) and ":" in parsed[0]:
                    ipaddress.IPv6Address(parsed[0])
                if isinstance(parsed, str) and len(parsed.encode()) > 107:  # sun_path of sockaddr_un, unix(7)
                    raise Mistake('"unix:PATH" with a path of at most 107 bytes')
                return value
            except ValueError:
                pass
        raise Mistake(self.accepted)


class Bind(Address):
    """Where a listener listens: an address, or sockets that the process is started with."""

    accepted = (
        '"host:port", "[v6]:port" (port 1-65535), "unix:PATH", "fd:3" (an inherited socket) or "systemd:NAME" '
        "(those of a socket unit with FileDescriptorName=NAME)"
    )

    def convert(self, value: Any) -> str:
        if isinstance(value, str) and _INHERITED.match(value):
            return value
        if isinstance(value, str) and value.startswith(("fd:", "systemd:")):
            raise Mistake(self.accepted)
        return super().convert(value)


@dataclass(frozen=True)
class Network(Kind):
    """A CIDR; one that holds every address only with `every`."""

    every: bool = False

    accepted = 'a network such as "10.0.0.0/8" or "fd00::/8"'

    def convert(self, value: Any) -> str:
        try:
            network = ipaddress.ip_network(value if isinstance(value, str) else "")
        except ValueError as error:
            if isinstance(value, str) and "host bits" in str(error):
                network = ipaddress.ip_network(value, strict=False)
                raise Mistake(
                    f"{quote(value)} names one address of a network; write {quote(str(network))} or "
                    f"{quote(value.partition('/')[0])}",
                    whole=True,
                ) from None
            raise Mistake(self.accepted) from None
        if network.prefixlen == 0 and not self.every:
            raise Mistake(
                f"{quote(str(value))} would trust every address, so that any client could choose its own; "
                f'accepted: the networks of your own proxies, such as "10.0.0.0/8"',
                whole=True,
            )
        return str(network)


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind, as a tuple; a single value counts as a list of one where `single` says so."""

    item: Kind
    single: bool = False
    minimum: int = 0
    maximum: int = 1000
    """Most items: what a person can still review; addresses of one listener or nodes of one store."""

    @property
    def accepted(self) -> str:  # type: ignore[override]
        least = "of at least one of: " if self.minimum else "of: "
        return (self.item.accepted + ", or a list of them") if self.single else f"a list {least}{self.item.accepted}"

    def convert(self, value: Any) -> tuple[Any, ...]:
        if self.single and not isinstance(value, list):
            return (self.item.convert(value),)
        if not isinstance(value, list) or not self.minimum <= len(value):
            raise Mistake(self.accepted)
        if len(value) > self.maximum:
            raise Mistake(f"a list of {len(value)} items; accepted are at most {self.maximum}", whole=True)
        found: list[Any] = []
        seen: set[Any] = set()
        for index, item in enumerate(value):
            try:
                converted = self.item.convert(item)
            except Mistake as mistake:
                raise _said(mistake, item).below(index) from None
            if isinstance(item, str) and converted in seen:
                shown = f"entry {index + 1}" if isinstance(self.item, SecretText) else show(item)
                raise Mistake(f"{shown} stands twice in the list; accepted is once", (index,), whole=True)
            seen.add(converted)
            found.append(converted)
        return tuple(found)


class Words(Kind):
    """A command: its program and arguments, in which words may be repeated."""

    accepted = 'a list of texts such as ["/usr/bin/check", "{address}"]'

    def convert(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > 64:
            raise Mistake(self.accepted)
        if not all(isinstance(word, str) and word.isprintable() for word in value) or (value and not value[0]):
            raise Mistake(self.accepted)
        return tuple(value)


class Workers(Kind):
    """How many processes; "auto" becomes 0."""

    accepted = 'a whole number from 1 to 256, or "auto"'

    def convert(self, value: Any) -> int:
        if value == "auto":
            return 0
        if type(value) is not int or not 1 <= value <= 256:
            raise Mistake(self.accepted)
        return value


@dataclass(frozen=True)
class SecretText(Kind):
    """Where a secret comes from; resolved by secrets.py. `empty`: "" stands for none."""

    empty: bool = False
    accepted = '"env:NAME", "file:PATH" or the secret itself'

    def convert(self, value: Any) -> str | None:
        if not isinstance(value, str) or not (value or self.empty):
            raise Mistake(self.accepted)
        return value or None


@dataclass(frozen=True)
class SwitchOr(Kind):
    """true, false, or a table that becomes a struct."""

    struct: type[msgspec.Struct]

    @property
    def accepted(self) -> str:  # type: ignore[override]
        keys = ", ".join(f"{info.encode_name} = ..." for info in msgspec.structs.fields(self.struct))
        return f"true, false or {{ {keys} }}"

    def convert(self, value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        return build(self.struct, value)


def written(rule: KeyRule) -> str:
    """A rule as the file writes it, a list in brackets."""
    return f"[{', '.join(map(str, rule.each))}]" if rule.others else str(rule)


@dataclass(frozen=True)
class Rule(Kind):
    """A rule for keys; `insert` says whether the balancer's own cookie, KeyRule("insert"), is one of them."""

    insert: bool = True

    @property
    def accepted(self) -> str:  # type: ignore[override]
        return ('"insert", ' if self.insert else '"path", "url", ') + ACCEPTED

    def convert(self, value: Any) -> KeyRule:
        if value == "insert" and self.insert:
            return KeyRule("insert")
        if isinstance(value, list):
            if not 1 <= len(value) <= RULES_MAX:
                raise Mistake(f"a list of 1 to {RULES_MAX} of {self.accepted}")
            if "insert" in value:
                raise Mistake('a list with "insert", which stands alone; ' + self.accepted, whole=True)
            rules = []
            for index, one in enumerate(value):
                try:
                    rules.append(self.convert(one))
                except Mistake as mistake:
                    raise mistake.below(index) from None
            return KeyRule(rules[0].kind, rules[0].name, tuple(rules[1:]))
        if not isinstance(value, str) or (self.insert and value in ("path", "url")):
            raise Mistake(self.accepted)
        if value not in ("path", "url", "client-ip", "sni") and not value.startswith("client-ip/"):
            source, colon, _ = value.partition(":")
            if not colon or source not in ("cookie", "header", "query", "path-param", "json"):
                raise Mistake(self.accepted)
        try:
            return parse_rule(value)
        except UsageError as error:
            raise Mistake(str(error).removeprefix("key rule "), whole=True) from None


@dataclass(frozen=True)
class Section(Kind):
    """A table that becomes a struct; see build()."""

    struct: type[msgspec.Struct]
    accepted = "a table"

    def convert(self, value: Any) -> Any:
        return build(self.struct, value)


class Options(Kind):
    """A table of plain values; who takes them knows their names (config.rules)."""

    accepted = 'a table of numbers, texts and booleans, such as { hash = "murmur2" }'

    def convert(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        for name, one in value.items():
            if not isinstance(one, (str, int, float)):
                raise Mistake(f"found {show(one)}; accepted: a number, a text or a boolean", (name,), whole=True)
        return dict(value)


@dataclass(frozen=True)
class Named(Kind):
    """A table of named tables, each of which becomes a struct."""

    struct: type[msgspec.Struct]
    what: str
    accepted = "a table of tables"

    def convert(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        found: dict[str, Any] = {}
        for name, table in value.items():
            try:
                Name().convert(name)
            except Mistake as mistake:
                raise Mistake(
                    f"{self.what} name {quote(name)}; accepted: {mistake.message}", (name,), whole=True
                ) from None
            if not isinstance(table, dict):
                raise Mistake(f"found {show(table)}; accepted: a table, [...{name}]", (name,), whole=True)
            try:
                found[name] = build(self.struct, table)
            except Mistake as mistake:
                raise mistake.below(name) from None
        return found


def quote(text: str) -> str:
    """Text in double quotes, shortened, with control characters made visible."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + '"'


def either(words: Sequence[str]) -> str:
    """a, b or c."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def show(value: Any) -> str:
    """A value of the file as a short text."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return ("an empty " if not value else "a ") + ("table" if isinstance(value, dict) else "list")
    if isinstance(value, int) and value.bit_length() > 128:  # str() of a huge one is refused by Python itself
        return "a number of more than 38 digits"
    return str(value)


def _said(mistake: Mistake, value: Any) -> Mistake:
    if mistake.whole:
        return mistake
    return Mistake(f"found {show(value)}; accepted: {mistake.message}", mistake.where, whole=True)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that a mistyped one probably means."""
    import difflib

    close = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return close[0] if close else None


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """A struct's keys in the file; fields without a kind are filled in when loaded.

    Finding them evaluates every annotation, which was half the time of loading a configuration.
    """
    return {
        info.encode_name: info
        for info in msgspec.structs.fields(struct)
        if any(isinstance(note, Kind) for note in getattr(info.type, "__metadata__", ()))
    }


def build(struct: type[msgspec.Struct], table: Any) -> Any:
    """Make a struct of schema.py from a table of the file.

    Raises:
        Mistake: the first thing in file order that is not accepted, with the key path where it stands.
    """
    if not isinstance(table, Mapping):
        raise Mistake(f"found {show(table)}; accepted: a table", whole=True)
    fields = _fields(struct)
    values: dict[str, Any] = {}
    for key, value in table.items():
        info = fields.get(key)
        if info is None:
            guess = nearest(key, list(fields))
            hint = f"did you mean {quote(guess)}?" if guess else "accepted: " + ", ".join(sorted(fields))
            raise Mistake(f"unknown key {quote(key)}; {hint}", (key,), whole=True)
        notes = getattr(info.type, "__metadata__", ())
        kind = next(note for note in notes if isinstance(note, Kind))
        try:
            values[info.name] = kind.convert(value)
        except Mistake as mistake:
            said = (
                mistake
                if mistake.whole
                else Mistake(f"{key}: found {show(value)}; accepted: {mistake.message}", mistake.where, whole=True)
            )
            raise said.below(key) from None
    for info in fields.values():
        if info.name not in values and info.required:
            raise Mistake(f"{info.encode_name} is missing", whole=True)
    return struct(**values)
