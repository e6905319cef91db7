"""`Affinity`: the affinity table as the router sees it, driven over asyncio; decisions are in binding and agreement.

Rules of this file:
  * One step machine per key at a time in this process (single flight); whoever comes meanwhile waits for its outcome.
  * Touches and learned bindings never make a request wait: they go to bounded sets that one task empties.
  * While no node of the store is up, near entries are trusted however old they are (trust_stale), so that no request
    takes the slow path for a store that is known to be away; a task looks for its return a few times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from fastroute._core.affinity_view import AffinityView, Binding
from fastroute._core.pool import Pool
from fastroute._core.zone import Zone
from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Command, ExpireThenGet, Heard, Kind, Lookup
from fastroute.affinity.base import AffinityBase
from fastroute.affinity.binding import Binder, Bound, Hint
from fastroute.affinity.copies import touch
from fastroute.affinity.look import look
from fastroute.affinity.push import PushChannel, join, leave, store_digest
from fastroute.affinity.record import new_term
from fastroute.affinity.turns import turn
from fastroute.clock import SYSTEM, Clock
from fastroute.memcache.client import DOWN, HIT, MISS, STORED

if TYPE_CHECKING:
    from fastroute.memcache.client import MemcacheNode
    from fastroute.memcache.cluster import Memcached
    from fastroute.routing.explain import StoreAnswer

__all__ = ["Affinity"]

TOUCHES_MAX = 65_536
"""Keys waiting for a touch; beyond it the oldest is dropped: its record lives on by the next near lookup's touch."""

TOUCHES_AT_ONCE = 128
"""Touches in flight together over the one pipelined connection."""

LEARNED_MAX = 4_096
"""Bindings learned from responses that are being written; beyond it a new one is dropped and counted."""

RETURN_CHECK_S = 0.25
"""How often the return of a store that is away is looked for."""

_log = logging.getLogger("fastroute.affinity")


