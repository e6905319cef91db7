"""Generations: what makes a tag's or a namespace's values misses in one write, without a list of them.

Not here: the store's requests (core.py), the envelope in which a value carries its generations (codec.py).

Idea: a tag has a key of its own in the store with a random number, its generation. A value carries the numbers that
its tags had before it was computed; a reader compares. To purge is to write another number: one request, whatever the
number of values. A number that is missing (evicted, restarted) differs from every one that a value can carry, so that
loss makes misses and never revives anything. Random, not counted: a counter that was lost would begin again and repeat.

A namespace is purged alike, but its number is kept once per node of the store and compared with that of the node that
the value came from: a node that restarts empty has lost both together, and the values on the other nodes stay.

Asking each time would double the requests, so numbers are remembered for near_ttl, and asked again, together with a
value, when half of that is over. What was compared with a remembered number may be kept near for no longer than that
number may be remembered: so the bound of staleness after a purge is that of every write, near_ttl.

Rules: no I/O. Times are monotonic seconds.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from fastroute.cache.codec import TAGS_MAX
from fastroute.cache.keys import KeySpace, encode_key
from fastroute.errors import UsageError

__all__ = ["GENERATION_TTL_S", "Generations", "Held", "Tagged", "new_generation", "purged_since", "read_generation"]

GENERATION_TTL_S = 2_592_000
"""Life of a generation in the store, renewed with each use: the longest that memcached takes for relative, 30 days."""

CLOCKS_MS = 250
"""How far the clocks of two machines may be apart before a value that was made during a purge survives it."""

HELD_MAX = 65_536
"""Tags that a process remembers; beyond it all are forgotten and asked again. About 200 bytes each."""

TAG_BYTES_MAX = 1024
"""Longest tag: a limit against mistakes, tags are digested."""


class Held(NamedTuple):
    """A remembered generation."""

    value: int
    due_s: float
    """From then on it is asked again at the next occasion."""
    until_s: float
    """Until then it may be believed."""


class Tagged:
    """A near value with tags; `stamp` is the purge count of this process when it was kept."""

    __slots__ = ("digests", "stamp", "value")

    def __init__(self, value: Any, digests: tuple[bytes, ...], stamp: int) -> None:
        self.value, self.digests, self.stamp = value, digests, stamp


_RANDOM_BITS = 22
"""Of a generation; above them its millisecond, below its lowest bit, which says that it came from a purge."""


def new_generation(now_ms: int | None = None) -> bytes:
    """Eight bytes that no other generation has.

    Args:
        now_ms: wall clock of a purge, by which values that began to be made before it are known (`purged_since`); None
            for the first generation of a name, which forbids nothing.
    """
    if now_ms is None:
        return (int.from_bytes(os.urandom(8), "little") & ~1 or 2).to_bytes(8, "little")
    random = int.from_bytes(os.urandom(4), "little") & ((1 << _RANDOM_BITS - 1) - 1)
    return ((now_ms << _RANDOM_BITS | random << 1 | 1) & (1 << 64) - 1).to_bytes(8, "little")


def purged_since(number: int, made_ms: int) -> bool:
    """Does a generation come from a purge after a value began to be made? By clocks that agree within CLOCKS_MS."""
    return bool(number & 1) and number >> _RANDOM_BITS > made_ms - CLOCKS_MS and made_ms > 0


def read_generation(value: bytes | None) -> int | None:
    """The number in a store's value, None where it is none."""
    return int.from_bytes(value, "little") if value is not None and len(value) == 8 else None


