"""From a configuration to what serves it: zone, store, affinity, and per pool router, connections, slow path.

Nothing here accepts or connects. Rules of this file: what is made is owned by Parts and closed by it, last made first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastroute._core.board import Tally
from fastroute._core.http_fetch import Fetch
from fastroute._core.http_fields import Page
from fastroute._core.http_log import AccessLog
from fastroute._core.http_relay import Relay
from fastroute._core.http_route import Route
from fastroute._core.http_routes import Networks
from fastroute._core.http_sticky import Sticky
from fastroute._core.http_upstream import Lines
from fastroute._core.http_waiting import Waiting
from fastroute._core.http_wire import Engine
from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.token import TokenCodec
from fastroute._core.zone import Zone
from fastroute.affinity import Affinity
from fastroute.affinity.base import identity_of
from fastroute.affinity.binding import ONCE_S
from fastroute.affinity.record import TERM_RANDOM_BITS
from fastroute.clock import Clock
from fastroute.config.schema import (
    Config,
    ListenerConfig,
    PoolConfig,
    RequestFields,
    ResponseFields,
    RouteConfig,
    StickyConfig,
    StoreTls,
)
from fastroute.errors import ConfigError
from fastroute.health.load_probe import LoadProbe
from fastroute.health.outlier import Outliers
from fastroute.health.standing import Standing
from fastroute.metrics.layout import CACHE_RESULTS, POOL_CACHE_AT
from fastroute.model import Server
from fastroute.proxy.caching import ResponseCache
from fastroute.proxy.fields import request_rules, response_rules
from fastroute.proxy.forward import SlowPath
from fastroute.proxy.hooks import Hooks, ListenerHooks
from fastroute.proxy.routes import route_table
from fastroute.proxy.seat import Seat
from fastroute.proxy.tls import upstream_context
from fastroute.proxy.upstream import Reach
from fastroute.session.cookie import cookie_codec, mark_key

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = [
    "Parts",
    "PoolParts",
    "cached_pools",
    "make_cache_store",
    "make_relay",
    "make_response_cache",
    "make_route",
    "open_parts",
]

PANIC_RATIO = 1e-6
"""Where servers are checked and [pools.NAME.outlier] does not say more: below one ready server, that is when checks
have taken the last one out, all are used. A larger share sends users to servers that are known to be down."""


@dataclass
class PoolParts:
    """What serves one pool."""

    config: PoolConfig
    pool: Pool
    router: Router
    lines: Lines
    slow: SlowPath
    waiting: Waiting
    codec: TokenCodec | None
    tally: Tally
    standing: Standing
    affinity: Any = None
    responses: ResponseCache | None = None
    rules: list[Sticky] = field(default_factory=list)
    """Of the listeners' routes to this pool, as they were made."""

    def change_servers(self, servers: list[Server]) -> None:
        """Take in and let go servers, by name; who stays keeps its counts, its bindings and its connections.

        Raises:
            UsageError: a list that the pool cannot hold; it is as it was.
        """
        self.pool.update(servers)
        self.standing.settle_all()
        if self.codec is not None:
            self.slow.name({self.codec.server_digest(server.name): server.name for server in servers})


@dataclass
class Parts:
    """Everything between listeners and servers."""

    pools: dict[str, PoolParts] = field(default_factory=dict)
    zone: Zone | None = None
    store: Any = None
    seat: Seat | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def aclose(self) -> None:
        """Close all of it."""
        await self.stack.aclose()


class _OwnCookie:
    """The key rule of sticky.on = "insert" for Router.key_of: the key inside the balancer's own signed cookie."""

    def __init__(self, codec: TokenCodec, name: str) -> None:
        self._codec, self._name = codec, name.encode()

    def extract(self, fields: Any) -> bytes | None:
        value = next((v for k, v in fields.items() if k.lower() == "cookie"), b"")
        for pair in (value.encode("latin-1", "replace") if isinstance(value, str) else value).split(b";"):
            name, equals, text = pair.strip(b" \t").partition(b"=")
            if equals and name == self._name:
                found = self._codec.verify_text(text)
                return found[0] if isinstance(found, tuple) else None
        return None


