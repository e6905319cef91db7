"""Affinity and Router for threads: the same steps as the asyncio ones, driven over fastroute.memcache.sync.

The router's and the affinity's coroutines are the same lines as on an event loop; here nothing in them ever suspends,
because `_ask` blocks, so one `send` runs each to its end. What takes one round trip there takes two here (`add`, then
`gets`): pymemcache speaks the classic commands. The rules are the same: what the read answers is the binding, and a
compare-and-set token is good only on the run of the server that gave it; while no node can be reached, near entries are
trusted however old they are, and one thread looks for the store's return.

Notes: `route_nowait` and the control plane hold the GIL; several threads may share a Router and an Affinity.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastroute._core.affinity_view import AffinityView, Binding
from fastroute._core.pool import Pool
from fastroute._core.router import Router as CompiledRouter
from fastroute._core.selection import Selection
from fastroute._core.zone import Zone
from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Command, ExpireThenGet, Heard, Kind
from fastroute.affinity.base import AffinityBase
from fastroute.affinity.binding import Bound, Hint
from fastroute.affinity.copies import touch
from fastroute.affinity.look import answer_of
from fastroute.affinity.record import new_term
from fastroute.affinity.turns import turn
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import FastrouteError, MemcacheDown, MemcacheError
from fastroute.memcache.client import HIT, MISS
from fastroute.memcache.sync import Home, Memcached
from fastroute.routing.explain import Explanation, StoreAnswer
from fastroute.routing.keys import KeyRule

__all__ = ["Affinity", "Router"]

T = TypeVar("T")

RETURN_CHECK_S = 0.25
"""How often the return of a store that is away is looked for; as on an event loop."""

_log = logging.getLogger("fastroute.affinity")


def _finish(steps: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    steps.close()
    raise AssertionError("a blocking step suspended")


class Affinity(AffinityBase):
    """Remembers which server a key belongs to; see fastroute.Affinity for the arguments, of which this has all.

    Args:
        store: fastroute.sync.Memcached, or None: the zone alone is the agreement.
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
        self._watching = threading.Lock()
        self._return_watch: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Affinity:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of a private zone; a store or zone that was handed in stays open."""
        self._ended.set()
        watch = self._return_watch  # the thread takes itself out of there when it ends
        if watch is not None and watch.is_alive():
            watch.join()  # at most the store's limit for making a connection, per node
        self._close_zone()

    async def bind(self, view: AffinityView, key: bytes, hint: Hint | None = None) -> Bound:
        """The key's server; binds it if it is not bound. See Binder.bind."""
        if self.store is None:
            return await super().bind(view, key, hint)
        fingerprint = view.fingerprint(key)
        waiting = turn(view, fingerprint, self.store.timeout_s)
        try:
            while True:
                time.sleep(next(waiting))  # noqa: ASYNC251  nothing here suspends: this is a thread's own step
        except StopIteration as end:
            mine: Binding | bool = end.value
        if isinstance(mine, Binding):  # another thread or process of the zone has asked meanwhile
            return Bound(mine.slot, "affinity-near", mine.term, mine.generation, "near")
        try:
            return await super().bind(view, key, hint)
        finally:
            if mine:
                view.end_question(fingerprint)

    def _homes(self, name: bytes) -> Sequence[Home]:
        return self.store.homes_of(name) if self.store is not None else ()

    async def _ask(self, node: Home, name: bytes, command: Command) -> Answer:
        slide_s = None
        try:
            if isinstance(command, AddThenGet):
                node.add(name, command.record, command.ttl_s)
                slide_s = command.ttl_s if command.slide else None
            elif isinstance(command, CasThenGet):
                node.cas_set(name, command.record, command.token, command.ttl_s)
            elif isinstance(command, ExpireThenGet):
                node.delete(name, command.token)
            else:
                slide_s = command.ttl_s
            reply = node.get(name, slide_s)
        except MemcacheDown:
            self._note_down()
            return Answer(Heard.DOWN)
        except MemcacheError:
            return Answer(Heard.UNKNOWN)
        if reply.status == HIT:
            return Answer(Heard.RECORD, reply.value, reply.token)
        return Answer(Heard.NOTHING if reply.status == MISS else Heard.UNKNOWN)

    def _note_down(self) -> None:
        """No node can be reached: trust what is near until one can; a thread looks for that, no request does."""
        if self.store is None or self.store.up_nodes:
            return
        with self._watching:
            for view in self._binders:
                view.trust_stale = True
            if self._return_watch is not None and self._return_watch.is_alive():
                return
            _log.warning("store: no node answers; bindings come from the zone, new keys get the deterministic answer")
            self._return_watch = threading.Thread(target=self._watch_return, name="fastroute-store-return", daemon=True)
            self._return_watch.start()

    def _watch_return(self) -> None:
        assert self.store is not None
        try:
            while not self._ended.wait(RETURN_CHECK_S):
                if any(self.store.noop().values()):
                    _log.warning("store: back; bindings are verified, and written again where it lost them")
                    break
        finally:  # whatever ended it: nothing is trusted without somebody who looks
            with self._watching:
                self._return_watch = None  # who notes the next absence starts another one
                for view in self._binders:
                    view.trust_stale = False

    def _renew_soon(self, view: AffinityView, fingerprint: bytes) -> None:
        if self.store is None:
            return
        binder, name = self._binders[view], self._name(view, fingerprint)
        homes = self._homes(name)
        decision = _finish(self._drive(name, homes, touch(binder.ttl_s, homes=len(homes))))
        self.statistics.touches += 1
        if decision.record is not None:
            binder.confirm(fingerprint, decision.record)
        elif decision.kind is Kind.ABSENT:  # the next request asks, and restores it
            view.doubt(fingerprint)
        else:
            view.want_touch(fingerprint)

    def touch_soon(self, view: AffinityView, key: bytes) -> None:
        """Give the record its full lifetime in the store: one round trip, by one process of the zone per ttl/4."""
        fingerprint = view.fingerprint(key)
        if view.take_touch(fingerprint):
            self._renew_soon(view, fingerprint)

    def learn(self, view: AffinityView, key: bytes, slot: int, term: int = 0) -> None:
        """Bind the key to the server whose answer named it; one that is bound to another server moves there.

        Args:
            view, key, slot: which pool's key belongs to which of its servers.
            term: of the binding if it is a new one; 0 draws one.
        """
        hint = (view.pool.server_at(slot).name, term or new_term(int(self.clock.wall_s())), 1)
        try:
            _finish(self.learn_now(view, key, hint))
        except FastrouteError as error:  # whoever asks for the key next gets the error himself
            _log.warning("a binding learned from a response could not be written: %s", error)

    def forget(self, view: AffinityView, key: bytes) -> None:
        """End the key's binding: its server's answer took the key back."""
        try:
            _finish(self.unbind(view, key))
            self.statistics.forgotten += 1
        except FastrouteError as error:  # it lives on until it expires
            _log.warning("a binding whose key was taken back could not be removed: %s", error)

    async def look(self, view: AffinityView, key: bytes, timeout_s: float) -> StoreAnswer | None:
        """What the store says of the key, for explanations; waits for the store's own time limit."""
        if self.store is None:
            return None
        name = self._name(view, view.fingerprint(key))
        for home in self._homes(name):
            try:
                reply = home.get(name, None)
            except MemcacheDown:
                continue
            except MemcacheError:
                return StoreAnswer("unknown")
            return answer_of(reply.status, reply.value, view.pool)
        return StoreAnswer("down")


