"""What a request, or a URL, is called in the cache: scheme, host and target, as the server gets them.

The compiled relay makes the same text for each request (ext/fr_cache_key.h); this is for URLs that are purged or
invalidated. Nothing else is normalised: a path is the server's business, and two spellings of one thing are better two
entries than one thing's answer to another's question.
"""

from __future__ import annotations

import re

__all__ = ["URL_BYTES_MAX", "resolve", "url_key"]

URL_BYTES_MAX = 8192
"""Longest URL: a listener's request_line_bytes."""

_URL = re.compile(r"(https?)://([^/?#\s@]+)([/?][^#\s]*)?(?:#.*)?", re.IGNORECASE)
_PORTS = {"http": ":80", "https": ":443"}


def url_key(url: str) -> str | None:
    """The key of an absolute http or https URL; None where it is none. A fragment does not count."""
    if len(url) > URL_BYTES_MAX:
        return None
    match = _URL.fullmatch(url)
    if match is None or not url.isascii():
        return None
    scheme, host, target = match.group(1).lower(), match.group(2).lower(), match.group(3) or "/"
    host = host.removesuffix(_PORTS[scheme])
    return f"{scheme}://{host}{'/' if target[0] == '?' else ''}{target}"


def resolve(key: str, reference: str) -> str | None:
    """The key of a reference in a response to the request that is called `key`; None where it has another origin.

    Source: RFC 3986, 5.2, for references that keep the origin.
    """
    base = _URL.fullmatch(key.partition("\n")[0])
    reference = reference.strip(" \t").partition("#")[0]
    if base is None:
        return None
    origin = f"{base.group(1)}://{base.group(2)}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", reference):
        found = url_key(reference)
    elif reference.startswith("//"):
        found = url_key(f"{base.group(1)}:{reference}")
    else:
        path, _, _ = (base.group(3) or "/").partition("?")
        if not reference:
            found = key.partition("\n")[0]
        elif reference.startswith("/"):
            found = url_key(origin + _without_dots(reference))
        elif reference.startswith("?"):
            found = url_key(origin + path + reference)
        else:
            found = url_key(origin + _without_dots(path[: path.rfind("/") + 1] + reference))
    if found is None or not found.startswith(f"{origin}/"):
        return None
    return found


def _without_dots(target: str) -> str:
    path, question, query = target.partition("?")
    kept: list[str] = []
    parts = path.split("/")
    for at, part in enumerate(parts):
        if part == "..":
            if len(kept) > 1:
                kept.pop()
        elif part != ".":
            kept.append(part)
            continue
        if at == len(parts) - 1:
            kept.append("")
    return "/".join(kept) + question + query
