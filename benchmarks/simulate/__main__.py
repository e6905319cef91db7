"""The study of the policies: runs the scenarios, writes the results and the plots of docs/design/policies.md.

python -m benchmarks.simulate [--quick] [--plots-only]      (--quick: short runs, printed, nothing written)
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

from benchmarks.simulate import scenarios

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "simulate.json"
PLOTS = HERE.parent.parent / "docs" / "design"
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FLEETS = ((4, 20), (100, 50))
"""(replicas, servers): some of our users, and about the shape of the published test bed (100 clients, 100 servers)."""

COLOURS = dict(
    zip(scenarios.POLICIES, ["#7f7f7f", "#b8bec4", "#1f77b4", "#2ca02c", "#ff7f0e", "#e377c2", "#d62728"], strict=True)
)


def study(quick: bool) -> dict[str, Any]:
    """All scenarios."""
    requests, loads = (3000, (0.7, 0.9)) if quick else (40_000, LOADS)
    tails = [
        scenarios.tail(policy, load, replicas=replicas, servers=servers, requests=requests)
        for replicas, servers in FLEETS
        for load in loads
        for policy in scenarios.POLICIES
    ]
    restarts = [scenarios.restart(slow_start=slow, window_s=1.0 if quick else 10.0) for slow in (True, False)]
    bounds = [
        scenarios.bounded_load(bound, requests=2000 if quick else 20_000) for bound in (None, 1.1, 1.25, 1.5, 2.0)
    ]
    return {"tail": tails, "restart": restarts, "bounded_load": bounds}


def plot(data: dict[str, Any]) -> None:
    """p99 over load; a restart; the bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for panel, (replicas, servers) in zip(panels, FLEETS, strict=True):
        for policy in scenarios.POLICIES:
            rows = [row for row in data["tail"] if row["policy"] == policy and row["replicas"] == replicas]
            if not rows:
                continue
            panel.plot(
                [row["load"] for row in rows],
                [row["p99_ms"] for row in rows],
                "o-",
                color=COLOURS[policy],
                label=policy,
            )
        panel.set(yscale="log", xlabel="load", title=f"{replicas} replicas, {servers} servers")
        panel.axhline(5000, color="black", lw=0.6, ls="--")
        panel.grid(axis="y", which="both", alpha=0.2)
    panels[0].set_ylabel("99th percentile, ms (dashed: timeout)")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=7)
    figure.savefig(PLOTS / "policies-tail.png", dpi=110)

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for row, colour, label in zip(data["restart"], ("#1f77b4", "#d62728"), ("with slow start", "without"), strict=True):
        x = [one["second"] for one in row["bins"]]
        left.plot(x, [one["share_of_fair"] for one in row["bins"]], "o-", ms=3, color=colour, label=label)
    ramp = [one["ramp_of_fair"] for one in data["restart"][0]["bins"]]
    x = [one["second"] for one in data["restart"][0]["bins"]]
    left.plot(x, ramp, color="black", lw=1, label="ramp")
    left.plot(x, [1.2 * value for value in ramp], color="black", lw=1, ls=":", label="1.2 x ramp")
    left.set(
        xlabel="seconds after the return",
        ylabel="picks over the fair share",
        title="A server comes back, least-connections, 4 replicas",
        ylim=(0, None),
    )
    left.legend(fontsize=8, loc="lower right")
    for row, colour in zip(data["bounded_load"], ("#7f7f7f", "#440154", "#3b528b", "#21918c", "#5ec962"), strict=True):
        values = sorted(row["samples"])
        label = f"max_load {row['max_load']:g}" if row["max_load"] else "no bound"
        right.plot(values, [i / len(values) for i in range(len(values))], color=colour, label=label)
        if row["max_load"]:
            right.axvline(row["max_load"], color=colour, lw=0.8, ls=":")
    right.set(
        xlabel="largest load over the average",
        ylabel="share of moments",
        title="hash, keys of Zipf popularity",
        xlim=(1, 4),
    )
    right.legend(fontsize=8, loc="center right")
    figure.savefig(PLOTS / "policies-restart-bound.png", dpi=110)


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="benchmarks.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs; writes nothing")
    parser.add_argument("--plots-only", action="store_true", help="draw again from the recorded results")
    options = parser.parse_args()
    if options.plots_only:
        plot(json.loads(RESULTS.read_text()))
        return 0
    data = study(options.quick)
    if options.quick:
        print(json.dumps(data))
        return 0
    parts = (f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in data.items())
    RESULTS.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    plot(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
