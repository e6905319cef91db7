"""What a change of the servers would move: `preview(pool, new_servers)` compares the pool with itself after the change.

Which keys would go elsewhere, from whom to whom, and which live bindings would lose their server. Two ways:

  exact    the ring is a table, or a circle of points: hashes fall into cells or arcs in which both the ring of today
           and that of tomorrow give one server each, and the lengths of those that differ are added up
  sampled  every other ring: random hashes, with the standard error of the share

Both ask Pool.slots_of, the data plane itself with states, weights and backups as they are, of two scratch pools without
load: where keys belong, not where a bound on load sends them for a moment. Names that stay keep their state. Shares are
shares of the hash space, that is of many equally frequent keys.

Rules of this file: the pool is only read, and nothing is counted.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.affinity_view import AffinityView
from fastroute._core.pool import Pool
from fastroute._core.pool_rings import likeness_of, now_tick, rings_in_force
from fastroute._core.ring_table import TableRing
from fastroute.errors import UsageError
from fastroute.model import Server
from fastroute.routing.explain import eligibility

__all__ = ["Move", "Orphans", "Preview", "live_bindings", "preview"]

SAMPLES = 200_000
"""Hashes drawn where no exact answer is possible: the standard error is at most 0.11 percentage points."""

CELLS_MAX = 1 << 22
"""Most cells or arcs that are compared one by one (about a second); beyond that hashes are drawn."""

SCAN_RECORDS = 4096
"""Records of the affinity table taken at a time."""

NOWHERE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Move:
    """Keys that would go from one server to another.

    Attributes:
        source, target: names; None: no server took, or would take, them.
        share: part of all keys, 0..1.
        error: standard error of the share; 0.0 when it is exact.
    """

    source: str | None
    target: str | None
    share: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Orphans:
    """Live bindings of a server that would leave: each moves, once, when its key is seen next.

    Attributes:
        server: its name; bindings: how many.
    """

    server: str
    bindings: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change of the servers would move.

    Attributes:
        pool, policy, ring: of the pool; ring is None where keys are not hashed.
        method: "exact", "sampled", or "none": the policy hashes no key, so that none moves.
        samples: hashes drawn; 0 when exact. cells: cells or arcs compared; 0 when sampled.
        added, removed, changed: names of servers; changed: another weight, address, id, key or backup.
        moved: share of the keys that would go elsewhere; error: its standard error.
        needless: part of it that moves between two servers which are both there before and after, unchanged.
        moves: from whom to whom, largest first.
        shares_before, shares_after: server -> part of the keys (of the unbound requests, where keys are not hashed).
        bindings: live bindings counted, None: not asked for. orphans: those whose server would leave.
        notes: what else there is to know.
    """

    pool: str
    policy: str
    ring: str | None
    method: str
    samples: int
    cells: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    moved: float
    error: float
    needless: float
    moves: tuple[Move, ...]
    shares_before: dict[str, float]
    shares_after: dict[str, float]
    bindings: int | None
    orphans: tuple[Orphans, ...]
    notes: tuple[str, ...]

    @property
    def orphaned(self) -> int:
        """Live bindings whose server would leave."""
        return sum(one.bindings for one in self.orphans)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and text, ready for JSON."""
        found = dataclasses.asdict(self)
        for name in ("added", "removed", "changed", "moves", "orphans", "notes"):
            found[name] = list(found[name])
        found["orphaned"] = self.orphaned
        return found

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def preview(
    pool: Pool,
    new_servers: Iterable[Server],
    *,
    bindings: AffinityView | Mapping[str, int] | None = None,
    samples: int = SAMPLES,
    seed: int = 1,
) -> Preview:
    """What `pool.update(new_servers)` would move, without doing it.

    Args:
        pool: as it stands, states and weights included.
        new_servers: the list after the change.
        bindings: the pool's view of the affinity table, or live bindings by server name; None: not counted.
        samples: hashes drawn where no exact answer is possible, 1,000..10,000,000.
        seed: of the hashes drawn: the same answer for the same question.

    Raises:
        UsageError: a list that the pool would refuse, or samples out of range.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or not 1000 <= samples <= 10_000_000:
        raise UsageError(f"samples {samples!r}: accepted are whole numbers from 1000 to 10000000")
    after = scratch(pool, list(new_servers))
    old, new = {s.name: s for s in pool.servers}, {s.name: s for s in after.servers}
    changed = tuple(name for name in old if name in new and old[name] != new[name])
    pairs: Pairs = {}
    cells = drawn = 0
    if pool.policy == "hash":
        pairs, cells, drawn = _pairs(scratch(pool, likeness_of(pool)[0]), after, samples, seed)
    differing = {pair: share for pair, share in pairs.items() if pair[0] != pair[1]}
    untouched = {name for name in old if name in new and name not in changed}
    moved = sum(differing.values())
    counted = _counted(bindings)
    return Preview(
        pool=pool.name,
        policy=pool.policy,
        ring=pool.ring if pool.policy == "hash" else None,
        method="none" if pool.policy != "hash" else "sampled" if drawn else "exact",
        samples=drawn,
        cells=cells,
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=changed,
        moved=moved,
        error=_error(moved, drawn),
        needless=sum(share for (a, b), share in differing.items() if a in untouched and b in untouched),
        moves=tuple(
            Move(a, b, share, _error(share, drawn))
            for (a, b), share in sorted(differing.items(), key=lambda item: (-item[1], str(item[0])))
        ),
        shares_before=_shares(pool, pairs, 0),
        shares_after=_shares(after, pairs, 1),
        bindings=None if counted is None else sum(counted.values()),
        orphans=tuple(
            Orphans(name, count)
            for name, count in sorted((counted or {}).items(), key=lambda item: (-item[1], item[0]))
            if name not in new and count
        ),
        notes=tuple(_notes(pool, after, changed, counted)),
    )


