"""`Affinity`: the affinity table as the router sees it, driven over asyncio. The decisions are in binding and agreement.

Rules of this file:
  * One step machine per key at a time in this process (single flight); whoever comes meanwhile waits for its outcome.
  * Touches and learned bindings never make a request wait: they go to bounded sets that one task empties.
  * While no node of the store is up, near entries are trusted however old they are (trust_stale), so that no request
    takes the slow path for a store that is known to be away; a task looks for its return a few times a second.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import hashlib
import logging
import os
import weakref
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.affinity_view import AffinityView
from fastroute._core.pool import Pool
from fastroute._core.zone import Zone
from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Command, Heard, Lookup
from fastroute.affinity.binding import ONCE_S, Binder, Bound, Hint
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.memcache.reply import Reply, Status
from fastroute.model import check_name, parse_duration_s

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = ["Affinity", "AffinityStatistics", "identity_of", "store_key"]

TOUCHES_MAX = 65_536
"""Keys waiting for a touch; beyond it the oldest is dropped: its record lives on by the next near lookup's touch."""

LEARNED_MAX = 4_096
"""Bindings learned from responses that are being written; beyond it a new one is dropped and counted."""

RETURN_CHECK_S = 0.25
"""How often the return of a store that is away is looked for."""

_log = logging.getLogger("fastroute.affinity")


class _Store(Protocol):
    async def get(self, key: bytes, *, touch_s: int | None = None) -> Reply: ...


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


