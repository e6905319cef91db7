"""Claim, renew, move, release and touch of a key that several nodes hold: home decides, followers settle.

What it is: state machines over those of agreement.py, which act on one node; with one home they are the same.
What it is not: it does no I/O and does not know which nodes they are (Memcached.homes_of does: the first `copies` of
the key's order of nodes; while the list of nodes changes the old order's before the new order's).

The homes of a key are ranked. The rules:

  * The first home that can be reached decides: it is claimed and moved as a single node would be (I2, I3). While it is
    down the next one is acting home. One that merely does not answer may be deciding for others: nobody acts for it,
    and the outcome is what a follower already holds, or unknown (I9). A later rank never overrules an earlier one,
    except by a later decision of its own term.
  * Nothing is claimed at a home that has nothing before its followers were looked at: a node that came back empty
    must not outvote what they know. What they have is restored to it by ME + read (read repair).
  * Followers are settled before a claim, a move or a restored record is believed: either node may die the moment
    after. A follower's record with a later generation of the term is written up at home and adopted; any other
    difference is overwritten by compare-and-set: the incumbent at home wins ties. What is only read (a binding that
    stands at home) is believed at once; its followers are settled off the request's path by touch(): that cannot
    break I1-I4, which the home alone keeps, and a follower that nobody has settled is found by the next touch (I10).
  * A follower that does not answer is left to the next touch; it never holds a decision up, or the store's
    availability would be that of its worst node.
  * Where the homes seen by two replicas differ (a partition), both may decide; the first to reach home wins when it is
    over. That is the price of two nodes without a quorum; see docs/design/agreement.md.

Every loop is bounded by TRIES_MAX or the number of homes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from fastroute.affinity import agreement
from fastroute.affinity.agreement import (
    TRIES_MAX,
    AddThenGet,
    Answer,
    CasThenGet,
    Command,
    Decision,
    Heard,
    Kind,
    Lookup,
    Steps,
)
from fastroute.affinity.record import Record

__all__ = ["claim", "move", "release", "renew", "settle", "touch"]


@dataclass(slots=True)
class _Seen:
    """What a look at the homes found: the acting home (-1: none), its record, and the best of its followers.

    A home that did not answer (unknown) is not away: nobody acts for it, what followers say can only be read.
    """

    acting: int = -1
    record: Record | None = None
    token: Any = None
    best: Record | None = None
    unknown: bool = False
    down: bool = False

    def nobody(self, known: Record | None) -> Decision:
        """The outcome where no home decides: what a follower holds, unless the caller knows of a later decision."""
        if self.best is None or known is None or known.outranks(self.best):
            return Decision(Kind.UNKNOWN if self.unknown else Kind.DOWN)
        return Decision(Kind.WON if self.best.same_decision(known) else Kind.ADOPTED, self.best)


def claim(candidate: Record, ttl_s: int, *, full_ttl_s: int | None = None, homes: int = 1) -> Steps:
    """agreement.claim, on all homes of the key.

    Args:
        candidate, ttl_s, full_ttl_s: as there.
        homes: how many homes the key has, 1 or more.

    Returns:
        As there; ADOPTED also where a follower knew what home had lost.
    """
    if homes == 1:
        return (yield from agreement.claim(candidate, ttl_s, full_ttl_s=full_ttl_s))
    return (yield from _agree(candidate, ttl_s, full_ttl_s or ttl_s, homes))


def renew(known: Record, ttl_s: int, *, homes: int = 1) -> Steps:
    """agreement.renew, on all homes of the key; one round trip where it stands at home."""
    if homes == 1:
        return (yield from agreement.renew(known, ttl_s))
    return (yield from _agree(known, ttl_s, ttl_s, homes))


def move(
    known: Record | None,
    token: Any,
    successor: Callable[[Record], Record],
    usable: Callable[[Record], bool],
    first: Callable[[], Record],
    ttl_s: int,
    *,
    homes: int = 1,
) -> Steps:
    """agreement.move, on all homes of the key: all are read first, so that no later decision is moved past."""
    if homes == 1:
        return (yield from agreement.move(known, token, successor, usable, first, ttl_s))
    decision = Decision(Kind.UNKNOWN)
    for _ in range(TRIES_MAX):
        seen = yield from _look(homes, ttl_s, all_of_them=True)
        if seen.acting < 0:
            found = seen.nobody(known)
            return found if found.record is not None and usable(found.record) else seen.nobody(None)
        best, stands = seen.best, seen.record
        if best is not None and (stands is None or best.outranks(stands)) and not (known and known.outranks(best)):
            decision = yield from agreement.claim(best, ttl_s, home=seen.acting)
            stands = decision.record
            if stands is None:  # it went away meanwhile: the next home decides
                continue
        decision = yield from agreement.move(
            known, None, successor, usable, first, ttl_s, home=seen.acting, bind_absent=stands is None
        )
        if decision.record is None:  # it went away, or lost the key: followers may know it
            continue
        written = decision.record
        decision = yield from _settle(decision, ttl_s, homes, seen.acting)
        assert decision.record is not None
        if decision.record.same_decision(written) or usable(decision.record):
            return decision
        known = decision.record  # a follower came up with a later decision, of no use here
    return decision if decision.kind is not Kind.ABSENT else Decision(Kind.UNKNOWN)


def touch(ttl_s: int, *, homes: int = 1) -> Steps:
    """Slide the expiry of what is bound, on every home; settle followers, restore home (I8, I10). Binds nothing.

    Returns:
        WON with the record that stands, ADOPTED where a follower's stands now, ABSENT (with the released record that
        stands, if one does), UNKNOWN or DOWN.
    """
    if homes == 1:
        answer = yield Lookup(ttl_s)
        if answer.heard in (Heard.DOWN, Heard.UNKNOWN):
            return Decision(Kind(answer.heard.value))
        found = Record.unpack(answer.data)
        bound = found is not None and not found.released
        return Decision(Kind.WON if bound else Kind.ABSENT, found, answer.token)
    seen = yield from _look(homes, ttl_s)
    if seen.acting < 0:
        return seen.nobody(None)
    decision = Decision(Kind.WON, seen.record, seen.token)
    if seen.record is None:
        if seen.best is None:
            return Decision(Kind.UNKNOWN if seen.unknown else Kind.ABSENT)
        decision = yield from agreement.claim(seen.best, ttl_s, home=seen.acting)
        if decision.record is None:
            return decision
    decision = yield from _settle(decision, ttl_s, homes, seen.acting)
    if decision.record is not None and decision.record.released:
        return Decision(Kind.ABSENT, decision.record, decision.token)
    return decision


def settle(decision: Decision, ttl_s: int, *, homes: int) -> Steps:
    """Bring what stands at home to nodes that have lost it, with ttl_s to live; where it stands its life is kept."""
    if homes == 1 or decision.settled or decision.record is None:
        return decision
    return (yield from _settle(decision, ttl_s, homes, 0, slide=False))


def release(successor: Callable[[Record], Record], ttl_s: int, *, known: Record | None = None, homes: int = 1) -> Steps:
    """agreement.release, on all homes of the key: home decides, followers settle.

    Whoever looks in between finds the binding as it was at home, or released; a follower that still has it is overruled
    by home, and after a loss there by the next generation on any other follower.

    Returns:
        What home came to: RELEASED, ABSENT or MOVED (a decision made meanwhile stays); UNKNOWN or DOWN when any home
        did not answer: its copy may come back with it.
    """
    if homes == 1:
        return (yield from agreement.release(successor, ttl_s, known=known))
    seen = yield from _look(homes, None, all_of_them=True)
    if seen.acting < 0:
        return Decision(Kind.UNKNOWN if seen.unknown else Kind.DOWN)
    latest = known
    if seen.best is not None and (latest is None or seen.best.outranks(latest) or seen.best.term != latest.term):
        latest = seen.best  # a node's word over this replica's
    decision = yield from agreement.release(successor, ttl_s, known=latest, home=seen.acting)
    if decision.kind in (Kind.DOWN, Kind.UNKNOWN, Kind.MOVED):
        return decision
    missed = Kind.UNKNOWN if seen.unknown else Kind.DOWN if seen.down else None
    if decision.record is None:
        return decision if missed is None else Decision(missed)
    for rank in range(seen.acting + 1, homes):
        heard = yield from _release_copy(decision.record, ttl_s, rank)
        if heard in (Heard.DOWN, Heard.UNKNOWN) and missed is not Kind.UNKNOWN:
            missed = Kind(heard.value)
    return Decision(missed) if missed is not None else decision


def _release_copy(released: Record, ttl_s: int, rank: int) -> Generator[Command, Answer, Heard]:
    """Bring home's word to a follower, over an earlier decision of that term; another term there is a later binding."""
    answer = yield Lookup(None, rank)
    for _ in range(TRIES_MAX):
        if answer.heard is Heard.DOWN:
            break
        if answer.heard is Heard.UNKNOWN:
            answer = yield Lookup(None, rank)
            continue
        if answer.heard is Heard.NOTHING:
            answer = yield AddThenGet(released.pack(), ttl_s, rank)
            continue
        found = Record.unpack(answer.data)
        if found is not None and not released.outranks(found):
            break
        answer = yield CasThenGet(released.pack(), answer.token, ttl_s, rank)
    return answer.heard


