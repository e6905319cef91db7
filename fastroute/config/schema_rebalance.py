"""[pools.NAME.rebalance] as the program reads it, and what must hold between its keys and others.

Not here: doing it (fastroute.admin.rebalance), what idle means in zone and store (fastroute.affinity.shift).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec

from fastroute.config.kinds import Duration, Whole

if TYPE_CHECKING:
    from fastroute.config.schema import Config, PoolConfig

__all__ = ["RebalanceConfig", "idle_min_s", "idle_s", "rebalance_mistakes"]

Finding = tuple[tuple[str | int, ...], str]

PER_SECOND_MAX = 1000
"""A fifth of what a restarted store gets back (fastroute.affinity.republish)."""

TOUCH_RATIO = 0.55
"""Of the ttl: who comes, or has a tunnel open, is written down within that. A binding is touched once per 22.5 to
27.5 % of the ttl (ext/affinity_view.pyx), that of an open tunnel is looked at once per 25 %: it is touched every second
time at the latest."""

MARGIN_S = 2.0
"""memcached counts whole seconds, and a touch takes its way."""

IDLE_RATIO = 0.6
"""Of the ttl, where the file says nothing."""

LEFT_MIN_S = 3.0
"""Between idle and the end of the ttl: time to be moved in."""


class RebalanceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.rebalance]: idle bindings move to servers that have less than their share."""

    per_second: Annotated[int, Whole(0, PER_SECOND_MAX)] = 0
    """Of the whole fleet; 0: off."""
    idle_s: Annotated[float, Duration(0)] = msgspec.field(default=0.0, name="idle")
    """How long a user must not have come; 0: 60 % of the ttl, or the least that is accepted."""


def idle_min_s(ttl_s: float, near_ttl_s: float) -> float:
    """After how long without a touch a user has certainly not come, and has no tunnel open.

    Args:
        ttl_s: of the bindings.
        near_ttl_s: of the store; 0 without one.
    """
    return TOUCH_RATIO * ttl_s + near_ttl_s + MARGIN_S


def idle_s(config: Config, pool: PoolConfig) -> float:
    """What counts as idle in a sticky pool."""
    assert pool.sticky is not None
    least = idle_min_s(pool.sticky.ttl_s, config.store.near_ttl_s if config.store is not None else 0.0)
    return pool.rebalance.idle_s or max(IDLE_RATIO * pool.sticky.ttl_s, least)


def rebalance_mistakes(config: Config, pool: PoolConfig) -> Iterator[Finding]:
    """Of one pool."""
    of, sticky = pool.rebalance, pool.sticky
    if not of.per_second:
        return
    if sticky is None:
        yield ("rebalance",), "rebalance moves bindings, and the pool is not sticky"
        return
    if sticky.on_failure == "fail":
        yield (
            ("rebalance",),
            'rebalance moves bindings, and sticky.on_failure = "fail" keeps them; accepted: one of them',
        )
    if pool.policy == "hash":
        yield (
            ("rebalance",),
            'rebalance moves keys away from where policy = "hash" places them; accepted: other policies',
        )
    if config.store is not None and not config.secret:
        yield ("rebalance",), "rebalance is agreed upon in the store, and no secret is configured"
    near_ttl_s = config.store.near_ttl_s if config.store is not None else 0.0
    least, most = idle_min_s(sticky.ttl_s, near_ttl_s), sticky.ttl_s - LEFT_MIN_S
    if least > most:
        yield ("rebalance",), f"rebalance: sticky.ttl of {sticky.ttl_s:g} s is too short to tell who is idle; raise it"
    elif not least <= idle_s(config, pool) <= most:
        found = f"{of.idle_s:g}"
        accepted = f"accepted: {least:g} s (0.55 of sticky.ttl, store.near_ttl and {MARGIN_S:g} s) to {most:g} s"
        yield ("rebalance", "idle"), f"idle: found {found} s; {accepted}"
