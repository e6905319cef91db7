"""What must hold between the keys of a configuration, beyond what each accepts alone (kinds.py).

Pure functions over a built Config; the only things asked of the machine are whether an address is its own and whether a
named file can be read. A rule yields the key path it speaks of, so that the reader can name the line.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator

from fastroute._core.dialects import build_ring, check_options
from fastroute.config.kinds import either, nearest, quote, written
from fastroute.config.rules_health import health_mistakes, health_warnings
from fastroute.config.rules_tls import certificate_warnings
from fastroute.config.schema import (
    Config,
    DiscoverConfig,
    FieldsConfig,
    ListenerConfig,
    PoolConfig,
    RouteConfig,
    StoreConfig,
)
from fastroute.config.schema_rebalance import rebalance_mistakes
from fastroute.config.tls import tls_mistakes
from fastroute.errors import UsageError
from fastroute.model import Server, is_inherited, parse_address
from fastroute.routing.keys import ACCEPTED

TOKEN_BYTES_FEW = 16
"""128 bits, if every byte is random: shorter tokens draw a warning."""

Path = tuple[str | int, ...]
Finding = tuple[Path, str]


def mistakes(config: Config) -> Iterator[Finding]:
    """Everything that makes the configuration unusable, in the order in which it is worth mending."""
    if not config.listeners:
        message = "no listener is configured; accepted: at least one, such as [listeners.web] with bind and pool"
        yield ("listeners",), message
    if config.store is not None and config.store.copies > len(config.store.memcached):
        count = len(config.store.memcached)
        yield ("store", "copies"), f"copies: found {config.store.copies} with {count} nodes; accepted: 1 to {count}"
    for name, listener in config.listeners.items():
        for path, message in _route_mistakes(config, listener):
            yield ("listeners", name, *path), message
    for name, pool in config.pools.items():
        for path, message in _pool_mistakes(pool):
            yield ("pools", name, *path), message
    for name, listener in config.listeners.items():
        for path, message in _listener_mistakes(listener, config):
            yield ("listeners", name, *path), message
    for section, many in (("listeners", config.listeners), ("pools", config.pools)):
        for name, one in many.items():
            for path, message in tls_mistakes(one.tls) if one.tls is not None else ():
                yield (section, name, "tls", *path), message
    if config.store is not None:
        for path, message in _store_mistakes(config.store):
            yield ("store", *path), message
    yield from _cache_mistakes(config)
    yield from _admin_mistakes(config)
    if config.access_log.format != "off" and (wrong := _log_path_mistake(config.access_log.path)):
        yield ("access_log", "path"), wrong
    yield from _binds(config)
    yield from _loops(config)
    for name, pool in config.pools.items():
        for path, message in rebalance_mistakes(config, pool):
            yield ("pools", name, *path), message
    if not config.secret:
        for name, pool in config.pools.items():
            if pool.sticky and pool.sticky.on.kind == "insert":
                message = (
                    'sticky.on = "insert" signs a cookie, and no secret is configured; '
                    'set secret = "env:FASTROUTE_SECRET" (at least 32 bytes) at the top of the file'
                )
                yield ("pools", name, "sticky"), message


def _log_path_mistake(path: str) -> str | None:
    if path == "-":
        return None
    if os.path.isdir(path):
        return f'path: {quote(path)} is a directory; accepted: a file, or "-" for standard output'
    there = path if os.path.exists(path) else os.path.dirname(path) or "."
    return None if os.access(there, os.W_OK) else f"path: {quote(path)} cannot be written"


def _unknown_pool(config: Config, pool: str) -> str | None:
    if pool in config.pools:
        return None
    guess = nearest(pool, list(config.pools))
    known = f"did you mean {quote(guess)}?" if guess else "defined are: " + (", ".join(config.pools) or "none")
    return f"pool {quote(pool)} is nowhere defined; {known}"


def _route_mistakes(config: Config, listener: ListenerConfig) -> Iterator[Finding]:
    if not listener.pool and not listener.routes:
        yield (), "pool is missing; accepted: the name of a pool, or routes"
    elif listener.pool and (message := _unknown_pool(config, listener.pool)):
        yield ("pool",), message
    for path, fields in _field_rules(config, listener):
        if not listener.request_id and any("{request_id}" in text for _, text in (*fields.add, *fields.set)):
            yield path, '{request_id} needs an id; accepted: request_id = "X-Request-Id" of the listener'
        names = {name.lower() for name, _ in (*fields.add, *fields.set)} | {name.lower() for name in fields.remove}
        if listener.request_id.lower() in names and path[-1] == "request_headers":
            yield path, f"field {quote(listener.request_id)} is that of request_id; accepted: other fields"
    seen: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for index, route in enumerate(listener.routes):
        if message := _unknown_pool(config, route.pool):
            yield ("routes", index), message
        what = (route.host, route.path_prefix, route.clients)
        if what in seen:
            message = f"host, path_prefix and clients are those of route {seen[what] + 1} too; accepted: each once"
            yield ("routes", index), message
        seen.setdefault(what, index)


def _field_rules(config: Config, listener: ListenerConfig) -> Iterator[tuple[Path, FieldsConfig]]:
    """Every set of header rules that a listener's requests meet, with its place as seen from the listener."""
    owners: list[tuple[Path, ListenerConfig | RouteConfig | PoolConfig]] = [((), listener)]
    owners += [(("routes", index), route) for index, route in enumerate(listener.routes)]
    owners += [(("pool",), config.pools[name]) for name in listener.pools if name in config.pools]
    for path, owner in owners:
        yield (*path, "request_headers"), owner.request_headers
        yield (*path, "response_headers"), owner.response_headers


