"""Who computes a key: the claim, step by step, without I/O. The drivers are shared.py (asyncio) and sync.py (blocking).

Idea: memcached's own leases ("Scaling Memcache at Facebook", NSDI 2013, section 3.2.1; here `mg <key> N<lease>`). The
first to ask for a missing key leaves an empty value with a short time to live, the stub, and has won: it computes and
stores with the stub's cas. Everybody else finds the stub and asks again after a pause. So
  - the winner's death is survived within the lease: the stub expires, and whoever asks next has won;
  - a late winner cannot overwrite what came between (a delete, a set): the cas differs;
  - a stub is known by its empty value, whoever reads it: a sealed value is never empty (codec.py). A classic reader
    takes it for an empty value, so no classic reader may touch these keys.

What cannot be used (no value, a newer format, another key's, wrong MAC, over its limits) is taken over: CAS to a stub.

Rules of this file: nothing here waits, sends or looks at a clock; every loop has a limit.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from fastroute._core.mc_reply import EXISTS, HIT, MISS, NOT_FOUND, STORED
from fastroute.cache.codec import Codec, Entry
from fastroute.errors import UsageError
from fastroute.model import parse_duration_s

__all__ = ["Claim", "Lifetime", "Outcome", "Pause", "Read", "TakeOver", "claim", "judge", "store_ttl_s"]

LEASE_S = 5.0
"""Life of a stub: how long the others wait for a winner that died. By memcached's 1 s clock it lives 4 to 5 s."""

LEASE_S_MIN, LEASE_S_MAX = 2.0, 300.0
"""Below 2 s a stub could expire at once (a time to live of 1 s lives 0 to 1 s)."""

RENEW_RATIO = 0.25
"""A winner that computes longer renews its stub each quarter of the lease: three renewals may fail before it goes."""

HELD_S_MAX = 120.0
"""Longest time a winner renews: a computation that hangs does not block the fleet longer than this plus one lease."""

WAIT_S_MAX = HELD_S_MAX + 2 * LEASE_S
"""Longest wait for other processes; then this one computes for itself and stores nothing."""

PAUSE_S_MIN, PAUSE_S_MAX, PAUSE_GROWTH = 0.004, 0.05, 1.6
"""Pauses between two questions of a waiting process: 6 in the first 0.1 s, then 20 a second."""

TAKE_OVERS_MAX = 4
"""Tries to take over an unusable value that others keep changing; then it is computed here and not stored."""

STORE_TTL_S_MAX = 2_592_000
"""memcached reads a longer time to live as a date."""


class Lifetime(NamedTuple):
    """How long a value is good for, in milliseconds."""

    ttl_ms: int
    stale_ms: int
    negative_ms: int

    @classmethod
    def of(cls, ttl: object, stale: object = 0, negative_ttl: object = 0) -> Lifetime:
        """Checked from durations (seconds or "30s").

        Raises:
            UsageError: not durations, or a ttl below one millisecond.
        """
        ttl_ms = round(parse_duration_s(ttl, name="ttl") * 1000)
        if ttl_ms < 1:
            raise UsageError(f"ttl {ttl!r}: accepted are one millisecond to ten years")
        stale_ms = round(parse_duration_s(stale, name="stale") * 1000)
        return cls(ttl_ms, stale_ms, round(parse_duration_s(negative_ttl, name="negative_ttl") * 1000))


def store_ttl_s(ttl_ms: int, stale_ms: int) -> int:
    """Time to live in the store: not below what was asked (its n seconds last n-1 to n), and never 0, for ever."""
    return min(math.ceil((ttl_ms + stale_ms) / 1000) + 1, STORE_TTL_S_MAX)


class Outcome(enum.Enum):
    """How a claim ends."""

    FRESH = "fresh"
    """There is a fresh value."""
    STALE = "stale"
    """There is a stale value that may be used; somebody should refresh it."""
    WON = "won"
    """Compute it and store it with the token."""
    AWAY = "away"
    """The store said nothing (away, or unknown): near values or an own computation, nothing stored."""
    ALONE = "alone"
    """The limit of waiting or of taking over was reached: an own computation, nothing stored."""
    # Steps on the way:
    WAIT = "wait"
    UNUSABLE = "unusable"