class Generations:
    """What one process knows of the generations of one namespace.

    Args:
        keys: whose names.
        near_ttl_s: how long a number may be believed; 0 asks each time.
    """

    def __init__(self, keys: KeySpace, near_ttl_s: float) -> None:
        self.near_ttl_s = near_ttl_s
        self.namespace_key = f"{keys.fleet}:t:{keys.namespace}"
        self._prefix = self.namespace_key + ":"
        self._person = encode_key((keys.fleet, keys.namespace))
        self.nodes: dict[Any, Held] = {}
        """The namespace's by node, to be read only; of_node where a call does not matter."""
        self._tags: dict[bytes, Held] = {}
        self._digests: dict[str, bytes] = {}
        self._purged: dict[bytes, int] = {}
        self.stamp = 0
        """Purges so far."""
        self._floor = 0

    # ------------------------------------------------------------------ names

    def digest(self, tag: str) -> bytes:
        """16 bytes that stand for a tag.

        Raises:
            UsageError: not text, empty, or too long.
        """
        found = self._digests.get(tag) if type(tag) is str else None
        if found is not None:
            return found
        if not isinstance(tag, str) or not tag or len(tag.encode(errors="replace")) > TAG_BYTES_MAX:
            raise UsageError(f"tag {tag!r:.80}: accepted are str of 1 to {TAG_BYTES_MAX} bytes")
        state = hashlib.blake2b(self._person, digest_size=16, person=b"fr cache tag 1")
        state.update(encode_key(tag))
        if len(self._digests) >= HELD_MAX:
            self._digests.clear()
        found = self._digests[tag] = state.digest()
        return found

    def digests(self, tags: Any) -> tuple[bytes, ...]:
        """Those of several tags, each once.

        Raises:
            UsageError: more than TAGS_MAX, or one that is none.
        """
        if not tags:
            return ()
        if isinstance(tags, str):
            raise UsageError(f"tags {tags!r}: accepted is a sequence of str")
        found = tuple(dict.fromkeys(self.digest(tag) for tag in tags))
        if len(found) > TAGS_MAX:
            raise UsageError(f"{len(found)} tags of one value: accepted are up to {TAGS_MAX}")
        return found

    def key(self, digest: bytes) -> str:
        """What the store calls a tag's generation."""
        return self._prefix + digest.hex()

    # ------------------------------------------------------------------ numbers

    def of_node(self, node: Any) -> Held | None:
        """The namespace's on a node, as remembered."""
        return self.nodes.get(node)

    @property
    def any_node(self) -> bool:
        """Whether one is remembered: else there is nothing that a purge could change."""
        return bool(self.nodes)

    def learn_node(self, node: Any, value: int, now_s: float) -> bool:
        """Remember it; True when it replaces another one: the namespace was purged, or the node was lost."""
        before = self.nodes.get(node)
        self.nodes[node] = self._held(value, now_s)
        return before is not None and before.value != value

    def of_tag(self, digest: bytes) -> Held | None:
        """A tag's, as remembered."""
        return self._tags.get(digest)

    def learn_tag(self, digest: bytes, value: int, now_s: float) -> Held:
        """Remember it; near values of another one are no longer believed."""
        if len(self._tags) >= HELD_MAX:
            self._tags.clear()
        before = self._tags.get(digest)
        if before is not None and before.value != value:
            self.purged(digest)
        held = self._tags[digest] = self._held(value, now_s)
        return held

    def forget(self) -> None:
        """Ask for everything again."""
        self.nodes.clear()
        self._tags.clear()

    def _held(self, value: int, now_s: float) -> Held:
        return Held(value, now_s + self.near_ttl_s / 2, now_s + self.near_ttl_s)

    # ------------------------------------------------------------------ near values

    def purged(self, digest: bytes) -> None:
        """A tag was purged: near values with it that were kept before are no longer believed."""
        self._tags.pop(digest, None)
        self.stamp += 1
        if len(self._purged) >= HELD_MAX:
            self._purged.clear()
            self._floor = self.stamp
        self._purged[digest] = self.stamp

    def tag(self, value: Any, digests: tuple[bytes, ...], stamp: int) -> Any:
        """What the near cache keeps for a value whose tags were compared at `stamp`."""
        return Tagged(value, digests, stamp) if digests else value

    def believes(self, tagged: Tagged) -> bool:
        """Whether none of its tags was purged since."""
        stamp = tagged.stamp
        if stamp == self.stamp:
            return True
        if stamp < self._floor:
            return False
        purged = self._purged
        return all(purged.get(digest, 0) <= stamp for digest in tagged.digests)