def _cache_mistakes(config: Config) -> Iterator[Finding]:
    nodes = config.cache.memcached or (config.store.memcached if config.store is not None else ())
    if not config.cache.enabled:
        return
    if not nodes:
        message = 'the cache has no nodes; accepted: memcached = ["HOST:PORT", ...] in [cache], or a [store]'
        yield ("cache", "memcached"), message
    elif config.cache.copies > len(nodes):
        message = f"copies: found {config.cache.copies} with {len(nodes)} nodes; accepted: 1 to {len(nodes)}"
        yield ("cache", "copies"), message


def _admin_mistakes(config: Config) -> Iterator[Finding]:
    admin = config.admin
    if admin is None:
        return
    if not admin.is_local and admin.token is None and admin.read_token is None:
        message = (
            f"bind {quote(admin.bind)} can be reached from other machines, and no token is configured; accepted: "
            'token = "file:PATH" or "env:NAME", or an address of the loopback such as "127.0.0.1:9900"'
        )
        yield ("admin", "bind"), message
    if admin.token is not None and admin.token == admin.read_token:
        yield ("admin", "read_token"), "token and read_token are the same; accepted: two different ones"
    for name, listener in config.listeners.items():
        for address in listener.bind:
            if _overlap(address, admin.bind):
                message = (
                    f"bind {quote(admin.bind)} is that of listener {quote(name)} too; accepted: an address of its own"
                )
                yield ("admin", "bind"), message


def _listener_mistakes(listener: ListenerConfig, config: Config) -> Iterator[Finding]:
    reachable = any(not bind.startswith("unix:") for bind in listener.bind)
    if listener.proxy_protocol and not listener.trusted_proxies and reachable:
        message = (
            "proxy_protocol = true without trusted_proxies: nobody's header would count; accepted: the networks of the "
            'proxies in front, such as trusted_proxies = ["10.0.0.0/8"]'
        )
        yield ("proxy_protocol",), message
    if listener.protocol == "tcp" and (listener.routes or not listener.pool):
        message = 'protocol = "tcp": a connection has no host and no path; accepted: pool = "NAME", and no routes'
        yield ("routes" if listener.routes else "protocol",), message
        return
    for name in dict.fromkeys([listener.pool, *(route.pool for route in listener.routes)]):
        pool = config.pools.get(name)
        if pool is not None and pool.affinity_key is not None:
            yield from _key_mistakes(listener.protocol, name, pool)


def _key_mistakes(protocol: str, name: str, pool: PoolConfig) -> Iterator[Finding]:
    """A pool whose key is of the other protocol."""
    assert pool.affinity_key is not None
    kinds = [one.kind for one in pool.affinity_key.each]
    shown = f"pool {quote(name)} has {'sticky.on' if pool.sticky else 'key'} = {quote(written(pool.affinity_key))}"
    if protocol == "tcp" and any(kind not in ("client-ip", "sni") for kind in kinds):
        message = (
            f'protocol = "tcp", and {shown}, which is of HTTP; accepted: "client-ip", "client-ip/24", '
            '"client-ip/24,64", "sni", or a list of these'
        )
        yield ("protocol",), message
    elif protocol == "http" and "sni" in kinds:
        yield ("pool",), f'protocol = "http", and {shown}; accepted: "sni" with protocol = "tcp" only'


