"""Why a key goes where it goes: `explain(router, key)` answers as routing would, and says what decided.

Pure data: an Explanation with the pick, the reason, every server of the pool with why it was passed over, and the
numbers that decided. `str(explanation)` is for people, `to_dict()` for programs.

Rules of this file:
  * Nothing is counted, claimed, touched or moved: round robin's cursor stays, a binding's expiry is not slid.
  * It follows the same order of truth as fastroute.affinity.binding: zone, store, policy; what the store would say is
    part of it only when somebody asked (Router.explain_stored), else `certain` is False where it could decide.
  * A policy that draws at random has no pick before it draws: `pick` is None and the candidates carry their share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastroute._core.affinity_view import AffinityView, Binding
from fastroute._core.hashes import xxh64
from fastroute._core.pool import Pool
from fastroute._core.pool_rings import rings_in_force, slot_of_key
from fastroute.errors import UsageError

__all__ = ["Candidate", "Explanation", "StoreAnswer", "ZoneBinding", "explain", "ring_order"]

DRAWN = ("random", "two-choices", "peak-ewma", "prequal")
"""Policies that draw at each request: before it there is no pick."""

KEY_SHOWN_MAX = 80
"""Characters of a key that the text shows; to_dict() gives all of it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One server of the pool, as this key sees it.

    Attributes:
        name, address, state, backup: the server's.
        verdict: "picked", "next" (takes the key when those before it fail), or "passed over".
        why: in words.
        order: 0 for the pick, 1.. for the fallbacks; None for who is passed over.
        ring_rank: place in the ring's order for this key, 0 first, states left aside; None where no ring decides.
        weight, weight_effective: as configured; as it counts now.
        in_flight: requests it is serving, of all workers of the zone.
        limit: most requests it may serve at once (max_connections or the bound of max_load); None for none.
        share: its part of the keys that are not bound, 0..1; 0 where it takes none.
    """

    name: str
    address: str
    state: str
    backup: bool
    verdict: str
    why: str
    order: int | None
    ring_rank: int | None
    weight: int
    weight_effective: float
    in_flight: int
    limit: int | None
    share: float


@dataclass(frozen=True, slots=True)
class ZoneBinding:
    """What the zone says about the key.

    Attributes:
        server: name, or None for a server that this pool does not have.
        term, generation: the decision.
        age_ms: since the store (without one: the zone) last said so.
        once: the key was seen once; provisional: made while the store was away.
        trusted: may it be used without asking the store?
    """

    server: str | None
    term: int
    generation: int
    age_ms: int
    once: bool
    provisional: bool
    trusted: bool


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What the store says about the key.

    Attributes:
        status: "hit", "miss", "unknown" (asked, no answer in time) or "down" (no node to ask).
        server: name, or None: not bound, or a server that this pool does not have.
        term, generation: the decision; 0 without a record.
        writer: 32-bit id of the process that wrote it; minute: minutes since 1970 when it did.
    """

    status: str
    server: str | None = None
    term: int = 0
    generation: int = 0
    writer: int = 0
    minute: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to "where does this key go, and why".

    Attributes:
        pool, policy, ring: of the pool; ring is None where none decides.
        key: as text (bytes that are no UTF-8 are escaped); None for a request without a key.
        pick: name of the server; None when there is none, or when the policy draws at each request.
        address: the pick's address.
        reason: what a selection would carry ("affinity-near", "affinity-store", "policy", "panic",
            "moved", "fallback-hash"),
            or "none": no server can take it.
        why: the reason in words.
        certain: False when the store, which was not asked, could say otherwise.
        candidates: every server: the pick, then the fallbacks in order, then those passed over by name.
        numbers: what decided, by name: hash, cell, cells, point, ...
        zone: the binding in the zone, "busy" (a stopped process holds that part), or None.
        store: what the store said; None: there is none, or it was not asked.
        notes: what else there is to know.
    """

    pool: str
    policy: str
    ring: str | None
    key: str | None
    pick: str | None
    address: str | None
    reason: str
    why: str
    certain: bool
    candidates: tuple[Candidate, ...]
    numbers: dict[str, Any]
    zone: ZoneBinding | str | None
    store: StoreAnswer | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and text, ready for JSON; the hash and the terms are hexadecimal text."""
        found = dataclasses.asdict(self)
        for part in (found["zone"], found["store"]):
            if isinstance(part, dict):
                part["term"] = f"{part['term']:#x}"
        found["candidates"], found["notes"] = list(found["candidates"]), list(self.notes)
        return found

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def explain(
    pool: Pool,
    view: AffinityView | None,
    key: str | bytes | None,
    *,
    stored: bool = False,
    near_ttl_s: float = 0.0,
    store: StoreAnswer | None = None,
) -> Explanation:
    """Where the key would go now, and why.

    Args:
        pool: who decides.
        view: the pool's view of the affinity table; None without affinity.
        key: as route() takes it.
        stored: there is a store behind the view.
        near_ttl_s: how long a near entry is trusted with a store.
        store: what the store said; None when it was not asked.

    Raises:
        UsageError: a key that route() would not take.
    """
    raw = _raw(key)
    names = {pool.slot_of(server.name): server.name for server in pool.servers}
    zone: ZoneBinding | str | None = None
    if raw and view is not None:
        zone = _zone_binding(view, view.lookup(view.fingerprint(raw)), names, stored, near_ttl_s)
    drawn = pool.policy in DRAWN
    fallbacks = [server.name for server in pool.candidates(key, len(pool))]
    pick, reason, why, certain = _decision(pool, raw, view is not None, zone, stored, store, fallbacks, drawn)
    agreed = reason not in ("policy", "panic", "none")
    if agreed:  # where a bound key goes next is not the policy's choice: every replica computes it alike
        fallbacks = [names[slot] for slot in pool.fallback_slots(raw or b"", len(pool))]
    hashed = bool(raw) and (pool.policy == "hash" or agreed)
    ring, ranks, numbers = _ring_numbers(pool, raw or b"", names, agreed) if hashed else (None, {}, {})
    drawing = drawn and pick is None
    order = [] if pick is None else list(dict.fromkeys([*([pick] if pick else []), *fallbacks]))
    refused = {} if agreed or drawing else _refused(pool, fallbacks, pick)
    bound = pick if reason.startswith("affinity") else None
    return Explanation(
        pool=pool.name,
        policy=pool.policy,
        ring=ring,
        key=None if raw is None else raw.decode("utf-8", "backslashreplace"),
        pick=pick,
        address=next((server.address for server in pool.servers if server.name == pick), None),
        reason=reason,
        why=why,
        certain=certain,
        candidates=tuple(_candidates(pool, order, ranks, refused, bound=bound, drawing=drawing)),
        numbers=numbers,
        zone=zone,
        store=store,
        notes=tuple(_notes(pool, key, view, zone, stored, store)),
    )