class Affinity(AffinityBase):
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
        max_lifetime: absolute lifetime of a binding, after which its key is bound afresh; 0: none.
        listens: may this process run the machine's push channel? False for one whose store does not watch while
            those of others do: it would keep the channel from them.

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
        max_lifetime: float | str = 0,
        listens: bool = True,
    ) -> None:
        super().__init__(
            stored=store is not None,
            ttl=ttl,
            identity_secret=identity_secret,
            cookie_secrets=cookie_secrets,
            fleet=fleet,
            zone=zone,
            near_ttl=near_ttl,
            clock=clock,
            max_lifetime=max_lifetime,
        )
        self.store = store
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self._touches: dict[bytes, tuple[AffinityView, bytes]] = {}
        self._learning: set[asyncio.Task[None]] = set()
        self._toucher: asyncio.Task[None] | None = None
        self._return_watch: asyncio.Task[None] | None = None
        self._push: PushChannel | None = None
        self._listens = listens
        self._closed = False

    async def __aenter__(self) -> Affinity:
        self._closed = False
        self._join()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the background work; does not close the store or a zone that was handed in."""
        self._closed = True
        tasks = [task for task in (self._toucher, self._return_watch, *self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._toucher = self._return_watch = None
        while self._touches:  # taken on for the whole machine and not sent: another process is to
            view, fingerprint = self._touches.popitem()[1]
            view.want_touch(fingerprint)
        if self._push is not None and self.store is not None:
            await leave(self, self.store, self._push)
            self._push = None
        self._close_zone()

    async def retire(self) -> None:
        """This process is about to end: another one of the machine is to run the push channel. Bindings work on."""
        if self._push is not None:
            await self._push.aclose()

    def _join(self) -> None:
        """Take part in the push channel of the zone."""
        if self._push is None and not self._closed and self.store is not None and store_digest(self.store):
            self._push = join(self, self.store)
            self.statistics.push, self.statistics.mode_of = self._push.statistics, self._push.mode
            if self._listens:
                self._push.start()

    # -- the protocol that Router uses ---------------------------------------------------------------------------------

    def attach(self, pool: Pool, *, on_failure: str = "move") -> AffinityView:
        """This pool's view of the near table."""
        view = super().attach(pool, on_failure=on_failure)
        if self.store is not None:
            view.watch(store_digest(self.store))
        return view

    async def bind(self, view: AffinityView, key: bytes, hint: Hint | None = None) -> Bound:
        """The key's server; binds it if it is not bound. See Binder.bind."""
        if self._push is None:
            self._join()
        fingerprint = view.fingerprint(key)
        while (flight := self._flights.get(fingerprint)) is not None:
            await asyncio.shield(flight)
            near = view.near_binding(fingerprint)
            if near is not None:
                return _near(near)
        flight = self._take_off(fingerprint)
        try:
            if self.store is None:
                return await super().bind(view, key, hint)
            return await self._bind_in_turn(view, key, fingerprint, hint, self.store.timeout_s)
        finally:
            self._land(fingerprint, flight)

    async def _bind_in_turn(
        self, view: AffinityView, key: bytes, fingerprint: bytes, hint: Hint | None, timeout_s: float
    ) -> Bound:
        """Ask the store, unless another process of the zone does so just now and its answer comes."""
        waiting = turn(view, fingerprint, timeout_s)
        try:
            while True:  # noqa: ASYNC110  the zone's record is another process's: nobody announces it here
                await asyncio.sleep(next(waiting))
        except StopIteration as end:
            mine: Binding | bool = end.value
        if isinstance(mine, Binding):
            return _near(mine)
        try:
            return await super().bind(view, key, hint)
        finally:
            if mine:
                view.end_question(fingerprint)

    def _take_off(self, fingerprint: bytes) -> asyncio.Future[None]:
        """Claim the key's single flight, which nobody has."""
        flight = self._flights[fingerprint] = asyncio.get_running_loop().create_future()
        return flight

    def _land(self, fingerprint: bytes, flight: asyncio.Future[None]) -> None:
        del self._flights[fingerprint]
        flight.set_result(None)

    async def unbind(self, view: AffinityView, key: bytes) -> str:
        """Forget the key, near and in the store. See AffinityBase.unbind."""
        fingerprint = view.fingerprint(key)
        while (flying := self._flights.get(fingerprint)) is not None:  # it would write again what is removed here
            await asyncio.shield(flying)
        flight = self._take_off(fingerprint)
        try:
            return await super().unbind(view, key)
        finally:
            self._land(fingerprint, flight)

    async def look(self, view: AffinityView, key: bytes, timeout_s: float) -> StoreAnswer | None:
        """What the store says of the key, for explanations; see fastroute.affinity.look."""
        return await look(self.store, self._name(view, view.fingerprint(key)), view.pool, timeout_s)

    def touch_soon(self, view: AffinityView, key: bytes) -> None:
        """Give the record its full lifetime in the store, in the background; never waits."""
        fingerprint = view.fingerprint(key)
        if view.take_touch(fingerprint):  # one process of the zone does, once per ttl/4
            self._renew_soon(view, fingerprint)

    def learn(self, view: AffinityView, key: bytes, slot: int, term: int = 0) -> None:
        """Bind the key to the server whose answer named it; in the background.

        One that is bound to another server moves there, since the session is there now.

        Args:
            view, key, slot: which pool's key belongs to which of its servers.
            term: of the binding if it is a new one; 0 draws one.
        """
        if len(self._learning) >= LEARNED_MAX:
            self.statistics.learned_dropped += 1
            return
        fingerprint = view.fingerprint(key)
        if fingerprint in self._flights:  # somebody is binding it right now: the first writer wins
            return
        hint = (view.pool.server_at(slot).name, term or new_term(int(self.clock.wall_s())), 1)
        flight = self._take_off(fingerprint)  # now: a request that comes before the task starts waits for it
        task = asyncio.get_running_loop().create_task(self._learn(view, key, hint))
        self._learning.add(task)

        def ended(task: asyncio.Task[None]) -> None:  # also of a task that was cancelled before it started
            self._learning.discard(task)
            self._land(fingerprint, flight)

        task.add_done_callback(ended)

    def forget(self, view: AffinityView, key: bytes) -> None:
        """End the key's binding: its server's answer took the key back; in the background."""
        if len(self._learning) >= LEARNED_MAX:
            self.statistics.learned_dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._forget(view, key))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    # -- drivers -------------------------------------------------------------------------------------------------------

    async def _forget(self, view: AffinityView, key: bytes) -> None:
        try:
            await self.unbind(view, key)
            self.statistics.forgotten += 1
        except Exception as error:  # it lives on until it expires
            _log.warning("a binding whose key was taken back could not be removed: %s", error)

    async def _learn(self, view: AffinityView, key: bytes, hint: Hint) -> None:
        try:
            await self.learn_now(view, key, hint)
        except Exception as error:  # a background errand: whoever asks for the key next gets the error himself
            _log.warning("a binding learned from a response could not be written: %s", error)

    def _homes(self, name: bytes) -> Sequence[MemcacheNode]:
        return self.store.homes_of(name) if self.store is not None else ()

    async def _ask(self, node: MemcacheNode, name: bytes, command: Command) -> Answer:
        if isinstance(command, AddThenGet):
            slide_s = command.ttl_s if command.slide else None
            wrote, reply = await node.add_then_get(name, command.record, command.ttl_s, touch_s=slide_s)
        elif isinstance(command, CasThenGet):
            wrote, reply = await node.cas_then_get(name, command.record, command.token, command.ttl_s)
        elif isinstance(command, ExpireThenGet):
            wrote, reply = await asyncio.gather(node.expire_key(name, command.token), node.get(name))  # one write
        else:
            assert isinstance(command, Lookup)
            wrote = reply = await node.get(name, touch_s=command.ttl_s)
        written = int(wrote.status == STORED)
        if reply.status == HIT:
            return Answer(Heard.RECORD, reply.value, reply.token, written, reply.ttl_s)
        if reply.status == MISS:
            return Answer(Heard.NOTHING, written=written)
        if reply.status == DOWN:
            self._note_down()
            return Answer(Heard.DOWN, written=written)
        return Answer(Heard.UNKNOWN, written=written)

    # -- the store's absence and return --------------------------------------------------------------------------------

    def _note_down(self) -> None:
        """No node is up: trust what is near until one is."""
        if self.store is None or self.store.up_nodes:
            return
        for view in self._binders:
            view.trust_stale = True
        if self._return_watch is not None and not self._return_watch.done():
            return
        _log.warning("store: no node answers; bindings come from the zone, new keys get the deterministic answer")
        self._return_watch = asyncio.get_running_loop().create_task(self._watch_return())

    async def _watch_return(self) -> None:
        assert self.store is not None
        while not self.store.up_nodes:  # noqa: ASYNC110  nobody announces the first request that a node answers
            await asyncio.sleep(RETURN_CHECK_S)
        for view in self._binders:
            view.trust_stale = False
        _log.warning("store: back; bindings are verified, and written again where it lost them, as their keys are seen")

    # -- touches -------------------------------------------------------------------------------------------------------

    def _renew_soon(self, view: AffinityView, fingerprint: bytes) -> None:
        if self.store is None:
            return
        name = self._name(view, fingerprint)
        if name not in self._touches and len(self._touches) >= TOUCHES_MAX:
            dropped, dropped_fingerprint = self._touches.pop(next(iter(self._touches)))
            dropped.want_touch(dropped_fingerprint)
            self.statistics.touches_dropped += 1
        self._touches[name] = (view, fingerprint)
        if self._toucher is None or self._toucher.done():
            self._toucher = asyncio.get_running_loop().create_task(self._touch_all())

    async def _touch_all(self) -> None:
        """Empty the set of touches, many in flight at once over the one pipelined connection."""
        while self._touches:
            batch = [self._touches.popitem() for _ in range(min(len(self._touches), TOUCHES_AT_ONCE))]
            try:
                await asyncio.gather(*(self._touch(name, view, fingerprint) for name, (view, fingerprint) in batch))
            except (
                BaseException
            ):  # cancelled, most likely: which of them were sent is not known, and one too many is no harm
                for _, (view, fingerprint) in batch:
                    view.want_touch(fingerprint)
                raise

    async def _touch(self, name: bytes, view: AffinityView, fingerprint: bytes) -> None:
        if self.store is None:
            return
        homes = self._homes(name)
        steps = _touch(self._binders[view], fingerprint, len(homes))
        kind = await self._drive(name, homes, steps, view)
        self.statistics.touches += 1
        if kind is Kind.ABSENT:  # the next request asks, and restores it
            view.doubt(fingerprint)
        elif kind in (Kind.UNKNOWN, Kind.DOWN):
            view.want_touch(fingerprint)


def _near(near: Binding) -> Bound:
    """What another task or process has just found out."""
    return Bound(near.slot, "affinity-near", near.term, near.generation, "near")


def _touch(binder: Binder, fingerprint: bytes, homes: int) -> Generator[Command, Answer, Kind]:
    """Touch the record on all its homes, and take over near what stands."""
    decision = yield from touch(binder.ttl_s, homes=homes)
    if decision.record is not None:
        binder.confirm(fingerprint, decision.record)
    return decision.kind