def _store_mistakes(store: StoreConfig) -> Iterator[Finding]:
    if bool(store.username) != (store.password is not None):
        yield ("username",), "username and password of the store: accepted are both or none"
    if isinstance(store.tls, bool):
        return
    for key in ("ca", "certificate", "key"):
        path = getattr(store.tls, key)
        if path and not os.access(path, os.R_OK):
            yield ("tls",), f"tls.{key}: the file {quote(path)} cannot be read"
    if store.tls.key and not store.tls.certificate:
        yield ("tls",), "tls.key belongs to a tls.certificate, which is missing"


def _discover_mistakes(of: DiscoverConfig) -> Iterator[Finding]:
    given = [key for key in ("dns", "srv", "file") if getattr(of, key)]
    if len(given) != 1:
        yield (), f"discover: found {either(given) if given else 'no source'}; accepted: one of dns, srv and file"
    if of.dns:
        host, _, port = of.dns.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
            yield ("dns",), f'dns: found {quote(of.dns)}; accepted: "host:port", such as "app.internal:8080"'
    for resolver in of.resolvers:
        where = parse_address(resolver)
        try:
            ipaddress.ip_address(where if isinstance(where, str) else where[0])
        except ValueError:
            yield ("resolvers",), f'resolvers: found {quote(resolver)}; accepted: addresses such as "10.0.0.2:53"'


def _pool_mistakes(pool: PoolConfig) -> Iterator[Finding]:
    sticky = pool.sticky
    if not pool.servers and pool.discover is None:
        yield (), "servers is missing; accepted: at least one [[pools.NAME.servers]], or [pools.NAME.discover]"
    for path, message in _discover_mistakes(pool.discover) if pool.discover is not None else ():
        yield ("discover", *path), message
    if sticky and sticky.hint_cookie and sticky.on.kind == "cookie" and sticky.on.name == sticky.cookie.name:
        message = (
            f"the application's cookie and the balancer's own are both named {quote(sticky.on.name)}; "
            "accepted: another cookie.name, or hint_cookie = false"
        )
        yield ("sticky", "on"), message
    seen: dict[str, int] = {}
    seen_twice = False
    for index, server in enumerate(pool.servers):
        name = server.name or server.address
        if name in seen:
            seen_twice = True
            message = f"server name {quote(name)} is that of server {seen[name] + 1} too; accepted: one name per server"
            yield ("servers", index), message
        seen.setdefault(name, index)
    if pool.servers and all(server.weight == 0 for server in pool.servers):
        yield ("servers",), "all servers have weight 0, none would take a new user; accepted: at least one above 0"
    if not seen_twice and pool.policy == "hash":
        yield from ring_mistakes(pool)
    elif pool.ring_options and pool.policy != "hash":
        yield ("ring_options",), f'ring_options are for policy = "hash"; the policy is {quote(pool.policy)}'
    if pool.key is not None and pool.policy != "hash":
        yield ("key",), f'key is used with policy = "hash" only; the policy is {quote(pool.policy)}'
    if pool.probe is not None and pool.policy != "prequal":
        yield ("probe",), f'probe asks servers for policy = "prequal"; the policy is {quote(pool.policy)}'
    if pool.probe is not None and not _is_path(pool.probe.path):
        message = (
            f'path: found {quote(pool.probe.path)}; accepted: a path such as "/load", printable ASCII without spaces'
        )
        yield ("probe", "path"), message
    yield from health_mistakes(pool)
    if pool.max_load and pool.policy != "hash":
        yield ("max_load",), f'max_load bounds policy = "hash"; the policy is {quote(pool.policy)}'
    if pool.max_load and not 1.01 <= pool.max_load <= 100:
        yield ("max_load",), f"max_load: found {pool.max_load:g}; accepted: 0 (no bound) and 1.01 to 100"
    if pool.charge_sticky and pool.policy != "round-robin":
        yield ("charge_sticky",), f'charge_sticky charges policy = "round-robin"; the policy is {quote(pool.policy)}'
    if pool.policy == "hash" and pool.affinity_key is None:
        yield ("policy",), 'policy = "hash" needs a key; accepted: "path", "url", ' + ACCEPTED
    if pool.key is not None and pool.sticky is not None and pool.key != pool.sticky.on:
        message = (
            f"key = {quote(written(pool.key))} beside sticky.on = {quote(written(pool.sticky.on))} is not supported; "
            f"accepted now: one rule for both, or leave key out"
        )
        yield ("key",), message
    if pool.sticky is not None and pool.sticky.cookie.same_site == "None" and pool.sticky.cookie.secure != "always":
        message = (
            f'same_site = "None" with secure = {quote(pool.sticky.cookie.secure)}: browsers drop such a cookie; '
            'accepted: secure = "always" with it'
        )
        yield ("sticky", "cookie"), message