def ring_order(pool: Pool, hash: int, *, table: bool = False) -> list[int]:
    """All slots of the ring in force in the order in which it offers them for a hash, states left aside.

    Args:
        pool: whose ring.
        hash: of the key, as that ring hashes keys.
        table: the table that every replica falls back on, also where `hash` picks from another ring.
    """
    dialect, ring, overlay = rings_in_force(pool)
    if dialect is not None and not table:
        return list(dialect.candidates_of_hash(hash, len(dialect)))
    if ring is None:
        return []
    cell = ring.cell_of(hash)
    listed = list(ring.choices(cell))
    if overlay is not None:
        listed += overlay.choices(cell)
    return list(dict.fromkeys([*listed, *ring.ranking(cell)]))


def _raw(key: str | bytes | None) -> bytes | None:
    if isinstance(key, str):
        try:
            return key.encode() or None
        except UnicodeEncodeError as error:
            raise UsageError(f"key has a lone surrogate at position {error.start}: it has no UTF-8 form") from None
    if key is None or isinstance(key, bytes):
        return key or None
    raise UsageError(f"key: found {type(key).__name__}; accepted are str, bytes and None")


def _zone_binding(
    view: AffinityView, found: Any, names: dict[int, str], stored: bool, near_ttl_s: float
) -> ZoneBinding | str | None:
    if not isinstance(found, Binding):
        return "busy" if found else None
    trusted = not stored or view.trust_stale or found.age_ms <= near_ttl_s * 1000
    return ZoneBinding(
        names.get(found.slot), found.term, found.generation, found.age_ms, found.once, found.provisional, trusted
    )


