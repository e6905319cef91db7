"""Who computes a key: the claim, step by step, without I/O. core.py carries the steps out.

Idea: memcached's own leases ("Scaling Memcache at Facebook", NSDI 2013, section 3.2.1; here `mg <key> N<lease>`). The
first to ask for a missing key leaves an empty value with a short time to live, the stub, and has won: it computes and
stores with the stub's cas. Everybody else finds the stub and asks again after a pause. So
  - the winner's death is survived within the lease: the stub expires, and whoever asks next has won;
  - a late winner cannot overwrite what came between (a delete, a set): the cas differs;
  - a stub is known by its empty value, whoever reads it: a sealed value is never empty (codec.py). A classic reader
    takes it for an empty value, so no classic reader may touch these keys.

What cannot be used (a newer format, another key's, wrong MAC, purged, a part missing, over its limits) is taken over:
CAS to a stub. A value that is over its stale time but may still be used when computing fails is not: its successor is
computed under a lock beside it (Outcome.KEPT), and the others wait as for a stub.

Rules of this file: nothing here waits, sends or looks at a clock; every loop has a limit.
"""

from __future__ import annotations

import enum
import functools
import math
import random
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

from fastroute._core.mc_reply import EXISTS, HIT, MISS, NOT_FOUND, STORED
from fastroute.cache.codec import Codec, Entry, Life
from fastroute.errors import UsageError
from fastroute.model import parse_duration_s

__all__ = [
    "Claim",
    "Lease",
    "Lifetime",
    "Lock",
    "Outcome",
    "Pause",
    "Read",
    "Seen",
    "TakeOver",
    "claim",
    "judge",
    "soon_due",
    "store_ttl_s",
]

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

EARLY_FACTOR_MAX = 20
"""An early refresh is not thought of while more than so many times the computation's length are left: its chance is
below e^-20 then."""

STORE_TTL_S_MAX = 2_592_000
"""memcached reads a longer time to live as a date."""


class Lifetime(NamedTuple):
    """How long a computed value is good for: the value itself, and None."""

    life: Life
    negative_ms: int

    @classmethod
    @functools.lru_cache(1024, typed=True)
    def of(cls, ttl: object, stale: object = 0, negative_ttl: object = 0, stale_if_error: object = 0) -> Lifetime:
        """Checked from durations (seconds or "30s").

        Raises:
            UsageError: not durations, or a ttl below one millisecond.
        """
        ttl_ms = round(parse_duration_s(ttl, name="ttl") * 1000)
        if ttl_ms < 1:
            raise UsageError(f"ttl {ttl!r}: accepted are one millisecond to ten years")
        stale_ms = round(parse_duration_s(stale, name="stale") * 1000)
        error_ms = round(parse_duration_s(stale_if_error, name="stale_if_error") * 1000)
        negative_ms = round(parse_duration_s(negative_ttl, name="negative_ttl") * 1000)
        return cls(Life(ttl_ms, stale_ms, error_ms), negative_ms)

    def of_value(self, value: object) -> Life:
        """The life of this value."""
        return self.life if value is not None else Life(self.negative_ms)


def store_ttl_s(life: Life) -> int:
    """Time to live in the store: not below what was asked (its n seconds last n-1 to n), and never 0, for ever."""
    return min(math.ceil((life.ttl_ms + max(life.stale_ms, life.error_ms)) / 1000) + 1, STORE_TTL_S_MAX)


class Outcome(enum.Enum):
    """How a claim ends."""

    FRESH = "fresh"
    """There is a fresh value."""
    STALE = "stale"
    """There is a stale value that may be used; somebody should refresh it."""
    KEPT = "kept"
    """There is a value that may be used only when computing a new one fails."""
    WON = "won"
    """Compute it and store it with the token."""
    AWAY = "away"
    """The store said nothing (away, or unknown): near values or an own computation, nothing stored."""
    ALONE = "alone"
    """The limit of waiting or of taking over was reached: an own computation, nothing stored."""
    # Steps on the way:
    WAIT = "wait"
    UNUSABLE = "unusable"


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


class Seen(NamedTuple):
    """What a reading of a key came to.

    Attributes:
        outcome: any but ALONE; UNUSABLE with its reason.
        entry: with FRESH, STALE and KEPT.
        reason: with UNUSABLE; "absent" where there was nothing and no lease was asked for.
        token: of what was read, if anything was.
        home: the node that it was read from; a token is good there only.
        until_s: until when (monotonic) what was compared with generations may be believed.
    """

    outcome: Outcome
    entry: Entry | None = None
    reason: str = ""
    token: Any = None
    home: Any = None
    until_s: float = math.inf


class Claim(NamedTuple):
    """Result of a claim.

    Attributes:
        outcome: FRESH, STALE, KEPT, WON, AWAY or ALONE.
        seen: what was read last.
        token: with WON the stub's, with KEPT the refresh lock's.
        pauses: how often it waited.
        rejected: why values were taken over, in order.
    """

    outcome: Outcome
    seen: Seen
    token: Any = None
    pauses: int = 0
    rejected: tuple[str, ...] = ()


class Read(NamedTuple):
    """Step: read the key, or leave a stub; send back what was Seen."""


class TakeOver(NamedTuple):
    """Step: CAS what was seen to a stub; send the reply back."""

    seen: Seen


class Lock(NamedTuple):
    """Step: try to win the lock under which a kept value is replaced; send the reply back."""

    seen: Seen


class Pause(NamedTuple):
    """Step: let this time pass."""

    seconds: float