def _agree(candidate: Record, ttl_s: int, full_ttl_s: int, homes: int) -> Steps:
    """What claim and renew are over several homes: what stands, else what followers know, else the candidate."""
    for _ in range(homes):  # a home that goes away meanwhile leaves the decision to the next
        seen = yield from _look(homes, full_ttl_s)
        if seen.acting < 0:
            return seen.nobody(candidate)
        if seen.record is not None and not candidate.outranks(seen.record):
            kind = Kind.WON if seen.record.same_decision(candidate) else Kind.ADOPTED
            return Decision(kind, seen.record, seen.token)
        wanted, lifetime_s = candidate, ttl_s
        if seen.best is not None and not candidate.outranks(seen.best):
            wanted, lifetime_s = seen.best, full_ttl_s
        decision = yield from agreement.claim(wanted, lifetime_s, full_ttl_s=full_ttl_s, home=seen.acting)
        if decision.record is None:
            continue
        if decision.kind is Kind.WON and not decision.record.same_decision(candidate):
            decision = Decision(Kind.ADOPTED, decision.record, decision.token)
        return (yield from _settle(decision, lifetime_s, homes, seen.acting, fresh=seen.best is None))
    return decision


def _look(homes: int, ttl_s: int | None, *, all_of_them: bool = False) -> Generator[Command, Answer, _Seen]:
    """Read home, sliding; further homes only while home has nothing or does not answer, or all of them."""
    seen = _Seen()
    for rank in range(homes):
        answer = yield Lookup(ttl_s, rank)
        if answer.heard is Heard.UNKNOWN:  # its connection was given up: now it answers on a new one, or is down
            answer = yield Lookup(ttl_s, rank)
        if answer.heard is Heard.UNKNOWN:
            seen.unknown = True
        seen.down = seen.down or answer.heard is Heard.DOWN
        if answer.heard in (Heard.UNKNOWN, Heard.DOWN):
            continue
        found = Record.unpack(answer.data)
        if seen.acting < 0 and not seen.unknown:
            seen.acting, seen.record, seen.token = rank, found, answer.token
            if found is not None and not all_of_them:
                break
        elif found is not None and (seen.best is None or found.outranks(seen.best)):
            seen.best = found
    return seen


