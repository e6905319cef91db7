"""Key rules: where in a request the affinity key is found. Pure; the relay has a compiled twin (ext/fr_request_key.h).

A rule is written as in `sticky.on`: "client-ip", "client-ip/24", "client-ip/24,64", "cookie:NAME", "header:NAME",
"query:NAME", "path-param:NAME", "json:FIELD", or a list of them: first found. Hashes take "path" and "url" too.
TCP listeners have "client-ip" and "sni", the server name in a TLS ClientHello.
Rules of this file: raw bytes are keys, nothing is decoded but JSON; the first parameter of a name counts.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastroute.errors import UsageError

__all__ = ["ACCEPTED", "KEY_BYTES_MAX", "RULES_MAX", "V6_BITS", "KeyRule", "parse_rule"]

KEY_BYTES_MAX = 4096
"""Longest key that is used; a longer value counts as no key (a session id of 4 KiB is an attack, not a session)."""

RULES_MAX = 8
"""Rules in a list: each is looked for in every request that has none of those before it."""

V6_BITS = 64
"""How much of an IPv6 address "client-ip/24" counts: a site's hosts change the rest at will (RFC 8981)."""

ACCEPTED = (
    '"cookie:NAME", "header:NAME", "query:NAME", "path-param:NAME", "json:FIELD", "client-ip", '
    '"client-ip/24" or "client-ip/24,64", or a list of these: first found; with protocol = "tcp" also "sni"'
)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_PARAMETER = re.compile(r"[^\x00-\x20\x7f&;=/?#\"\\]{1,256}\Z", re.ASCII)
_MEMBER = re.compile(r"[^\x00-\x1f\"\\]{1,256}\Z")
_BITS = re.compile(r"client-ip/(\d{1,2})(?:,(\d{1,3}))?\Z", re.ASCII)

Fields = Mapping[str, "str | bytes"]


@dataclass(frozen=True, slots=True)
class KeyRule:
    """One place where the key may stand.

    Attributes:
        kind: "client-ip", "cookie", "header", "query", "path-param", "json", "sni", "path" or "url".
        name: of the cookie (case matters), the field (it does not), the parameter or member (it does); of client-ip
            the bits that count, "24,64", or "" for all.
        others: rules to try when this one finds nothing.
    """

    kind: str
    name: str = ""
    others: tuple[KeyRule, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}{'/' if self.kind == 'client-ip' else ':'}{self.name}" if self.name else self.kind

    @property
    def each(self) -> tuple[KeyRule, ...]:
        """This rule alone and those that follow it."""
        return (KeyRule(self.kind, self.name), *self.others)

    def extract(self, fields: Fields | bytes | bytearray | memoryview) -> bytes | None:
        """The key, or None where the request has none.

        Args:
            fields: field names in any case -> value; "client-ip" -> the client's address, ":path" -> the target, path
                and query; ":body" -> a JSON body, whole. Or a request's head as it came, up to its empty line, which
                has neither a client's address nor a body.

        Raises:
            DownstreamProtocolError: a head that the proxy would refuse.
        """
        if isinstance(fields, (bytes, bytearray, memoryview)):
            fields = _fields_of(bytes(fields))
        found = self._own(fields)
        if found and len(found) <= KEY_BYTES_MAX:
            return found
        for rule in self.others:
            if (found := rule.extract(fields)) is not None:
                return found
        return None

    def _own(self, fields: Fields) -> bytes | None:
        value = _field(fields, _WHERE.get(self.kind) or self.name.lower())
        if value is None:
            return None
        if self.kind == "cookie":
            return _cookie(value, self.name.encode())
        if self.kind == "client-ip":
            return _network(value.strip(b" \t"), self.name)
        if self.kind in ("header", "sni"):
            return value.strip(b" \t")
        if self.kind == "json":
            from fastroute._core.http_sticky import json_key  # for whoever uses it

            return json_key(value, self.name.encode())
        path, _, query = value.partition(b"?")
        if self.kind == "query":
            return _parameter(query.split(b"&"), self.name.encode())
        if self.kind == "path-param":
            segments = (segment.split(b";")[1:] for segment in path.split(b"/"))
            return next((x for x in (_parameter(many, self.name.encode()) for many in segments) if x is not None), None)
        return (path if self.kind == "path" else value) or b"/"