class Lease:
    """A stub of ours in the store, held while we compute; the drivers renew it.

    Notes: a stub is lost when its key was deleted or set meanwhile, or when it ran out: the result is then not stored.
    Around steps that hold it (`with`): it is given back when they are closed before their end, since nobody waits for
    them any more.
    """

    __slots__ = ("given_back", "home", "key", "lost", "token")

    def __init__(self, home: Any, key: str, token: Any) -> None:
        self.home, self.key, self.token, self.lost, self.given_back = home, key, token, False, False

    def give_back(self) -> None:
        """Let others have it, without waiting; once. Where it was filled meanwhile nothing changes: another token."""
        if not self.given_back:
            self.given_back = True
            self.home.abandon(self.key, self.token)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is GeneratorExit:
            self.give_back()

    def renewed(self, reply: ReplyLike) -> bool:
        """Note the reply to a renewal; False when the lease is lost."""
        if reply.status == STORED and reply.token is not None:
            self.token = reply.token
        elif reply.status in (EXISTS, NOT_FOUND):
            self.lost = True
        return not self.lost


def judge(
    reply: ReplyLike,
    codec: Codec,
    digest: bytes,
    now_ms: int,
    generation: int | None = None,
    home: Any = None,
    until_s: float = math.inf,
) -> Seen:
    """What a reply to a read means.

    Args:
        reply, codec, digest: as read, and what opens it.
        now_ms: wall clock.
        generation: of the namespace; None where it is not compared.
        home, until_s: for Seen.

    "absent" is only heard by readers without a lease: with one the store answers a stub instead.
    """
    if reply.status != HIT:
        if reply.status == MISS:
            return Seen(Outcome.UNUSABLE, None, "absent", None, home)
        return Seen(Outcome.AWAY, None, "", None, home)
    token = reply.token
    if not reply.value:
        return Seen(Outcome.WON if reply.won else Outcome.WAIT, None, "", token, home)
    entry = codec.open(digest, reply.value)
    if type(entry) is str:
        return Seen(Outcome.UNUSABLE, None, entry, token, home)
    assert isinstance(entry, Entry)
    if generation is not None and entry.generation != generation:
        return Seen(Outcome.UNUSABLE, None, "purged", token, home)
    over_ms = now_ms - entry.made_ms - entry.ttl_ms
    if over_ms < 0 or now_ms < entry.made_ms:
        return Seen(Outcome.FRESH, entry, "", token, home, until_s)
    if over_ms < entry.stale_ms:
        return Seen(Outcome.STALE, entry, "", token, home, until_s)
    if over_ms < entry.error_ms:
        return Seen(Outcome.KEPT, entry, "", token, home, until_s)
    return Seen(Outcome.UNUSABLE, None, "expired", token, home)


def soon_due(entry: Entry, now_ms: int, random_: Callable[[], float] = random.random) -> bool:
    """Whether this reader should refresh a fresh value before it expires.

    Source: "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015), algorithm 2 (XFetch) with beta 1: the chance
    grows towards the end, the sooner the longer the value took to compute.
    """
    left_ms = entry.made_ms + entry.ttl_ms - now_ms
    if not entry.compute_ms or left_ms > entry.compute_ms * EARLY_FACTOR_MAX:
        return False
    return entry.compute_ms * -math.log(1.0 - random_()) >= left_ms


def claim(
    first: Seen | None = None, *, waited_s_max: float = WAIT_S_MAX, random_: Callable[[], float] = random.random
) -> Generator[Read | TakeOver | Lock | Pause, Any, Claim]:
    """The steps from "no near value" to a value, or to the right or the need to compute one.

    Args:
        first: what was seen already, if anything.
        waited_s_max: limit of the pauses together.
        random_: function that gives 0 <= x < 1, for the jitter.

    Yields:
        Read, TakeOver, Lock or Pause; wants what was seen, or the store's reply, sent back.
    """
    waited_s, pause_s, pauses = 0.0, PAUSE_S_MIN, 0
    rejected: tuple[str, ...] = ()
    seen = first if first is not None else (yield Read())
    while True:
        waits = seen.outcome is Outcome.WAIT
        if seen.outcome is Outcome.KEPT:
            locked = yield Lock(seen)
            if locked.status != HIT:
                return Claim(Outcome.AWAY, seen, None, pauses, rejected)
            if locked.won:
                return Claim(Outcome.KEPT, seen, locked.token, pauses, rejected)
            waits = True
        if waits:
            if waited_s >= waited_s_max:
                return Claim(Outcome.ALONE, seen, None, pauses, rejected)
            jittered_s = pause_s * (0.5 + random_())
            yield Pause(jittered_s)
            waited_s += jittered_s
            pause_s = min(pause_s * PAUSE_GROWTH, PAUSE_S_MAX)
            pauses += 1
        elif seen.outcome is not Outcome.UNUSABLE:
            return Claim(seen.outcome, seen, seen.token, pauses, rejected)
        elif seen.token is None:
            return Claim(Outcome.AWAY, seen, None, pauses, rejected)
        else:
            rejected = (*rejected, seen.reason)
            if len(rejected) > TAKE_OVERS_MAX:
                return Claim(Outcome.ALONE, seen, None, pauses, rejected)
            taken = yield TakeOver(seen)
            if taken.status == STORED:
                return Claim(Outcome.WON, seen, taken.token, pauses, rejected)
            if taken.status not in (EXISTS, NOT_FOUND):
                return Claim(Outcome.AWAY, seen, None, pauses, rejected)
        seen = yield Read()
