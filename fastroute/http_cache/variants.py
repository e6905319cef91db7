"""Vary: the second half of a cache key (RFC 9111, 4.1).

Under a URL's key stands the response, or a Variants: the names of the fields that choose, and a number that is new
with each Variants. A response with Vary stands under a key of its own, of the URL, that number and the chosen values.
So what replaces or removes the Variants makes all responses behind it unreachable at once.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from fastroute.http_cache.fields import Fields, list_items, tokens, values

__all__ = ["Variants", "vary_names"]

NAMES_MAX = 16
"""Fields that may choose: more of them never meet twice."""


class Variants(NamedTuple):
    """What stands under the key of a URL whose responses vary.

    Attributes:
        names: of the fields that choose, sorted, in lower case.
        number: names this Variants: not that of another one.
        soft_ms: responses that are older than this are stale (a soft purge); 0: none.
    """

    names: tuple[str, ...]
    number: bytes
    soft_ms: int = 0

    def key_of(self, url_key: str, request: Fields) -> str:
        """The key of the response for this request."""
        state = hashlib.blake2b(self.number, digest_size=16, person=b"fr http vary 1")
        for name in self.names:
            text = _normal(name, values(request, name))
            state.update(b"%d:" % len(text) + text.encode("latin-1", "replace"))
        return f"{url_key}\n{state.hexdigest()}"


def vary_names(response: Fields) -> tuple[str, ...] | None:
    """The names in Vary, sorted; () where there are none, None where no other request can match."""
    names = tuple(sorted(set(tokens(values(response, "vary")))))
    if "*" in names or len(names) > NAMES_MAX:
        return None
    return names


_QUALITY = re.compile(r";[ \t]*q[ \t]*=[ \t]*([01](?:\.\d{0,3})?)[ \t]*$", re.IGNORECASE)


def _normal(name: str, texts: list[str]) -> str:
    """One text for values that mean the same: lines joined, blanks dropped; preferences also without regard to letter
    case and, within one quality, to order. An absent field differs from an empty one."""
    if not texts:
        return "-"
    items = list_items(texts)
    if name in ("accept-language", "accept-encoding", "accept-charset"):
        items = sorted({re.sub(r"[ \t]+", "", item.lower()) for item in items}, key=_rank)
    return "+" + ",".join(items)


def _rank(item: str) -> tuple[float, str]:
    match = _QUALITY.search(item)
    return (-float(match.group(1)) if match else -1.0, item)
