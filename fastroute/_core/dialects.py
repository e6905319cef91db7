"""The ring dialects by name: which text of a server each hashes, which options it takes, what the product does when a
server is out.

Not here: the `table` ring, the default, which is no other product's (fastroute._core.ring_table); the rings' rules
(fastroute._core.ring_*, one module each, whose docstrings say where the order of the servers matters).
A server's `hash_key`, where it has one, replaces the text; for the haproxy rings its `id` is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fastroute._core.ring import Ring
from fastroute._core.ring_envoy import EnvoyRing
from fastroute._core.ring_haproxy import HaproxyMap, HaproxyRing
from fastroute._core.ring_jump import JumpRing
from fastroute._core.ring_ketama import KetamaRing
from fastroute._core.ring_maglev import MaglevRing
from fastroute._core.ring_nginx import NginxRing
from fastroute._core.ring_rendezvous import RendezvousRing
from fastroute._core.ring_uhashring import UhashringRing
from fastroute.errors import UsageError
from fastroute.model import Server, parse_address

__all__ = ["DIALECTS", "Dialect", "build_ring", "check_options", "dialect", "haproxy_ids", "make_ring", "ring_inputs"]

MEMCACHED_PORT = 11211
"""libmemcached leaves this port out of a server's text (MEMCACHED_DEFAULT_PORT)."""


class Dialect(NamedTuple):
    """One row of the table.

    Attributes:
        name: what `ring=` says.
        hashes: what identifies a server to the ring, in words.
        keys: the function that gives it, for all servers in the order of their declaration.
        make: the ring's class.
        options: names of the options that build_ring() passes on.
        fixed: what the dialect passes besides.
        seeded: a pool's seed goes into the hash of its keys (0: the product's own hash).
        declared_order: the order in which the servers are declared is part of the rule.
        rebuilds: the product builds the ring anew over the servers that are ready; else it skips those that are out.
    """

    name: str
    hashes: str
    keys: Callable[[Sequence[Server]], list[Any]]
    make: Callable[..., Ring]
    options: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = MappingProxyType({})
    seeded: bool = False
    declared_order: bool = False
    rebuilds: bool = False


def _names(servers: Sequence[Server]) -> list[str]:
    return [server.hash_key or server.name for server in servers]


def _addresses(servers: Sequence[Server]) -> list[str]:
    return [server.hash_key or server.address for server in servers]


def _envoy_addresses(servers: Sequence[Server]) -> list[str]:
    # Envoy writes a pipe's address as its path.
    return [server.hash_key or server.address.removeprefix("unix:") for server in servers]


def _libmemcached(servers: Sequence[Server]) -> list[str]:
    return [server.hash_key or _libmemcached_text(server.address, MEMCACHED_PORT) for server in servers]


def _spymemcached(servers: Sequence[Server]) -> list[str]:
    return [server.hash_key or "/" + _libmemcached_text(server.address, None) for server in servers]


def _libmemcached_text(address: str, port_left_out: int | None) -> str:
    # libmemcached keeps host and port apart: no brackets around IPv6; a socket's path is the host, its port is 0.
    place = parse_address(address)
    host, port = (place, 0) if isinstance(place, str) else place
    return host if port == port_left_out else f"{host}:{port}"


def haproxy_ids(servers: Sequence[Server]) -> list[int]:
    """The servers' ids as HAProxy numbers them, in the order of their declaration.

    A server without an id gets its 1-based position, or the next number that no server has.

    Raises:
        UsageError: two servers with the same id.
    """
    used: dict[int, Server] = {}
    for server in servers:
        if server.id is not None and used.setdefault(server.id, server) is not server:
            raise UsageError(f"servers {used[server.id].name!r} and {server.name!r} have the same id {server.id}")
    ids, following = [], 1
    for server in servers:
        if server.id is None:
            while following in used:
                following += 1
            used[following] = server
            ids.append(following)
        else:
            ids.append(server.id)
        following += 1
    return ids


_HAPROXY_OPTIONS = ("function", "avalanche")
_ADDRESS = "hash_key, else the address as written"
_NAME = "hash_key, else the name"
_ID = "the id, by default the 1-based position"
_LIBMEMCACHED = "hash_key, else host (port 11211) or host:port, IPv6 without brackets, a socket as path:0"

