"""The configuration as the program reads it: one frozen struct per section of the file, every key with its default.

It is not the reader (load.py) and knows no file. Rules of this file:
- Attributes carry their unit (`ttl_s`, `head_bytes`); keys of the file do not (`ttl`), and are given by `name=` where
  the two differ. Sources of defaults stand beside them.
- Every key of the grammar is here, with what it accepts (kinds.py).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

import msgspec

from fastroute._core.pool_arguments import POLICIES, RINGS
from fastroute.config.fields import IN_REQUESTS, IN_RESPONSES, FieldName, FieldTexts, RequestIdName
from fastroute.config.kinds import (
    Address,
    Bind,
    Choice,
    Domain,
    Duration,
    Flag,
    HostPattern,
    ListOf,
    Name,
    Named,
    Network,
    Number,
    Options,
    PathPrefix,
    Rule,
    SecretText,
    Section,
    Size,
    SwitchOr,
    Text,
    Token,
    Whole,
    Workers,
)
from fastroute.config.pages import PageSources
from fastroute.config.schema_health import ContentConfig, HealthConfig, JoinConfig
from fastroute.config.schema_rebalance import RebalanceConfig
from fastroute.config.tls import CertificatePair, ListenerTls, PoolTls
from fastroute.model import WEIGHT_MAX, Server, parse_address
from fastroute.routing.keys import KeyRule

__all__ = [
    "AccessLogConfig",
    "AdminConfig",
    "CacheConfig",
    "CertificatePair",
    "Config",
    "ContentConfig",
    "CookieConfig",
    "DiscoverConfig",
    "HealthConfig",
    "JoinConfig",
    "KeyRule",
    "ListenerConfig",
    "ListenerLimits",
    "ListenerTimeouts",
    "ListenerTls",
    "OutlierConfig",
    "PoolConfig",
    "PoolLimits",
    "PoolTimeouts",
    "PoolTls",
    "ProbeConfig",
    "RebalanceConfig",
    "RetryConfig",
    "RouteConfig",
    "Secret",
    "ServerConfig",
    "SlowStartConfig",
    "StickyConfig",
    "StoreConfig",
    "StoreTls",
    "ZoneConfig",
]

named = msgspec.field


class Secret(bytes):
    """A resolved secret: bytes that do not show themselves in logs, errors or repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__


class ZoneConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """zone: the memory that the workers of one machine share."""

    name: Annotated[str, Name()] = ""
    """"" until loaded; then the fleet's name unless the file gives one."""
    size_bytes: Annotated[int, Size(1 << 20, 1 << 40)] = named(default=64 << 20, name="size")


class StoreTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """tls = { ... } of [store]: paths of PEM files."""

    ca: Annotated[str, Text()] = ""
    """Who signs the nodes' certificates; empty: the system's authorities."""
    certificate: Annotated[str, Text()] = ""
    key: Annotated[str, Text()] = ""


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[store]: the memcached nodes that the fleet agrees through."""

    memcached: Annotated[tuple[str, ...], ListOf(Address(), minimum=1)]
    copies: Annotated[int, Whole(1, 3)] = 1
    """Nodes that hold each binding (COPIES_MAX of fastroute.memcache.placement); at most as many as there are."""
    previous_memcached: Annotated[tuple[str, ...], ListOf(Address())] = ()
    """The list of nodes before a change: it decides for `grace` more."""
    grace_s: Annotated[float, Duration(0)] = named(default=0.0, name="grace")
    """0: twice the longest sticky ttl."""
    timeout_s: Annotated[float, Duration()] = named(default=0.05, name="timeout")
    near_ttl_s: Annotated[float, Duration(0)] = named(default=2.0, name="near_ttl")
    watch: Annotated[bool, Flag()] = True
    tls: Annotated[bool | StoreTls, SwitchOr(StoreTls)] = False
    username: Annotated[str, Text()] = ""
    password: Annotated[Secret | None, SecretText(empty=True)] = None
    """Of memcached -Y."""


class ListenerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[listeners.NAME.limits]; 0 = no limit where 0 is accepted."""

    request_line_bytes: Annotated[int, Size(256, 1 << 20)] = 8192
    """nginx: large_client_header_buffers 4 8k bounds the request line at 8k."""
    head_bytes: Annotated[int, Size(1024, 1 << 20)] = 32768
    """nginx: the same four buffers make 32k."""
    fields: Annotated[int, Whole(8, 256)] = 100
    """Apache: LimitRequestFields 100. The most is FR_FIELDS_CAPACITY of ext/fr_http.h."""
    method_bytes: Annotated[int, Size(7, 256)] = 64
    body_bytes: Annotated[int, Size()] = 10 << 20
    connections: Annotated[int, Whole(0, 10_000_000)] = 10000
    connections_per_client: Annotated[int, Whole(0, 10_000_000)] = 256
    requests_per_connection: Annotated[int, Whole(0, 1_000_000_000)] = 1000
    """nginx: keepalive_requests 1000."""
    min_rate_bytes: Annotated[int, Size(0, 1 << 30)] = 0
    """Bytes per second of a client that sends a body or reads an answer. nginx, HAProxy and Envoy have none; Kestrel:
    MinRequestBodyDataRate and MinResponseDataRate 240."""


class ListenerTimeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[listeners.NAME.timeouts]"""

    head_s: Annotated[float, Duration()] = named(default=10.0, name="head")
    """From the first byte to the whole head."""
    body_s: Annotated[float, Duration()] = named(default=30.0, name="body")
    """Between two reads."""
    idle_s: Annotated[float, Duration()] = named(default=60.0, name="idle")
    tunnel_idle_s: Annotated[float, Duration()] = named(default=3600.0, name="tunnel_idle")
    """HAProxy: `timeout tunnel`, 1h in its own examples."""
    total_s: Annotated[float, Duration(0)] = named(default=0.0, name="total")
    """From a request's head to the end of its answer. nginx and HAProxy have none; Envoy: route timeout, 15 s."""
    min_rate_grace_s: Annotated[float, Duration(0.25)] = named(default=5.0, name="min_rate_grace")
    """Kestrel: grace period of its minimum rates, 5 s."""
    drain_s: Annotated[float, Duration(0)] = named(default=30.0, name="drain")


class FieldsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """request_headers or response_headers of a listener, a route or a pool."""

    add: tuple[tuple[str, str], ...] = ()
    """Beside what is there."""
    set: tuple[tuple[str, str], ...] = ()
    """In the place of what is there."""
    remove: tuple[str, ...] = ()