_WHERE = {
    "cookie": "cookie",
    "client-ip": "client-ip",
    "sni": "sni",
    "query": ":path",
    "path-param": ":path",
    "path": ":path",
    "url": ":path",
    "json": ":body",
}


def parse_rule(text: str | Sequence[str]) -> KeyRule:
    """The rule for one of ACCEPTED, "path" or "url", or a list.

    Raises:
        UsageError: anything else, with what is accepted.
    """
    if not isinstance(text, str):
        rules = [parse_rule(one) for one in text]
        if not 1 <= len(rules) <= RULES_MAX:
            raise UsageError(f"key rule: a list of {len(rules)}; accepted are 1 to {RULES_MAX} rules")
        return KeyRule(rules[0].kind, rules[0].name, tuple(rules[1:]))
    kind, colon, name = text.partition(":")
    if text in ("client-ip", "sni", "path", "url"):
        return KeyRule(text)
    if found := _BITS.match(text):
        v4, v6 = int(found[1]), int(found[2] or V6_BITS)
        if not (1 <= v4 <= 32 and 1 <= v6 <= 128):
            raise UsageError(f"key rule {text!r}: accepted are 1 to 32 bits of IPv4 and 1 to 128 of IPv6")
        return KeyRule("client-ip", f"{v4},{v6}")
    shapes = {"cookie": _TOKEN, "header": _TOKEN, "query": _PARAMETER, "path-param": _PARAMETER, "json": _MEMBER}
    if colon and kind in shapes:
        if shapes[kind].match(name):
            return KeyRule(kind, name)
        accepted = {
            _TOKEN: "an HTTP token",
            _PARAMETER: "without & ; = / ? #, space and quotes",
            _MEMBER: "without escapes",
        }
        told = json.dumps(name, ensure_ascii=False)
        raise UsageError(
            f"key rule {text!r}: the {kind}'s name {told} is not acceptable; accepted: {accepted[shapes[kind]]}"
        )
    raise UsageError(f'key rule {text!r}: accepted are {ACCEPTED}, and "path", "url"')


def _fields_of(head: bytes) -> dict[str, bytes]:
    """The fields of a head as extract() takes them; none of one that is not whole."""
    from fastroute._core.http_head import scan_request  # for whoever uses it

    found: dict[str, bytes] = {}
    if (scanned := scan_request(head)) is not None:
        found[":path"] = scanned["path"]
        for name, value, *_ in scanned["fields"]:
            key = name.decode("latin-1").lower()
            if key == "cookie" and key in found:
                found[key] += b"; " + value
            elif key != "client-ip":  # that is the connection's, and no client's to write
                found.setdefault(key, value)
    return found


def _field(fields: Fields, name: str) -> bytes | None:
    value = fields.get(name)
    if value is None:
        value = next((v for k, v in fields.items() if k.lower() == name), None)
    return value.encode("latin-1", "replace") if isinstance(value, str) else value


def _cookie(value: bytes, name: bytes) -> bytes | None:
    for pair in value.split(b";"):
        key, equals, found = pair.strip(b" \t").partition(b"=")
        if equals and key == name:
            if len(found) >= 2 and found[:1] == found[-1:] == b'"':
                found = found[1:-1]
            return found or None
    return None


def _parameter(pairs: Sequence[bytes], name: bytes) -> bytes | None:
    for pair in pairs:
        key, equals, found = pair.partition(b"=")
        if equals and key == name:
            return found
    return None


def _network(value: bytes, bits: str) -> bytes:
    if not bits:
        return value
    try:
        address = ipaddress.ip_address(value.decode("ascii"))
    except ValueError:
        return value
    v4, _, v6 = bits.partition(",")
    return str(ipaddress.ip_network((address, int(v4 if address.version == 4 else v6)), strict=False)).encode()
