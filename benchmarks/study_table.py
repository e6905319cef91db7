"""How large should the `table` ring be? Measures, per size and number of servers, what a size buys and costs.

    python -m benchmarks.study_table [--quick] [--plots-only]

Writes benchmarks/results/study_table.json and the plots of docs/design/table-ring.md (with --quick: nothing).
Measured: the largest and smallest share over the average (weights respected), keys moved and moved needlessly when a
server leaves, joins or gets another weight, times of a whole build, of a change and of a lookup.
Beside: Maglev (65,537), ketama (160 points per server), Envoy's ring (1,024 points at least), nginx (160 per server).
Times are processor time, the least of a few runs. Rules: seeded; what is random is named by its number of servers.
"""

from __future__ import annotations

import argparse
import array
import collections
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastroute import Pool, Server
from fastroute._core.ring_envoy import EnvoyRing
from fastroute._core.ring_ketama import KetamaRing
from fastroute._core.ring_maglev import MaglevRing
from fastroute._core.ring_nginx import NginxRing
from fastroute._core.ring_table import TableRing

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "study_table.json"
PLOTS = HERE.parent / "docs" / "design"
SIZES = [1 << bits for bits in (14, 15, 16, 17, 18, 20, 21, 23)]
SERVERS = [2, 10, 100, 1000, 10_000]
WEIGHTS = {"equal": (1,), "unequal": (1, 2, 3, 7)}
KEYS_MOVED = 20_000
PEERS: dict[str, Callable[..., Any]] = {
    "maglev 65537": lambda names, weights: MaglevRing(names, weights),
    "ketama 160/server": lambda names, weights: KetamaRing(names, weights, weighted=True),
    "envoy-ring 1024": lambda names, weights: EnvoyRing(names, weights),
    "nginx 160/weight": lambda names, weights: NginxRing(names, weights),
}
PEER_SERVERS_MAX = 1000
"""Beyond it Maglev's table has no room for fair shares and the point rings take seconds."""


def names_of(count: int) -> list[str]:
    """Servers as they are named in practice."""
    return [f"10.{i // 62500}.{i // 250 % 250}.{i % 250}:8080" for i in range(count)]


def weights_of(kind: str, count: int) -> list[int]:
    """Weights of a kind, in turn."""
    turn = WEIGHTS[kind]
    return [turn[i % len(turn)] for i in range(count)]


def timed_ms(call: Callable[[], Any], runs: int = 3, budget_s: float = 2.0) -> tuple[Any, float]:
    """Result and least processor time of a few runs."""
    best, spent, result = float("inf"), 0.0, None
    for _ in range(runs):
        begin = time.process_time()
        result = call()
        passed = time.process_time() - begin
        best, spent = min(best, passed), spent + passed
        if spent > budget_s:
            break
    return result, best * 1e3


def over_average(found: dict[int, float], weights: Sequence[int]) -> tuple[float, float]:
    """Largest and smallest share, over what the weight entitles to."""
    total, weight_sum = sum(found.values()), sum(weights)
    ratios = [found.get(slot, 0) * weight_sum / (total * weight) for slot, weight in enumerate(weights)]
    return round(max(ratios), 4), round(min(ratios), 4)


def column(ring: TableRing) -> array.array[int]:
    """First choices of all cells."""
    return array.array("H", ring.column(0))


def moved(before: Sequence[int], after: Sequence[int], changed: int) -> tuple[float, float]:
    """Share of keys that moved, and of those that moved between two servers that did not change."""
    all_moves = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    needless = sum(changed not in (old, new) for old, new in all_moves)
    return round(len(all_moves) / len(before), 6), round(needless / len(before), 6)


