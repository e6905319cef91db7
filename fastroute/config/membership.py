"""Which servers a pool has now: those of the file, and what operators and sources changed since. Pure.

Not here: where the changes stand (fastroute.metrics.notice), who makes them (fastroute.admin, fastroute.sources).

The rules: a name is a server. A name that an operator removed stays out, wherever it comes from, until he adds it
again. The file comes before what was found, and both before what was added; who was removed and added again is as
added. So a server that was added by hand and later written into the file is the file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from fastroute.config.schema import Config, ServerConfig

__all__ = ["Changes", "applied", "name_of", "servers_of"]


class Changes(Protocol):
    """What differs from the file in one pool; see PoolChanges of fastroute.metrics.notice."""

    added: list[ServerConfig]
    removed: list[str]
    found: list[ServerConfig] | None


def name_of(server: ServerConfig) -> str:
    """A server's identity."""
    return server.name or server.address


def servers_of(configured: Sequence[ServerConfig], changes: Changes | None) -> tuple[ServerConfig, ...]:
    """The servers of a pool now."""
    if changes is None:
        return tuple(configured)
    removed = set(changes.removed)
    found: dict[str, ServerConfig] = {}
    for server in (*configured, *(changes.found or ())):
        if name_of(server) not in removed:
            found.setdefault(name_of(server), server)
    for server in changes.added:
        found.setdefault(name_of(server), server)
    return tuple(found.values())


def applied(config: Config, changes: Mapping[str, Changes]) -> Config:
    """The configuration with the servers that its pools have now."""
    pools = {
        name: msgspec.structs.replace(of, servers=servers_of(of.servers, changes[name])) if name in changes else of
        for name, of in config.pools.items()
    }
    return msgspec.structs.replace(config, pools=pools)
