"""Claim, renew, move and release on one node, as state machines over values: no I/O, no clock, no randomness.

Each verb is a generator: it yields what to ask of one of the key's home nodes, is sent the answer, and returns a
Decision. A driver (asyncio or blocking) does the I/O. What several nodes that hold copies add is in copies.py, which
drives these verbs on the home that decides. Rules of this file:

  * The mg reply is the answer, whatever the ms before it said: of two writers both then read the same record (I2).
  * Unknown is neither won nor lost (I9). A claim is repeated as it is (it is idempotent); a move is re-read first.
  * A compare-and-set uses only a token read on the connection that will carry it; the client refuses others (I6).
  * Same term, higher generation: that record wins and is written up by compare-and-set. In every other difference the
    store's record wins (design, section 5).
  * Every loop is bounded; when the bound is reached the outcome is UNKNOWN and the caller falls back.

Invariants named in comments (I1..I12) are those of docs/design/agreement.md.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from fastroute.affinity.record import Record

__all__ = [
    "AddThenGet",
    "Answer",
    "CasThenGet",
    "Command",
    "Decision",
    "ExpireThenGet",
    "Heard",
    "Kind",
    "Lookup",
    "Steps",
    "claim",
    "move",
    "release",
    "renew",
    "write_over",
]

TRIES_MAX = 4
"""Round trips one verb may take; three cover every race seen with eight replicas, the fourth is reserve."""


class Heard(enum.Enum):
    """What the home node's reply said about the key's record."""

    RECORD = "record"
    NOTHING = "nothing"
    UNKNOWN = "unknown"
    DOWN = "down"


class Kind(enum.Enum):
    """How a verb ended."""

    WON = "won"
    ADOPTED = "adopted"
    MOVED = "moved"
    RELEASED = "released"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    DOWN = "down"


# Each command says which of the key's homes it is for: `home` is the rank in the key's order of nodes, 0 the first. A
# driver does `answer = ask(command.home, command)`.


@dataclass(frozen=True, slots=True)
class Lookup:
    """Read the record and slide its expiry: `mg k v c T<ttl>`; ttl_s None leaves the expiry."""

    ttl_s: int | None
    home: int = 0


@dataclass(frozen=True, slots=True)
class AddThenGet:
    """`ms k ME T<ttl>` and `mg k v c` in one write; slide: `mg k v c T<ttl>`, what stood gets that lifetime too."""

    record: bytes
    ttl_s: int
    home: int = 0
    slide: bool = False


@dataclass(frozen=True, slots=True)
class CasThenGet:
    """`ms k C<cas> T<ttl>` and `mg k v c` in one write."""

    record: bytes
    token: Any
    ttl_s: int
    home: int = 0


@dataclass(frozen=True, slots=True)
class ExpireThenGet:
    """`ms k 0 T-1 C<cas>` (a delete that watchers see) and `mg k v c`: NOTHING means gone."""

    token: Any
    home: int = 0


Command = Lookup | AddThenGet | CasThenGet | ExpireThenGet


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to a command's reading half.

    Attributes:
        heard: RECORD when bytes came (whatever they hold), else why not.
        data: the bytes.
        token: opaque compare-and-set token, bound to the connection that read it.
        written: writes of the command that the node said it stored: each draws a line of the push channel.
        left_s: seconds that the record has left to live (before a touch of this command); -1: not said.
    """

    heard: Heard
    data: bytes | None = None
    token: Any = None
    written: int = 0
    left_s: int = -1


@dataclass(frozen=True, slots=True)
class Decision:
    """What a verb came to: the record that stands (None when nothing is known), its token, and were copies settled."""

    kind: Kind
    record: Record | None = None
    token: Any = None
    settled: bool = False


Steps = Generator[Command, Answer, Decision]
"""A verb in progress."""


