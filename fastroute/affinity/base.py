"""What every driver of the affinity has: identity, zone, near table, views and counters. No I/O to the store here.

The drivers: fastroute.affinity.table (asyncio) and fastroute.affinity.blocking.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.affinity_view import AffinityView
from fastroute._core.pool import Pool
from fastroute._core.zone import Zone
from fastroute.affinity.agreement import Answer, Command
from fastroute.affinity.binding import ONCE_S, Binder, Bound, Hint
from fastroute.clock import Clock
from fastroute.errors import UsageError
from fastroute.model import check_name, parse_duration_s

__all__ = ["AffinityBase", "AffinityStatistics", "identity_of", "store_key"]

TTL_MAX_S = 2_592_000
"""30 days: memcached reads a longer TTL as a date."""


@dataclass(slots=True)
class AffinityStatistics:
    """Counters since the start.

    Attributes:
        claims: won, adopted, conflict, unknown -> count.
        moves: moved, adopted, unknown -> count.
        touches, touches_dropped, learned, learned_dropped: counts.
    """

    claims: collections.Counter[str] = field(default_factory=collections.Counter)
    moves: collections.Counter[str] = field(default_factory=collections.Counter)
    touches: int = 0
    touches_dropped: int = 0
    learned: int = 0
    learned_dropped: int = 0


def identity_of(identity_secret: bytes | None, fleet: str) -> bytes:
    """16 bytes that stand for the identity secret: what a zone is checked with, and the root of its fingerprint keys.

    Args:
        identity_secret: at least 32 bytes, or None: derived from the fleet's name (then anybody can compute it).
        fleet: the fleet's name.
    """
    root = identity_secret if identity_secret is not None else b"fastroute without identity_secret:" + fleet.encode()
    return hashlib.blake2b(
        fleet.encode(), key=hashlib.sha256(root).digest(), digest_size=16, person=b"fr-identity"
    ).digest()


def _hash_key(identity: bytes, fleet: str, pool: str) -> bytes:
    context = b"%d:%s:%s" % (len(fleet), fleet.encode(), pool.encode())
    return hashlib.blake2b(context, key=identity, digest_size=16, person=b"fr-fingerprint").digest()


def store_key(fleet: str, pool: str, fingerprint: bytes) -> bytes:
    """`fr:a:<pool>:<22 characters base64url>` for the fleet `fr`."""
    return b"%s:a:%s:%s" % (fleet.encode(), pool.encode(), base64.urlsafe_b64encode(fingerprint).rstrip(b"="))


class AffinityBase:
    """Identity, zone and near table of one fleet; see Affinity for the arguments."""

    def __init__(
        self,
        *,
        stored: bool,
        ttl: float | str,
        identity_secret: bytes | None,
        cookie_secrets: tuple[bytes, ...],
        fleet: str,
        zone: Zone | None,
        near_ttl: float | str,
        clock: Clock,
    ) -> None:
        self.fleet = check_name("fleet", fleet)
        self.ttl_s = parse_duration_s(ttl, name="ttl")
        self.near_ttl_s = parse_duration_s(near_ttl, name="near_ttl")
        if not 0 < self.ttl_s <= TTL_MAX_S:
            raise UsageError(
                f"ttl {ttl!r}: accepted is more than 0 and at most 30 days, the longest that memcached keeps"
            )
        if identity_secret is not None and len(identity_secret) < 32:
            raise UsageError(f"identity_secret has {len(identity_secret)} bytes: at least 32 are needed")
        self.clock = clock
        self.cookie_secrets = tuple(cookie_secrets)
        self.statistics = AffinityStatistics()
        self._stored = stored
        self._identity = identity_of(identity_secret, fleet)
        self._zone = zone if zone is not None else Zone(None, identity=self._identity)
        self._owns_zone = zone is None
        self._table = AffinityTable(self._zone)
        self._writer = int.from_bytes(os.urandom(4), "little")
        self._binders: dict[AffinityView, Binder] = {}

    @property
    def zone(self) -> Zone:
        """The zone whose table this is."""
        return self._zone

    @property
    def table(self) -> AffinityTable:
        """The compiled table itself."""
        return self._table

    def attach(self, pool: Pool) -> AffinityView:
        """This pool's view of the near table."""
        view = AffinityView(
            pool,
            self._table,
            self.fleet,
            _hash_key(self._identity, self.fleet, pool.name),
            ttl_s=self.ttl_s,
            once_s=min(ONCE_S, self.ttl_s),
            near_ttl_s=max(self.near_ttl_s, 0.001) if self._stored else 0.0,
        )
        self._binders[view] = Binder(view, stored=self._stored, ttl_s=self.ttl_s, writer=self._writer)
        return view

    async def bind(self, view: AffinityView, key: bytes, hint: Hint | None = None) -> Bound:
        """The key's server; binds it if it is not bound. See Binder.bind."""
        fingerprint = view.fingerprint(key)
        steps = self._binders[view].bind(fingerprint, key, hint, self._minute())
        bound = await self._drive(view, fingerprint, steps)
        if bound.kind != "near":
            self.statistics.claims[bound.kind if bound.kind != "down" else "unknown"] += 1
        if bound.renew_soon:
            self._renew_soon(view, fingerprint)
        return bound

    async def rebind(self, view: AffinityView, key: bytes, failed_slot: int, term: int, generation: int) -> Bound:
        """Another server for a key whose server failed. See Binder.rebind."""
        fingerprint = view.fingerprint(key)
        steps = self._binders[view].rebind(fingerprint, key, failed_slot, term, generation, self._minute())
        bound = await self._drive(view, fingerprint, steps)
        self.statistics.moves[bound.kind if bound.kind != "down" else "unknown"] += 1
        return bound

    async def _drive(self, view: AffinityView, fingerprint: bytes, steps: Generator[Command, Answer, Bound]) -> Bound:
        """Take the steps, asking the store what they ask."""
        name = store_key(self.fleet, view.pool.name, fingerprint)
        homes = self._homes(name)
        try:
            command = next(steps)
            while True:
                command = steps.send(await self._ask(homes[command.home], name, command))
        except StopIteration as end:
            bound: Bound = end.value
            return bound

    def _homes(self, name: bytes) -> Sequence[Any]:
        """The nodes that hold this key, in its order; none without a store."""
        raise NotImplementedError

    async def _ask(self, node: Any, name: bytes, command: Command) -> Answer:
        raise NotImplementedError

    def _renew_soon(self, view: AffinityView, fingerprint: bytes) -> None:
        raise NotImplementedError

    def _minute(self) -> int:
        return int(self.clock.wall_s() // 60)

    def _name(self, view: AffinityView, fingerprint: bytes) -> bytes:
        return store_key(self.fleet, view.pool.name, fingerprint)

    def _close_zone(self) -> None:
        if self._owns_zone:
            self._zone.close()
