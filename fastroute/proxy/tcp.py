"""TCP listeners: from the configuration to a TcpRelay. What a connection does is compiled (tcp_relay)."""

from __future__ import annotations

from collections.abc import Mapping

from fastroute._core.http_log import AccessLog
from fastroute._core.http_route import Route
from fastroute._core.http_sticky import Sticky
from fastroute._core.http_wire import Engine
from fastroute._core.tcp_relay import TcpRelay
from fastroute.affinity.record import TERM_RANDOM_BITS
from fastroute.config.schema import Config
from fastroute.proxy.build import PoolParts, terms_of
from fastroute.proxy.client_hello import server_name
from fastroute.proxy.seat import Seat

__all__ = ["make_tcp_relay"]


def make_tcp_relay(
    config: Config, name: str, pools: Mapping[str, PoolParts], engine: Engine, seat: Seat, log: AccessLog | None
) -> TcpRelay:
    """A TCP listener's compiled settings."""
    listener = config.listeners[name]
    parts = pools[listener.pool]
    rule = parts.config.affinity_key
    # Cookies are of HTTP: there is nothing for it to find.
    sticky = Sticky(
        engine,
        rules=[],
        codec=None,
        hint_name="",
        term_random_bits=TERM_RANDOM_BITS,
        mark_key=bytes(16),
        ttl_s=0,
        cookie_attributes="",
    )
    return TcpRelay(
        engine,
        Route(parts.lines, parts.router, parts.slow, sticky, parts.waiting, attempts=parts.config.retry.attempts),
        rule=rule,
        read_name=server_name if rule and any(one.kind == "sni" for one in rule.each) else None,
        **terms_of(listener, name, seat, log),
    )
