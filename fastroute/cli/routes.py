"""What `fastroute explain --url` and `preview` say of routes: which one takes a request, which requests change pools.

Not here: the lookup (fastroute.proxy.routes). Files in, text out; nothing runs.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastroute.config.load import load
from fastroute.config.schema import Config, ListenerConfig, RouteConfig
from fastroute.errors import UsageError
from fastroute.proxy.routes import Taken, taken_by

__all__ = ["moved_routes", "run_route"]


def run_route(path: str, url: str, client: str, listener: str | None) -> Taken:
    """Which route takes a request.

    Args:
        path: of the configuration.
        url: such as "http://a.example/api".
        client: the client's address; "": unknown.
        listener: its name; None where there is one only.

    Raises:
        ConfigError: the file. UsageError: no such listener, or a URL without a host.
    """
    config = load(path).config
    if listener is None and len(config.listeners) > 1:
        raise UsageError(f"--url: {path} has several listeners; name one: --listener {' or '.join(config.listeners)}")
    name = listener or next(iter(config.listeners))
    if name not in config.listeners:
        raise UsageError(f"--listener {name}: {path} has: {', '.join(config.listeners)}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--url {url}: accepted is a URL such as http://a.example/api")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return taken_by(config.listeners[name], parts.netloc.rpartition("@")[2], target, client)


def moved_routes(old: Config, new: Config) -> list[str]:
    """One line for each route of either file whose requests would go to another pool."""
    said: list[str] = []
    for name in old.listeners:
        if name not in new.listeners:
            continue
        before, after = old.listeners[name], new.listeners[name]
        for route in dict.fromkeys((RouteConfig(pool="-"), *map(_where, before.routes), *map(_where, after.routes))):
            was, will = _pool_of(before, route), _pool_of(after, route)
            if was != will:
                where = f"{route.host or 'any host'}{route.path_prefix}" + (
                    f" from {route.clients[0]}" if route.clients else ""
                )
                said.append(
                    f"listener {name}: requests for {where} would go to {_named(will)} instead of {_named(was)}"
                )
    return said


def _where(route: RouteConfig) -> RouteConfig:
    return RouteConfig(host=route.host, path_prefix=route.path_prefix, clients=route.clients, pool="-")


def _pool_of(listener: ListenerConfig, route: RouteConfig) -> str:
    host = "x" + route.host[1:] if route.host.startswith("*.") else route.host or "any.invalid"
    client = route.clients[0].partition("/")[0] if route.clients else ""
    return taken_by(listener, f"[{host}]" if ":" in host else host, route.path_prefix, client).pool


def _named(pool: str) -> str:
    return f"pool {pool}" if pool else "nobody (404)"
