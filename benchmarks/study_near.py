"""What should the near cache evict by? Hit ratios of SIEVE and S3-FIFO beside LRU, cachetools, theine and the best.

    python -m benchmarks.study_near [--quick] [--plots-only]

Writes benchmarks/results/study_near.json and the plot of docs/design/near-cache.md (with --quick: nothing).
Traces are generated in the style of the published ones, seeded, so that everybody measures the same: Zipf with the
exponents that the papers report for web, key-value and social caches (0.7 to 1.2), the same with objects that are asked
for once, with scans through it, with a popularity that drifts, and a loop that does not fit. All objects have one size.

Policies: `near_cache` is the one that ships (ext/fr_near.h: S3-FIFO over bytes, its ghosts in a table where they share
places); SIEVE, S3-FIFO and LRU are references in plain Python, the second also an oracle in tests; cachetools and
theine (W-TinyLFU) where they are installed. `optimal` is Belady's: it knows the future, nothing can be better.

Source: "SIEVE is Simpler than LRU", NSDI 2024, section 3 (SIEVE); "FIFO queues are all you need for cache eviction",
SOSP 2023, section 4 (S3-FIFO); "A study of replacement algorithms", IBM Systems Journal 1966 (Belady).
"""

from __future__ import annotations

import argparse
import collections
import heapq
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastroute._core.near_cache import ENTRY_OVERHEAD_BYTES, MISS, NearCache

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "study_near.json"
PLOT = HERE.parent / "docs" / "design" / "near-cache.png"
OBJECTS = 50_000
REQUESTS = 300_000
SIZES = {"1 %": 500, "10 %": 5000}


# ---------------------------------------------------------------- traces


def zipf(exponent: float, seed: int, count: int = REQUESTS, objects: int = OBJECTS) -> Any:
    """Requests for object 0, 1, ... by falling popularity."""
    import numpy

    weights = 1.0 / numpy.arange(1, objects + 1) ** exponent
    return numpy.random.default_rng(seed).choice(objects, size=count, p=weights / weights.sum())