DIALECTS: dict[str, Dialect] = {
    row.name: row
    for row in (
        Dialect("maglev", _ADDRESS, _envoy_addresses, MaglevRing, ("table_size",), seeded=True, rebuilds=True),
        Dialect("rendezvous", _NAME, _names, RendezvousRing, seeded=True),
        Dialect("jump", _NAME, _names, JumpRing, seeded=True),
        Dialect("ketama", _LIBMEMCACHED, _libmemcached, KetamaRing, ("weighted", "hash"), rebuilds=True),
        Dialect(
            "ketama-spy",
            "hash_key, else /host:port, IPv6 without brackets",
            _spymemcached,
            KetamaRing,
            ("weighted",),
            {"weighted": True},
            rebuilds=True,
        ),
        Dialect("libketama", _ADDRESS, _addresses, KetamaRing, fixed={"rule": "libketama"}, rebuilds=True),
        Dialect("nginx", _ADDRESS, _addresses, NginxRing),
        Dialect(
            "envoy-ring",
            _ADDRESS,
            _envoy_addresses,
            EnvoyRing,
            ("min_size", "max_size", "hash"),
            seeded=True,
            declared_order=True,
            rebuilds=True,
        ),
        Dialect("haproxy", _ID, haproxy_ids, HaproxyRing, _HAPROXY_OPTIONS, declared_order=True),
        Dialect("haproxy-map", _ID, haproxy_ids, HaproxyMap, _HAPROXY_OPTIONS, declared_order=True, rebuilds=True),
        Dialect("uhashring", _NAME, _names, UhashringRing, ("hash", "vnodes"), rebuilds=True),
    )
}


def dialect(name: object) -> Dialect:
    """The row of a dialect.

    Raises:
        UsageError: an unknown name; the message lists the known ones.
    """
    found = DIALECTS.get(name) if isinstance(name, str) else None
    if found is None:
        raise UsageError(f"ring {name!r} is unknown; accepted: {', '.join(DIALECTS)}")
    return found


def build_ring(
    name: str, servers: Iterable[Server], slots: Iterable[int] | None = None, *, seed: int = 0, **options: Any
) -> Ring:
    """Build a dialect's ring.

    Args:
        name: a dialect.
        servers: Server objects in the order of their declaration; names all different; weight 0 is listed nowhere.
        slots: the servers' labels in the answers, 0..65534, all different; default: the position in `servers`.
        seed: of the keys' hash, 0..2**64-1, where the dialect hashes keys by XXH64; other dialects have none and leave
            it alone.
        options: the dialect's own (DIALECTS[name].options; described in the ring's class).

    Raises:
        UsageError: an unknown dialect or option, or a value the ring does not accept. MemoryError.

    Notes: control plane. The GIL is released while points are made and sorted.
    """
    row = dialect(name)
    servers = list(servers)
    for server in servers:
        if not isinstance(server, Server):
            raise UsageError(f"servers: found {type(server).__name__}; accepted are Server objects")
    if len({server.name for server in servers}) != len(servers):
        raise UsageError("two servers have the same name; the name is the server's identity")
    inputs = (row.keys(servers), [server.weight for server in servers], slots)
    return make_ring(name, inputs, seed, options)


def check_options(name: str, options: object) -> dict[str, Any]:
    """Return the options of a dialect, a copy, if they are known.

    Raises:
        UsageError: no mapping, or an option that the dialect has not.
    """
    row = dialect(name)
    if not isinstance(options, Mapping):
        raise UsageError(f"ring_options: found {type(options).__name__}; accepted is a mapping")
    unknown = [str(option) for option in options if option not in row.options]
    if unknown:
        accepted = ", ".join(row.options) or "none"
        raise UsageError(f"ring {name}: option {unknown[0]!r} is unknown; accepted: {accepted}")
    return dict(options)


def make_ring(
    name: str,
    inputs: tuple[Sequence[Any], Sequence[int], Iterable[int] | None],
    seed: int,
    options: Mapping[str, Any],
) -> Ring:
    """Build a dialect's ring from (keys, weights, slots); else as build_ring()."""
    row = dialect(name)
    settings = {**row.fixed, **check_options(name, options)}
    if row.seeded:
        settings["seed"] = seed
    return row.make(*inputs, **settings)


def ring_inputs(
    name: str, declared: Sequence[Server], eligible: Iterable[Server], on_backup: bool, slots: Mapping[str, int]
) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int, ...]]:
    """What a pool's ring is built from: (keys, weights, slots) in the order of declaration; weight 0 is left out.

    Args:
        name: a dialect.
        declared: all servers of the pool in the order of their declaration (it gives HAProxy's positions).
        eligible: those that may be picked now.
        on_backup: it is the turn of the backup servers.
        slots: server name -> slot.

    Notes: where the product builds its ring anew over what is left, the eligible servers are in it; else all that
        could be, and picks pass over those that are out.
    """
    row = dialect(name)
    if row.rebuilds:
        listed = {server.name for server in eligible}
    else:
        listed = {server.name for server in declared if server.backup == on_backup}
    weights = tuple(server.weight if server.name in listed else 0 for server in declared)
    return tuple(row.keys(declared)), weights, tuple(slots[server.name] for server in declared)