def scratch(pool: Pool, servers: list[Server]) -> Pool:
    """A pool of the same kind over these servers; names that are in `pool` keep their state."""
    made = Pool(pool.name, servers, **likeness_of(pool)[1])
    for server in pool.servers:
        state = pool.state_of(server.name)
        if state != "ready" and made.slot_of(server.name) >= 0:
            made.set_state(server.name, state)
    return made


def live_bindings(view: AffinityView, now: int | None = None) -> dict[str, int]:
    """Live bindings in the zone by server name, of the servers the pool has.

    Args:
        view: the pool's view.
        now: tick of the zone's clock; None: now.
    """
    table: AffinityTable = view.table
    pool = view.pool
    names = {table.zone.server_slot(view.fleet, pool.name, server.name): server.name for server in pool.servers}
    found = dict.fromkeys(names.values(), 0)
    bucket: int | None = 0
    while bucket is not None:
        records, bucket = table.scan(bucket, SCAN_RECORDS, now_tick() if now is None else now)
        for _, record in records:
            if record.slot in names:
                found[names[record.slot]] += 1
    return found


def _counted(bindings: AffinityView | Mapping[str, int] | None) -> dict[str, int] | None:
    if bindings is None:
        return None
    return live_bindings(bindings) if isinstance(bindings, AffinityView) else dict(bindings)


# ---- the shares: (before, after) -> part of the hash space

Pairs = dict[tuple["str | None", "str | None"], float]


def _pairs(before: Pool, after: Pool, samples: int, seed: int) -> tuple[Pairs, int, int]:
    """(pairs, cells compared, hashes drawn)."""
    rings = _deciding(before), _deciding(after)
    moduli = [_modulus(ring) for ring in rings]
    if all(moduli):
        a, b = moduli
        if a and b and a + b <= CELLS_MAX:
            return _by_residue(before, after, a, b), a + b, 0
    starts = _starts((rings[0], _eligible_slots(before)), (rings[1], _eligible_slots(after)))
    if starts is not None and len(starts) <= CELLS_MAX:
        return _by_arc(before, after, *starts), len(starts[0]), 0
    numbers = random.Random(seed)  # noqa: S311 - a repeatable sample, not a secret
    hashes = array.array("Q", (numbers.getrandbits(64) for _ in range(samples)))
    counts = collections.Counter(zip(_names(before, hashes), _names(after, hashes), strict=True))
    return {pair: count / samples for pair, count in counts.items()}, 0, samples