def table_row(servers: int, cells: int, kind: str) -> dict[str, Any]:
    """Everything about one size."""
    names, weights = names_of(servers), weights_of(kind, servers)
    ring, build_ms = timed_ms(lambda: TableRing(names, weights, cells=cells, keep=cells <= 1 << 22))
    largest, smallest = over_average(collections.Counter(column(ring)), weights)
    row: dict[str, Any] = {
        "ring": f"table {cells}",
        "servers": servers,
        "cells": cells,
        "weights": kind,
        "max_over_average": largest,
        "min_over_average": smallest,
        "build_ms": round(build_ms, 2),
        "column_bytes": 2 * cells,
    }
    if cells <= 1 << 20 and servers >= 10:
        added, row["join_ms"] = timed_ms(lambda: ring.changed([*names, "joins"], [*weights, 1]), 1)
        row["join_derived"] = added.derived
        ring, row["leave_ms"] = timed_ms(lambda: added.changed(names, weights), 1)
        _, copy_ms = timed_ms(lambda: [ring.column(rank) for rank in (0, 1, 2)])
        heavier, row["weigh_ms"] = timed_ms(lambda: ring.changed(names, [weights[0] + 1, *weights[1:]]), 1)
        row["copy_ms"] = copy_ms
        if cells <= 1 << 17:
            row["join_moved"], row["join_needless"] = moved(column(ring), column(added), servers)
            row["weigh_moved"], row["weigh_needless"] = moved(column(ring), column(heavier), 0)
            left = ring.changed(names[1:], weights[1:], list(range(1, servers)))
            row["leave_moved"], row["leave_needless"] = moved(column(ring), column(left), 0)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def peer_row(name: str, servers: int, kind: str) -> dict[str, Any]:
    """Balance, moves (of a sample of keys) and build time of another ring."""
    names, weights = names_of(servers), weights_of(kind, servers)
    make = PEERS[name]
    ring, build_ms = timed_ms(lambda: make(names, weights))
    keys = [f"user-{i:08d}" for i in range(KEYS_MOVED)]
    row: dict[str, Any] = {"ring": name, "servers": servers, "weights": kind, "build_ms": round(build_ms, 2)}
    row["max_over_average"], row["min_over_average"] = over_average(shares(ring), weights)
    before = [ring.pick(key) for key in keys]
    others = make(names[1:], weights[1:])
    after = [others.pick(key) + 1 for key in keys]
    row["leave_moved"], row["leave_needless"] = moved(before, after, 0)
    return row


def shares(ring: Any) -> dict[int, float]:
    """Exact shares of the space of hashes."""
    if isinstance(ring, MaglevRing):
        return dict(collections.Counter(ring.table()))
    points = ring.points()
    arcs: dict[int, float] = collections.defaultdict(float)
    previous = points[-1][0] - (1 << (64 if isinstance(ring, EnvoyRing) else 32))
    for value, slot in points:
        arcs[slot] += value - previous
        previous = value
    return arcs


def lookup_row(servers: int, cells: int) -> dict[str, Any]:
    """ns per key of slots_of: keys that share few cache lines, and keys over the whole table."""
    pool = Pool("study", [Server(name) for name in names_of(servers)], policy="hash", slots=cells)
    chance = random.Random(servers)
    row: dict[str, Any] = {"servers": servers, "cells": cells, "column_bytes": 2 * cells}
    for what, count in (("warm", 1000), ("whole", 200_000)):
        hashes = array.array("Q", (chance.getrandbits(64) for _ in range(count)))
        out = array.array("H", bytes(2 * count))
        repeat = 200_000 // count

        def look(hashes: array.array[int] = hashes, out: array.array[int] = out, repeat: int = repeat) -> None:
            for _ in range(repeat):
                pool.slots_of(hashes, out)

        look()
        row[f"{what}_ns"] = round(timed_ms(look, 5)[1] * 1e6 / (count * repeat), 2)
    return row


def churn_row(servers: int, cells: int, leaves: int) -> dict[str, Any]:
    """Servers leave one by one and none joins: what the records are worth, and what the cells raced again cost."""
    names = names_of(servers)
    ring = TableRing(names, [1] * servers, cells=cells)
    order, slots = random.Random(servers).sample(range(servers), leaves), list(range(servers))
    row: dict[str, Any] = {"servers": servers, "cells": cells, "leave_ms": [], "raced_again": [], "derived": []}
    for gone in order:
        slots.remove(gone)
        names_left = [names[slot] for slot in slots]
        ring, passed = timed_ms(lambda ring=ring, left=names_left: ring.changed(left, [1] * len(left), slots), 1)
        row["leave_ms"].append(round(passed, 2))
        row["raced_again"].append(ring.raced_again)
        row["derived"].append(ring.derived)
    return row


def study(quick: bool) -> dict[str, Any]:
    """All rows."""
    sizes, servers_list = (SIZES[:2], [2, 10, 100]) if quick else (SIZES, SERVERS)
    rows = []
    for servers in servers_list:
        for cells in sizes:
            if 2 * servers > cells or (cells > 1 << 20 and servers < 1000):
                continue
            rows += [table_row(servers, cells, kind) for kind in WEIGHTS if cells <= 1 << 20 or kind == "equal"]
    peers = [
        peer_row(name, servers, kind)
        for name in PEERS
        for servers in servers_list
        for kind in WEIGHTS
        if servers <= PEER_SERVERS_MAX
    ]
    lookups = [lookup_row(servers, cells) for servers in ([100] if quick else [100, 10_000]) for cells in sizes]
    churn = [churn_row(100, 1 << 14, 5)] if quick else [churn_row(100, 1 << 17, 30), churn_row(1000, 1 << 20, 60)]
    return {"table": rows, "peers": peers, "lookup": lookups, "churn": churn}


