"""What happens to one key when the near tier cannot answer: bind, rebind, unbind, over near table and store.

Sans-I/O: each is a generator that yields commands for the key's home node (fastroute.affinity.agreement), is sent the
answers, and returns a Bound. The asyncio driver is fastroute.affinity.table, the blocking one fastroute.sync; both run
the same lines, so both agree.

The order of truth, wherever two records of one key meet: same term, the higher generation wins; in every other case the
store's record wins; without a store, the zone's. While the store is away a key keeps the server that zone or cookie
names; an unknown key gets the answer of the `table` ring over ready servers, which every replica computes alike.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastroute._core.affinity_view import BUSY, AffinityView, Binding
from fastroute.affinity.agreement import Answer, Command, Decision, Kind
from fastroute.affinity.copies import claim, move, release, renew
from fastroute.affinity.record import NOBODY, Record, new_term, server_id, term_age_s
from fastroute.errors import NoServerAvailable

__all__ = ["MIN_HOLD_S", "ONCE_S", "Binder", "Bound", "Hint"]

ONCE_S = 60.0
"""Lifetime of a binding whose key was seen once only (design, section 5): robots that never return cost a minute."""

MIN_HOLD_S = 5
"""A move that another replica made so recently is not undone on health evidence alone (ping-pong guard): the request
tries the server that the other one chose, and its own failed attempt is evidence enough. Reference: section 5."""

STORE_TTL_MIN_S, STORE_TTL_MAX_S = 5, 2_592_000
"""memcached's clock steps by one second, and above 30 days it reads a TTL as a date (1.6.18, protocol.txt)."""

RELEASED_MARGIN_S = 2
"""Added to the lifetime of a released key's record: memcached's clock steps by one second, ours by 64 ms."""

MOVES_MAX = 4
"""Times that a key is moved on because the server it was moved to cannot take it when the store has answered."""

Hint = tuple[str, int, int]
"""(server name, term, generation) from a verified cookie."""

Reason = Literal["affinity-near", "affinity-store", "affinity-cookie", "policy", "moved", "fallback-hash"]
Steps = Generator[Command, Answer, "Bound"]


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


