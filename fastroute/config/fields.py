"""Header rules in a configuration: what may be added, set and removed, and what a text may name. Pure functions.

Not here: how rules of listener, pool and route are put together (fastroute.proxy.fields), how they are written
(ext/fr_fields.h). Rules of this file: a text that could end a line, a field that decides where a message ends, and one
that the balancer writes itself are refused when they are loaded.
"""

from __future__ import annotations

import re
from typing import Any

from fastroute.config.kinds import Kind, Mistake, Token, quote

__all__ = ["IN_REQUESTS", "IN_RESPONSES", "FieldName", "FieldTexts", "RequestIdName", "pieces_of"]

IN_REQUESTS = ("client_ip", "request_id", "host", "scheme", "listener", "pool")
IN_RESPONSES = ("client_ip", "request_id", "scheme", "server", "reason", "listener", "pool")
"""Places in a text. The server is not chosen yet when a request is written; Host is gone when its response is."""

_ITS_OWN = {
    **dict.fromkeys(
        (
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
        ),
        "is of one connection",
    ),
    **dict.fromkeys(("content-length", "host", "expect", "max-forwards", "date"), "decides how a message is read"),
    **dict.fromkeys(
        ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "x-fastroute"),
        "is written by the balancer (trusted_proxies, forwarded)",
    ),
}
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class FieldName(Kind):
    """Name of a header field that a rule may touch."""

    accepted = "the name of a header field"

    def convert(self, value: Any) -> str:
        name: str = Token().convert(value)
        why = _ITS_OWN.get(name.lower())
        if why is not None:
            raise Mistake(f"field {quote(name)} {why}; accepted: fields from end to end", whole=True)
        return name


class RequestIdName(Kind):
    """Name of the field with the request's id, or nothing."""

    accepted = 'the name of a field of its own such as "X-Request-Id", or "" for none'

    def convert(self, value: Any) -> str:
        if value == "":
            return ""
        name: str = FieldName().convert(value)
        if name.lower() in ("cookie", "set-cookie", "authorization", "content-type", "x-real-ip", "traceparent"):
            raise Mistake(self.accepted)
        return name


class FieldTexts(Kind):
    """A table of fields: name -> text, or list of texts."""

    accepted = 'a table of fields, such as { "X-Tier" = "web" }'

    def __init__(self, places: tuple[str, ...]) -> None:
        self._places = places

    def convert(self, value: Any) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        found: list[tuple[str, str]] = []
        seen: set[str] = set()
        for name, texts in value.items():
            try:
                FieldName().convert(name)
            except Mistake as mistake:
                raise mistake.below(name) from None
            if name.lower() in seen:
                raise Mistake(f"field {quote(name)} stands twice; accepted: once, with a list", (name,), whole=True)
            seen.add(name.lower())
            for text in texts if isinstance(texts, list) else [texts]:
                found.append((name, self._checked(name, text)))
        return tuple(found)

    def _checked(self, name: str, text: Any) -> str:
        accepted = "accepted: printable ASCII, at most 4096 characters, with " + ", ".join(
            f"{{{place}}}" for place in self._places
        )
        if (
            not isinstance(text, str)
            or len(text) > 4096
            or text != text.strip(" \t")
            or not all(" " <= c <= "~" or c == "\t" for c in text)
        ):
            raise Mistake(f"text of field {quote(name)}; {accepted}", (name,), whole=True)
        for found in _PLACE.finditer(text):
            if found[0] not in ("{{", "}}") and found[1] not in self._places:
                raise Mistake(f"{found[0]} in field {quote(name)}; {accepted} and {{{{ for {{", (name,), whole=True)
        return text


def pieces_of(text: str, known: dict[str, str]) -> list[tuple[str, str]]:
    """A checked text as ("text", as it stands) and ("place", name), with what is known already put in.

    Args:
        text: of a rule.
        known: place -> value.
    """
    found: list[tuple[str, str]] = []
    plain, at = "", 0
    for match in _PLACE.finditer(text):
        plain += text[at : match.start()]
        at = match.end()
        if match[0] in ("{{", "}}"):
            plain += match[0][0]
        elif match[1] in known:
            plain += known[match[1]]
        else:
            found += ([("text", plain)] if plain else []) + [("place", match[1])]
            plain = ""
    plain += text[at:]
    return found + ([("text", plain)] if plain else [])
