"""The cache of HTTP responses before one pool: who is answered from it, who fills it, and who waits meanwhile.

Theory of operation. The compiled relay answers a plain request for a near, fresh response by itself. Everything else
comes to `look`: what the near cache holds is judged at once, without a task; what has to be asked of the store gets
one. A request that must go to a server goes the usual way (selection, limits, retries), with a Fill that hears of its
response: the first client streams while the object is copied. Requests for a key that is being filled wait for the
copy: in this process for the Flight, in other ones for the store's lease. What turns out not to be storable is
remembered as such for a while, so that nobody waits for it a second time.

Not here: the rules (fastroute.http_cache), the store's steps (fastroute.cache.leased), what comes back from a server
(caching_fill.py), answers' forms (stored_answer.py).

Rules of this file:
  - Nobody waits longer than wait_s for another request; then it goes to a server by itself.
  - A Hold is put or released exactly once, whatever happens to the client that filled.
  - The store's absence fails no request: it costs fills, at most away_max at once per process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastroute._core.http_caching import Caching
from fastroute._core.http_fetch import Fetch
from fastroute._core.http_stored import Stored
from fastroute.cache.leased import Hold, LeasedCache
from fastroute.cache.near import MISS
from fastroute.clock import SYSTEM, Clock
from fastroute.config.schema import CacheConfig
from fastroute.errors import CacheError
from fastroute.http_cache import report
from fastroute.http_cache.fields import Fields
from fastroute.http_cache.invalidating import is_unsafe
from fastroute.http_cache.reuse import Reuse, conditional_for_server, decide, may_fail_to
from fastroute.http_cache.stored import EXTENSIONS, UNCACHEABLE, UNCACHEABLE_MS, Uncacheable, keep_ms, softened
from fastroute.http_cache.storing import Defaults
from fastroute.http_cache.variants import Variants, vary_names
from fastroute.proxy.caching_fill import COLLAPSED, ERROR, HIT, STALE, Fill, Note
from fastroute.proxy.caching_requests import LOST, Asked, Flight
from fastroute.proxy.stored_answer import answer_of, unconditional, validating

__all__ = ["ResponseCache", "namespace_of"]

PAUSE_S_MIN, PAUSE_S_MAX = 0.005, 0.05
"""Between two looks at a response that another process is asking the server about."""

VARIANTS_MS = 86_400_000
"""Life of a Variants at least: it outlives responses that it leads to, for further ones come after it."""

VARIANT_KEYS_MAX = 4096
"""Keys of variants that are remembered by the fields as they came: about half a kilobyte each."""

CHANGED_ON_THE_WAY = frozenset(("cookie", "host", "via", "forwarded", "x-real-ip", "connection", "te", "x-fastroute"))
"""Fields that servers get otherwise than clients send them."""

REFRESHES_MAX = 64
"""Background refreshes at once per process; beyond it the stale response is served and a later request refreshes it."""

TELLING_S = 1.0
"""What the store is being told when the cache is closed may take so long."""

TURNS_MAX = 16
"""Times that a request looks again because what it waited for was lost or changed."""

log = logging.getLogger("fastroute.cache.http")


def namespace_of(pool: str) -> str:
    """The shared cache's namespace for a pool's responses; two pools never share a response."""
    if len(pool) <= 59:
        return f"http:{pool}"
    import hashlib

    return f"http:{pool[:26]}{hashlib.blake2b(pool.encode(), digest_size=16).hexdigest()}"


class ResponseCache:
    """The cache before one pool.

    Args:
        store: the memcached nodes, open.
        config: of the cache.
        fleet, pool: whose responses.
        near_bytes: this pool's share of the near cache.
        secret: with which stored responses are authenticated, or None.
        words: where results are counted, in the order of CACHE_RESULTS.
        clock: for tests.
    """

    def __init__(
        self,
        store: Any,
        config: CacheConfig,
        *,
        fleet: str,
        pool: str,
        near_bytes: int,
        secret: Any = None,
        words: Any = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.pool = pool
        self._cache = LeasedCache(
            store,
            namespace=namespace_of(pool),
            near_bytes=near_bytes,
            near_ttl=config.near_ttl_s,
            copies=config.copies,
            lease=config.lease_s,
            fleet=fleet,
            secret=secret,
            extensions=EXTENSIONS,
            object_bytes_max=config.max_object_bytes + (64 << 10),
        )
        self.near_cache = self._cache.near_cache
        self.object_bytes_max = config.max_object_bytes
        self.defaults = Defaults(
            config.heuristic, config.stale_while_revalidate_s, config.stale_if_error_s, config.store_set_cookie
        )
        self._wait_s, self._keep_ms = config.wait_s, round(config.keep_s * 1000)
        self.down_ms = round(config.stale_if_down_s * 1000)
        self._words = words if words is not None else [0] * 7
        self._clock, self._system = clock, clock is SYSTEM
        self.variant_keys: dict[bytes, str] = {}
        self._flights: dict[str, Flight] = {}
        self._refreshing: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: set[asyncio.Task[Any]] = set()
        self._away = asyncio.Semaphore(config.origin_max)
        self._make_fetch: Callable[[bytes, Any], Fetch] | None = None

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """From now on the store's announcements are followed."""
        await self._cache.__aenter__()

    def fetches_with(self, make: Callable[[bytes, Any], Fetch]) -> None:
        """Who makes requests of the cache's own."""
        self._make_fetch = make

    async def aclose(self) -> None:
        """End what is under way; what the store is being told, such as that nobody fills a key any more, it still
        hears. It stays open.
        """
        if self._telling:
            await asyncio.wait(self._telling, timeout=TELLING_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cache.aclose()

    def wall_s(self) -> float:
        return time.time() if self._system else self._clock.wall_s()

    def count(self, result: int) -> None:
        self._words[result] += 1

    def statistics(self) -> Any:
        """Of the shared cache beneath."""
        return self._cache.statistics()

    # ------------------------------------------------------------------ requests

    def look(
        self,
        request: Caching,
        epoch: int,
        read_key: str | None,
        any_key: str | None,
        head: bytes,
        is_head: bool,
        asks: int,
    ) -> bool:
        """A request for which nothing fresh is near: True, and it hears go(), serve() or fail() now or later."""
        if read_key is None:
            method = head[: head.find(b" ")].decode("latin-1")
            unsafe = is_unsafe(method)
            why = "bypass" if method in ("GET", "HEAD") else "method"
            return request.go(epoch, head, Note(self, any_key, unsafe, report.forward(why)))
        asked = Asked(request, epoch, read_key, head, is_head, asks == 0)
        if asked.wants.no_store or (asks and conditional_for_server(asked.fields)):
            return request.go(epoch, head, Note(self, None, False, report.forward("request")))
        key, found = read_key, self._cache.near(read_key)
        soft_ms = 0
        if type(found) is Variants:
            soft_ms, key = found.soft_ms, found.key_of(read_key, asked.fields)
            found = self._cache.near(key)
        if type(found) is Stored:
            if self._use(asked, key, found, soft_ms):
                return True
        elif type(found) is Uncacheable:
            self._pass(asked, "miss", key)
            return True
        self._start(self._slow(asked))
        return True

    def learn_variant(self, variants: Variants, url_key: str, raw: bytes, fields: Fields) -> str | None:
        """The key of the response that these fields mean, remembered under `raw`; None where a request's fields are not
        those that servers get."""
        if not CHANGED_ON_THE_WAY.isdisjoint(variants.names) or any(
            name[:11] == "x-forwarded" for name in variants.names
        ):
            return None
        if len(self.variant_keys) >= VARIANT_KEYS_MAX:
            self.variant_keys.clear()
        found = self.variant_keys[raw] = variants.key_of(url_key, fields)
        return found

    def _use(self, asked: Asked, key: str, stored: Stored, soft_ms: int, result: int = HIT) -> bool:
        """Answer with a stored response if it may be used without asking a server."""
        now_ms = round(self.wall_s() * 1000)
        if stored.made_ms < soft_ms:
            stored = softened(stored, soft_ms)
        reuse = decide(stored, asked.wants, now_ms)
        if reuse is Reuse.VALIDATE:
            return False
        ttl_s = (stored.born_ms + stored.lifetime_ms - now_ms) // 1000
        detail = "" if reuse is Reuse.FRESH else "stale-while-revalidate" if reuse is Reuse.STALE else "max-stale"
        says = report.hit(ttl_s, detail) + "; collapsed" if asked.collapsed else report.hit(ttl_s, detail)
        answer = answer_of(stored, asked.fields, now_ms, says, is_head=asked.is_head)
        if reuse is Reuse.STALE:
            self._refresh_soon(asked, key, stored)
        if reuse is not Reuse.FRESH:
            result = STALE
        asked.request.serve(asked.epoch, *answer, COLLAPSED if asked.collapsed else result)
        return True

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # for one that is cancelled before its first step
        return task

    def _tell(self, work: Coroutine[Any, Any, Any]) -> None:
        """As _start, and not cut short by aclose."""
        task = self._start(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except CacheError:  # closed
            pass
        except Exception:
            log.exception("pool %s: the cache failed; this is a bug in fastroute, please report it", self.pool)

    async def _slow(self, asked: Asked) -> None:
        try:
            await self._find(asked)
        except CacheError:
            self._pass(asked, "bypass")
        except Exception:
            self._pass(asked, "bypass")
            raise

    async def _find(self, asked: Asked) -> None:
        """The way of a request that the near cache could not answer."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._wait_s
        key, soft_ms = asked.key, 0
        for _ in range(TURNS_MAX):
            if not asked.waits:
                return
            flight = self._flights.get(key)
            if flight is not None and not (asked.plain or (flight.is_told and not asked.wants.no_cache)):
                flight = None
            # What began before a deletion or purge is for those alone who came before it, too.
            if flight is not None and self._cache.is_current(key, flight.since):
                asked.collapsed = True
                result = await flight.wait(until_s)
                if result is LOST:
                    continue
                if type(result) is Variants:
                    soft_ms, key = result.soft_ms, result.key_of(asked.key, asked.fields)
                    continue
                if type(result) is Stored:
                    if not asked.waits or self._use(asked, key, result, soft_ms):
                        return
                    if flight.failed and may_fail_to(result, round(self.wall_s() * 1000), self.down_ms):
                        self._serve_stale(asked, result)
                        return
                    await self._validate(asked, key, result, None, until_s)
                    return
                if flight.away:
                    await self._fill_away(asked, key, None, "miss")
                else:
                    self._pass(asked, "miss", key)
                return
            flight = Flight(self._flights, key, self._cache.moment(key)) if asked.plain else None
            try:
                done = await self._lead(asked, key, flight, until_s, soft_ms)
            except BaseException:
                if flight is not None:
                    flight.end()
                raise
            if done is None:
                return
            if type(done) is Variants:
                soft_ms, key = done.soft_ms, done.key_of(asked.key, asked.fields)
        self._pass(asked, "miss")

    async def _lead(self, asked: Asked, key: str, flight: Flight | None, until_s: float, soft_ms: int) -> Any:
        """Ask the store; None when the request is on its way, Variants when another key is meant."""
        loop = asyncio.get_running_loop()
        found = await self._cache.find(key, wait_s=max(0.0, until_s - loop.time()), leased=flight is not None)
        value = found.value
        why = "uri-miss" if key == asked.key else "vary-miss"
        if type(value) is Variants:
            if flight is not None:
                flight.end(value)
            return value
        if type(value) is Stored:
            if self._use(asked, key, value, soft_ms):
                if flight is not None:
                    flight.end(value)
            else:
                await self._validate(asked, key, value, flight, until_s, away=found.away)
            return None
        if asked.wants.only_if_cached:
            if flight is not None:
                flight.end()
            self.give_back(found.hold)
            asked.request.fail(asked.epoch, 504)
            self.count(ERROR)
            return None
        if type(value) is Uncacheable or found.alone:
            if flight is not None:
                flight.end(UNCACHEABLE)
            self.give_back(found.hold)
            self._pass(asked, "miss", key)
            return None
        if found.away:
            await self._fill_away(asked, key, flight, why)
            return None
        # Nobody else's business (ranges, HEAD, conditional requests), or a value of no kind of ours.
        if found.hold is None:
            if flight is not None:
                flight.end()
            self._pass(asked, why, key)
            return None
        self._go(asked, asked.head, Fill(self, asked, key, hold=found.hold, flight=flight, why=why))
        return None

    def _go(self, asked: Asked, head: bytes, fill: Fill) -> None:
        try:
            if asked.request is not None and asked.request.go(asked.epoch, head, fill):
                return
        except BaseException:
            fill.lost()
            raise
        fill.lost()

    def _pass(self, asked: Asked, why: str, key: str = "") -> None:
        """To a server, together with nobody; stored on the way back if it may be."""
        if not asked.waits:
            return
        if asked.wants.only_if_cached:
            asked.request.fail(asked.epoch, 504)
            return
        hold = None
        if key and not asked.is_head:
            hold = self._cache.unleased(key, stored=True)
        self._go(asked, asked.head, Fill(self, asked, key, hold=hold, why=why))

    async def _place(self, asked: Asked, flight: Flight | None) -> bool:
        """Wait for one of the places while the store is away; False: there was none, and the request is answered."""
        if flight is not None:
            flight.away = True
        try:
            async with asyncio.timeout(self._wait_s):
                await self._away.acquire()
        except TimeoutError:
            if flight is not None:
                flight.end()
            asked.request.fail(asked.epoch, 503)
            self.count(ERROR)
            return False
        return True

    async def _fill_away(self, asked: Asked, key: str, flight: Flight | None, why: str) -> None:
        """The store is away: to a server, a limited number at once."""
        if await self._place(asked, flight):
            hold = self._cache.unleased(key)
            fill = Fill(self, asked, key, hold=hold, flight=flight, why=why, place=self._away.release)
            self._go(asked, asked.head, fill)

    # ------------------------------------------------------------------ asking the server about what is stored

    async def _validate(
        self, asked: Asked, key: str, stored: Stored, flight: Flight | None, until_s: float, *, away: bool = False
    ) -> None:
        """A stored response may not be used as it is: ask a server, one for all where that may serve all."""
        if asked.wants.only_if_cached:
            if flight is not None:
                flight.end()
            asked.request.fail(asked.epoch, 504)
            self.count(ERROR)
            return
        shared = flight is not None and stored.lifetime_ms > 0 and not stored.no_cache
        if flight is not None and not shared:
            flight.end(stored)
            flight = None
        hold, pause_s = None, PAUSE_S_MIN
        loop = asyncio.get_running_loop()
        while not away:
            found = await self._cache.lock(key, _same_as(stored))
            away, hold = found.away, found.hold
            if hold is not None or away or not shared or found.alone:
                break
            if type(found.value) is Stored:
                stored = found.value
                if self._use(asked, key, stored, 0, COLLAPSED):
                    assert flight is not None
                    flight.end(stored)
                    return
            if loop.time() >= until_s or not asked.waits:
                break
            asked.collapsed = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)
        place = None
        if away and hold is None:
            if not await self._place(asked, flight):
                return
            place, hold = self._away.release, self._cache.unleased(key)
        if not asked.waits:
            if place is not None:
                place()
            self.give_back(hold)
            if flight is not None:
                flight.end()
            return
        why = "request" if asked.wants.no_cache or asked.wants.max_age_s is not None else "stale"
        head = validating(asked.head, stored)
        fill = Fill(self, asked, key, hold=hold, flight=flight, stored=stored, why=why, place=place)
        self._go(asked, head, fill)

    def _serve_stale(self, asked: Asked, stored: Stored) -> None:
        now_ms = round(self.wall_s() * 1000)
        ttl_s = (stored.born_ms + stored.lifetime_ms - now_ms) // 1000
        says = report.hit(ttl_s, "stale-if-error") + "; collapsed"
        answer = answer_of(stored, asked.fields, now_ms, says, is_head=asked.is_head)
        asked.request.serve(asked.epoch, *answer, STALE)

    def _refresh_soon(self, asked: Asked, key: str, stored: Stored) -> None:
        """One request of the fleet asks the server about a response that is served stale."""
        if key in self._refreshing or len(self._refreshing) >= REFRESHES_MAX or self._make_fetch is None:
            return
        self._refreshing.add(key)
        self._start(self._refresh(asked, key, stored))

    async def _refresh(self, asked: Asked, key: str, stored: Stored) -> None:
        try:
            found = await self._cache.lock(key, _same_as(stored))
            if found.hold is None or self._make_fetch is None:
                return
            own = Asked(asked.request, asked.epoch, asked.key, unconditional(asked.head), False, True)
            fill = Fill(self, own, key, hold=found.hold, stored=stored, why="stale")
            done = asyncio.Event()
            try:
                fetch = self._make_fetch(validating(own.head, stored), fill)
                fetch.start(done.set)
            except BaseException:
                fill.lost()
                raise
            try:
                await done.wait()
            except asyncio.CancelledError:
                fetch.stop()
                raise
        finally:
            self._refreshing.discard(key)

    # ------------------------------------------------------------------ what fills ask for

    def store(self, fill: Fill, stored: Stored, tags: list[str]) -> None:
        """Store a complete response, and tell whoever waits."""
        hold, fill.hold = fill.hold, None
        assert hold is not None
        names = vary_names(stored.lowered)
        if names is None:
            if fill.flight is not None:
                fill.flight.end(UNCACHEABLE)
            self.give_back(hold)
            return
        self._tell(self._store(fill, hold, stored, tags, names))

    async def _store(self, fill: Fill, hold: Hold, stored: Stored, tags: list[str], names: tuple[str, ...]) -> None:
        asked, flight, cache = fill.asked, fill.flight, self._cache
        now_ms = round(self.wall_s() * 1000)
        ttl_ms = keep_ms(stored, now_ms, self._keep_ms, self.down_ms)
        began_ms = round(fill.began_s * 1000)
        variant_flight = None
        try:
            before = cache.near(asked.key) if fill.key != asked.key else None
            known = type(before) is Variants and before.names == names
            if names and fill.key != asked.key and (known or before is MISS):
                # A variant behind a Variants that says the same: its own key.
                if flight is not None:
                    flight.tell(stored)
                await cache.put(hold, stored, ttl_ms, tags, made_ms=began_ms)
            elif names:
                variants = Variants(names, stored.number)
                key = variants.key_of(asked.key, asked.fields)
                if flight is not None and fill.key == asked.key and key not in self._flights:
                    variant_flight = Flight(self._flights, key, flight.since)
                    variant_flight.tell(stored)
                    flight.tell(variants)
                own = cache.unleased(key, stored=hold.lease is not None or hold.anything, since=hold)
                await cache.put(own, stored, ttl_ms, tags, made_ms=began_ms)
                if fill.key == asked.key:
                    await cache.put(hold, variants, max(ttl_ms, VARIANTS_MS))
                else:
                    await cache.release(hold)
                    own = cache.unleased(asked.key, stored=True, since=hold)
                    await cache.put(own, variants, max(ttl_ms, VARIANTS_MS))
                if flight is not None:
                    flight.tell(variants if fill.key == asked.key else LOST)
            else:
                if flight is not None:
                    flight.tell(stored)
                if fill.key == asked.key:
                    await cache.put(hold, stored, ttl_ms, tags, made_ms=began_ms)
                else:  # it does not vary any more
                    await cache.release(hold)
                    own = cache.unleased(asked.key, stored=True, since=hold)
                    await cache.put(own, stored, ttl_ms, tags, made_ms=began_ms)
        except CacheError:
            pass
        finally:
            if variant_flight is not None:
                variant_flight.end()
            if flight is not None:
                flight.end(LOST)

    def mark_uncacheable(self, hold: Hold, flight: Flight | None) -> None:
        """Nobody waits for this key for a while."""
        if flight is not None:
            flight.tell(UNCACHEABLE)
        self._tell(self._mark(hold, flight))

    async def _mark(self, hold: Hold, flight: Flight | None) -> None:
        try:
            await self._cache.put(hold, UNCACHEABLE, UNCACHEABLE_MS)
        finally:
            if flight is not None:
                flight.end(UNCACHEABLE)

    def give_back(self, hold: Hold | None) -> None:
        """A hold that is not used."""
        if hold is not None and (hold.lease is not None or hold.renewal is not None):
            self._tell(self._cache.release(hold))

    def forget(self, key: str) -> None:
        """A key is unusable from now on, for all replicas: the nodes are told before the client is."""
        with contextlib.suppress(CacheError):  # closed
            self._tell(self._cache.deleting(key))

    def forget_tags(self, tags: list[str]) -> None:
        """So is everything with one of these tags."""
        with contextlib.suppress(CacheError):  # closed
            self._tell(self._cache.purging_tags(tags))


def _same_as(stored: Stored) -> Callable[[Any], bool]:
    return lambda value: type(value) is Stored and value.number == stored.number