class Router:
    """Routes requests of one pool, blocking; see fastroute.Router for the arguments and what each method does."""

    def __init__(
        self,
        pool: Pool,
        *,
        affinity: Affinity | None = None,
        key: str | Sequence[str] | KeyRule = "client-ip",
        on_failure: str = "move",
    ) -> None:
        self._router = CompiledRouter(pool, affinity=affinity, key=key, on_failure=on_failure)
        self.pool, self.affinity = pool, affinity
        self.route_nowait = self._router.route_nowait

    def key_of(self, head_or_mapping: Mapping[str, str | bytes]) -> bytes | None:
        """The affinity key of a request, or None."""
        return self._router.key_of(head_or_mapping)

    def route(self, key: str | bytes | None, hint: tuple[str, int, int] | None = None) -> Selection:
        """The key's server: near, from the store, or newly bound; blocks for the store's round trips."""
        return _finish(self._router.route(key, hint))

    def move(self, selection: Selection, evidence: object) -> Selection:
        """Another server for a selection whose server failed."""
        return _finish(self._router.move(selection, evidence))

    def learn(self, key: str | bytes, slot: int, term: int = 0) -> None:
        """An answer of the server in `slot` named this key: it is bound there."""
        self._router.learn(key, slot, term)

    def forget(self, key: str | bytes) -> None:
        """An answer took this key back: its binding ends."""
        self._router.forget(key)

    def explain(self, key: str | bytes | None) -> Explanation:
        """What a request with this key would get, and why; asks nobody."""
        return self._router.explain(key)

    def explain_stored(self, key: str | bytes | None) -> Explanation:
        """explain(), with what the store says of the key."""
        return _finish(self._router.explain_stored(key))

    def release(self, key: str | bytes) -> str:
        """End the key's binding everywhere; see fastroute.Router.release."""
        return _finish(self._router.release(key))