class Claim(NamedTuple):
    """Result of a claim.

    Attributes:
        outcome: FRESH, STALE, WON, AWAY or ALONE.
        entry: with FRESH and STALE.
        token: with WON the stub's, with STALE the stale value's.
        pauses: how often it waited.
        rejected: why values were taken over, in order.
    """

    outcome: Outcome
    entry: Entry | None = None
    token: Any = None
    pauses: int = 0
    rejected: tuple[str, ...] = ()


class ReplyLike(Protocol):
    """What is read of a store's reply."""

    @property
    def status(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def won(self) -> bool: ...
    @property
    def token(self) -> Any: ...


class Read(NamedTuple):
    """Step: read the key, or leave a stub; send the reply back."""


class TakeOver(NamedTuple):
    """Step: CAS the key to a stub with this token; send the reply back."""

    token: Any


class Pause(NamedTuple):
    """Step: let this time pass."""

    seconds: float


def judge(reply: ReplyLike, codec: Codec, digest: bytes, now_ms: int) -> tuple[Outcome, Entry | None, str]:
    """What a reply to a read means: outcome, entry, and with UNUSABLE the reason.

    "absent" is only heard by readers without a lease: with one the store answers a stub instead.
    """
    if reply.status != HIT:
        return (Outcome.UNUSABLE, None, "absent") if reply.status == MISS else (Outcome.AWAY, None, "")
    if not reply.value:
        return (Outcome.WON if reply.won else Outcome.WAIT), None, ""
    entry = codec.open(digest, reply.value)
    if isinstance(entry, str):
        return Outcome.UNUSABLE, None, entry
    age_ms = entry.age_ms(now_ms)
    if age_ms < entry.ttl_ms:
        return Outcome.FRESH, entry, ""
    if age_ms < entry.ttl_ms + entry.stale_ms:
        return Outcome.STALE, entry, ""
    return Outcome.UNUSABLE, None, "expired"


def claim(
    codec: Codec, digest: bytes, *, now_ms: Any, waited_s_max: float = WAIT_S_MAX, random_: Any = random.random
) -> Generator[Read | TakeOver | Pause, Any, Claim]:
    """The steps from "no near value" to a value, or to the right or the need to compute one.

    Args:
        codec, digest: what opens the value.
        now_ms: function without arguments: wall clock in milliseconds.
        waited_s_max: limit of the pauses together.
        random_: function that gives 0 <= x < 1, for the jitter.

    Yields:
        Read, TakeOver or Pause; wants the store's reply to the first two sent back.
    """
    waited_s, pause_s, pauses = 0.0, PAUSE_S_MIN, 0
    rejected: tuple[str, ...] = ()
    while waited_s < waited_s_max:
        reply = yield Read()
        outcome, entry, reason = judge(reply, codec, digest, now_ms())
        if outcome is Outcome.WAIT:
            jittered_s = pause_s * (0.5 + random_())
            yield Pause(jittered_s)
            waited_s += jittered_s
            pause_s = min(pause_s * PAUSE_GROWTH, PAUSE_S_MAX)
            pauses += 1
        elif outcome is not Outcome.UNUSABLE:
            return Claim(outcome, entry, reply.token, pauses, rejected)
        elif reply.status == MISS:
            return Claim(Outcome.AWAY, None, None, pauses, rejected)
        else:
            rejected = (*rejected, reason)
            if len(rejected) > TAKE_OVERS_MAX:
                break
            taken = yield TakeOver(reply.token)
            if taken.status == STORED:
                return Claim(Outcome.WON, None, taken.token, pauses, rejected)
            if taken.status not in (EXISTS, NOT_FOUND):
                return Claim(Outcome.AWAY, None, None, pauses, rejected)
    return Claim(Outcome.ALONE, None, None, pauses, rejected)