async def open_parts(config: Config, engine: Engine, *, clock: Clock, affinity: Any = None, seat: Seat) -> Parts:
    """Build all pools of a configuration.

    Args:
        config: loaded and checked.
        engine: of the proxy.
        clock: for stamps.
        affinity: used for every sticky pool instead of one made from the configuration.
        seat: where this process counts.

    Raises:
        ConfigError: something signed without a secret.
        UsageError: a zone that cannot be opened as configured.
    """
    parts = Parts(seat=seat)
    try:
        if affinity is None and any(pool.sticky or pool.limited or pool.fleet_load for pool in config.pools.values()):
            parts.zone = make_zone(config)
            parts.stack.callback(parts.zone.close)
            if config.store is not None and any(pool.sticky for pool in config.pools.values()):
                parts.store = make_store(config, watch=config.store.watch)
                await parts.stack.enter_async_context(parts.store)
        for name, pool_config in config.pools.items():
            parts.pools[name] = await _open_pool(config, name, pool_config, parts, engine, clock, affinity)
        if config.cache.enabled:
            await _open_caches(config, parts)
    except BaseException:
        await parts.aclose()
        raise
    return parts


def make_zone(config: Config) -> Zone:
    """The zone of a configuration, opened."""
    name = config.zone.name or config.fleet
    return Zone(name, config.zone.size_bytes, identity_of(config.identity_secret, config.fleet))


def make_store(config: Config, *, watch: bool) -> Memcached:
    """The store of a configuration that has one, not started."""
    from fastroute.memcache.cluster import Memcached  # only a fleet with a store needs it

    of = config.store
    assert of is not None
    return Memcached(
        list(of.memcached),
        copies=of.copies,
        timeout=of.timeout_s,
        tls=_tls(of.tls),
        username=of.username or None,
        password=of.password.decode() if of.password is not None else None,
        watch=watch,
        previous_nodes=of.previous_memcached,
        grace=of.grace_s or 2 * max((one.sticky.ttl_s for one in config.pools.values() if one.sticky), default=0.0),
    )


def make_cache_store(config: Config, *, watch: bool) -> Memcached:
    """The nodes of the cache of responses, not started. Without nodes of its own the store's, over connections of its
    own: a large response must not stand before an affinity's answer."""
    from fastroute.memcache.cluster import Memcached

    of, nodes = config.store, config.cache.memcached
    if not nodes and of is not None:
        return Memcached(
            list(of.memcached),
            timeout=config.cache.timeout_s,
            tls=_tls(of.tls),
            username=of.username or None,
            password=of.password.decode() if of.password is not None else None,
            watch=watch,
        )
    return Memcached(list(nodes), timeout=config.cache.timeout_s, watch=watch)


def cached_pools(config: Config) -> list[str]:
    """The pools whose responses are cached for at least one route."""
    found = []
    for listener in config.listeners.values():
        found += [one.pool for one in listener.routes if one.cache is not False]
        if listener.pool:
            found.append(listener.pool)
    return sorted(set(found)) if config.cache.enabled else []


def make_response_cache(
    config: Config, pool: str, store: Memcached, *, near_bytes: int, **options: Any
) -> ResponseCache:
    """The cache before one pool, not started."""
    return ResponseCache(
        store,
        config.cache,
        fleet=config.fleet,
        pool=pool,
        near_bytes=near_bytes,
        secret=[bytes(one) for one in config.secret] or None,
        **options,
    )