def _is_path(text: str) -> bool:
    return text.startswith("/") and all("!" <= c <= "~" for c in text)


def ring_mistakes(pool: PoolConfig) -> Iterator[Finding]:
    """What the ring itself does not take: it is built, since each dialect has limits of its own."""
    if pool.ring == "table":
        if pool.ring_options:
            yield ("ring_options",), 'ring "table" has no options; its size is `slots`'
        return
    try:
        check_options(pool.ring, pool.ring_options)
    except UsageError as error:
        yield ("ring_options",), str(error)
        return
    servers = pool.server_list()
    if not servers:
        return
    refusal = _refusal(pool, servers)
    if refusal is not None:
        alone = [index for index, server in enumerate(servers) if _refusal(pool, [server])]
        of_one = 0 < len(alone) < len(servers)
        yield ("servers", alone[0]) if of_one else ("ring_options",) if pool.ring_options else ("ring",), refusal


def _refusal(pool: PoolConfig, servers: list[Server]) -> str | None:
    try:
        build_ring(pool.ring, servers, **pool.ring_options)
    except UsageError as error:
        return f"ring {quote(pool.ring)}: {error}"
    return None


def _binds(config: Config) -> Iterator[Finding]:
    """Two listeners, or one twice, on one address."""
    taken: list[tuple[str, str]] = []
    for name, listener in config.listeners.items():
        for index, address in enumerate(listener.bind):
            for other, where in taken:
                if _overlap(address, where):
                    place = ("listeners", name, "bind")
                    message = (
                        f"bind {quote(address)} and {quote(where)} of listener {quote(other)} are the same port of one "
                        "address; accepted: each once"
                    )
                    yield (*place, index), message
            taken.append((name, address))


def _overlap(one: str, other: str) -> bool:
    if is_inherited(one) or is_inherited(other):
        return one == other
    a, b = parse_address(one), parse_address(other)
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and _same_path(a, b)
    if a[1] != b[1]:
        return False
    hosts = {_host(a[0]), _host(b[0])}
    versions = {":" in host for host in hosts}
    return len(hosts) == 1 or (len(versions) == 1 and any(host in ("0.0.0.0", "::") for host in hosts))  # noqa: S104


def _loops(config: Config) -> Iterator[Finding]:
    """A server that is one of the listeners: each request would go round until it dies."""
    binds = [(name, bind) for name, listener in config.listeners.items() for bind in listener.bind]
    for pool_name, pool in config.pools.items():
        for index, server in enumerate(pool.servers):
            for listener_name, bind in binds:
                if points_to_itself(bind, server.address):
                    message = (
                        f"server {quote(server.name or server.address)} at {quote(server.address)} is listener "
                        f"{quote(listener_name)} ({bind}) itself; accepted: the address of another program"
                    )
                    yield ("pools", pool_name, "servers", index, "address"), message


def points_to_itself(bind: str, server: str) -> bool:
    """Would a connection to `server` reach a listener bound to `bind` on this machine?

    Names other than localhost and this machine's own are not looked up: reading a file must not wait for DNS.
    """
    if is_inherited(bind):  # where it listens is not known before it is there
        return False
    listener, target = parse_address(bind), parse_address(server)
    if isinstance(listener, str) or isinstance(target, str):
        return isinstance(listener, str) and isinstance(target, str) and _same_path(listener, target)
    if listener[1] != target[1]:
        return False
    here, there = _host(listener[0]), _host(target[0])
    if here == there:
        return True
    if there in ("0.0.0.0", "::"):  # noqa: S104  connect(2) to these reaches the loopback
        there = "127.0.0.1" if there == "0.0.0.0" else "::1"  # noqa: S104
    if here in ("0.0.0.0", "::"):  # noqa: S104
        return (":" in here) == (":" in there) and _is_own(there)
    return here == there


def _host(host: str) -> str:
    """One spelling per host: literal addresses normalised, this machine's own names as the loopback."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        name = host.lower().rstrip(".")
        return "127.0.0.1" if name in ("localhost", socket.gethostname().lower()) else name


def _is_own(host: str) -> bool:
    """Is the literal address one of this machine's? Only its own can be bound."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _same_path(one: str, other: str) -> bool:
    return os.path.normpath(one) == os.path.normpath(other)


