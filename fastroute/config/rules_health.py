"""What must hold between the keys of [pools.NAME.health], and what probably is not as meant. Part of rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from fastroute.config.kinds import quote
from fastroute.config.schema import Config
from fastroute.config.schema_health import HealthConfig

__all__ = ["health_mistakes", "health_warnings"]

Finding = tuple[tuple[str | int, ...], str]


def health_mistakes(health: HealthConfig) -> Iterator[Finding]:
    """Of one pool's section."""
    if health.check == "http" and not is_path(health.path):
        message = (
            f'path: found {quote(health.path)}; accepted: a path such as "/healthz", printable ASCII without spaces'
        )
        yield ("path",), message
    if health.check == "http" and health.host and (" " in health.host or not health.host.isascii()):
        yield ("host",), f"host: found {quote(health.host)}; accepted: what a Host field holds, such as app.example"
    if health.check == "command" and not health.command:
        yield (
            ("command",),
            'check = "command" needs a command; accepted: a list such as ["/usr/bin/check", "{address}"]',
        )
    if health.check != "command" and health.command:
        yield ("command",), f'command is run by check = "command"; the check is {quote(health.check)}'
    if health.body and (health.check != "http" or health.method == "HEAD"):
        yield ("body",), 'body is looked for in the answers of check = "http" with another method than "HEAD"'
    for key in ("boot_header", "uptime_header"):
        if getattr(health, key) and health.check != "http":
            yield (key,), f'{key} is a field of the answers of check = "http"; the check is {quote(health.check)}'


def health_warnings(config: Config) -> Iterator[Finding]:
    """Of all pools."""
    for name, pool in config.pools.items():
        if pool.health is None:
            continue
        if pool.health.check == "http" and pool.health.path == "/":
            message = (
                'the check asks for "/": the start page is rarely light; give it a page that does nothing, such as '
                '"/healthz". Until then answers that are slow or large make it ask more rarely'
            )
            yield ("pools", name, "health"), message
        if pool.health.fleet and config.store is not None and not config.secret:
            message = (
                "health is shared by signed messages, and no secret is configured: every replica asks every server; "
                "set secret, or health.fleet = false"
            )
            yield ("pools", name, "health"), message


def is_path(text: str) -> bool:
    """May it stand in a request line?"""
    return text.startswith("/") and all("!" <= c <= "~" for c in text)
