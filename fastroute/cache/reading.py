"""Reading the shared cache, without I/O: the steps that core.py and writing.py are made of, and what a key holds.

A reading is right when the value is this key's, whole, authentic, young enough, and of the generations that the store
has now (generations.py). Everything else has a reason, and is a miss.

Rules: as core.py's.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from fastroute._core.cache_head import plain_fresh_left_ms
from fastroute._core.mc_reply import HIT, STORED
from fastroute._core.mc_reply import MISS as ABSENT
from fastroute.cache.codec import HEAD_BYTES, Manifest, Tag
from fastroute.cache.generations import GENERATION_TTL_S, Held, new_generation, read_generation
from fastroute.cache.lease import Lease, Outcome, Pause, Seen, judge
from fastroute.cache.placement import Placement
from fastroute.cache.tiers import MISS, Name, Tiers
from fastroute.cache.values import Unreadable

__all__ = ["Ask", "Compute", "Gather", "Pause", "Reading", "Refresh", "Steps", "Version", "Versioned"]


class Ask(NamedTuple):
    """Step: one request to the store; send its reply back."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    home: Any = None
    """With the reading that may win a lease: where to give it back."""


class Gather(NamedTuple):
    """Step: several requests at once; send the list of their replies back."""

    asks: Sequence[Ask]


class Compute(NamedTuple):
    """Step: call `compute` while `lease` is renewed; send (value, milliseconds) back, or throw what it raised.

    Without a lease the store is away: then first wait for one of the places, and look near once more; what is there by
    then is sent back with -1 milliseconds.
    """

    compute: Callable[[], Any]
    lease: Lease | None
    near_key: str | bytes = ""


class Refresh(NamedTuple):
    """Step: run these steps apart, or now; send back what they return, MISS when nobody waited for it."""

    near_key: str | bytes
    steps: Generator[Any, Any, Any]


Steps = Generator[Any, Any, Any]


class Version(NamedTuple):
    """What a value was when it was read; `cas` replaces exactly that. Bound to the connection that read it."""

    digest: bytes
    home: Any
    token: Any


class Versioned(NamedTuple):
    """A value and its version; the version is None when the store did not answer."""

    value: Any
    version: Version | None