class Binder:
    """The steps for one pool's view.

    Args:
        view: the pool's view of the near table.
        stored: True when there is a store; else the zone is the agreement.
        ttl_s: sliding idle lifetime.
        writer: 32-bit id of this process, written into records: for people who debug, and for the ping-pong guard.
        may_move: False keeps a key whose server is down there, and refuses its requests (on_failure = "fail").
        max_lifetime_s: a binding of that age ends and is made afresh; 0: never.
        near_ttl_s: how long an entry is used without asking: a released key is remembered for so much longer.
    """

    def __init__(
        self,
        view: AffinityView,
        *,
        stored: bool,
        ttl_s: float,
        writer: int,
        may_move: bool = True,
        max_lifetime_s: float = 0,
        near_ttl_s: float = 0,
    ) -> None:
        self._view, self._stored, self._writer = view, stored, writer
        self._may_move, self._max_lifetime_s = may_move, max_lifetime_s
        self._ttl_s = min(max(math.ceil(ttl_s), STORE_TTL_MIN_S), STORE_TTL_MAX_S)
        self._once_s = min(self._ttl_s, math.ceil(ONCE_S))
        self._released_s = min(self._ttl_s + math.ceil(near_ttl_s) + RELEASED_MARGIN_S, STORE_TTL_MAX_S)
        self._slot_of_id: dict[int, int] = {}
        self._id_of_slot: dict[int, int] = {}
        self._version = -1
        self._refreshing = threading.Lock()
        self._refresh()

    @property
    def ttl_s(self) -> int:
        """Lifetime of a record in the store, whole seconds."""
        return self._ttl_s

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

    def confirm(self, fingerprint: bytes, record: Record, *, expires_tick: int = 0) -> None:
        """The store said this of the key: take it over near, if it names a server of this pool.

        Args:
            expires_tick: when the binding ends; 0 for a full lifetime from now.
        """
        self._refresh()
        if record.released:
            self._forget(fingerprint, record)
            return
        slot = self._slot_of_id.get(record.server, -1)
        if slot >= 0:
            self._view.learn(fingerprint, slot, record.term, record.generation, expires_tick=expires_tick)

    def _forget(self, fingerprint: bytes, released: Record) -> bool:
        """The store says that the key was released: what the zone knows from before is no hint any more."""
        near = self._view.lookup(fingerprint)
        if not isinstance(near, Binding) or near.term != released.term or near.generation >= released.generation:
            return False
        return self._view.remove(fingerprint, near.term, near.generation)

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

    # -- bind ---------------------------------------------------------------------------------------------------------

    def bind(
        self, fingerprint: bytes, key: bytes, hint: Hint | None, minute: int, *, second: int = 0, homes: int = 1
    ) -> Steps:
        """The key's server, bound if it was not: one round trip for a new key with one home.

        Args:
            fingerprint, key: as the view makes it; the key itself.
            hint: from a verified cookie.
            minute, second: wall clock, minutes since 1970 and the second of the minute.
            homes: how many nodes hold the key.

        Raises:
            NoServerAvailable: no server of the pool can take it.
        """
        self._refresh()
        wall_s = minute * 60 + second
        if self._max_lifetime_s:
            self._view.set_wall(wall_s)
        near = self._view.lookup(fingerprint)
        known = self._known(near, hint, wall_s)
        if not self._stored:
            return self._bind_in_zone(fingerprint, key, near, known, wall_s)
        if known is None and isinstance(near, Binding) and not self._too_old(near.term, wall_s):
            gone = Decision(Kind.UNKNOWN, Record(near.term, near.generation, 0))  # its server is none of this pool
            return (yield from self._move_in_store(fingerprint, key, gone, -1, wall_s, homes))
        if known is not None:
            from_zone = near is not BUSY and isinstance(near, Binding) and near.term == known.term
            steps = renew(known, self._ttl_s, homes=homes) if from_zone else claim(known, self._ttl_s, homes=homes)
            decision = yield from steps
        else:
            candidate = self._record(self._policy_slot(key), new_term(wall_s), 1, wall_s)
            decision = yield from claim(candidate, self._once_s, full_ttl_s=self._ttl_s, homes=homes)
        if decision.record is None:
            return self._degraded(fingerprint, key, near, known, decision, wall_s)
        if decision.record.released:
            self._forget(fingerprint, decision.record)
        if decision.record.released or self._too_old(decision.record.term, wall_s):
            return (yield from self._bind_afresh(fingerprint, key, decision, wall_s, homes))
        slot = self._usable_slot(decision.record)
        if slot < 0:
            slot = self._held_slot(decision.record, wall_s)
        if slot < 0:
            return (yield from self._move_in_store(fingerprint, key, decision, -1, wall_s, homes))
        once = known is None and decision.kind is Kind.WON
        only_read = (known is None and decision.kind is Kind.ADOPTED) or (homes > 1 and not decision.settled)
        self._learn(fingerprint, slot, decision.record, once=once, only_read=only_read)
        reason: Reason = "affinity-store"
        if decision.kind is Kind.WON:
            reason = "policy" if known is None else "affinity-store" if from_zone else "affinity-cookie"
        kind = decision.kind.value if known is None or not from_zone else "near"
        return Bound(slot, reason, decision.record.term, decision.record.generation, kind, only_read)

    def _bind_afresh(self, fingerprint: bytes, key: bytes, ended: Decision, wall_s: int, homes: int) -> Steps:
        """Bind a key whose binding was released or has reached its lifetime: a new term, once over the whole fleet."""
        fresh = self._record(self._policy_slot(key), new_term(wall_s), 1, wall_s)

        def over(record: Record) -> bool:
            return record.released or self._too_old(record.term, wall_s)

        def successor(record: Record) -> Record:  # what others bound afresh, to a server that is down here, is moved
            return fresh if over(record) else replace(fresh, term=record.term, generation=record.generation + 1)

        decision = yield from move(
            ended.record,
            ended.token,
            # What another replica bound afresh meanwhile, to a server that cannot take it here, is moved.
            lambda record: (
                fresh if over(record) else replace(fresh, term=record.term, generation=record.generation + 1)
            ),
            lambda record: not over(record) and self._usable_slot(record) >= 0,
            lambda: fresh,
            self._ttl_s,
            homes=homes,
        )
        if decision.record is None:
            slot = self._deterministic_slot(key)  # the store went away meanwhile: what every replica answers
            return Bound(slot, "fallback-hash", 0, 0, decision.kind.value)
        record = decision.record
        slot = self._usable_slot(record)
        if slot < 0:
            raise NoServerAvailable(self._view.pool.name, self._view.pool.reasons())
        self._learn(fingerprint, slot, record)
        adopted = decision.kind is Kind.ADOPTED
        return Bound(
            slot,
            "affinity-store" if adopted else "policy",
            record.term,
            record.generation,
            "adopted" if adopted else "won",
        )

    def _known(self, near: Any, hint: Hint | None, wall_s: int) -> Record | None:
        """What zone and cookie know of the key; the zone wins unless the cookie has a later decision of its term.

        Not stamped: when it was decided is not known here, and what is restored must not look like a fresh move.
        """
        zone = cookie = None
        if isinstance(near, Binding) and not self._too_old(near.term, wall_s):
            server = self._id_of_slot[near.slot] if near.slot >= 0 else 0  # 0: one that this pool does not have
            zone = Record(near.term, near.generation, server, self._writer)
        if hint is not None:
            name, term, generation = hint
            slot = self._view.pool.slot_of(name)
            if slot >= 0 and term and generation and not self._too_old(term, wall_s):
                cookie = Record(term, generation, self._id_of_slot[slot], self._writer)
        if zone is None or (cookie is not None and cookie.outranks(zone)):
            return cookie
        return zone if zone.server else None  # a decision without a server to go to: it has to be moved

    def _learn(
        self, fingerprint: bytes, slot: int, record: Record, *, once: bool = False, only_read: bool = False
    ) -> None:
        self._view.learn(fingerprint, slot, record.term, record.generation, once=once, only_read=only_read)

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

    # -- release ------------------------------------------------------------------------------------------------------

    def unbind(
        self, fingerprint: bytes, minute: int, *, second: int = 0, homes: int = 1
    ) -> Generator[Command, Answer, Decision]:
        """Release the key: forgotten near, and nobody's in the store for as long as anybody may know of the binding."""
        near = self._view.lookup(fingerprint)
        known = Record(near.term, near.generation, NOBODY) if isinstance(near, Binding) else None
        self._view.remove(fingerprint)
        return (
            yield from release(
                lambda record: record.moved_to(NOBODY, writer=self._writer, minute=minute, second=second),
                self._released_s,
                known=known,
                homes=homes,
            )
        )

    # -- the zone as the agreement, or as the stand-in while the store is away -----------------------------------------

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

    # -- move ---------------------------------------------------------------------------------------------------------

    def rebind(
        self,
        fingerprint: bytes,
        key: bytes,
        failed_slot: int,
        term: int,
        generation: int,
        minute: int,
        *,
        second: int = 0,
        homes: int = 1,
        own: bool = True,
    ) -> Steps:
        """Another server for a key whose server failed this request.

        Args:
            fingerprint, key, minute, second, homes: as for bind.
            failed_slot, term, generation: what the request was given.
            own: this replica's own attempt failed; False: it knows of the failure by health checks alone.

        Raises:
            NoServerAvailable: no other server can take it, or on_failure = "fail".
        """
        self._refresh()
        wall_s = minute * 60 + second
        failed = self._id_of_slot.get(failed_slot, 0)  # 0: it has left the pool meanwhile
        known = Record(term, generation, failed, self._writer, minute, second)
        if not self._stored:
            return self._move_in_zone(fingerprint, key, known, failed_slot)
        near = self._view.lookup(fingerprint)
        if isinstance(near, Binding) and near.term == term and near.generation > generation:
            # Another process of this machine has moved on, perhaps without the store: no way back behind that (I4).
            server = self._id_of_slot[near.slot] if near.slot >= 0 else 0
            known = Record(near.term, near.generation, server, self._writer)
            if near.slot != failed_slot and self._usable_slot(known) >= 0:
                return (yield from self.bind(fingerprint, key, None, minute, second=second, homes=homes))
        asked = Decision(Kind.UNKNOWN, known)
        return (yield from self._move_in_store(fingerprint, key, asked, failed_slot, wall_s, homes, own=own))

    def follow(
        self, fingerprint: bytes, slot: int, stands: Bound, minute: int, *, second: int = 0, homes: int = 1
    ) -> Steps:
        """The server in `slot` has answered for this key, with success, while it is bound to another one (`stands`).

        The session is there now, and the binding moves there by compare-and-set; a later decision is left alone.
        """
        self._refresh()
        wall_s = minute * 60 + second
        known = self._record(stands.slot, stands.term, stands.generation, wall_s)
        identity = self._id_of_slot[slot]
        if not self._stored:
            status, _ = self._view.replace(
                fingerprint, known.term, known.generation, slot, known.term, known.generation + 1
            )
            return Bound(slot, "moved", known.term, known.generation + 1, "moved") if status == "wrote" else stands
        decision = yield from move(
            known,
            None,
            lambda record: record.moved_to(identity, writer=self._writer, minute=minute, second=second),
            lambda record: (record.term, record.generation) != (known.term, known.generation),
            lambda: Record(new_term(wall_s), 1, identity, self._writer, minute, second),
            self._ttl_s,
            homes=homes,
        )
        if decision.record is None:  # the store is away: nobody is moved on a guess
            return stands
        found = self._slot_of_id.get(decision.record.server, -1)
        if found < 0:
            return stands
        self._learn(fingerprint, found, decision.record)
        reason: Reason = "affinity-store" if decision.kind is Kind.ADOPTED else "moved"
        return Bound(found, reason, decision.record.term, decision.record.generation, decision.kind.value)

    def _move_in_store(
        self,
        fingerprint: bytes,
        key: bytes,
        known: Decision,
        excluded: int,
        wall_s: int,
        homes: int,
        *,
        own: bool = True,
    ) -> Steps:
        def usable(record: Record) -> bool:
            found = self._usable_slot(record)
            if found >= 0 and found != excluded:
                return True
            held = self._held_slot(record, wall_s)
            return held >= 0 and not (own and held == excluded)

        decision = known
        for _ in range(MOVES_MAX):
            before = decision.record
            assert before is not None
            self._check_may_move(before)
            first = self._record(self._deterministic_slot(key, excluded), new_term(wall_s), 1, wall_s)
            decision = yield from move(
                before,
                decision.token,
                lambda record, to=first: replace(to, term=record.term, generation=record.generation + 1),  # type: ignore[misc]
                usable,
                lambda first=first: first,  # type: ignore[misc]
                self._ttl_s,
                homes=homes,
            )
            if decision.record is None:
                return self._move_in_zone(
                    fingerprint, key, before, excluded, provisional=True, kind=decision.kind.value
                )
            found = self._usable_slot(decision.record)
            if found < 0:
                found = self._held_slot(decision.record, wall_s)
            if found >= 0:
                self._learn(fingerprint, found, decision.record)
                reason: Reason = "affinity-store" if decision.kind is Kind.ADOPTED else "moved"
                return Bound(found, reason, decision.record.term, decision.record.generation, decision.kind.value)
            # else: it went down or left the pool while the store was asked
        return Bound(self._deterministic_slot(key, excluded), "fallback-hash", 0, 0, Kind.UNKNOWN.value)