async def _open_caches(config: Config, parts: Parts) -> None:
    store = await parts.stack.enter_async_context(make_cache_store(config, watch=True))
    names = cached_pools(config)
    for name in names:
        assert parts.seat is not None
        words = parts.seat.row.words("pool", parts.seat.columns.pools[name])[
            POOL_CACHE_AT : POOL_CACHE_AT + len(CACHE_RESULTS)
        ]
        cache = make_response_cache(config, name, store, near_bytes=config.cache.near_bytes // len(names), words=words)
        parts.pools[name].responses = cache
        parts.stack.push_async_callback(cache.aclose)
        await cache.start()


def make_affinity(
    config: Config,
    sticky: StickyConfig,
    store: Memcached | None,
    zone: Zone | None,
    clock: Clock,
    *,
    listens: bool = True,
) -> Affinity:
    """What remembers the bindings of a sticky pool; `listens`: in a process that may run the push channel."""
    return Affinity(
        store,
        ttl=sticky.ttl_s,
        identity_secret=config.identity_secret,
        cookie_secrets=config.secret,
        fleet=config.fleet,
        zone=zone,
        near_ttl=config.store.near_ttl_s if config.store else "2s",
        clock=clock,
        max_lifetime=sticky.max_lifetime_s,
        listens=listens,
    )


def make_pool(config: Config, name: str, of: PoolConfig, zone: Zone | None) -> Pool:
    """A pool of a configuration."""
    return Pool(
        name,
        of.server_list(),
        policy=of.policy,
        ring=of.ring,
        ring_options=of.ring_options or None,
        slots=of.slots,
        max_load=of.max_load or None,
        charge_sticky=of.charge_sticky,
        slow_start={
            "window": of.slow_start.window_s,
            "aggression": of.slow_start.aggression,
            "min_weight": of.slow_start.min_weight_ratio,
        },
        panic=of.outlier.panic_ratio if of.outlier else PANIC_RATIO if of.health else 0.0,
        pending=of.limits.pending,
        pending_time=of.limits.pending_time_s,
        zone=zone,
        fleet=config.fleet,
    )


def _tls(tls: bool | StoreTls) -> bool | dict[str, str]:
    """The configuration's tls as Memcached takes it."""
    if isinstance(tls, bool):
        return tls
    return {name: path for name in ("ca", "certificate", "key") if (path := getattr(tls, name))}


async def _open_pool(
    config: Config, name: str, of: PoolConfig, parts: Parts, engine: Engine, clock: Clock, affinity: Any
) -> PoolParts:
    pool = make_pool(config, name, of, parts.zone)
    if of.probe is not None:
        probe = LoadProbe(pool, of.probe.path, interval=of.probe.interval_s, timeout=of.probe.timeout_s)
        probe.start()
        parts.stack.push_async_callback(probe.aclose)
    sticky, codec = of.sticky, None
    if sticky and signs(config, sticky):
        if not config.secret:
            raise ConfigError(f"pool {name!r} is sticky by a signed cookie, which needs `secret`: at least 32 bytes")
        codec = cookie_codec([bytes(one) for one in config.secret], config.fleet, name)
    if sticky and affinity is None:
        affinity = await parts.stack.enter_async_context(make_affinity(config, sticky, parts.store, parts.zone, clock))
    own_cookie: Any = _OwnCookie(codec, sticky.cookie.name) if sticky and codec and sticky.on.kind == "insert" else None
    router = Router(
        pool,
        affinity=affinity if sticky else None,
        key=own_cookie or of.affinity_key or "client-ip",
        on_failure=sticky.on_failure if sticky else "move",
    )
    assert parts.seat is not None
    tally = parts.seat.tally(name)
    lines = Lines(
        engine,
        pool,
        codec,
        response_head_bytes=of.limits.response_head_bytes,
        response_s=of.timeouts.response_s,
        idle_s=of.timeouts.idle_s,
        pending=of.limits.pending,
        retry_ratio=of.retry.budget_ratio,
        consecutive=of.outlier.consecutive if of.outlier else 0,
        min_rate_bytes=of.limits.min_rate_bytes,
        min_rate_grace_s=of.timeouts.min_rate_grace_s,
        renew_s=min(of.sticky.ttl_s, ONCE_S) / 4 if of.sticky else 0,
        keeps=of.send_proxy == "off",
        tally=tally,
    )
    waiting = Waiting(engine, pool, time_s=of.limits.pending_time_s)
    parts.stack.callback(waiting.close)
    outliers = (
        Outliers(
            eject_s=of.outlier.eject_s,
            max_ejected_ratio=of.outlier.max_ejected_ratio,
            longest_s=of.outlier.max_eject_s,
        )
        if of.outlier
        else None
    )
    standing = Standing(pool, ramps=of.slow_start.window_s > 0)
    names = {codec.server_digest(server.name): server.name for server in pool.servers} if codec else {}
    at_once = isinstance(affinity, Affinity) and affinity.store is None
    slow = SlowPath(
        router,
        lines,
        names=names,
        connect_s=of.timeouts.connect_s,
        at_once=at_once,
        outliers=outliers,
        reach=Reach(upstream_context(of.tls) if of.tls else None, of.tls.server_name if of.tls else "", of.send_proxy),
        standing=standing,
    )
    parts.stack.push_async_callback(slow.aclose)
    return PoolParts(of, pool, router, lines, slow, waiting, codec, tally, standing, affinity if sticky else None)


def terms_of(listener: ListenerConfig, name: str, seat: Seat, log: AccessLog | None) -> dict[str, Any]:
    """What the compiled settings of every listener begin with, whatever its protocol (http_terms.Terms)."""
    return {
        "limits": listener.limits,
        "timeouts": listener.timeouts,
        "trusts": Networks(listener.trusted_proxies) if listener.trusted_proxies else None,
        "log": log,
        "name": name,
        "tls": listener.tls is not None,
        "row": seat.row,
        "column": seat.columns.listeners[name],
    }


def make_relay(
    config: Config,
    name: str,
    pools: Mapping[str, PoolParts],
    engine: Engine,
    seat: Seat,
    log: AccessLog | None,
    hooks: Hooks | None,
) -> Relay:
    """A listener's compiled settings."""
    listener = config.listeners[name]
    made: dict[tuple[str, bool], Route] = {}
    cached: dict[str, Route] = {}

    def route_to(pool: str, cache: bool, route: RouteConfig | None = None) -> Route:
        found = find_route(pool, cache, route)
        if pool and cache:
            cached.setdefault(pool, found)
        return found

    def find_route(pool: str, cache: bool, route: RouteConfig | None = None) -> Route:
        if route is not None and (route.request_headers, route.response_headers) != (RequestFields(), ResponseFields()):
            return make_route(config, name, pools.get(pool), engine, cache=cache, route=route)
        if (pool, cache) not in made:
            made[pool, cache] = make_route(config, name, pools.get(pool), engine, cache=cache)
        return made[pool, cache]

    enabled = config.cache.enabled
    default = route_to(listener.pool, enabled)
    targets = [route_to(one.pool, enabled and one.cache is not False, one) for one in listener.routes]
    by_pool = {one.pool: target for one, target in zip(reversed(listener.routes), reversed(targets), strict=True)}
    relay = Relay(
        engine,
        default,
        table=route_table(listener),
        targets=targets,
        hooks=ListenerHooks(hooks, name, by_pool | ({listener.pool: default} if listener.pool else {}))
        if hooks
        else None,
        forwarded=listener.forwarded,
        request_id=listener.request_id,
        pages={status: Page(body, kind) for status, (kind, body) in listener.error_pages.items()},
        debug=config.debug_headers,
        **terms_of(listener, name, seat, log),
    )
    for pool, route in cached.items():
        responses = pools[pool].responses
        if responses is not None:
            responses.fetches_with(functools.partial(Fetch, relay, route))
    return relay


def make_route(
    config: Config,
    listener: str,
    parts: PoolParts | None,
    engine: Engine,
    *,
    cache: bool,
    route: RouteConfig | None = None,
) -> Route:
    """One pool as a listener uses it; without a pool the route that leads nowhere."""
    at, pool = config.listeners[listener], parts.config if parts is not None else None
    known = {"listener": listener, "pool": parts.pool.name if parts is not None else "-"}
    response_fields = response_rules(at, pool, route, known)
    if parts is None:
        return Route(response_fields=response_fields)
    sticky = parts.config.sticky
    rule = Sticky(
        engine,
        rules=_rules(parts.config),
        codec=parts.codec,
        hint_name=sticky.cookie.name if sticky and parts.codec and sticky.on.kind == "cookie" else "",
        term_random_bits=TERM_RANDOM_BITS,
        mark_key=mark_key(identity_of(config.identity_secret, config.fleet), config.fleet, parts.pool.name),
        ttl_s=sticky.ttl_s if sticky else 0,
        cookie_attributes=_cookie_attributes(sticky, at.tls is not None) if sticky else "",
    )
    parts.rules.append(rule)
    return Route(
        parts.lines,
        parts.router,
        parts.slow,
        rule,
        parts.waiting,
        attempts=parts.config.retry.attempts,
        cache=cache,
        request_fields=request_rules(at, pool, route, known),
        response_fields=response_fields,
        responses=parts.responses if cache else None,
    )


def signs(config: Config, sticky: StickyConfig) -> bool:
    """Does this kind of stickiness use the signed cookie? A hint beside an application's cookie needs a secret; without
    one it is left out, and `check` says so."""
    return sticky.on.kind == "insert" or (
        sticky.on.kind == "cookie" and not sticky.on.others and sticky.hint_cookie and bool(config.secret)
    )


def _rules(of: PoolConfig) -> list[tuple[str, str]]:
    """Where keys stand, as the relay takes it."""
    rule = of.affinity_key
    if rule is None:
        return []
    if of.sticky and rule.kind == "insert":
        return [("insert", of.sticky.cookie.name)]
    return [(one.kind, one.name) for one in rule.each]


def _cookie_attributes(sticky: StickyConfig, tls: bool) -> str:
    cookie = sticky.cookie
    text = f"; Path=/; HttpOnly; SameSite={cookie.same_site}"
    if cookie.domain:
        text += f"; Domain={cookie.domain}"
    if cookie.secure == "always" or (cookie.secure == "auto" and tls):
        text += "; Secure"
    return text