class Reading(Tiers):
    """The steps of get, get_many and get_version; arguments as SharedCache's."""

    _placement: Placement
    """Given by the driver, before the first step."""

    def _homes(self, store_key: str) -> Sequence[Any]:
        return self._placement.homes(store_key)

    def _home(self, store_key: str) -> Any:
        """The first of its nodes that can be asked."""
        placement = self._placement
        if placement.only is not None:
            return placement.only
        homes = placement.homes(store_key)
        if len(homes) > 1:
            for home in homes:
                if home.up:
                    return home
        return homes[0]

    # ------------------------------------------------------------------ reading

    def _glance(self, name: Name, reply: Any, ticket: int, held: Held) -> Any:
        """The value of a reply that is plain and fresh, kept near and counted; MISS for anything else."""
        data = reply.value
        if not self._plain:
            return MISS
        left = plain_fresh_left_ms(data, name.digest, held.value, -1 if self._system else self._wall_ms())
        if left is None:
            return MISS
        try:
            value = self._unpack(data[HEAD_BYTES:])
        except (Unreadable, MemoryError):
            return MISS
        counters = self._counters
        counters.hits_far += 1
        counters.bytes_read += len(data) - HEAD_BYTES
        if self._near_bytes:
            fresh_ms, stale_ms = left
            self._keep_for(name.near, ticket, value, fresh_ms, fresh_ms + stale_ms, (), 0, held.until_s)
        return value

    def _held(self, home: Any) -> Held | None:
        """The namespace's generation on a node, where it is not due to be asked for again."""
        held = self._generations.nodes.get(home)
        if held is None:
            return None
        return held if (time.monotonic() if self._system else self._clock.monotonic_s()) < held.due_s else None

    def _read(self, name: Name, leased: bool, home: Any = None, reply: Any = None) -> Steps:
        """Read and judge a key: Seen. With `reply` it was read already, at a home whose generation is held."""
        if home is None:
            home = self._home(name.store)
        ask = Ask(home.get_or_lease, (name.store, self.lease_s), home) if leased else Ask(home.get, (name.store,))
        generations = self._generations
        held = generations.of_node(home)
        if reply is None and held is not None and self._now_s() < held.due_s:
            reply = yield ask
        elif reply is None:
            held, reply = yield from self._read_generation(home, ask)
            if held is None:
                return Seen(Outcome.AWAY, home=home)
        elif held is None:  # forgotten meanwhile; the key is not asked for again: a lease is not won twice
            with Lease(home, name.store, reply.token) if reply.won else contextlib.nullcontext():
                generation = yield from self._known_generation(home)
                held = generations.of_node(home)
                if generation is None or held is None:
                    if reply.won:
                        yield Ask(home.delete, (name.store, reply.token))
                    return Seen(Outcome.AWAY, home=home)
        seen = judge(reply, self._codec, name.digest, self._wall_ms(), held.value, home, held.until_s)
        entry = seen.entry
        if entry is not None and (entry.tags or type(entry.value) is Manifest):
            seen = yield from self._verify(name, seen)
        return seen

    def _read_generation(self, home: Any, ask: Ask) -> Steps:
        """Ask for the namespace's generation too: (Held or None, reply)."""
        pair, reply = yield Gather((self._ask_generation(home, self._generations.namespace_key), ask))
        value = self._number(pair, self._generations.namespace_key)
        if value is None:
            if reply.won:
                yield Ask(home.delete, (ask.args[0], reply.token))
            return None, reply
        if self._generations.learn_node(home, value, self._now_s()):
            self._near.clear()
        return self._generations.of_node(home), reply

    def _number(self, pair: Any, key: str) -> int | None:
        """The generation that add_then_get found or made."""
        if self._push is not None and pair[0].status == STORED:
            self._push.expect(key)
        return read_generation(pair[1].value) if pair[1].status == HIT else None

    def _ask_generation(self, home: Any, key: str) -> Ask:
        return Ask(home.add_then_get, (key, new_generation(), GENERATION_TTL_S, 0, GENERATION_TTL_S))

    def _verify(self, name: Name, seen: Seen) -> Steps:
        """Compare tags and fetch parts: Seen."""
        entry = seen.entry
        assert entry is not None
        generations, now_s, until_s = self._generations, self._now_s(), seen.until_s
        held = {tag.digest: generations.of_tag(tag.digest) for tag in entry.tags}
        asked = [digest for digest, known in held.items() if known is None or now_s >= known.due_s]
        if asked:
            asks = []
            for digest in asked:
                key = generations.key(digest)
                asks.append(Ask(self._home(key).get, (key,)))
            replies = yield Gather(asks)
            for digest, reply in zip(asked, replies, strict=True):
                if reply.status not in (HIT, ABSENT):
                    return Seen(Outcome.AWAY, home=seen.home)
                value = read_generation(reply.value) if reply.status == HIT else None
                held[digest] = None if value is None else generations.learn_tag(digest, value, self._now_s())
                if value is None:
                    generations.purged(digest)
        for tag in entry.tags:
            known = held[tag.digest]
            if known is None or known.value != tag.generation:
                return Seen(Outcome.UNUSABLE, None, "purged", seen.token, seen.home)
            until_s = min(until_s, known.until_s)
        manifest = entry.value
        if type(manifest) is Manifest:
            replies = yield Gather([Ask(self._home(key).get, (key,)) for key in self._part_keys(name, manifest)])
            if any(reply.status not in (HIT, ABSENT) for reply in replies):
                return Seen(Outcome.AWAY, home=seen.home)
            if any(reply.status != HIT for reply in replies):
                return Seen(Outcome.UNUSABLE, None, "part", seen.token, seen.home)
            value, reason = self._codec.join(manifest, [reply.value for reply in replies])
            if reason:
                return Seen(Outcome.UNUSABLE, None, reason, seen.token, seen.home)
            entry = entry._replace(value=value, size_bytes=entry.size_bytes + manifest.size_bytes)
        return seen._replace(entry=entry, until_s=until_s)

    @staticmethod
    def _part_keys(name: Name, manifest: Any) -> list[str]:
        fill = base64.urlsafe_b64encode(manifest.fill.to_bytes(8, "little"))[:11].decode()
        return [f"{name.store}:{fill}:{number}" for number in range(manifest.parts)]

    def _use(self, name: Name, seen: Seen, ticket: int, stamp: int) -> Any:
        """Keep and count a value of the store; returns it."""
        entry = seen.entry
        assert entry is not None
        if seen.outcome is Outcome.FRESH:
            self._counters.hits_far += 1
        else:
            self._counters.stale_served += 1
        self._counters.bytes_read += entry.size_bytes
        self._keep_entry(name.near, ticket, stamp, entry, seen.until_s)
        return entry.value

    def _steps_get(
        self, name: Name, default: Any, ticket: int | None = None, home: Any = None, reply: Any = None
    ) -> Steps:
        """get: the value, fresh or stale; else `default`. With `ticket` it was read already."""
        stamp = self._generations.stamp
        if ticket is None:
            ticket = self._begin_fill(name)
        seen = yield from self._read(name, False, home, reply)
        return self._read_end(name, seen, ticket, stamp, default)

    def _read_end(self, name: Name, seen: Seen, ticket: int, stamp: int, default: Any) -> Any:
        if seen.outcome is Outcome.FRESH or seen.outcome is Outcome.STALE:
            return self._use(name, seen, ticket, stamp)
        if seen.outcome is Outcome.AWAY:
            self._unknown("get")
            value = self._near_while_away(name.near)
            return default if value is MISS else value
        if seen.reason and seen.reason != "absent":
            self._counters.rejected[seen.reason] += 1
        self._counters.misses += 1
        return default

    def _steps_get_many(self, names: Sequence[Name]) -> Steps:
        """get_many: near key -> value, of those that there are."""
        generations, now_s = self._generations, self._now_s()
        tickets = [self._begin_fill(name) for name in names]
        stamp = generations.stamp
        homes = [self._home(name.store) for name in names]
        asked = []
        for home in dict.fromkeys(homes):
            held = generations.of_node(home)
            if held is None or now_s >= held.due_s:
                asked.append(home)
        asks = [self._ask_generation(home, generations.namespace_key) for home in asked]
        asks += [Ask(home.get, (name.store,)) for home, name in zip(homes, names, strict=True)]
        replies = yield Gather(asks)
        lost = set()
        for home, pair in zip(asked, replies, strict=False):
            value = self._number(pair, generations.namespace_key)
            if value is None:
                lost.add(home)
            elif generations.learn_node(home, value, self._now_s()):
                self._near.clear()
        # As of these replies: while tags and parts are asked for, an announcement may make them forgotten.
        known = {home: generations.of_node(home) for home in homes}
        found = {}
        for name, home, ticket, reply in zip(names, homes, tickets, replies[len(asked) :], strict=True):
            held = known[home]
            if held is None or home in lost:
                seen = Seen(Outcome.AWAY, home=home)
            else:
                seen = judge(reply, self._codec, name.digest, self._wall_ms(), held.value, home, held.until_s)
                if seen.entry is not None and (seen.entry.tags or type(seen.entry.value) is Manifest):
                    seen = yield from self._verify(name, seen)
            value = self._read_end(name, seen, ticket, stamp, MISS)
            if value is not MISS:
                found[name.near] = value
        return found

    def _steps_get_version(self, name: Name, default: Any) -> Steps:
        """get_version: Versioned."""
        seen = yield from self._read(name, False)
        if seen.outcome is Outcome.AWAY:
            self._unknown("get_version")
            return Versioned(default, None)
        version = Version(name.digest, seen.home, seen.token)
        if seen.outcome is Outcome.FRESH or seen.outcome is Outcome.STALE:
            self._counters.hits_far += 1
            assert seen.entry is not None
            return Versioned(seen.entry.value, version)
        self._counters.misses += 1
        return Versioned(default, version)

    # ------------------------------------------------------------------ generations

    def _generation(self, home: Any) -> int:
        """The namespace's on a node that was read from a moment ago."""
        held = self._generations.of_node(home)
        return 0 if held is None else held.value

    def _until_s(self, home: Any, numbers: Sequence[Tag]) -> float:
        """Until when these generations may be believed."""
        held = [self._generations.of_node(home), *(self._generations.of_tag(tag.digest) for tag in numbers)]
        return min([0.0 if one is None else one.until_s for one in held])

    def _tag_numbers(self, tags: tuple[bytes, ...]) -> Steps:
        """Generations of tags, made where there is none; None when the store does not say."""
        asks = []
        for digest in tags:
            key = self._generations.key(digest)
            asks.append(self._ask_generation(self._home(key), key))
        pairs = yield Gather(asks)
        numbers = []
        for digest, pair in zip(tags, pairs, strict=True):
            value = self._number(pair, self._generations.key(digest))
            if value is None:
                self._counters.unknown += 1
                return None
            self._generations.learn_tag(digest, value, self._now_s())
            numbers.append(Tag(digest, value))
        return tuple(numbers)

    def _known_generation(self, home: Any) -> Steps:
        """The namespace's on a node for a writer; None when the store does not say."""
        held = self._generations.of_node(home)
        if held is not None and self._now_s() < held.until_s:
            return held.value
        pair = yield self._ask_generation(home, self._generations.namespace_key)
        value = self._number(pair, self._generations.namespace_key)
        if value is not None and self._generations.learn_node(home, value, self._now_s()):
            self._near.clear()
        return value

    def _doubt_all(self) -> None:
        """Ask for everything again; what is near serves only while the store is away."""
        self._generations.forget()
        self._near.doubt()

    def _forget_all(self) -> None:
        self._generations.forget()
        self._near.clear()
