"""What happens to one key when the near tier cannot answer: bind, rebind, unbind, over near table and store.

Sans-I/O: each is a generator that yields commands for the key's home node (fastroute.affinity.agreement), is sent the
answers, and returns a Bound. The asyncio driver is fastroute.affinity.table, the blocking one fastroute.sync; both run
the same lines, so both agree. What the zone answers alone, and what the pool says, is in in_zone.py.

The order of truth, wherever two records of one key meet: same term, the higher generation wins; in every other case the
store's record wins; without a store, the zone's.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from fastroute._core.affinity_view import BUSY, AffinityView, Binding
from fastroute.affinity.agreement import Answer, Command, Decision, Kind
from fastroute.affinity.copies import claim, move, release, renew
from fastroute.affinity.in_zone import MIN_HOLD_S, Bound, Hint, Reason, ZoneBinder
from fastroute.affinity.record import NOBODY, Record, new_term

__all__ = ["MIN_HOLD_S", "ONCE_S", "Binder", "Bound", "Hint"]

ONCE_S = 60.0
"""Lifetime of a binding whose key was seen once only (design, section 5): robots that never return cost a minute."""

STORE_TTL_MIN_S, STORE_TTL_MAX_S = 5, 2_592_000
"""memcached's clock steps by one second, and above 30 days it reads a TTL as a date (1.6.18, protocol.txt)."""

RELEASED_MARGIN_S = 2
"""Added to the lifetime of a released key's record: memcached's clock steps by one second, ours by 64 ms."""

MOVES_MAX = 4
"""Times that a key is moved on because the server it was moved to cannot take it when the store has answered."""

Steps = Generator[Command, Answer, Bound]


class Binder(ZoneBinder):
    """The steps for one pool's view.

    Args:
        view: the pool's view of the near table.
        stored: True when there is a store; else the zone is the agreement.
        ttl_s: sliding idle lifetime.
        writer, may_move, max_lifetime_s: as for ZoneBinder.
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
        super().__init__(view, writer=writer, may_move=may_move, max_lifetime_s=max_lifetime_s)
        self._stored = stored
        self._ttl_s = min(max(math.ceil(ttl_s), STORE_TTL_MIN_S), STORE_TTL_MAX_S)
        self._once_s = min(self._ttl_s, math.ceil(ONCE_S))
        self._released_s = min(self._ttl_s + math.ceil(near_ttl_s) + RELEASED_MARGIN_S, STORE_TTL_MAX_S)

    @property
    def ttl_s(self) -> int:
        """Lifetime of a record in the store, whole seconds."""
        return self._ttl_s

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

        def successor(record: Record) -> Record:
            # What another replica bound afresh meanwhile, to a server that cannot take it here, is moved.
            return fresh if over(record) else replace(fresh, term=record.term, generation=record.generation + 1)

        decision = yield from move(
            ended.record,
            ended.token,
            successor,
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
            # It went down or left the pool while the store was asked.
            return (yield from self._move_in_store(fingerprint, key, decision, -1, wall_s, homes))
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