def warnings(config: Config) -> Iterator[Finding]:
    """What works, but probably not as meant."""
    yield from certificate_warnings(config)
    for key in ("token", "read_token"):
        token = getattr(config.admin, key, None)
        if token is not None and len(token) < TOKEN_BYTES_FEW:
            yield (
                ("admin", key),
                f"{key} has {len(token)} bytes and can be guessed; make one with: openssl rand -hex 32",
            )
    sticky = [pool for pool in config.pools.values() if pool.sticky]
    if sticky and config.identity_secret is None:
        message = (
            "identity_secret is not set: the fingerprints of session ids are derived from the fleet's name, and who "
            'knows that can compute them; set identity_secret = "env:NAME" (the same on all replicas, never rotated)'
        )
        yield (), message
    for name, pool in config.pools.items():
        if pool.sticky and pool.sticky.on.kind == "cookie" and pool.sticky.hint_cookie and not config.secret:
            message = (
                "no secret is configured, so the signed cookie that names the server beside the application's own "
                "is left out: users whom zone and store both forget may move; set secret, or hint_cookie = false"
            )
            yield ("pools", name, "sticky"), message
    yield from health_warnings(config)
    used = {pool for listener in config.listeners.values() for pool in listener.pools}
    for name, pool in config.pools.items():
        if name not in used:
            yield ("pools", name), f"pool {quote(name)} is used by no listener"
        seen: dict[str, str] = {}
        for index, server in enumerate(pool.servers):
            if server.address in seen:
                message = f"address {quote(server.address)} is that of server {quote(seen[server.address])} too"
                yield ("pools", name, "servers", index), message
            seen.setdefault(server.address, server.name or server.address)
        if pool.servers and all(server.backup for server in pool.servers):
            yield ("pools", name, "servers"), "all servers are backups: they are used as if none were"
    shares = any(pool.health is not None and pool.health.fleet for pool in config.pools.values())
    if config.store is not None and not sticky and not shares:
        yield ("store",), "a store is configured, and no pool is sticky: nothing will be kept in it"
    shared = sorted(set(config.cache.memcached) & set(config.store.memcached)) if config.store is not None else []
    if shared or (config.cache.enabled and not config.cache.memcached):
        where = ", ".join(quote(one) for one in shared) or "the store's nodes"
        message = f"the cache shares {where} with the store: its values push bindings out; give it nodes of its own"
        yield ("cache",), message
    for name, listener in config.listeners.items():
        for path, message in _cookies_that_meet(config, listener):
            yield ("listeners", name, *path), message
        limits = listener.limits
        if limits.request_line_bytes > limits.head_bytes:
            message = (
                f"request_line_bytes = {limits.request_line_bytes} is more than head_bytes = {limits.head_bytes}, "
                "which bounds it"
            )
            yield ("listeners", name, "limits"), message


def _cookies_that_meet(config: Config, listener: ListenerConfig) -> Iterator[Finding]:
    """Two pools that one browser reaches under one host, with one name for their cookies, which replace one another."""
    for index, route in enumerate(listener.routes):
        if route.cache and not config.cache.enabled:
            yield ("routes", index), "cache = true is without effect: [cache] enabled = false"
        hosts = {route.host, ""} if route.host else {one.host for one in listener.routes} | {""}
        others = [one.pool for one in listener.routes[:index] if one.host in hosts]
        mine = _cookie_of(config, route.pool)
        for other in dict.fromkeys(([listener.pool] if listener.pool else []) + others):
            if mine and other != route.pool and _cookie_of(config, other) == mine:
                message = (
                    f"pools {quote(other)} and {quote(route.pool)} share hosts and the cookie {quote(mine)}: "
                    "who visits both loses a server each time; give one another sticky.cookie.name"
                )
                yield ("routes", index), message


def _cookie_of(config: Config, pool: str) -> str:
    """Name of the balancer's own cookie of a pool; "" where it has none."""
    sticky = config.pools[pool].sticky
    if sticky is None or not config.secret:
        return ""
    return (
        sticky.cookie.name if sticky.on.kind == "insert" or (sticky.on.kind == "cookie" and sticky.hint_cookie) else ""
    )


def _pools_said(config: Config, listener: ListenerConfig) -> str:
    said = []
    for name in listener.pools:
        count = len(config.pools[name].servers)
        said.append(f"pool {name} ({count} server{'s' if count != 1 else ''})")
    routes = len(listener.routes)
    return ", ".join(said) + (f" by {routes} route{'s' if routes != 1 else ''}" if routes else "")


def summary(config: Config) -> str:
    """One line for people: what would run."""
    return "; ".join(
        f"{name} on {either(list(listener.bind))} to {_pools_said(config, listener)}"
        for name, listener in config.listeners.items()
    )
