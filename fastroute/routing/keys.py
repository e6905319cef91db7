"""Key rules: where in a request the affinity key is found. Pure; the relay has a compiled twin of each rule.

A rule is written as in `sticky.on`: "client-ip", "cookie:NAME", "header:NAME", or a list of them: first found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastroute.errors import UsageError

__all__ = ["KEY_BYTES_MAX", "KeyRule", "parse_rule"]

KEY_BYTES_MAX = 4096
"""Longest key that is used; a longer value counts as no key (a session id of 4 KiB is an attack, not a session)."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

Fields = Mapping[str, "str | bytes"]


@dataclass(frozen=True, slots=True)
class KeyRule:
    """One place where the key may stand.

    Attributes:
        kind: "client-ip", "cookie" or "header".
        name: of the cookie (case matters) or the field (it does not); "" for client-ip.
        others: rules to try when this one finds nothing.
    """

    kind: str
    name: str = ""
    others: tuple[KeyRule, ...] = ()

    def extract(self, fields: Fields) -> bytes | None:
        """The key, or None where the request has none.

        Args:
            fields: field names in any case -> value; "client-ip" -> the client's address.
        """
        found = self._own(fields)
        if found and len(found) <= KEY_BYTES_MAX:
            return found
        for rule in self.others:
            if (found := rule.extract(fields)) is not None:
                return found
        return None

    def _own(self, fields: Fields) -> bytes | None:
        if self.kind == "cookie":
            value = _field(fields, "cookie")
            return None if value is None else _cookie(value, self.name.encode())
        value = _field(fields, "client-ip" if self.kind == "client-ip" else self.name.lower())
        return None if value is None else value.strip(b" \t")


def parse_rule(text: str | Sequence[str]) -> KeyRule:
    """The rule for "client-ip", "cookie:NAME", "header:NAME", or a list of these.

    Raises:
        UsageError: anything else; forms of later versions are named as such.
    """
    if not isinstance(text, str):
        rules = [parse_rule(one) for one in text]
        if not rules:
            raise UsageError("key rule: an empty list finds nothing; name at least one rule")
        return KeyRule(rules[0].kind, rules[0].name, tuple(rules[1:]))
    kind, colon, name = text.partition(":")
    if text == "client-ip":
        return KeyRule("client-ip")
    if kind in ("cookie", "header") and colon and _TOKEN.match(name):
        return KeyRule(kind, name)
    if kind in ("query", "path-param", "json") or text.startswith("client-ip/"):
        raise UsageError(f"key rule {text!r} is not available in this version yet")
    raise UsageError(
        f'key rule {text!r}: accepted are "client-ip", "cookie:NAME" and "header:NAME" (NAME: an HTTP token)'
    )


def _field(fields: Fields, name: str) -> bytes | None:
    value = fields.get(name)
    if value is None:
        value = next((v for k, v in fields.items() if k.lower() == name), None)
    return value.encode("latin-1", "replace") if isinstance(value, str) else value


def _cookie(value: bytes, name: bytes) -> bytes | None:
    for pair in value.split(b";"):
        key, equals, found = pair.strip(b" \t").partition(b"=")
        if equals and key == name:
            found = found.strip(b" \t")
            if len(found) >= 2 and found[:1] == found[-1:] == b'"':
                found = found[1:-1]
            return found or None
    return None