def _deciding(pool: Pool) -> Any:
    dialect, table, _ = rings_in_force(pool)
    return table if dialect is None else dialect


def _names(pool: Pool, hashes: array.array[int]) -> list[str | None]:
    out = array.array("H", bytes(2 * len(hashes)))
    pool.slots_of(hashes, out)
    known = {slot: None if slot == NOWHERE else pool.server_at(slot).name for slot in set(out)}
    return [known[slot] for slot in out]


def _modulus(ring: Any) -> int:
    """N for a ring that takes cell `hash mod N` of a table, else 0."""
    for name in ("table_size", "size"):
        if (size := getattr(ring, name, 0)) and not hasattr(ring, "point_count"):
            return int(size)
    return 0


def _by_residue(before: Pool, after: Pool, a: int, b: int) -> Pairs:
    """Hash mod a names the server before, hash mod b the one after.

    By the Chinese remainder theorem all pairs (i, j) with i = j mod g, g = gcd(a, b), are equally frequent, and no
    others occur (up to one part in 2**32 / lcm for hashes of 32 bits).
    """
    common = math.gcd(a, b)
    old = _names(before, array.array("Q", range(a)))
    new = _names(after, array.array("Q", range(b)))
    pairs: collections.Counter[tuple[str | None, str | None]] = collections.Counter()
    for residue in range(common):
        ours, theirs = collections.Counter(old[residue::common]), collections.Counter(new[residue::common])
        for (x, n), (y, m) in itertools.product(ours.items(), theirs.items()):
            pairs[x, y] += n * m
    unit = common / (a * b)
    return {pair: count * unit for pair, count in pairs.items()}


Sliced = tuple[Any, set[int]]
"""A ring, and the slots that are eligible."""


def _eligible_slots(pool: Pool) -> set[int]:
    return {pool.slot_of(name) for name, why in eligibility(pool).items() if not why}


def _starts(old: Sliced, new: Sliced) -> tuple[list[int], int] | None:
    """First hashes of the arcs in which both rings give one server each, and the number of hashes there are."""
    one, other = old[0], new[0]
    if isinstance(one, TableRing) and isinstance(other, TableRing) and one.cells == other.cells <= CELLS_MAX:
        return list(_cell_starts(one)), 1 << 64
    kinds = [_own_starts(*of) for of in (old, new)]
    if any(kind is None for kind in kinds):
        return None
    (first, bits), (second, other_bits) = (kind for kind in kinds if kind is not None)
    if bits and other_bits and bits != other_bits:
        return None
    space = 1 << (bits or other_bits or 64)
    return sorted({0, *(start % space for start in first), *(start % space for start in second)}), space