def traces(scale: int = 1) -> dict[str, list[int]]:
    """Name -> objects in the order in which they are asked for."""
    import numpy

    count = REQUESTS // scale
    rng = numpy.random.default_rng(7)
    found = {f"Zipf {exponent}": zipf(exponent, 1, count) for exponent in (0.7, 0.9, 1.0, 1.2)}
    base = zipf(0.9, 2, count)
    once = rng.random(count) < 0.3
    found["Zipf 0.9, 30 % asked for once"] = numpy.where(once, OBJECTS + numpy.arange(count), base)
    scanned = zipf(1.0, 3, count)
    for start in range(count // 10, count, count // 5):
        length = min(10_000 // scale, count - start)
        scanned[start : start + length] = 10 * OBJECTS + numpy.arange(length)
    found["Zipf 1.0 with scans"] = scanned
    found["Zipf 1.0, drifting"] = (zipf(1.0, 4, count) + numpy.arange(count) // 20) % OBJECTS
    found["loop of 12 % of the objects"] = numpy.arange(count) % (OBJECTS * 12 // 100)
    return {name: [int(one) for one in trace] for name, trace in found.items()}


# ---------------------------------------------------------------- policies: trace, capacity -> hits


def shipped(trace: Sequence[int], capacity: int) -> int:
    keys = {one: f"{one:08d}" for one in set(trace)}
    cost = ENTRY_OVERHEAD_BYTES + len("x" * 8) + 49  # of one entry: overhead, the key and its object's head
    cache = NearCache(capacity * cost, clock_ms=1)
    hits = 0
    for one in trace:
        key = keys[one]
        if cache.get(key) is not MISS:
            hits += 1
        else:
            cache.put(key, None, 0, 1000)
    assert len(cache) <= capacity
    return hits


def sieve(trace: Sequence[int], capacity: int) -> int:
    # Newest at the end; the hand walks from the oldest to the newest and wraps around.
    visited: dict[int, bool] = {}
    after: dict[int, int | None] = {}
    before: dict[int, int | None] = {}
    oldest: int | None = None
    newest: int | None = None
    hand: int | None = None
    hits = 0
    for one in trace:
        if one in visited:
            visited[one] = True
            hits += 1
            continue
        if len(visited) >= capacity:
            at = hand if hand is not None else oldest
            while at is not None and visited[at]:
                visited[at] = False
                at = after[at] if after[at] is not None else oldest
            assert at is not None
            hand = after[at]
            left, right = before.pop(at), after.pop(at)
            if left is None:
                oldest = right
            else:
                after[left] = right
            if right is None:
                newest = left
            else:
                before[right] = left
            del visited[at]
        visited[one] = False
        before[one], after[one] = newest, None
        if newest is None:
            oldest = one
        else:
            after[newest] = one
        newest = one
    return hits


def s3_fifo(trace: Sequence[int], capacity: int) -> int:
    small_max, ghost_max = max(1, capacity // 10), capacity
    small: collections.OrderedDict[int, int] = collections.OrderedDict()
    main: collections.OrderedDict[int, int] = collections.OrderedDict()
    ghost: collections.OrderedDict[int, None] = collections.OrderedDict()
    hits = 0
    for one in trace:
        if one in small:
            small[one] = min(3, small[one] + 1)
            hits += 1
            continue
        if one in main:
            main[one] = min(3, main[one] + 1)
            hits += 1
            continue
        while len(small) + len(main) >= capacity:
            if small and (len(small) >= small_max or not main):
                out, count = small.popitem(last=False)
                if count > 1:
                    main[out] = 0
                else:
                    ghost[out] = None
                    if len(ghost) > ghost_max:
                        ghost.popitem(last=False)
            else:
                out, count = main.popitem(last=False)
                if count:
                    main[out] = count - 1
        if ghost.pop(one, 0) is None:
            main[one] = 0
        else:
            small[one] = 0
    return hits


def lru(trace: Sequence[int], capacity: int) -> int:
    cache: collections.OrderedDict[int, None] = collections.OrderedDict()
    hits = 0
    for one in trace:
        if one in cache:
            cache.move_to_end(one)
            hits += 1
        else:
            if len(cache) >= capacity:
                cache.popitem(last=False)
            cache[one] = None
    return hits


def optimal(trace: Sequence[int], capacity: int) -> int:
    following = [0] * len(trace)
    seen: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        following[at] = seen.get(trace[at], len(trace))
        seen[trace[at]] = at
    held: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    hits = 0
    for at, one in enumerate(trace):
        if one in held:
            hits += 1
        elif len(held) >= capacity:
            while True:
                when, out = heapq.heappop(heap)
                if held.get(out) == -when:
                    break
            if -when < following[at]:  # what is new is asked for last of all: not kept
                heapq.heappush(heap, (when, out))
                continue
            del held[out]
        held[one] = following[at]
        heapq.heappush(heap, (-following[at], one))
    return hits


def cachetools_of(name: str) -> Callable[[Sequence[int], int], int]:
    def run(trace: Sequence[int], capacity: int) -> int:
        import cachetools

        cache = getattr(cachetools, name)(capacity)
        hits = 0
        for one in trace:
            if one in cache:
                hits += 1
                cache[one]
            else:
                cache[one] = 1
        return hits

    return run


def theine_of(trace: Sequence[int], capacity: int) -> int:
    import theine

    cache = theine.Cache(capacity)
    hits = 0
    for one in trace:
        _, found = cache.get(f"{one:08d}")
        if found:
            hits += 1
        else:
            cache.set(f"{one:08d}", 1)
    cache.close()
    return hits


POLICIES: dict[str, Callable[[Sequence[int], int], int]] = {
    "near_cache": shipped,
    "SIEVE": sieve,
    "S3-FIFO": s3_fifo,
    "LRU": lru,
    "cachetools LFU": cachetools_of("LFUCache"),
    "theine": theine_of,
    "optimal": optimal,
}


def measure(scale: int) -> list[dict[str, Any]]:
    rows = []
    for trace_name, trace in traces(scale).items():
        for size_name, capacity in SIZES.items():
            for policy, run in POLICIES.items():
                started_s = time.process_time()
                try:
                    hits = run(trace, capacity)
                except ImportError:
                    continue
                took_s = time.process_time() - started_s
                rows.append({"trace": trace_name, "size": size_name, "policy": policy, "hit_ratio": hits / len(trace)})
                print(f"{trace_name:32} {size_name:5} {policy:15} {hits / len(trace):.4f} {took_s:6.1f} s", flush=True)
    return rows


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["trace"] for row in rows))
    figure, panels = pyplot.subplots(1, len(SIZES), figsize=(12, 5), layout="constrained", sharey=True)
    colours = {
        "near_cache": "#1f77b4",
        "S3-FIFO": "#ff7f0e",
        "LRU": "#b8bec4",
        "theine": "#2ca02c",
        "optimal": "#222222",
    }
    for panel, size in zip(panels, SIZES, strict=True):
        base = {row["trace"]: row["hit_ratio"] for row in rows if (row["size"], row["policy"]) == (size, "optimal")}
        for at, (policy, colour) in enumerate(colours.items()):
            found = {row["trace"]: row["hit_ratio"] for row in rows if (row["size"], row["policy"]) == (size, policy)}
            if found:
                places = [number + (at - 2) * 0.16 for number in range(len(names))]
                panel.barh(places, [found[name] / base[name] for name in names], 0.15, color=colour, label=policy)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set_title(f"room for {size} of the objects", loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("hit ratio, of the best possible", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=8, loc="lower right")
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests; writes nothing")
    parser.add_argument("--plots-only", action="store_true", help="from the recorded results")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if options.plots_only else measure(10 if options.quick else 1)
    if not options.plots_only and not options.quick:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    if not options.quick:
        plot(rows)


if __name__ == "__main__":
    main()
