"""What a pool accepts: names of policies and rings, lists of servers. Pure; the control plane of ext/pool.pyx alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from fastroute._core.dialects import DIALECTS
from fastroute._core.server_table import SERVERS_MAX
from fastroute.errors import UsageError
from fastroute.model import Server

POLICIES = ("round-robin", "random", "hash")
"""In the order of POLICY_* in ext/pool.pyx."""

POLICIES_PLANNED = ("least-connections", "two-choices", "peak-ewma", "prequal")

RINGS = ("table", *DIALECTS)


def check_choice(kind: str, value: object, known: tuple[str, ...], planned: tuple[str, ...] = ()) -> str:
    """Return the name of a policy or ring if it is one that is built.

    Raises:
        UsageError: any other value; the message lists the known ones and the planned ones.
    """
    if isinstance(value, str) and value in known:
        return value
    what = "is planned, not built yet" if value in planned else "is unknown"
    later = f"; planned, not built yet: {', '.join(planned)}" if planned else ""
    raise UsageError(f"{kind} {value!r} {what}; accepted: {', '.join(known)}{later}")


def in_order(servers: Iterable[Server]) -> tuple[Server, ...]:
    """The servers in the order of their declaration.

    Raises:
        UsageError: no sequence of Server objects.
    """
    if isinstance(servers, (str, bytes, Server)) or not isinstance(servers, Iterable):
        raise UsageError(f"servers: found {type(servers).__name__}; accepted is a sequence of Server")
    rows = tuple(servers)
    for server in rows:
        if not isinstance(server, Server):
            raise UsageError(f"servers: found {type(server).__name__}; accepted are Server objects")
    return rows


def check_servers(servers: Iterable[Server]) -> tuple[Server, ...]:
    """The servers in the order of their names.

    Raises:
        UsageError: no sequence of Server objects, a name or a ring's key that is there twice, or too many.
    """
    rows = list(in_order(servers))
    if len(rows) > SERVERS_MAX:
        raise UsageError(f"{len(rows)} servers: a pool holds at most {SERVERS_MAX}")
    rows.sort(key=lambda server: server.name)
    for left, right in itertools.pairwise(rows):
        if left.name == right.name:
            raise UsageError(f"server name {left.name!r} is there twice; the name is the server's identity")
    keys: dict[str, Server] = {}
    for server in rows:
        other = keys.setdefault(server.hash_key or server.name, server)
        if other is not server:
            raise UsageError(f"servers {other.name!r} and {server.name!r} have the same hash_key; each needs its own")
    return tuple(rows)


def ring_inputs(servers: Iterable[Server], slots: dict[str, int], backup: bool) -> tuple[tuple[str, int, int], ...]:
    """What a ring is built from: (key, weight, slot) of each server that can be picked, in the order of the names."""
    return tuple(
        (server.hash_key or server.name, server.weight, slots[server.name])
        for server in servers
        if server.weight and server.backup == backup
    )
