"""Moves one idle binding to another server, without waking it: it keeps the rest of its life, and only if it is idle.

What it is for: evening out after a server was added (fastroute.admin.rebalance). Not here: which binding, where to, how
many (fastroute.admin.rebalance_plan). Moves because a server failed are agreement.move.

Who is idle. A record in the store is given its full lifetime again while its user comes: by whichever machine sees him,
once per ttl/4 at least (27.5 % of it with the spread over keys), and while a tunnel of his is open once per ttl/2. So a
record that nobody has touched for `idle_s`, more than that, is of a user who does not come. It is known from the time
that it has left; the zone knows the same of this machine, without a store of the only one there is.

Rules of this file:
  * Only what stands as this machine knows it: same term, generation and server on every node that holds the key. A node
    that does not answer, or has nothing, or something else: the binding is left alone, and what was read is taken over.
  * By compare-and-set with the token of that reading, so that whoever moves it meanwhile wins. A touch does not change
    the token: who comes within that one round trip is served where he was, and moved with his next request.
  * Nothing slides: what is read is not touched, and what is written lives as long as what was there.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Literal

from fastroute._core.affinity_table import FOUND, ONCE, PROVISIONAL, WROTE
from fastroute._core.affinity_table import Record as Entry
from fastroute.affinity.agreement import Answer, CasThenGet, Command, Decision, Heard, Kind, Lookup
from fastroute.affinity.binding import Binder
from fastroute.affinity.copies import settle
from fastroute.affinity.record import Record, server_id

if TYPE_CHECKING:
    from fastroute._core.affinity_view import AffinityView
    from fastroute.affinity.table import Affinity

__all__ = ["TICK_MS", "Outcome", "is_idle", "shift"]

TICK_MS = 64

LEFT_MIN_S = 2
"""A binding that ends so soon is left to end."""

Outcome = Literal["moved", "idle", "active", "other", "unknown"]
"""moved; idle (only asked: it would be); active; other (moved, ended or unlike on its nodes); unknown (no answer)."""


def is_idle(entry: Entry, now_tick: int, ttl_s: float, idle_s: float) -> bool:
    """Does the zone say that nobody has come for `idle_s`? Not of a binding that is new, or that the store lacks."""
    if entry.flags & (ONCE | PROVISIONAL):
        return False
    return (entry.expires_tick - now_tick) * TICK_MS <= (ttl_s - idle_s) * 1000


async def shift(
    affinity: Affinity,
    view: AffinityView,
    fingerprint: bytes,
    server: str,
    *,
    idle_s: float,
    now_tick: int,
    only_ask: bool = False,
) -> Outcome:
    """Move an idle binding.

    Args:
        affinity, view: of its pool.
        fingerprint: of its key.
        server: name of another server of the pool, to move it to.
        idle_s: how long nobody must have come: at least fastroute.config.schema_rebalance.idle_min_s().
        now_tick: of the zone's clock.
        only_ask: find out, and write nothing.
    """
    status, entry = view.table.lookup_record(fingerprint, now_tick)
    if status != FOUND or entry is None:
        return "other"
    if not is_idle(entry, now_tick, affinity.ttl_s, idle_s):
        return "active"
    binder = affinity._binders[view]
    binder.near(fingerprint)  # the view follows the pool's members
    slot, pool = view.slot_of_zone(entry.slot), view.pool
    if slot < 0 or pool.slot_of(server) in (-1, slot):
        return "other"
    if affinity.store is None:
        if only_ask:
            return "idle"
        to = affinity.zone.server_slot(affinity.fleet, pool.name, server)
        wanted = entry._replace(generation=entry.generation + 1, slot=to, verified_tick=now_tick)
        status, _ = view.table.replace_record(fingerprint, now_tick, entry.term, entry.generation, wanted)
        return "moved" if status == WROTE else "other"
    name = affinity._name(view, fingerprint)
    homes = affinity._homes(name)
    minute, second = affinity._wall()
    known = Record(entry.term, entry.generation, server_id(pool.server_at(slot).name))
    moved = Record(entry.term, entry.generation + 1, server_id(server), affinity._writer, minute, second)
    steps = _steps(binder, fingerprint, known, moved, idle_s, now_tick, len(homes), only_ask)
    return await affinity._drive(name, homes, steps, view)


def _steps(
    binder: Binder,
    fingerprint: bytes,
    known: Record,
    wanted: Record,
    idle_s: float,
    now_tick: int,
    homes: int,
    only_ask: bool,
) -> Generator[Command, Answer, Outcome]:
    def take_over(record: Record, left_s: int) -> None:
        binder.confirm(fingerprint, record, expires_tick=now_tick + max(1, left_s * 1000 // TICK_MS))

    token, left_s = None, 0
    for rank in range(homes):
        answer = yield Lookup(None, rank)
        if answer.heard is not Heard.RECORD:
            return "other" if answer.heard is Heard.NOTHING else "unknown"
        found = Record.unpack(answer.data)
        if found is None or answer.left_s < 0:
            return "other"
        if not found.same_decision(known):
            if rank == 0 and not known.outranks(found):  # home decides; this machine had not heard of it
                take_over(found, answer.left_s)
            return "other"
        left_s = max(left_s, answer.left_s)
        token = answer.token if rank == 0 else token
    if not homes:
        return "unknown"
    if left_s > math.floor(binder.ttl_s - idle_s):
        take_over(known, left_s)  # so that the zone knows when it may be idle
        return "active"
    if left_s < LEFT_MIN_S:
        return "other"
    if only_ask:
        return "idle"
    answer = yield CasThenGet(wanted.pack(), token, left_s)
    stands = Record.unpack(answer.data) if answer.heard is Heard.RECORD else None
    if stands is None:
        return "other" if answer.heard is Heard.NOTHING else "unknown"
    if not stands.same_decision(wanted):
        if not known.outranks(stands):
            take_over(stands, max(1, answer.left_s))
        return "other"
    decision = yield from settle(Decision(Kind.MOVED, stands, answer.token), left_s, homes=homes)
    stands = decision.record or stands
    take_over(stands, left_s)
    return "moved" if stands.same_decision(wanted) else "other"