Decided = tuple["str | None", str, str, bool]


def _decision(
    pool: Pool,
    raw: bytes | None,
    sticky: bool,
    zone: ZoneBinding | str | None,
    stored: bool,
    store: StoreAnswer | None,
    fallbacks: list[str],
    drawn: bool,
) -> Decided:
    """(pick, reason, why, certain) in the order of truth of fastroute.affinity.binding."""
    if not sticky or raw is None:
        return _by_policy(pool, raw, fallbacks, drawn, sticky)
    near = zone if isinstance(zone, ZoneBinding) else None
    usable = near is not None and near.server is not None and takes_bound(pool, near.server)
    if near is not None and usable and near.trusted:
        return near.server, "affinity-near", f"the zone binds the key to {near.server}", True
    if zone == "busy" and not stored:
        return _deterministic(
            pool, raw, "fallback-hash", "that part of the zone is held by a process that stands still"
        )
    if not stored:
        if near is None:
            return _by_policy(pool, raw, fallbacks, drawn, sticky)
        return _deterministic(pool, raw, "moved", f"bound to {_unusable(pool, near.server)}")
    return _with_store(pool, raw, near, usable, store, fallbacks, drawn)


def _with_store(
    pool: Pool,
    raw: bytes,
    near: ZoneBinding | None,
    usable: bool,
    store: StoreAnswer | None,
    fallbacks: list[str],
    drawn: bool,
) -> Decided:
    if store is not None and store.status == "hit":
        later = near is not None and near.term == store.term and near.generation > store.generation
        if near is not None and usable and later:
            return near.server, "affinity-store", "the zone knows a later generation than the store, and wins", True
        if store.server is not None and takes_bound(pool, store.server):
            return store.server, "affinity-store", f"the store binds the key to {store.server}", True
        return _deterministic(pool, raw, "moved", f"the store binds it to {_unusable(pool, store.server)}")
    if store is not None and store.status in ("unknown", "down"):
        away = "the store is down" if store.status == "down" else "the store did not answer in time"
        if near is not None and usable:
            return near.server, "affinity-near", f"{away}; the zone binds the key to {near.server}", True
        if near is not None and near.server is not None:
            return _deterministic(pool, raw, "moved", f"{away}; the zone binds it to {_unusable(pool, near.server)}")
        return _deterministic(pool, raw, "fallback-hash", f"{away} and the zone does not know the key")
    if near is not None and near.server is not None:
        heard = "the store has no record of it; " if store is not None else ""
        if usable:
            why = f"{heard}the zone binds the key to {near.server}"
            if store is None:
                why += f", which the store has to confirm ({near.age_ms / 1000:.1f} s old)"
            return near.server, "affinity-store", why, store is not None
        pick, reason, why, _ = _deterministic(pool, raw, "moved", f"{heard}bound to {_unusable(pool, near.server)}")
        return pick, reason, why, store is not None
    pick, reason, why, _ = _by_policy(pool, raw, fallbacks, drawn, True)
    return pick, reason, why, store is not None


def takes_bound(pool: Pool, name: str) -> bool:
    """May a bound request go to the server of this name?"""
    slot = pool.slot_of(name)
    return slot >= 0 and pool.may_take_bound(slot)


def _unusable(pool: Pool, name: str | None) -> str:
    return "a server that this pool does not have" if name is None else f"{name}, which is {pool.state_of(name)}"


def _by_policy(pool: Pool, raw: bytes | None, fallbacks: list[str], drawn: bool, sticky: bool) -> Decided:
    what = "no key" if raw is None else "the key is not bound" if sticky else "nothing is sticky"
    if not fallbacks:
        return None, "none", f"{what}, and no server can take it", True
    if drawn:
        return None, pool.reason(), f"{what}; {pool.policy} draws at each request, see the shares", True
    if pool.policy == "hash" and raw is not None:
        slot = slot_of_key(pool, raw)
        if slot < 0:
            return None, "none", f"{what}, and every server that could take it is full", True
        return pool.server_at(slot).name, pool.reason(), f"{what}; {_hash_why(pool, slot, fallbacks)}", True
    if pool.policy == "least-connections":
        return fallbacks[0], pool.reason(), f"{what}; it has the fewest requests in flight for its weight", True
    return fallbacks[0], pool.reason(), f"{what}; round-robin: its turn is next", True