def _cell_starts(ring: TableRing) -> Iterator[int]:
    return (-(-(cell << 64) // ring.cells) for cell in range(ring.cells))


def _own_starts(ring: Any, eligible: set[int]) -> tuple[Iterable[int], int] | None:
    """(hashes at which the ring's answer may change, bits of a hash); bits 0: a ring without servers."""
    if ring is None or not ring.server_count:
        return (), 0
    if isinstance(ring, TableRing):
        return None if ring.cells > CELLS_MAX else (_cell_starts(ring), 64)
    if not hasattr(ring, "points") or 4 * ring.point_count > CELLS_MAX:
        return None
    points = ring.points()
    bits = 64 if points[-1][0] >> 32 else 32
    starts = {at for hash, _ in points for at in (hash, hash + 1)}
    if type(ring).__name__ == "HaproxyRing":  # the nearest of two points: it changes in the middle between them too
        inside = [hash for hash, slot in points if slot in eligible]
        for left, right in itertools.pairwise([inside[-1] - (1 << bits), *inside] if inside else ()):
            starts |= {(left + right) // 2, (left + right) // 2 + 1}
    return starts, bits


def _by_arc(before: Pool, after: Pool, starts: list[int], space: int) -> Pairs:
    hashes = array.array("Q", starts)
    pairs: collections.Counter[tuple[str | None, str | None]] = collections.Counter()
    ends = itertools.chain(starts[1:], (space,))
    for start, end, x, y in zip(starts, ends, _names(before, hashes), _names(after, hashes), strict=True):
        pairs[x, y] += end - start
    return {pair: length / space for pair, length in pairs.items()}


def _error(share: float, drawn: int) -> float:
    return math.sqrt(share * (1 - share) / drawn) if drawn else 0.0


def _shares(pool: Pool, pairs: Pairs, side: int) -> dict[str, float]:
    shares = {server.name: 0.0 for server in pool.servers}
    if pairs:
        for pair, share in pairs.items():
            name = pair[side]
            if name is not None:
                shares[name] += share
        return shares
    eligible = [name for name, why in eligibility(pool).items() if not why]
    weights = {row.name: row.weight_effective for row in pool.statistics().servers if row.name in eligible}
    total = sum(weights.values())
    return {**shares, **{name: weight / total for name, weight in weights.items()}} if total else shares


# ---- text


def _notes(pool: Pool, after: Pool, changed: tuple[str, ...], counted: dict[str, int] | None) -> Iterator[str]:
    old, new = {s.name: s for s in pool.servers}, {s.name: s for s in after.servers}
    if pool.policy != "hash":
        yield f"{pool.policy} hashes no key: bound keys stay, unbound requests follow the new shares"
    for name in changed:
        if old[name].address != new[name].address:
            yield f"{name} moves from {old[name].address} to {new[name].address} and keeps its name and its bindings"
        if old[name].weight and not new[name].weight:
            yield f"{name} gets weight 0: it keeps its bindings and takes no unbound request"
    if counted is None and pool.policy != "hash":
        yield "live bindings were not counted"
    if not any(not why for why in eligibility(after).values()):
        yield "after the change no server could take a request"


def _lines(of: Preview) -> Iterator[str]:
    ring = f", ring {of.ring}" if of.ring else ""
    yield f"pool {of.pool}: policy {of.policy}{ring}"
    for what in ("added", "removed", "changed"):
        if names := getattr(of, what):
            yield f"{what}: {', '.join(names)}"
    if not (of.added or of.removed or of.changed):
        yield "the servers stay as they are"
    if of.method == "exact":
        yield f"keys that would move: {of.moved:.3%} (exact, {of.cells} cells or arcs compared)"
    elif of.method == "sampled":
        yield f"keys that would move: {of.moved:.3%} +- {of.error:.3%} (sampled, {of.samples} hashes)"
    else:
        yield "keys that would move: none, the policy hashes no key"
    if of.method != "none":
        yield f"of these between servers that stay as they are: {of.needless:.3%}"
    for move in of.moves[:MOVES_SHOWN]:
        error = f" +- {move.error:.3%}" if of.samples else ""
        yield f"  {move.share:8.3%}{error}  {move.source or 'no server'} -> {move.target or 'no server'}"
    if len(of.moves) > MOVES_SHOWN:
        rest = sum(move.share for move in of.moves[MOVES_SHOWN:])
        yield f"  {rest:8.3%}  in {len(of.moves) - MOVES_SHOWN} more"
    names = sorted({*of.shares_before, *of.shares_after})
    width = max((len(name) for name in names), default=0)
    yield "shares before and after:"
    for name in names:
        before, after = of.shares_before.get(name), of.shares_after.get(name)
        texts = ("-" if share is None else f"{share:.2%}" for share in (before, after))
        yield f"  {name.ljust(width)}  " + "  ".join(text.rjust(7) for text in texts)
    if of.bindings is not None:
        yield f"live bindings: {of.bindings}, orphaned: {of.orphaned}"
        for one in of.orphans:
            yield f"  {one.bindings} of {one.server}: each moves once, when its key is seen next"
    for note in of.notes:
        yield f"note: {note}"


MOVES_SHOWN = 20
"""Moves that the text lists; to_dict() has all."""