def plot(data: dict[str, Any]) -> None:
    """Two figures: what a size buys beside the other rings, and what it costs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = dict(zip(SERVERS, ["#440154", "#3b528b", "#21918c", "#5ec962", "#d4a017"], strict=True))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for servers in SERVERS:
        rows = [row for row in data["table"] if row["servers"] == servers and row["weights"] == "equal"]
        x = [row["cells"] for row in rows]
        left.plot(
            x, [row["max_over_average"] for row in rows], "o-", color=colours[servers], label=f"{servers:,} servers"
        )
        left.plot(x, [row["min_over_average"] for row in rows], "o:", color=colours[servers], markersize=3)
    left.axvline(131072, color="grey", lw=0.8, ls="--")
    left.text(131072, 1.83, " default", color="grey", fontsize=8)
    left.set(
        xscale="log", xlabel="cells", ylabel="share over average", title="Largest (solid) and smallest (dotted) share"
    )
    left.set_xscale("log", base=2)
    left.set_ylim(0.2, 1.9)
    left.axhline(1, color="black", lw=0.6)
    left.legend(fontsize=8, loc="lower right")
    kinds = ["table 131072", *PEERS]
    counts = [2, 10, 100, 1000]
    for at, kind in enumerate(kinds):
        rows = {
            row["servers"]: row
            for row in data["table"] + data["peers"]
            if row["ring"] == kind and row["weights"] == "equal"
        }
        x = [i + (at - 2) * 0.16 for i in range(len(counts))]
        tops, bottoms = [rows[n]["max_over_average"] for n in counts], [rows[n]["min_over_average"] for n in counts]
        bars = right.bar(
            x, [max(t - b, 0.015) for t, b in zip(tops, bottoms, strict=True)], 0.14, bottom=bottoms, label=kind
        )
        for bar, top in zip(bars, tops, strict=True):
            if top > 2.2:
                right.text(bar.get_x() + 0.07, 2.12, f"{top:.1f}", ha="center", fontsize=7)
    right.set_xticks(range(len(counts)), [f"{n:,}" for n in counts])
    right.set(xlabel="servers", title="Smallest to largest share over average, equal weights", ylim=(0, 2.2))
    right.axhline(1, color="black", lw=0.6)
    right.legend(fontsize=8, loc="upper left")
    figure.savefig(PLOTS / "table-ring-balance.png", dpi=110)

    figure, (build, look, churn) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for servers in SERVERS[1:]:
        rows = [row for row in data["table"] if row["servers"] == servers and row["weights"] == "equal"]
        build.plot(
            [row["cells"] for row in rows],
            [row["build_ms"] for row in rows],
            "o-",
            color=colours[servers],
            label=f"build, {servers:,}",
        )
        rows = [row for row in rows if row.get("join_derived")]
        build.plot(
            [row["cells"] for row in rows],
            [row["join_ms"] for row in rows],
            "x:",
            color=colours[servers],
            label=f"one joins, {servers:,}",
        )
    build.set_xscale("log", base=2)
    build.set(yscale="log", xlabel="cells", ylabel="processor time, ms", title="Whole build, and one server more")
    build.legend(fontsize=7)
    for servers, marker in ((100, "o"), (10_000, "s")):
        rows = [row for row in data["lookup"] if row["servers"] == servers]
        look.plot(
            [row["cells"] for row in rows],
            [row["whole_ns"] for row in rows],
            f"{marker}-",
            color=colours[servers],
            label=f"keys over the whole table, {servers:,} servers",
        )
        look.plot(
            [row["cells"] for row in rows],
            [row["warm_ns"] for row in rows],
            f"{marker}:",
            color=colours[servers],
            label=f"1,000 keys again and again, {servers:,}",
        )
    look.set_xscale("log", base=2)
    look.set(xlabel="cells (2 bytes each)", ylabel="ns per key (slots_of)", title="Lookup", ylim=(0, None))
    look.legend(fontsize=7)
    for row in data["churn"]:
        churn.plot(
            range(1, len(row["leave_ms"]) + 1),
            row["leave_ms"],
            color=colours[row["servers"]],
            label=f"{row['servers']:,} servers, {row['cells']:,} cells",
        )
    churn.set(
        xlabel="servers gone, one by one", ylabel="processor time, ms", title="One leaves, none joins", ylim=(0, None)
    )
    churn.legend(fontsize=7)
    figure.savefig(PLOTS / "table-ring-cost.png", dpi=110)


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, few servers; writes nothing")
    parser.add_argument("--plots-only", action="store_true", help="draw again from the recorded results")
    options = parser.parse_args()
    if options.plots_only:
        plot(json.loads(RESULTS.read_text()))
        return 0
    data = study(options.quick)
    if options.quick:
        print(json.dumps(data))
        return 0
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "{\n"
        + ",\n".join(
            f'"{part}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for part, rows in data.items()
        )
        + "\n}\n"
    )
    plot(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
