"""The dashboard: one static page. What it shows it asks from the JSON interface, with the reader's own token."""

from __future__ import annotations

import functools
import importlib.resources

from fastroute.admin.http import Response

__all__ = ["dashboard"]

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@functools.cache
def _page() -> bytes:
    return importlib.resources.files("fastroute.admin").joinpath("page.html").read_bytes()


def dashboard() -> Response:
    """The page; it holds no data."""
    return Response(
        200,
        _page(),
        "text/html; charset=utf-8",
        {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"},
    )