class Affinity:
    """Remembers which server a key belongs to, so that several balancers give one answer.

    Args:
        store: fastroute.Memcached shared by the fleet; None: the zone alone is the agreement (one machine).
        ttl: sliding idle lifetime of a binding: seconds or "30m"; over 0, at most 30 days.
        identity_secret: >= 32 bytes; keys the fingerprints, the same on every replica, never rotated lightly.
            None: derived from the fleet's name.
        cookie_secrets: key ring of the signed cookie, kept for those who build the cookie from the affinity.
        fleet: 1-64 characters; prefix of every key in the store.
        zone: the memory that the processes of this machine share; None: private to this object.
        near_ttl: how long an entry that the store confirmed is used without asking again (bound of staleness).
        clock: wall clock for stamps.

    Raises:
        UsageError: an argument outside these ranges.

    Notes:
        Belongs to one event loop. `async with`, or `aclose()`.
    """

    def __init__(
        self,
        store: Memcached | None = None,
        *,
        ttl: float | str = "30m",
        identity_secret: bytes | None = None,
        cookie_secrets: tuple[bytes, ...] = (),
        fleet: str = "fr",
        zone: Zone | None = None,
        near_ttl: float | str = "2s",
        clock: Clock = SYSTEM,
    ) -> None:
        self.fleet = check_name("fleet", fleet)
        self.ttl_s = parse_duration_s(ttl, name="ttl")
        self.near_ttl_s = parse_duration_s(near_ttl, name="near_ttl")
        if not 0 < self.ttl_s <= 2_592_000:
            raise UsageError(
                f"ttl {ttl!r}: accepted is more than 0 and at most 30 days, the longest that memcached keeps"
            )
        if identity_secret is not None and len(identity_secret) < 32:
            raise UsageError(f"identity_secret has {len(identity_secret)} bytes: at least 32 are needed")
        self.store, self.clock = store, clock
        self.cookie_secrets = tuple(cookie_secrets)
        self._identity = identity_of(identity_secret, fleet)
        self._zone = zone if zone is not None else Zone(None, identity=self._identity)
        self._owns_zone = zone is None
        self._table = AffinityTable(self._zone)
        self._writer = int.from_bytes(os.urandom(4), "little")
        self._binders: weakref.WeakKeyDictionary[AffinityView, Binder] = weakref.WeakKeyDictionary()
        self._views: weakref.WeakSet[AffinityView] = weakref.WeakSet()
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self._touches: dict[tuple[bytes, bytes], AffinityView] = {}
        self._learning: set[asyncio.Task[None]] = set()
        self._toucher: asyncio.Task[None] | None = None
        self._return_watch: asyncio.Task[None] | None = None
        self.statistics = AffinityStatistics()

    @property
    def zone(self) -> Zone:
        """The zone whose table this is."""
        return self._zone

    @property
    def table(self) -> AffinityTable:
        """The compiled table itself."""
        return self._table

    async def __aenter__(self) -> Affinity:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the background work; does not close the store or a zone that was handed in."""
        tasks = [task for task in (self._toucher, self._return_watch, *self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._toucher = self._return_watch = None
        if self._owns_zone:
            self._zone.close()

    # -- the protocol that Router uses ----------------------------------------------------------------------------------

    def attach(self, pool: Pool) -> AffinityView:
        """This pool's view of the near table."""
        view = AffinityView(
            pool,
            self._table,
            self.fleet,
            _hash_key(self._identity, self.fleet, pool.name),
            ttl_s=self.ttl_s,
            once_s=min(ONCE_S, self.ttl_s),
            near_ttl_s=max(self.near_ttl_s, 0.001) if self.store is not None else 0.0,
        )
        self._binders[view] = Binder(view, stored=self.store is not None, ttl_s=self.ttl_s, writer=self._writer)
        self._views.add(view)
        return view

    async def bind(self, view: AffinityView, key: bytes, hint: Hint | None = None) -> Bound:
        """The key's server; binds it if it is not bound. See Binder.bind."""
        fingerprint = view.fingerprint(key)
        while (flight := self._flights.get(fingerprint)) is not None:
            await asyncio.shield(flight)
            near = view.lookup(fingerprint)
            if near is not None and near != "busy" and near.slot >= 0 and view.pool.may_take_bound(near.slot):
                return Bound(near.slot, "affinity-near", near.term, near.generation, "near")
        bound = await self._fly(view, fingerprint, self._binders[view].bind(fingerprint, key, hint, self._minute()))
        if bound.kind != "near":
            self.statistics.claims[bound.kind if bound.kind != "down" else "unknown"] += 1
        if bound.renew_soon:
            self._queue_touch(view, fingerprint)
        return bound

    async def rebind(self, view: AffinityView, key: bytes, failed_slot: int, term: int, generation: int) -> Bound:
        """Another server for a key whose server failed. See Binder.rebind."""
        fingerprint = view.fingerprint(key)
        steps = self._binders[view].rebind(fingerprint, key, failed_slot, term, generation, self._minute())
        bound = await self._fly(view, fingerprint, steps)
        self.statistics.moves[bound.kind if bound.kind != "down" else "unknown"] += 1
        return bound

    async def unbind(self, view: AffinityView, key: bytes) -> None:
        """Forget the key, near and in the store (a record moved meanwhile is left alone)."""
        fingerprint = view.fingerprint(key)
        view.remove(fingerprint)
        if self.store is not None:
            name = store_key(self.fleet, view.pool.name, fingerprint)
            reply = await self.store.get(name)
            if reply.status is Status.HIT:
                await self.store.delete(name, reply.token)

    def touch_soon(self, view: AffinityView, key: bytes) -> None:
        """Give the record its full lifetime in the store, in the background; never waits."""
        self._queue_touch(view, view.fingerprint(key))

    def learn(self, view: AffinityView, key: bytes, slot: int) -> None:
        """Bind the key to the server whose answer named it, unless it is bound; in the background."""
        if len(self._learning) >= LEARNED_MAX:
            self.statistics.learned_dropped += 1
            return
        server = view.pool.server_at(slot)
        task = asyncio.get_running_loop().create_task(self._learn(view, key, server.name))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    # -- drivers --------------------------------------------------------------------------------------------------------

    def _minute(self) -> int:
        return int(self.clock.wall_s() // 60)

    async def _learn(self, view: AffinityView, key: bytes, server: str) -> None:
        from fastroute.affinity.record import new_term

        try:
            await self.bind(view, key, (server, new_term(), 1))
            self.statistics.learned += 1
        except Exception as error:  # a background errand: whoever asks for the key next gets the error himself
            _log.warning("a binding learned from a response could not be written: %s", error)

    async def _fly(self, view: AffinityView, fingerprint: bytes, steps: Generator[Command, Answer, Bound]) -> Bound:
        """Drive the steps; others that want the same key wait for the end of it."""
        flight: asyncio.Future[None] | None = None
        if fingerprint not in self._flights:
            flight = asyncio.get_running_loop().create_future()
            self._flights[fingerprint] = flight
        try:
            name = store_key(self.fleet, view.pool.name, fingerprint)
            answer: Answer | None = None
            while True:
                try:
                    command = steps.send(answer) if answer is not None else next(steps)
                except StopIteration as end:
                    bound: Bound = end.value
                    return bound
                answer = await self._ask(name, command)
        finally:
            if flight is not None:
                del self._flights[fingerprint]
                if not flight.done():
                    flight.set_result(None)

    async def _ask(self, name: bytes, command: Command) -> Answer:
        store = self.store
        assert store is not None, "commands are only yielded when there is a store"
        if isinstance(command, AddThenGet):
            _, reply = await store.add_then_get(name, command.record, command.ttl_s)
        elif isinstance(command, CasThenGet):
            _, reply = await store.cas_then_get(name, command.record, command.token, command.ttl_s)
        else:
            assert isinstance(command, Lookup)
            reply = await store.get(name, touch_s=command.ttl_s)
        if reply.status is Status.HIT:
            return Answer(Heard.RECORD, reply.value, reply.token)
        if reply.status is Status.MISS:
            return Answer(Heard.NOTHING)
        if reply.status is Status.DOWN:
            self._note_down()
            return Answer(Heard.DOWN)
        return Answer(Heard.UNKNOWN)

    # -- the store's absence and return -----------------------------------------------------------------------------------

    def _note_down(self) -> None:
        """No node is up: trust what is near until one is."""
        if (
            self.store is None
            or self.store.up_nodes
            or (self._return_watch is not None and not self._return_watch.done())
        ):
            return
        for view in self._views:
            view.trust_stale = True
        _log.warning("store: no node answers; bindings come from the zone, new keys get the deterministic answer")
        self._return_watch = asyncio.get_running_loop().create_task(self._watch_return())

    async def _watch_return(self) -> None:
        assert self.store is not None
        while not self.store.up_nodes:
            await asyncio.sleep(RETURN_CHECK_S)
        for view in self._views:
            view.trust_stale = False
        _log.warning("store: back; bindings are verified, and written again where it lost them, as their keys are seen")

    # -- touches --------------------------------------------------------------------------------------------------------

    def _queue_touch(self, view: AffinityView, fingerprint: bytes) -> None:
        if self.store is None:
            return
        name = store_key(self.fleet, view.pool.name, fingerprint)
        if (name, fingerprint) in self._touches:
            return
        if len(self._touches) >= TOUCHES_MAX:
            self._touches.pop(next(iter(self._touches)))
            self.statistics.touches_dropped += 1
        self._touches[name, fingerprint] = view
        if self._toucher is None or self._toucher.done():
            self._toucher = asyncio.get_running_loop().create_task(self._touch_all())

    async def _touch_all(self) -> None:
        """Empty the set of touches, many in flight at once over the one pipelined connection."""
        while self._touches:
            batch = [(*self._touches.popitem(),) for _ in range(min(len(self._touches), 128))]
            await asyncio.gather(*(self._touch(name, fingerprint, view) for (name, fingerprint), view in batch))

    async def _touch(self, name: bytes, fingerprint: bytes, view: AffinityView) -> None:
        from fastroute.affinity.record import Record

        binder = self._binders.get(view)
        if self.store is None or binder is None:
            return
        reply = await self.store.get(name, touch_s=binder.ttl_s)
        self.statistics.touches += 1
        record = Record.unpack(reply.value) if reply.status is Status.HIT else None
        if record is not None:
            binder.confirm(fingerprint, record)
