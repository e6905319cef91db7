"""What happens to one key in the zone alone: where there is no store, and as the stand-in while it is away.

What it is: what the pool says of records and servers, and the decisions that need nobody else's word: each a call that
returns a Bound at once. What it is not: the store's part (binding.py, whose Binder builds on this).

Without a store the zone is the agreement: first writer wins between all processes of the machine. While the store is
away a key keeps the server that zone or cookie names; an unknown key gets the answer of the `table` ring over ready
servers, which every replica computes alike; what is decided then is provisional.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal

from fastroute._core.affinity_view import BUSY, AffinityView, Binding
from fastroute.affinity.agreement import Decision
from fastroute.affinity.record import Record, new_term, server_id, term_age_s
from fastroute.errors import NoServerAvailable

__all__ = ["MIN_HOLD_S", "Bound", "Hint", "Reason", "ZoneBinder"]

MIN_HOLD_S = 5
"""A move that another replica made so recently is not undone on health evidence alone (ping-pong guard): the request
tries the server that the other one chose, and its own failed attempt is evidence enough. Reference: section 5."""

Hint = tuple[str, int, int]
"""(server name, term, generation) from a verified cookie."""

Reason = Literal["affinity-near", "affinity-store", "affinity-cookie", "policy", "moved", "fallback-hash"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a key goes.

    Attributes:
        slot: the server's slot in the pool.
        reason: one of the reasons a selection can carry.
        term, generation: the decision; 0 and 0 when nothing could be written anywhere.
        kind: how the claim ended ("won", "adopted", "moved", "unknown", "down", "near"), for the counters.
        only_read: True when not every copy of the record was given its full lifetime by this: one found by a claim, or
            read at its first home alone. The zone knows whether a touch is due (AffinityView.take_touch).
    """

    slot: int
    reason: Reason
    term: int
    generation: int
    kind: str
    only_read: bool = False


