"""A listener's routes of the configuration, compiled, and what they say of one request. No sockets.

Not here: the lookup (ext/fr_route.h). `fastroute explain --url` and the relay ask the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastroute._core.http_routes import Networks, RouteTable
from fastroute.config.schema import ListenerConfig, RouteConfig

__all__ = ["Taken", "route_table", "taken_by"]


@dataclass(frozen=True)
class Taken:
    """Where a request goes.

    Attributes:
        pool: its name; "" where no route takes the request and there is no pool for the rest.
        route: the route, or None: the listener's own pool.
    """

    pool: str
    route: RouteConfig | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        said = (
            {"host": self.route.host, "path_prefix": self.route.path_prefix, "clients": list(self.route.clients)}
            if self.route
            else None
        )
        return {"pool": self.pool or None, "route": said}

    def __str__(self) -> str:
        if self.route is None:
            return f"pool {self.pool}: no route takes it" if self.pool else "no route takes it: 404"
        parts = [f"host {self.route.host}" if self.route.host else "", f"path {self.route.path_prefix}"]
        parts += [f"clients {', '.join(self.route.clients)}"] if self.route.clients else []
        return f"pool {self.pool}: the route for {', '.join(part for part in parts if part)}"


def route_table(listener: ListenerConfig) -> RouteTable | None:
    """The listener's table, whose targets are places in its `routes`; None when it has none."""
    if not listener.routes:
        return None
    return RouteTable(
        (route.host, route.path_prefix, Networks(route.clients) if route.clients else None, index)
        for index, route in enumerate(listener.routes)
    )


def taken_by(listener: ListenerConfig, authority: str, path: str, client: str = "") -> Taken:
    """Which route of a listener takes a request.

    Args:
        listener: as configured.
        authority: the host, with or without a port.
        path: as in the request line.
        client: the client's address; "": unknown, so that routes for some clients take nothing.
    """
    table = route_table(listener)
    at = table.find(authority, path, client) if table is not None else None
    return Taken(listener.pool, None) if at is None else Taken(listener.routes[at].pool, listener.routes[at])
