"""The dashboard: one static page. What it shows it asks from the JSON interface, with the reader's own token.

It needs no build step and asks nobody else for anything: its policy allows the one script and the one style that stand
in it, by their digests, and connections to where it came from.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re

from fastroute.admin.http import Response

__all__ = ["dashboard"]


@functools.cache
def _page() -> tuple[bytes, str]:
    """(the page, its Content-Security-Policy)."""
    files = importlib.resources.files("fastroute.admin")
    text = files.joinpath("page.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js"):
        text = text.replace(f"/*{name}*/", files.joinpath(name).read_text(encoding="utf-8"))
    sources = {
        tag: " ".join(map(_digest, re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S))) for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; connect-src 'self'; "
        "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return text.encode(), policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def dashboard() -> Response:
    """The page; it holds no data."""
    page, policy = _page()
    fields = {"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
    return Response(200, page, "text/html; charset=utf-8", fields)
