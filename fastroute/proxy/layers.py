"""Other layers that stick: seen by their cookies in requests and responses, and told once a day. A worker's.

Two layers that keep users on servers move them whenever either of them does, and neither knows of it. Another one can
be in front of this balancer (requests carry its cookie) or behind it, where a server of ours is a balancer itself
(responses set its cookie).

Not here: whose cookies they are (fastroute.session.foreign), putting them aside (ext/http_sights.pyx).

Theory of operation. At each tick the worker reads what was put aside since the last one and asks for some more, at
most LOOKS_MAX requests and as many responses over all pools: a busy worker looks at a sample, an idle one at
everything, and a request costs one comparison with 0. One response that sets such a cookie is proof. Cookies in
requests come from anybody's browser, or are left from a layer that is gone: they count from FRONT_MIN sightings on that
are FRONT_RATIO of what was looked at, and not while servers set them, for then they are the echo of that. What was told
stands in the replica's notice, so that its workers tell it once and the admin interface knows it.

Rules of this file: only pools that stick are looked at; no value is kept or told; what is remembered is bounded.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastroute._core.http_sights import Sights
from fastroute._core.token import TokenCodec
from fastroute.clock import Clock
from fastroute.errors import UsageError
from fastroute.metrics.layout import LAYER_SIDES, POOL_LAYERS_AT
from fastroute.metrics.notice import LAYER_AGAIN_S, LayerSeen
from fastroute.session.foreign import FASTROUTE, Foreign, foreign, is_meant, pairs, set_pair

if TYPE_CHECKING:
    from fastroute.config.schema import Config, PoolConfig
    from fastroute.proxy.build import PoolParts
    from fastroute.proxy.seat import Seat

__all__ = ["FRONT_MIN", "LOOKS_MAX", "Layers"]

LOOKS_MAX = 32
"""Requests, and responses, looked at per tick of 250 ms: 128 a second and worker, some 7 us each: 0.1 % of a worker."""

FRONT_MIN = 10
"""Requests with another layer's cookie before it is told: fewer are one person's."""

FRONT_RATIO = 0.1
"""Of the requests looked at."""

KINDS_MAX = 64
"""Cookies counted at once: names of our own form can be made up by anybody."""

FORGET_LOOKS = 1024
"""After so many looks what was counted in requests is halved: a layer that was taken away is forgotten."""

FRONT, SERVERS = LAYER_SIDES

log = logging.getLogger("fastroute.layers")


class Layers:
    """What one worker sees of other layers.

    Args:
        config: of the worker.
        pools: what serves it.
        seat: whose notice is told, and where sightings are counted.
        clock: wall clock.
    """

    def __init__(self, config: Config, pools: Mapping[str, PoolParts], seat: Seat, clock: Clock) -> None:
        own = {one.sticky.cookie.name.encode() for one in config.pools.values() if one.sticky}
        codecs = [one.codec for one in pools.values() if one.codec is not None]
        self._pools = {
            name: _Pool(name, one.config, own, codecs, seat.row.words("pool", seat.columns.pools[name]))
            for name, one in pools.items()
            if one.config.looks_for_layers
        }
        self._seat, self._clock = seat, clock
        self._turn = collections.deque((self._pools[name], one) for name in self._pools for one in pools[name].rules)
        self._told: dict[tuple[str, str, str], float] = {}

    @property
    def looks(self) -> bool:
        """Is there anything to look at?"""
        return bool(self._turn)

    def look(self) -> None:
        """Read what was put aside, and ask for more; to be called at every tick."""
        try:
            for pool in self._pools.values():
                for side, found in pool.read():
                    self._tell(pool.name, side, found)
        except Exception:
            log.exception("cookies could not be looked at; this is a bug in fastroute, please report it")
        many = min(len(self._turn), LOOKS_MAX)
        for _ in range(many):  # where there are more, the others have their turn at the next ticks
            pool, sticky = self._turn[0]
            self._turn.rotate(-1)
            sticky.watch(pool.sights, LOOKS_MAX // many)

    def _tell(self, pool: str, side: str, found: Foreign) -> None:
        now_s = self._clock.wall_s()
        key = (pool, side, found.product)
        if now_s - self._told.get(key, -LAYER_AGAIN_S) < LAYER_AGAIN_S:
            return
        seen = LayerSeen(pool, side, found.product, found.cookie, now_s)
        try:
            new = self._seat.columns.notice.tell_layer(seen)
        except BlockingIOError:  # somebody writes: the next sighting will do
            return
        except UsageError as error:  # no room there: told by each worker, at least
            log.debug("%s", error)
            new = True
        self._told[key] = now_s
        if new:
            log.warning("pool %s: %s", pool, said(seen))


class _Pool:
    """What is known of one pool."""

    def __init__(
        self, name: str, config: PoolConfig, own: set[bytes], codecs: list[TokenCodec], words: memoryview
    ) -> None:
        sticky = config.sticky
        assert sticky is not None
        self.name, self.sights = name, Sights()
        self._meant, self._codecs, self._words = sticky.ignore_layers, codecs, words
        self._bound_by = {one.name.encode() for one in sticky.on.each if one.kind == "cookie"}
        self._own = own | self._bound_by
        self._looked = 0
        self._seen: dict[Foreign, int] = {}

    def read(self) -> list[tuple[str, Foreign]]:
        """(side, whose) of the layers that are there, as far as what was put aside since the last time says."""
        requests, cookies, _, set_cookies = self.sights.take()
        told: dict[tuple[str, Foreign], None] = {}
        for field in set_cookies:
            pair = set_pair(field)
            found = self._foreign(pair, self._bound_by) if pair is not None else None
            if found is not None:
                self._words[POOL_LAYERS_AT + 1] += 1
                told[SERVERS, found] = None
        self._looked += requests
        for field in cookies:
            whose = {found for pair in pairs(field) if (found := self._foreign(pair, self._own)) is not None}
            self._words[POOL_LAYERS_AT] += bool(whose)
            for found in whose if len(self._seen) < KINDS_MAX else whose & self._seen.keys():
                self._seen[found] = self._seen.get(found, 0) + 1
        for found, count in self._seen.items():
            if count >= max(FRONT_MIN, self._looked * FRONT_RATIO):
                told[FRONT, found] = None
        if self._looked >= FORGET_LOOKS:
            self._looked //= 2
            self._seen = {found: count // 2 for found, count in self._seen.items() if count > 1}
        return list(told)

    def _foreign(self, pair: tuple[bytes, bytes], own: set[bytes]) -> Foreign | None:
        """Whose cookie it is, if that is another layer of which nobody said that it is meant to be there."""
        name, value = pair
        if name in own:
            return None
        found = foreign(name, value)
        if found is None or is_meant(found.product, found.cookie, self._meant):
            return None
        if found.product == FASTROUTE and any(isinstance(one.verify_text(value), tuple) for one in self._codecs):
            return None
        return found


def said(seen: LayerSeen) -> str:
    """What was seen, what it does and what to do, for people."""
    where = (
        f"requests carry {seen.cookie}, by which {seen.product} keeps users on a server: a layer in front, or one "
        "behind that gave it to them before, is sticky too"
        if seen.side == FRONT
        else f"servers set {seen.cookie}, by which {seen.product} keeps users on a server: a layer behind is sticky too"
    )
    return (
        f"{where}. Users move when either layer moves them; let one of the two stick, or say that it is meant: "
        f'sticky.ignore_layers = ["{seen.cookie}"] (docs/deploying.md)'
    )