def _settle(
    decision: Decision, ttl_s: int, homes: int, acting: int, *, fresh: bool = False, slide: bool = True
) -> Steps:
    """Bring the decision to the acting home's followers; a follower's later decision of the term wins instead.

    Args:
        decision: with a record that stands at the acting home.
        fresh: nothing is expected at the followers: add at once instead of looking first (a look is not announced to
            watchers, a refused add is).
        slide: give what stands there a life of ttl_s too.
    """
    record = decision.record
    assert record is not None
    for _ in range(homes):
        later: Record | None = None
        for rank in range(acting + 1, homes):
            found = yield from _settle_one(record, ttl_s, rank, fresh=fresh, slide=slide)
            if found is not None and found.outranks(later or record):
                later = found
        if later is None:
            break
        up = yield from agreement.claim(later, ttl_s, home=acting)
        if up.record is None:
            break
        record, decision = up.record, Decision(Kind.ADOPTED, up.record, up.token)
    return Decision(decision.kind, decision.record, decision.token, settled=True)


def _settle_one(
    record: Record, ttl_s: int, rank: int, *, fresh: bool, slide: bool
) -> Generator[Command, Answer, Record | None]:
    """Make one follower say what home says; the follower's record if it is a later decision of the same term."""
    packed = record.pack()
    answer = yield AddThenGet(packed, ttl_s, rank) if fresh else Lookup(ttl_s if slide else None, rank)
    for _ in range(TRIES_MAX):
        if answer.heard is Heard.DOWN:
            return None
        if answer.heard is Heard.UNKNOWN:
            answer = yield Lookup(ttl_s, rank)
            continue
        if answer.heard is Heard.NOTHING:
            answer = yield AddThenGet(packed, ttl_s, rank)
            continue
        found = Record.unpack(answer.data)
        if found is not None and (found.same_decision(record) or found.outranks(record)):
            return found
        answer = yield CasThenGet(packed, answer.token, ttl_s, rank)
    return None
