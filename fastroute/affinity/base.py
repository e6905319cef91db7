"""What every driver of the affinity has: identity, zone, near table, views and counters. No I/O to the store here.

The drivers: fastroute.affinity.table (asyncio) and fastroute.affinity.blocking.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.affinity_view import AffinityView, Binding
from fastroute._core.pool import Pool
from fastroute._core.zone import Zone
from fastroute.affinity.agreement import Answer, Command, Kind
from fastroute.affinity.binding import ONCE_S, Binder, Bound, Hint
from fastroute.clock import Clock
from fastroute.errors import MemcacheDown, MemcacheUnknown, UsageError
from fastroute.model import check_name, parse_duration_s

if TYPE_CHECKING:
    from fastroute.affinity.push import NearMode, PushStatistics

__all__ = ["AffinityBase", "AffinityStatistics", "identity_of", "store_key"]

T = TypeVar("T")

LIFETIME_MAX_S = 31_536_000
"""A year: the age of a term is known modulo two years (record.py)."""

TTL_MAX_S = 2_592_000
"""30 days: memcached reads a longer TTL as a date."""


@dataclass(slots=True)
class AffinityStatistics:
    """Counters since the start.

    Attributes:
        claims: won, adopted, conflict, unknown -> count.
        moves: moved, adopted, unknown, learned -> count.
        releases: released, absent, moved, unknown, down -> count.
        touches, touches_dropped: counts.
        learned, forgotten, learned_dropped: bindings made and ended by answers of servers, and how many were not.
        near_mode: "push" while near entries are believed because of the push channel, "poll" while for near_ttl.
        push: what this process did for the channel; None without a store.
    """

    claims: collections.Counter[str] = field(default_factory=collections.Counter)
    moves: collections.Counter[str] = field(default_factory=collections.Counter)
    releases: collections.Counter[str] = field(default_factory=collections.Counter)
    touches: int = 0
    touches_dropped: int = 0
    learned: int = 0
    forgotten: int = 0
    learned_dropped: int = 0
    push: PushStatistics | None = None
    mode_of: Callable[[], NearMode] | None = field(default=None, repr=False, compare=False)

    @property
    def near_mode(self) -> NearMode:
        """ "push" or "poll"."""
        return self.mode_of() if self.mode_of is not None else "poll"


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
        max_lifetime: float | str = 0,
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
        self.max_lifetime_s = parse_duration_s(max_lifetime, name="max_lifetime")
        if not 0 <= self.max_lifetime_s <= LIFETIME_MAX_S:
            raise UsageError(f"max_lifetime {max_lifetime!r}: accepted are 0 (no limit) to a year")
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
    def views(self) -> tuple[AffinityView, ...]:
        """The views of all pools that are attached."""
        return tuple(self._binders)

    @property
    def table(self) -> AffinityTable:
        """The compiled table itself."""
        return self._table

    def attach(self, pool: Pool, *, on_failure: str = "move") -> AffinityView:
        """This pool's view of the near table.

        Args:
            pool: whose keys are bound.
            on_failure: "move", or "fail": a key whose server is down stays bound and is refused.
        """
        view = AffinityView(
            pool,
            self._table,
            self.fleet,
            _hash_key(self._identity, self.fleet, pool.name),
            ttl_s=self.ttl_s,
            once_s=min(ONCE_S, self.ttl_s),
            near_ttl_s=max(self.near_ttl_s, 0.001) if self._stored else 0.0,
            max_lifetime_s=self.max_lifetime_s,
        )
        if self.max_lifetime_s:
            view.set_wall(int(self.clock.wall_s()))
        self._binders[view] = Binder(
            view,
            stored=self._stored,
            ttl_s=self.ttl_s,
            writer=self._writer,
            may_move=on_failure != "fail",
            max_lifetime_s=self.max_lifetime_s,
            near_ttl_s=self.near_ttl_s,
        )
        return view

    async def bind(self, view: AffinityView, key: bytes, hint: Hint | None = None) -> Bound:
        """The key's server; binds it if it is not bound. See Binder.bind."""
        fingerprint = view.fingerprint(key)
        name = self._name(view, fingerprint)
        homes = self._homes(name)
        minute, second = self._wall()
        steps = self._binders[view].bind(fingerprint, key, hint, minute, second=second, homes=len(homes) or 1)
        bound = await self._drive(name, homes, steps, view)
        if bound.kind != "near":
            self.statistics.claims[bound.kind if bound.kind != "down" else "unknown"] += 1
        if bound.only_read and view.take_touch(fingerprint):  # one process of the zone does, once per ttl/4
            self._renew_soon(view, fingerprint)
        return bound

    async def rebind(
        self,
        view: AffinityView,
        key: bytes,
        failed_slot: int,
        term: int,
        generation: int,
        evidence: object = None,
    ) -> Bound:
        """Another server for a key whose server failed. See Binder.rebind.

        Args:
            evidence: an exception (or None) for an attempt of this request that failed; anything else, such as a text,
                is hearsay: health checks, another process.
        """
        fingerprint = view.fingerprint(key)
        name = self._name(view, fingerprint)
        homes = self._homes(name)
        minute, second = self._wall()
        own = evidence is None or isinstance(evidence, BaseException)
        steps = self._binders[view].rebind(
            fingerprint, key, failed_slot, term, generation, minute, second=second, homes=len(homes) or 1, own=own
        )
        bound = await self._drive(name, homes, steps, view)
        self.statistics.moves[bound.kind if bound.kind != "down" else "unknown"] += 1
        return bound

    async def follow(self, view: AffinityView, key: bytes, slot: int, stands: Bound) -> Bound:
        """The server in `slot` answered for a key that is bound elsewhere. See Binder.follow."""
        fingerprint = view.fingerprint(key)
        name = self._name(view, fingerprint)
        homes = self._homes(name)
        minute, second = self._wall()
        steps = self._binders[view].follow(fingerprint, slot, stands, minute, second=second, homes=len(homes) or 1)
        bound = await self._drive(name, homes, steps)
        self.statistics.moves["learned" if bound.slot == slot else "adopted"] += 1
        return bound

    async def move_to(self, view: AffinityView, fingerprint: bytes, slot: int, stands: Binding) -> bool:
        """Move a binding to the server in `slot`, unless it was moved or ended meanwhile; did it move?

        Args:
            stands: what the zone says of it, whose server is one of the pool.
        """
        name = self._name(view, fingerprint)
        homes = self._homes(name)
        minute, second = self._wall()
        now = Bound(stands.slot, "affinity-near", stands.term, stands.generation, "near")
        steps = self._binders[view].follow(fingerprint, slot, now, minute, second=second, homes=len(homes) or 1)
        bound = await self._drive(name, homes, steps, view)
        moved = bound.slot == slot and bound.generation == stands.generation + 1
        self.statistics.moves["moved" if moved else "adopted"] += 1
        return moved

    async def learn_now(self, view: AffinityView, key: bytes, hint: Hint) -> None:
        """Bind the key to the server that the hint names, or move it there: that server has answered for it."""
        bound = await AffinityBase.bind(self, view, key, hint)  # whoever drives this has taken the key's turn
        slot = view.pool.slot_of(hint[0])  # now: the list of servers may have changed meanwhile
        if slot not in (-1, bound.slot) and bound.term:
            await self.follow(view, key, slot, bound)
        self.statistics.learned += 1

    async def unbind(self, view: AffinityView, key: bytes) -> str:
        """Release the key, near and on every node that holds it; a decision made meanwhile stays.

        The store remembers that it was released, for a lifetime: whoever knows the binding still learns of it.

        Returns:
            "released", "absent" (it was not bound) or "moved" (bound anew meanwhile: that stays).

        Raises:
            MemcacheDown, MemcacheUnknown: a node that holds the key could not be asked, or did not say: the binding may
                come back from it. The zone has forgotten the key all the same.
        """
        fingerprint = view.fingerprint(key)
        name = self._name(view, fingerprint)
        homes = self._homes(name)
        if not homes:
            return "released" if view.remove(fingerprint) else "absent"
        minute, second = self._wall()
        steps = self._binders[view].unbind(fingerprint, minute, second=second, homes=len(homes))
        decision = await self._drive(name, homes, steps)
        view.remove(fingerprint)  # what another process of this machine read in between
        self.statistics.releases[decision.kind.value] += 1
        if decision.kind is Kind.DOWN:
            raise MemcacheDown("a node of the store that holds the key could not be asked: its binding may come back")
        if decision.kind is Kind.UNKNOWN:
            raise MemcacheUnknown(
                "a node of the store did not say whether the key is released; releasing again is safe"
            )
        outcome: str = decision.kind.value
        return outcome

    async def _drive(
        self,
        name: bytes,
        homes: Sequence[Any],
        steps: Generator[Command, Answer, T],
        view: AffinityView | None = None,
    ) -> T:
        """Take the steps, asking the nodes what they ask. Rank and node keep together: tokens are of one node (I6).

        What the steps make `view` learn is guarded by the push channel (ext/fr_push.h).
        """
        guard, written = (view.guard() if view is not None else None), 0  # before anything is asked
        try:
            command = next(steps)
            while True:
                answer = await self._ask(homes[command.home], name, command)
                written += answer.written
                if view is None:
                    command = steps.send(answer)
                    continue
                view.expect(guard, written)
                try:
                    command = steps.send(answer)
                finally:
                    view.expect(None)
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    def _homes(self, name: bytes) -> Sequence[Any]:
        """The nodes that hold this key, in its order; none without a store."""
        raise NotImplementedError

    async def _ask(self, node: Any, name: bytes, command: Command) -> Answer:
        raise NotImplementedError

    def _renew_soon(self, view: AffinityView, fingerprint: bytes) -> None:
        raise NotImplementedError

    def _wall(self) -> tuple[int, int]:
        return divmod(int(self.clock.wall_s()), 60)

    def _name(self, view: AffinityView, fingerprint: bytes) -> bytes:
        return store_key(self.fleet, view.pool.name, fingerprint)

    def _close_zone(self) -> None:
        if self._owns_zone:
            self._zone.close()