def _hash_why(pool: Pool, slot: int, fallbacks: list[str]) -> str:
    if pool.server_at(slot).name == fallbacks[0]:
        return f"first eligible server in the order of the {pool.ring} ring"
    return f"{fallbacks[0]} comes first in the order of the {pool.ring} ring and has no room or is slow to start"


def _deterministic(pool: Pool, raw: bytes, reason: str, because: str) -> Decided:
    slots = pool.fallback_slots(raw, 1)
    if not slots:
        return None, "none", f"{because}, and no server can take it", True
    answer = "what every replica computes alike"
    return pool.server_at(slots[0]).name, reason, f"{because}; {answer}: the first eligible server of the ring", True


def _ring_numbers(
    pool: Pool, raw: bytes, names: dict[int, str], agreed: bool
) -> tuple[str | None, dict[str, int], dict[str, Any]]:
    """The ring's name, each server's place in its order for the key, and the numbers."""
    dialect, table, _ = rings_in_force(pool)
    agreed = agreed or dialect is None
    hash = xxh64(raw, pool.seed) if agreed else pool.hash(raw)
    ranks = {names[slot]: rank for rank, slot in enumerate(ring_order(pool, hash, table=agreed)) if slot in names}
    numbers: dict[str, Any] = {"hash": f"{hash:#018x}"}
    if not agreed:
        return pool.ring, ranks, {**numbers, **_dialect_numbers(dialect, hash)}
    if table is not None:
        numbers.update(cell=table.cell_of(hash), cells=table.cells)
    return "table", ranks, numbers


def _dialect_numbers(ring: Any, hash: int) -> dict[str, Any]:
    if hasattr(ring, "point_at") and len(ring):
        return {"point": f"{ring.point_at(hash):#x}", "points": ring.point_count}
    for attribute, name in (("table_size", "cells"), ("size", "cells"), ("bucket_count", "buckets")):
        count = getattr(ring, attribute, 0)
        if count:
            return {name: count, **({"cell": hash % count} if name == "cells" else {})}
    return {}


def _refused(pool: Pool, fallbacks: list[str], pick: str | None) -> dict[str, str]:
    """Eligible servers that stand before the pick in its order -> why they do not take the key now."""
    before = fallbacks[: fallbacks.index(pick)] if pick in fallbacks else fallbacks
    rows = {row.name: row for row in pool.statistics().servers}
    return {
        name: "over its bound or still ramping up"
        if pool.room_in(pool.slot_of(name))
        else f"max_connections reached: {rows[name].in_flight_zone} in flight"
        for name in before
    }


def _candidates(
    pool: Pool, order: list[str], ranks: dict[str, int], refused: dict[str, str], *, bound: str | None, drawing: bool
) -> Iterator[Candidate]:
    rows = {row.name: row for row in pool.statistics().servers}
    configured = {server.name: server for server in pool.servers}
    against = eligibility(pool)
    against.update(refused)
    eligible = {name for name, why in against.items() if not why}
    total = sum(rows[name].weight_effective for name in eligible) or 1
    for name in [*order, *(name for name in rows if name not in order)]:
        row, place = rows[name], order.index(name) if name in order else None
        verdict = "passed over" if place is None or name in refused else "next" if place else "picked"
        if drawing and name in eligible:
            verdict = "next"
        yield Candidate(
            name=name,
            address=row.address,
            state=row.state,
            backup=row.backup,
            verdict=verdict,
            why=_why(against[name], place, bound, drawing, name in ranks),
            order=place,
            ring_rank=ranks.get(name),
            weight=row.weight,
            weight_effective=row.weight_effective,
            in_flight=row.in_flight_zone,
            limit=configured[name].max_connections or None,
            share=row.weight_effective / total if name in eligible else 0.0,
        )


