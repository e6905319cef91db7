"""What must hold between the keys of [pools.NAME.health], and what probably is not as meant. Part of rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from fastroute.config.kinds import quote
from fastroute.config.schema import Config, PoolConfig
from fastroute.config.schema_health import HealthConfig

__all__ = ["health_mistakes", "health_warnings"]

Finding = tuple[tuple[str | int, ...], str]


def health_mistakes(pool: PoolConfig) -> Iterator[Finding]:
    """Of one pool."""
    for name, section in (("content", pool.content), ("on_join", pool.on_join)):
        if section is not None and pool.health is None:
            yield (name,), f"{name} is looked after by checks; accepted: [pools.NAME.health] beside it"
    content, join, outlier = pool.content, pool.on_join, pool.outlier
    if content is not None:
        if bool(content.paths) == bool(content.header):
            yield ("content",), "content: accepted is one of paths and header"
        for index, path in enumerate(content.paths):
            if not is_path(path):
                yield ("content", "paths", index), f"paths: found {quote(path)}; accepted: a path such as /version"
        if content.header and pool.health is not None and pool.health.check != "http":
            yield ("content", "header"), 'header is a field of the answers of check = "http"'
    if join is not None:
        if bool(join.command) == bool(join.path):
            yield ("on_join",), "on_join: accepted is one of command and path"
        if join.path and not is_path(join.path):
            yield ("on_join", "path"), f"path: found {quote(join.path)}; accepted: a path such as /warm-up"
    if outlier is not None and 0 < outlier.latency_factor < 1.1:
        found = f"{outlier.latency_factor:g}"
        yield ("outlier", "latency_factor"), f"latency_factor: found {found}; accepted: 0 (off) and 1.1 to 1000"
    if pool.fleet_load and pool.policy in ("random", "round-robin"):
        yield ("fleet_load",), f"fleet_load is for policies that look at load; the policy is {quote(pool.policy)}"
    if pool.health is not None and pool.health.on_restart == "move" and pool.sticky is None:
        yield ("health", "on_restart"), 'on_restart = "move" moves bindings, and the pool is not sticky'
    if pool.health is not None:
        for where, message in _check_mistakes(pool.health):
            yield ("health", *where), message


def _check_mistakes(health: HealthConfig) -> Iterator[Finding]:
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
        if pool.fleet_load and (config.store is None or not config.secret):
            message = "fleet_load needs [store] and secret: without them only this machine's requests count"
            yield ("pools", name, "fleet_load"), message
        if pool.health is None:
            continue
        if pool.health.on_restart == "move" and config.admin is None:
            message = 'on_restart = "move" is done by the admin process: it needs [admin]; bindings stay'
            yield ("pools", name, "health"), message
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
