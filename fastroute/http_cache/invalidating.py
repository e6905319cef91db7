"""What an unsafe request makes unusable (RFC 9111, 4.4; RFC 9875).

Rules of this file: as the package's. Keys and groups only; who deletes them is fastroute.proxy.
"""

from __future__ import annotations

import re

from fastroute.http_cache.fields import Fields, list_items, values
from fastroute.http_cache.keys import resolve

__all__ = ["SAFE_METHODS", "group_tag", "invalidated_groups", "invalidated_keys", "tags_of"]

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""All others may change something, unknown ones included, but for SAFE_OTHERS."""

SAFE_OTHERS = frozenset(("PROPFIND", "REPORT", "SEARCH", "QUERY"))
"""Safe by their registration with IANA."""

TAGS_MAX = 64
"""As fastroute.cache.codec.TAGS_MAX: a response with more is not stored, for it could not be purged by all of them."""

TAG_BYTES_MAX = 1000

_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"(?:;[^,]*)?')


def is_unsafe(method: str) -> bool:
    """May this request change what the URL answers?"""
    return method not in SAFE_METHODS and method not in SAFE_OTHERS


def invalidated_keys(key: str, status: int, fields: Fields) -> list[str]:
    """Keys that a response to an unsafe request makes unusable: none after an error, else its URL, and the targets of
    Location and Content-Location with the same origin."""
    if not 200 <= status < 400:
        return []
    found = [key.partition("\n")[0]]
    for name in ("location", "content-location"):
        for text in values(fields, name)[:1]:
            target = resolve(key, text)
            if target is not None and target not in found:
                found.append(target)
    return found


def _origin(key: str) -> str:
    return "/".join(key.split("/", 3)[:3])


def group_tag(key: str, group: str) -> str:
    """The tag of a cache group: groups of two origins never meet (RFC 9875, 2.1)."""
    return f"group {_origin(key)} {group}"


def _strings(texts: list[str]) -> list[str]:
    found = []
    for item in list_items(texts):
        match = _STRING.fullmatch(item)
        if match is None:
            return []  # a list of structured fields is ignored whole
        found.append(re.sub(r"\\(.)", r"\1", match.group(1)))
    return found


def invalidated_groups(key: str, method_is_unsafe: bool, status: int, fields: Fields) -> list[str]:
    """Tags of the groups that a response makes unusable (RFC 9875, 3): ignored from safe methods."""
    if not method_is_unsafe or not 200 <= status < 400:
        return []
    return [group_tag(key, group) for group in _strings(values(fields, "cache-group-invalidation"))]


def tags_of(key: str, fields: Fields) -> list[str] | None:
    """The tags of a response: Cache-Groups (RFC 9875), Surrogate-Key (words), Cache-Tag (a list). None: too many.

    A group is two tags: that of its origin, which responses invalidate, and its name alone, which operators purge.
    RFC 9875 asks for 32 groups of 32 characters at least, and those two per group are as many as there may be.
    """
    groups = _strings(values(fields, "cache-groups"))
    found = [group_tag(key, group) for group in groups]
    found += [f"tag {group}" for group in groups]
    found += [f"tag {word}" for text in values(fields, "surrogate-key") for word in text.split()]
    found += [f"tag {item}" for item in list_items(values(fields, "cache-tag"))]
    found = list(dict.fromkeys(found))
    if len(found) > TAGS_MAX or any(len(tag.encode()) > TAG_BYTES_MAX for tag in found):
        return None
    return found