def eligibility(pool: Pool) -> dict[str, str]:
    """Server name -> why it takes no unbound request, "" for those that take them."""
    found: dict[str, str] = {}
    main = [s.name for s in pool.servers if not s.backup and s.weight and pool.state_of(s.name) == "ready"]
    taking = {server.name for server in pool.candidates(None, len(pool))}
    for server in pool.servers:
        state = pool.state_of(server.name)
        if server.name in taking:
            found[server.name] = ""
        elif state != "ready":
            found[server.name] = state
        elif not server.weight:
            found[server.name] = "weight 0 takes no unbound request"
        elif server.backup and main:
            found[server.name] = f"backup, and {len(main)} main server{'s are' if len(main) > 1 else ' is'} ready"
        else:
            found[server.name] = "not in force"
    return found


def _why(against: str, place: int | None, bound: str | None, drawing: bool, ranked: bool) -> str:
    if place == 0:
        return "bound, and takes bound requests" if bound else "first of those that can take it"
    if against or drawing or place is None:
        return against or ("may be drawn" if drawing else "not among the candidates")
    if bound is not None:
        return f"the key is bound to {bound}; choice {place} if that fails"
    return f"eligible, choice {place + 1} in the ring's order" if ranked else f"eligible, {place} behind in turn"


def _notes(
    pool: Pool,
    key: str | bytes | None,
    view: AffinityView | None,
    zone: ZoneBinding | str | None,
    stored: bool,
    store: StoreAnswer | None,
) -> Iterator[str]:
    if view is None and key:
        yield "the pool is not sticky: every request of the key is decided anew"
    if stored and store is None and key and not (isinstance(zone, ZoneBinding) and zone.trusted):
        yield "the store was not asked; if it knows the key, what it says counts"
    if isinstance(zone, ZoneBinding) and store is not None and store.status == "hit":
        yield from _difference(zone, store)
    if isinstance(zone, ZoneBinding) and zone.provisional:
        yield "the binding was made while the store was away and is written there when the key is seen again"
    if not pool.ready_count:
        yield "no server is ready"


def _difference(zone: ZoneBinding, store: StoreAnswer) -> Iterator[str]:
    if zone.term != store.term:
        yield "zone and store differ: different terms, the store's wins"
    elif zone.generation != store.generation:
        yield "zone and store differ: same term, the higher generation wins"


def _lines(of: Explanation) -> Iterator[str]:
    ring = f", ring {of.ring}" if of.ring else ""
    yield f"pool {of.pool}: policy {of.policy}{ring}, {len(of.candidates)} servers"
    shown = (
        "no key" if of.key is None else f"key {of.key[:KEY_SHOWN_MAX]!r}{'...' if len(of.key) > KEY_SHOWN_MAX else ''}"
    )
    where = f"{of.pick} ({of.address})" if of.pick else "no server" if of.reason == "none" else "drawn at each request"
    yield f"{shown} -> {where}{'' if of.certain else ', unless the store says otherwise'}"
    yield f"reason: {of.reason}: {of.why}"
    if of.numbers:
        yield "numbers: " + ", ".join(f"{name} {value}" for name, value in of.numbers.items())
    if of.zone == "busy":
        yield "zone: busy"
    elif isinstance(of.zone, ZoneBinding):
        flags = "".join(f", {flag}" for flag in ("once", "provisional") if getattr(of.zone, flag))
        yield (
            f"zone: {of.zone.server or 'a server that this pool does not have'}, term {of.zone.term:#x}, "
            f"generation {of.zone.generation}, {of.zone.age_ms / 1000:.1f} s old{flags}"
        )
    if of.store is not None:
        said = of.store.status
        if said == "hit":
            server = of.store.server or "a server that this pool does not have"
            said += f": {server}, term {of.store.term:#x}, generation {of.store.generation}"
        yield f"store: {said}"
    yield from _table(of)
    for note in of.notes:
        yield f"note: {note}"


def _table(of: Explanation) -> Iterator[str]:
    heads = ("", "server", "state", "weight", "effective", "in flight", "limit", "ring rank", "share", "why")
    rows = [
        (
            "->" if one.order == 0 else "",
            one.name,
            one.state + (", backup" if one.backup else ""),
            str(one.weight),
            f"{one.weight_effective:g}",
            str(one.in_flight),
            "-" if one.limit is None else str(one.limit),
            "-" if one.ring_rank is None else str(one.ring_rank),
            f"{one.share:.1%}",
            f"{one.verdict}: {one.why}",
        )
        for one in of.candidates
    ]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