class RequestFields(FieldsConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """request_headers = { ... }"""

    add: Annotated[tuple[tuple[str, str], ...], FieldTexts(IN_REQUESTS)] = ()
    set: Annotated[tuple[tuple[str, str], ...], FieldTexts(IN_REQUESTS)] = ()
    remove: Annotated[tuple[str, ...], ListOf(FieldName())] = ()


class ResponseFields(FieldsConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """response_headers = { ... }"""

    add: Annotated[tuple[tuple[str, str], ...], FieldTexts(IN_RESPONSES)] = ()
    set: Annotated[tuple[tuple[str, str], ...], FieldTexts(IN_RESPONSES)] = ()
    remove: Annotated[tuple[str, ...], ListOf(FieldName())] = ()


class RouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `routes` of [listeners.NAME]: requests that go to a pool of their own."""

    host: Annotated[str, HostPattern()] = ""
    """"": every host."""
    path_prefix: Annotated[str, PathPrefix()] = "/"
    clients: Annotated[tuple[str, ...], ListOf(Network(every=True), single=True, minimum=1)] = ()
    """Networks of the clients that it takes; (): everybody's."""
    pool: Annotated[str, Name()]
    cache: Annotated[bool | None, Flag()] = None
    """None: as [cache] has it."""
    request_headers: Annotated[RequestFields, Section(RequestFields)] = RequestFields()
    response_headers: Annotated[ResponseFields, Section(ResponseFields)] = ResponseFields()


class ListenerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[listeners.NAME]: where clients connect."""

    bind: Annotated[tuple[str, ...], ListOf(Bind(), single=True, minimum=1, maximum=64)]
    protocol: Annotated[str, Choice(("http", "tcp"))] = "http"
    pool: Annotated[str, Name()] = ""
    """Of requests that no route takes; "": they are answered with 404."""
    routes: Annotated[tuple[RouteConfig, ...], ListOf(Section(RouteConfig))] = ()
    trusted_proxies: Annotated[tuple[str, ...], ListOf(Network())] = ()
    proxy_protocol: Annotated[bool, Flag()] = False
    """Connections begin with a PROXY header, version 1 or 2, of one of trusted_proxies; all others are closed."""
    tls: Annotated[ListenerTls | None, Section(ListenerTls)] = None
    """Clients speak TLS; nothing else is understood."""
    request_headers: Annotated[RequestFields, Section(RequestFields)] = RequestFields()
    response_headers: Annotated[ResponseFields, Section(ResponseFields)] = ResponseFields()
    forwarded: Annotated[bool, Flag()] = False
    """Servers get Forwarded (RFC 7239) too, and that of trusted peers names the client."""
    request_id: Annotated[str, RequestIdName()] = ""
    """Field with an id for each request; "": none, as in nginx and HAProxy (Envoy: x-request-id, on)."""
    error_pages: Annotated[dict[Any, Any], PageSources()] = {}
    """status -> (Content-Type, body) once loaded; of answers of the balancer's own."""
    limits: Annotated[ListenerLimits, Section(ListenerLimits)] = ListenerLimits()
    timeouts: Annotated[ListenerTimeouts, Section(ListenerTimeouts)] = ListenerTimeouts()

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools that its requests may go to, each once."""
        named = ([self.pool] if self.pool else []) + [route.pool for route in self.routes]
        return tuple(dict.fromkeys(named))


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[pools.NAME.servers]] as written; becomes a Server."""

    address: Annotated[str, Address()]
    name: Annotated[str | None, Name()] = None
    weight: Annotated[int, Whole(0, WEIGHT_MAX)] = 1
    backup: Annotated[bool, Flag()] = False
    max_connections: Annotated[int, Whole(0, 10_000_000)] = 0
    """Requests in flight at once, over all workers of the machine; HAProxy: `maxconn` of a server, 0 too."""
    id: Annotated[int | None, Whole(1, (1 << 31) - 1)] = None
    """HAProxy's `id`, by default the position: what its rings place a server by."""
    hash_key: Annotated[str | None, Text()] = None
    """What rings hash instead of name or address."""

    def server(self) -> Server:
        """The immutable value that pools take."""
        return Server(
            self.address,
            name=self.name,
            weight=self.weight,
            backup=self.backup,
            hash_key=self.hash_key or None,
            id=self.id,
            max_connections=self.max_connections,
        )


class CookieConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """cookie = { ... } of [pools.NAME.sticky]: the balancer's own cookie."""

    name: Annotated[str, Token()] = "fastroute"
    domain: Annotated[str, Domain()] = ""
    same_site: Annotated[str, Choice(("Lax", "Strict", "None"))] = "Lax"
    secure: Annotated[str, Choice(("auto", "always", "never"))] = "auto"
    """auto: Secure when the client came over TLS."""


class StickyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.sticky]: what binds a user to a server."""

    on: Annotated[KeyRule, Rule()] = KeyRule("insert")
    ttl_s: Annotated[float, Duration(1)] = named(default=1800.0, name="ttl")
    """Idle time after which a binding ends; memcached counts whole seconds."""
    max_lifetime_s: Annotated[float, Duration(0)] = named(default=0.0, name="max_lifetime")
    """Absolute age at which a binding ends; 0: none."""
    on_failure: Annotated[str, Choice(("move", "fail"))] = "move"
    """fail: 503 while the server is down, instead of a move."""
    cookie: Annotated[CookieConfig, Section(CookieConfig)] = CookieConfig()
    hint_cookie: Annotated[bool, Flag()] = True
    """With on = "cookie:NAME": the balancer's own cookie goes out beside it and names the server, signed."""
    ignore_layers: Annotated[tuple[str, ...], ListOf(Token())] = ()
    """Cookies of other sticky layers that are meant to be there; "*" at the end: whatever follows. ("*",): none is
    looked for (fastroute.proxy.layers)."""


class PoolTimeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.timeouts]"""

    connect_s: Annotated[float, Duration()] = named(default=2.0, name="connect")
    response_s: Annotated[float, Duration()] = named(default=30.0, name="response")
    """To the first byte of the answer."""
    idle_s: Annotated[float, Duration()] = named(default=60.0, name="idle")
    min_rate_grace_s: Annotated[float, Duration(0.25)] = named(default=5.0, name="min_rate_grace")


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.limits]"""

    response_head_bytes: Annotated[int, Size(1024, 1 << 20)] = 32768
    pending: Annotated[int, Whole(0, 1_000_000)] = 1024
    """Envoy: max_pending_requests 1024."""
    pending_time_s: Annotated[float, Duration()] = named(default=1.0, name="pending_time")
    min_rate_bytes: Annotated[int, Size(0, 1 << 30)] = 0
    """Bytes per second of a server that sends the body of its answer. nginx, HAProxy and Envoy have none."""


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.retry]"""

    attempts: Annotated[int, Whole(0, 10)] = 1
    """Beyond the first. SRE book: at most 3 attempts per request."""
    budget_ratio: Annotated[float, Number(0, 1)] = named(default=0.2, name="budget")
    """Envoy: retry_budget 20 % of active requests, at least 3."""


class OutlierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.outlier]"""

    consecutive: Annotated[int, Whole(1, 1_000_000)] = 5
    """Envoy: consecutive_5xx 5."""
    eject_s: Annotated[float, Duration()] = named(default=30.0, name="eject")
    """Envoy: base_ejection_time 30 s."""
    max_ejected_ratio: Annotated[float, Number(0, 1)] = named(default=0.5, name="max_ejected")
    max_eject_s: Annotated[float, Duration()] = named(default=300.0, name="max_eject")
    """Envoy: max_ejection_time 300 s."""
    interval_s: Annotated[float, Duration(0.1)] = named(default=10.0, name="interval")
    """Between two looks at shares and latencies; Envoy: interval 10 s."""
    failure_ratio: Annotated[float, Number(0, 1)] = 0.0
    """Envoy: failure_percentage_threshold 85 %, not enforced by default; 0: off."""
    min_requests: Annotated[int, Whole(1, 1_000_000)] = 50
    """Envoy: failure_percentage_request_volume 50."""
    latency_factor: Annotated[float, Number(0, 1000)] = 0.0
    """Of the median of the others; 0: off. Envoy has no such rule."""
    panic_ratio: Annotated[float, Number(0, 1)] = named(default=0.5, name="panic")
    """Envoy: healthy_panic_threshold 50 %. Below it, servers that are down are used too."""


class SlowStartConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.slow_start]"""

    window_s: Annotated[float, Duration(0)] = named(default=0.0, name="window")
    """How long a server that was down gets less than its share of new users; 0: no ramp."""
    aggression: Annotated[float, Number(0.01, 100)] = 1.0
    min_weight_ratio: Annotated[float, Number(0.001, 1)] = named(default=0.1, name="min_weight")


class ProbeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.probe]: active probes of the policy `prequal`."""

    path: Annotated[str, Text()]
    """Asked for by HEAD; the answer may carry the server's load (fastroute.health.load_probe)."""
    interval_s: Annotated[float, Duration(0.001)] = named(default=0.02, name="interval")
    timeout_s: Annotated[float, Duration(0.001)] = named(default=0.2, name="timeout")


class DiscoverConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.discover]: where servers come from besides the file; one of dns, srv and file."""

    dns: Annotated[str, Text()] = ""
    """host:port; each address of the host is a server."""
    srv: Annotated[str, Text()] = ""
    """Name of SRV records."""
    file: Annotated[str, Text()] = ""
    """Path of a JSON or TOML file, looked at once a second."""
    resolvers: Annotated[tuple[str, ...], ListOf(Address())] = ()
    """Name servers; empty: those of /etc/resolv.conf."""
    interval_s: Annotated[float, Duration(1)] = named(default=300.0, name="interval")
    """DNS is asked that often at least, however long its answer may be kept."""
    weight: Annotated[int, Whole(1, WEIGHT_MAX)] = 1
    """Of the servers that `dns` finds."""


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME]: servers with one policy."""

    policy: Annotated[
        str,
        Choice(POLICIES),
    ] = "round-robin"
    ring: Annotated[str, Choice(RINGS)] = "table"
    ring_options: Annotated[dict[str, Any], Options()] = {}
    """Of a dialect; the `table` ring has none but `slots`."""
    slots: Annotated[int, Whole(1024, 1 << 24)] = 131072
    key: Annotated[KeyRule | None, Rule(insert=False)] = None
    max_load: Annotated[float, Number(0, 100)] = 0.0
    charge_sticky: Annotated[bool, Flag()] = False
    servers: Annotated[tuple[ServerConfig, ...], ListOf(Section(ServerConfig), minimum=1, maximum=65_000)] = ()
    """One at least, unless they are discovered. A slot is 16 bits, FR_NO_SLOT left out (ext/fr_base.h)."""
    discover: Annotated[DiscoverConfig | None, Section(DiscoverConfig)] = None
    sticky: Annotated[StickyConfig | None, Section(StickyConfig)] = None
    tls: Annotated[PoolTls | None, Section(PoolTls)] = None
    """Servers speak TLS."""
    request_headers: Annotated[RequestFields, Section(RequestFields)] = RequestFields()
    response_headers: Annotated[ResponseFields, Section(ResponseFields)] = ResponseFields()
    send_proxy: Annotated[str, Choice(("off", "v1", "v2"))] = "off"
    """Connections to servers begin with a PROXY header that names the client; each carries one request."""
    timeouts: Annotated[PoolTimeouts, Section(PoolTimeouts)] = PoolTimeouts()
    limits: Annotated[PoolLimits, Section(PoolLimits)] = PoolLimits()
    retry: Annotated[RetryConfig, Section(RetryConfig)] = RetryConfig()
    health: Annotated[HealthConfig | None, Section(HealthConfig)] = None
    content: Annotated[ContentConfig | None, Section(ContentConfig)] = None
    on_join: Annotated[JoinConfig | None, Section(JoinConfig)] = None
    fleet_load: Annotated[bool, Flag()] = False
    """Requests in flight on other machines count too, where load decides."""
    outlier: Annotated[OutlierConfig | None, Section(OutlierConfig)] = None
    probe: Annotated[ProbeConfig | None, Section(ProbeConfig)] = None
    rebalance: Annotated[RebalanceConfig, Section(RebalanceConfig)] = RebalanceConfig()
    slow_start: Annotated[SlowStartConfig, Section(SlowStartConfig)] = SlowStartConfig()

    @property
    def affinity_key(self) -> KeyRule | None:
        """The rule for a request's key: what sticks, else what is hashed; None where neither is configured."""
        return self.sticky.on if self.sticky else self.key

    @property
    def limited(self) -> bool:
        """Whether a server has max_connections, which the workers of a machine count together."""
        return any(server.max_connections for server in self.servers)

    @property
    def judged(self) -> bool:
        """Whether somebody looks after what a replica's keeper says of the servers."""
        swept = self.outlier is not None and bool(self.outlier.failure_ratio or self.outlier.latency_factor)
        return self.health is not None or swept

    @property
    def looks_for_layers(self) -> bool:
        """Whether other layers that stick are looked for: where this one does, unless that was turned off."""
        return self.sticky is not None and "*" not in self.sticky.ignore_layers

    def server_list(self) -> list[Server]:
        """The servers as pools take them."""
        return [server.server() for server in self.servers]


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cache]: the HTTP response cache (docs/http-cache.md)."""

    enabled: Annotated[bool, Flag()] = False
    memcached: Annotated[tuple[str, ...], ListOf(Address())] = ()
    """Nodes of its own; empty: the store's."""
    copies: Annotated[int, Whole(1, 3)] = 1
    """Nodes that hold each response."""
    timeout_s: Annotated[float, Duration(0.001)] = named(default=0.25, name="timeout")
    """Longest wait for a node: a part of a response is half a megabyte, and a miss costs a server more."""
    near_bytes: Annotated[int, Size()] = 64 << 20
    """Of each worker, over all its pools."""
    near_ttl_s: Annotated[float, Duration(0)] = named(default=2.0, name="near_ttl")
    """How long a response answers without asking the nodes: the bound of staleness after a purge."""
    max_object_bytes: Annotated[int, Size(1, 1 << 30)] = 8 << 20
    lease_s: Annotated[float, Duration(2)] = named(default=5.0, name="lease")
    """How long other replicas wait for one that died while it filled."""
    wait_s: Annotated[float, Duration()] = named(default=10.0, name="wait")
    """How long a request waits for another one's response; then it goes to a server by itself."""
    keep_s: Annotated[float, Duration(0)] = named(default=600.0, name="keep")
    """How long a stale response with a validator is kept, to be confirmed. nginx: inactive=10m."""
    heuristic: Annotated[bool, Flag()] = False
    """A tenth of the time since Last-Modified where a response says nothing of its lifetime."""
    stale_while_revalidate_s: Annotated[float, Duration(0)] = named(default=0.0, name="stale_while_revalidate")
    stale_if_error_s: Annotated[float, Duration(0)] = named(default=0.0, name="stale_if_error")
    """Both where a response does not say; never where it forbids."""
    stale_if_down_s: Annotated[float, Duration(0)] = named(default=60.0, name="stale_if_down")
    """How long after its lifetime a response stands in while no server gives any answer (RFC 9111, 4.2.4)."""
    store_set_cookie: Annotated[bool, Flag()] = False
    """Store responses with Set-Cookie, and replay the cookie to everybody: only for cookies that name nobody."""
    origin_max: Annotated[int, Whole(1, 100_000)] = 32
    """Fills at once per worker while the nodes are away."""


class AdminConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[admin]: its own listener."""

    bind: Annotated[str, Address()] = "127.0.0.1:9900"
    token: Annotated[Secret | None, SecretText(empty=True)] = None
    """Of operators; file:PATH or env:NAME. Needed for every change, and to read from another address than loopback."""
    read_token: Annotated[Secret | None, SecretText(empty=True)] = None
    """Of those who may only read."""

    @property
    def is_local(self) -> bool:
        """Can only this machine reach it?"""
        parsed = parse_address(self.bind)
        if isinstance(parsed, str):
            return True
        try:
            return parsed[0] == "localhost" or ipaddress.ip_address(parsed[0]).is_loopback
        except ValueError:
            return False


class AccessLogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[access_log]"""

    format: Annotated[str, Choice(("off", "combined", "json"))] = "off"
    path: Annotated[str, Text()] = "-"
    """"-": standard output."""
    buffer_bytes: Annotated[int, Size(64 << 10, 1 << 30)] = named(default=1 << 20, name="buffer")
    """Of lines that wait for the disk, per worker; what comes beyond is dropped and counted."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file.

    `secret` and `identity_secret` are resolved when loaded; `workers` is 1 or more ("auto" is replaced by the number
    of usable cores).
    """

    secret: Annotated[tuple[Secret, ...], ListOf(SecretText(), single=True, maximum=16)] = ()
    """The key ring: the first signs, all verify. Empty where nothing is signed."""
    identity_secret: Annotated[Secret | None, SecretText()] = None
    """None: derived from the fleet's name."""
    fleet: Annotated[str, Name()] = "fr"
    workers: Annotated[int, Workers()] = 1
    zone: Annotated[ZoneConfig, Section(ZoneConfig)] = ZoneConfig()
    debug_headers: Annotated[bool, Flag()] = False
    store: Annotated[StoreConfig | None, Section(StoreConfig)] = None
    listeners: Annotated[dict[str, ListenerConfig], Named(ListenerConfig, "listener")] = {}
    pools: Annotated[dict[str, PoolConfig], Named(PoolConfig, "pool")] = {}
    cache: Annotated[CacheConfig, Section(CacheConfig)] = CacheConfig()
    admin: Annotated[AdminConfig | None, Section(AdminConfig)] = None
    access_log: Annotated[AccessLogConfig, Section(AccessLogConfig)] = AccessLogConfig()