def claim(candidate: Record, ttl_s: int, *, full_ttl_s: int | None = None, home: int = 0) -> Steps:
    """Bind an unbound key; one round trip unless something is in the way.

    Args:
        candidate: what to write if nothing stands; also a hint (zone, cookie) with the term and generation it carries.
        ttl_s: lifetime of the new record.
        full_ttl_s: lifetime given when another record must be written up. Default: ttl_s is the full lifetime, and what
            stood before is given it too (I8).
        home: rank of the node.

    Returns:
        WON (candidate stands), ADOPTED (another record stands), UNKNOWN or DOWN.
    """
    packed = candidate.pack()
    for _ in range(TRIES_MAX):
        answer = yield AddThenGet(packed, ttl_s, home, slide=full_ttl_s is None)
        if answer.heard is Heard.DOWN:
            return Decision(Kind.DOWN)
        if answer.heard is not Heard.RECORD:  # expired between the two, refused for memory, or no reply: ask again
            continue
        found = Record.unpack(answer.data)
        if found is not None and found.same_decision(candidate):
            return Decision(Kind.WON, found, answer.token)
        if found is not None and not candidate.outranks(found):
            return Decision(Kind.ADOPTED, found, answer.token)
        outcome = yield from write_over(found, answer.token, candidate, full_ttl_s or ttl_s, home)
        if outcome is not None:
            return outcome
    return Decision(Kind.UNKNOWN)


def renew(known: Record, ttl_s: int, *, home: int = 0) -> Steps:
    """Ask whether a record held near still stands, sliding its expiry; restore it where the store lost it.

    Returns:
        WON (it stands, or was restored), ADOPTED (another stands), UNKNOWN or DOWN.
    """
    answer = yield Lookup(ttl_s, home)
    if answer.heard is Heard.DOWN:
        return Decision(Kind.DOWN)
    if answer.heard is Heard.UNKNOWN:
        return Decision(Kind.UNKNOWN)
    found = Record.unpack(answer.data) if answer.heard is Heard.RECORD else None
    if found is not None and found.same_decision(known):
        return Decision(Kind.WON, found, answer.token)
    if found is not None and not known.outranks(found):
        return Decision(Kind.ADOPTED, found, answer.token)
    if answer.heard is Heard.NOTHING:  # restart, flush or eviction: the first to come back with it restores it
        return (yield from claim(known, ttl_s, home=home))
    outcome = yield from write_over(found, answer.token, known, ttl_s, home)
    return outcome or (yield from claim(known, ttl_s, home=home))


def move(
    known: Record | None,
    token: Any,
    successor: Callable[[Record], Record],
    usable: Callable[[Record], bool],
    first: Callable[[], Record],
    ttl_s: int,
    *,
    home: int = 0,
    bind_absent: bool = True,
) -> Steps:
    """Bind a key whose server cannot take it to another one: term kept, generation + 1, once over the whole fleet.

    Args:
        known: the record whose server failed, with its token if it was read on the present connection, else None.
        successor: the record to write over a given one (may be asked several times; must not have side effects).
        usable: may the server of this record take the request, in this replica's view?
        first: the record to claim when nothing stands.
        ttl_s: lifetime of what is written.
        home: rank of the node.
        bind_absent: claim where nothing stands; False: the outcome is ABSENT then (other homes may know of it).

    Returns:
        MOVED (this call's record stands), ADOPTED (somebody's usable record stands), WON (nothing stood; claimed),
        UNKNOWN or DOWN. At most one transition leaves a (term, generation) (I3).
    """
    current, answer_token = (known, token) if token is not None else (None, None)
    for _ in range(TRIES_MAX):
        if current is None:
            answer = yield Lookup(ttl_s, home)
        else:
            ahead = known is not None and known.outranks(current)  # moved while the store was away: no way back (I4)
            if not ahead and usable(current):
                return Decision(Kind.ADOPTED, current, answer_token)
            wanted = successor(known if known is not None and ahead else current)
            answer = yield CasThenGet(wanted.pack(), answer_token, ttl_s, home)
            found = Record.unpack(answer.data) if answer.heard is Heard.RECORD else None
            if found is not None and found.same_decision(wanted):
                return Decision(Kind.MOVED, found, answer.token)
        if answer.heard is Heard.DOWN:
            return Decision(Kind.DOWN)
        if answer.heard is Heard.UNKNOWN:
            current, answer_token = None, None
            continue
        if answer.heard is Heard.NOTHING and not bind_absent:
            return Decision(Kind.ABSENT)
        if answer.heard is Heard.NOTHING:
            outcome = yield from claim(successor(known) if known is not None else first(), ttl_s, home=home)
            if outcome.record is None or usable(outcome.record):
                return outcome
            current, answer_token = outcome.record, outcome.token
            continue
        current, answer_token = Record.unpack(answer.data), answer.token
        if current is None:  # bytes that are no record: replace them
            outcome = (yield from write_over(None, answer_token, first(), ttl_s, home)) or Decision(Kind.UNKNOWN)
            if outcome.record is None or usable(outcome.record):
                return outcome
            current, answer_token = outcome.record, outcome.token
    return Decision(Kind.UNKNOWN)