class ZoneBinder:
    """The steps for one pool's view that the zone answers.

    Args:
        view: the pool's view of the near table.
        writer: 32-bit id of this process, written into records: for people who debug, and for the ping-pong guard.
        may_move: False keeps a key whose server is down there, and refuses its requests (on_failure = "fail").
        max_lifetime_s: a binding of that age ends and is made afresh; 0: never.
    """

    def __init__(self, view: AffinityView, *, writer: int, may_move: bool = True, max_lifetime_s: float = 0) -> None:
        self._view, self._writer = view, writer
        self._may_move, self._max_lifetime_s = may_move, max_lifetime_s
        self._slot_of_id: dict[int, int] = {}
        self._id_of_slot: dict[int, int] = {}
        self._version = -1
        self._refreshing = threading.Lock()
        self._refresh()

    def _refresh(self) -> None:
        """Follow the pool's membership; asked again after every answer of the store, which took its time."""
        pool = self._view.pool
        if self._version == pool.version:
            return
        with self._refreshing:  # threads: an older list never overwrites a newer one
            version = pool.version
            self._view.refresh()
            ids = {pool.slot_of(server.name): server_id(server.name) for server in pool.servers}
            self._id_of_slot, self._slot_of_id = ids, {identity: slot for slot, identity in ids.items()}
            self._version = version

    def near(self, fingerprint: bytes) -> Binding | None:
        """The zone's entry of the key if it names a server of this pool, as the pool is now."""
        self._refresh()
        found = self._view.lookup(fingerprint)
        return found if isinstance(found, Binding) and found.slot >= 0 else None

    # -- what the pool says -------------------------------------------------------------------------------------------

    def _usable_slot(self, record: Record) -> int:
        """Slot of the record's server if a bound request may go there, else -1."""
        self._refresh()
        slot = self._slot_of_id.get(record.server, -1)
        return slot if slot >= 0 and self._view.pool.may_take_bound(slot) else -1

    def _policy_slot(self, key: bytes) -> int:
        slot = self._view.pool.pick_slot(key)
        if slot < 0:
            raise NoServerAvailable(self._view.pool.name, self._view.pool.reasons())
        return slot

    def _deterministic_slot(self, key: bytes, excluded: int = -1) -> int:
        """What every replica answers alike: the first ready choice of the `table` ring that is not excluded."""
        self._refresh()
        pool = self._view.pool
        for slot in pool.fallback_slots(key, 2):
            if slot != excluded:
                return slot
        raise NoServerAvailable(pool.name, pool.reasons())

    def _record(self, slot: int, term: int, generation: int, wall_s: int) -> Record:
        return Record(term, generation, self._id_of_slot[slot], self._writer, wall_s // 60, wall_s % 60)

    def _too_old(self, term: int, wall_s: int) -> bool:
        """Has the binding of this term reached its absolute lifetime?"""
        return self._max_lifetime_s > 0 and term_age_s(term, wall_s) >= self._max_lifetime_s

    def _held_slot(self, record: Record, wall_s: int) -> int:
        """Slot of a server that this replica holds down, but where another one moved the key a moment ago; else -1.

        The one exception from I7 that is no panic: see MIN_HOLD_S.
        """
        if record.generation < 2 or record.writer == self._writer or not abs(record.age_s(wall_s)) < MIN_HOLD_S:
            return -1
        slot = self._slot_of_id.get(record.server, -1)
        return slot if slot >= 0 and self._view.pool.state_of(self._name(slot)) in ("down", "ejected") else -1

    def _name(self, slot: int) -> str:
        return self._view.pool.server_at(slot).name

    def _check_may_move(self, record: Record) -> None:
        """Refuse to move a key off a server of this pool where on_failure says so; maintenance always moves."""
        slot = -1 if self._may_move else self._slot_of_id.get(record.server, -1)
        if slot < 0:
            return
        name, pool = self._name(slot), self._view.pool
        state = pool.state_of(name)
        if state != "maintenance":
            why = "failed" if state in ("ready", "draining") else state
            raise NoServerAvailable(pool.name, {name: f'{why}, and on_failure = "fail" keeps its users'})

    # -- the zone as the agreement, or as the stand-in while the store is away ---------------------------------------

    def _bind_in_zone(self, fingerprint: bytes, key: bytes, near: Any, known: Record | None, wall_s: int) -> Bound:
        if near is BUSY:
            slot = self._usable_slot(known) if known is not None else -1
            if known is not None and slot >= 0:
                return Bound(slot, "affinity-cookie", known.term, known.generation, "unknown")
            return Bound(self._deterministic_slot(key), "fallback-hash", 0, 0, "unknown")
        if known is None and isinstance(near, Binding) and self._too_old(near.term, wall_s):
            slot, term = self._policy_slot(key), new_term(wall_s)
            status, stands = self._view.replace(fingerprint, near.term, near.generation, slot, term, 1)
            if status == "wrote":
                return Bound(slot, "policy", term, 1, "won")
            if stands is not None and stands.slot >= 0 and self._view.pool.may_take_bound(stands.slot):
                return Bound(stands.slot, "affinity-near", stands.term, stands.generation, "adopted")
            return Bound(slot, "policy", 0, 0, "unknown")
        if known is None and isinstance(near, Binding):  # bound to a server that this pool does not have
            return self._move_in_zone(fingerprint, key, Record(near.term, near.generation, 0), -1)
        if known is None:
            slot, term = self._policy_slot(key), new_term(wall_s)
            return self._claim_in_zone(fingerprint, slot, term, 1, "policy", "won", once=True)
        slot = self._usable_slot(known)
        if slot < 0:
            return self._move_in_zone(fingerprint, key, known, -1)
        if isinstance(near, Binding) and (near.term, near.generation) == (known.term, known.generation):
            self._view.touch(fingerprint, near.term, near.generation, verified=True)
            return Bound(slot, "affinity-near", known.term, known.generation, "near")
        if isinstance(near, Binding) and near.term == known.term:  # the cookie knows a later decision
            self._view.replace(fingerprint, near.term, near.generation, slot, known.term, known.generation)
            return Bound(slot, "affinity-cookie", known.term, known.generation, "won")
        return self._claim_in_zone(fingerprint, slot, known.term, known.generation, "affinity-cookie", "won")

    def _claim_in_zone(
        self,
        fingerprint: bytes,
        slot: int,
        term: int,
        generation: int,
        reason: Reason,
        kind: str,
        *,
        provisional: bool = False,
        once: bool = False,
    ) -> Bound:
        status, stands = self._view.claim(fingerprint, slot, term, generation, once=once, provisional=provisional)
        if status == "wrote":
            return Bound(slot, reason, term, generation, kind)
        if stands is not None and stands.slot >= 0 and self._view.pool.may_take_bound(stands.slot):
            self._view.touch(fingerprint, stands.term, stands.generation)
            return Bound(stands.slot, "affinity-near", stands.term, stands.generation, "adopted")
        return Bound(slot, reason, 0, 0, "unknown")

    def _move_in_zone(
        self,
        fingerprint: bytes,
        key: bytes,
        known: Record,
        excluded: int,
        *,
        provisional: bool = False,
        kind: str = "moved",
    ) -> Bound:
        """Compare-and-set in the zone; somebody else's usable move is adopted."""
        self._check_may_move(known)
        term, generation = known.term, known.generation
        for _ in range(4):
            slot = self._deterministic_slot(key, excluded)
            status, stands = self._view.replace(
                fingerprint, term, generation, slot, term, generation + 1, provisional=provisional
            )
            if status == "wrote":
                return Bound(slot, "moved", term, generation + 1, kind)
            if status == "absent":
                return self._claim_in_zone(
                    fingerprint, slot, term, generation + 1, "moved", kind, provisional=provisional
                )
            if stands is None:  # the table is busy: nothing could be written
                return Bound(slot, "fallback-hash", 0, 0, "unknown")
            if stands.slot >= 0 and stands.slot != excluded and self._view.pool.may_take_bound(stands.slot):
                return Bound(stands.slot, "affinity-near", stands.term, stands.generation, "adopted")
            term, generation = stands.term, stands.generation
        return Bound(self._deterministic_slot(key, excluded), "fallback-hash", 0, 0, "unknown")

    def _degraded(
        self, fingerprint: bytes, key: bytes, near: Any, known: Record | None, decision: Decision, wall_s: int
    ) -> Bound:
        """The store is away or did not answer: what is known stays, the rest is what every replica computes alike."""
        kind = decision.kind.value
        slot = self._usable_slot(known) if known is not None else -1
        if known is not None and slot >= 0:
            term, generation = known.term, known.generation
            same = isinstance(near, Binding) and (near.term, near.generation) == (term, generation)
            if same and self._view.touch(fingerprint, term, generation):
                return Bound(slot, "affinity-near", term, generation, kind)
            before = near if isinstance(near, Binding) and not same else None  # the cookie knows better than the zone
            for _ in range(4):
                if before is None:
                    _, stands = self._view.claim(fingerprint, slot, term, generation, provisional=True)
                else:
                    _, stands = self._view.replace(
                        fingerprint, before.term, before.generation, slot, term, generation, provisional=True
                    )
                if stands is None or stands.term != term or stands.generation >= generation:
                    break
                before = stands  # another process moved it meanwhile, and not as far
            if stands is not None and stands.slot >= 0 and self._view.pool.may_take_bound(stands.slot):
                slot, term, generation = stands.slot, stands.term, stands.generation  # ours, or who was faster
            return Bound(slot, "affinity-near" if same else "affinity-cookie", term, generation, kind)
        if known is not None:
            return self._move_in_zone(fingerprint, key, known, -1, provisional=True, kind=kind)
        slot, term = self._deterministic_slot(key), new_term(wall_s)
        return self._claim_in_zone(fingerprint, slot, term, 1, "fallback-hash", kind, provisional=True, once=True)