def release(successor: Callable[[Record], Record], ttl_s: int, *, known: Record | None = None, home: int = 0) -> Steps:
    """End what is bound now: the next generation of its term is nobody's, written over the record that is read first.

    A delete would be undone by whoever still knows the binding, as if the store had lost it.

    Args:
        successor: what to write over a given record: the same term, a higher generation, released.
        ttl_s: lifetime of that: as long as anybody may know the binding.
        known: what this replica knows of the key; released where the store has nothing, or an earlier decision.
        home: rank of the node.

    Returns:
        RELEASED or ABSENT (nothing was bound), both with the released record that stands, if there is one; MOVED
        (another decision came in between: it stays, as record); UNKNOWN or DOWN.
    """
    bound: Record | None = None
    began = False
    answer = yield Lookup(None, home)
    for _ in range(TRIES_MAX):
        if answer.heard is Heard.DOWN:
            return Decision(Kind.DOWN)
        if answer.heard is Heard.UNKNOWN:
            answer = yield Lookup(None, home)
            continue
        if answer.heard is Heard.NOTHING:
            bound = known if bound is None or (known is not None and known.outranks(bound)) else bound
            if bound is None:
                return Decision(Kind.RELEASED if began else Kind.ABSENT)
            began = True
            answer = yield AddThenGet(successor(bound).pack(), ttl_s, home)
            continue
        found = Record.unpack(answer.data)
        if found is None:  # bytes that are no record
            began = True
            answer = yield ExpireThenGet(answer.token, home)
            continue
        if found.released and not (known is not None and known.outranks(found)):
            return Decision(Kind.RELEASED if began else Kind.ABSENT, found, answer.token)
        if bound is not None and (found.term, found.generation) != (bound.term, bound.generation):
            return Decision(Kind.MOVED, found, answer.token)
        bound, began = found, True
        wanted = successor(known if known is not None and known.outranks(found) else found)
        answer = yield CasThenGet(wanted.pack(), answer.token, ttl_s, home)
    found = Record.unpack(answer.data)
    if answer.heard is Heard.RECORD and found is not None and found.released:
        return Decision(Kind.RELEASED, found, answer.token)
    return Decision(Kind.DOWN if answer.heard is Heard.DOWN else Kind.UNKNOWN)


def write_over(
    found: Record | None, token: Any, wanted: Record, ttl_s: int, home: int = 0
) -> Generator[Command, Answer, Decision | None]:
    """Compare-and-set `wanted` over `found` (None: bytes that are no record). None: the caller is to start over."""
    answer = yield CasThenGet(wanted.pack(), token, ttl_s, home)
    if answer.heard is Heard.DOWN:
        return Decision(Kind.DOWN)
    if answer.heard is not Heard.RECORD:
        return None
    stands = Record.unpack(answer.data)
    if stands is None:
        return None
    if stands.same_decision(wanted):
        return Decision(Kind.WON, stands, answer.token)
    if found is not None and stands.same_decision(found):  # the token changed under us (slab move before 1.6.24)
        return None
    if wanted.outranks(stands):  # another replica moved it meanwhile, and not as far as we know it to be (I4)
        return None
    return Decision(Kind.ADOPTED, stands, answer.token)
