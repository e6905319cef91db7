"""`make bench`: run the micro benchmarks beside their rivals and write a table and a chart into benchmarks/results/.

Every benchmark in benchmarks/micro belongs to a group (one question); `extra_info["operations"]` says how many
operations one timed call makes. The figure is the median over pytest-benchmark's rounds, in nanoseconds per operation.
Machines differ and are noisy: read the ratios within one run, which is why rivals run beside.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"


def measure(select: str) -> list[dict]:
    """Run the benchmarks; one row per benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        report = pathlib.Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pytest", str(HERE / "micro"), "-q", "-o", "addopts=", "--benchmark-only"]
        command += ["-p", "no:cacheprovider", f"--benchmark-json={report}", "--benchmark-disable-gc"]
        subprocess.run([*command, *(["-k", select] if select else [])], check=True, cwd=HERE.parent)
        found = json.loads(report.read_text())["benchmarks"]
    rows = []
    for one in found:
        operations = one["extra_info"].get("operations", 1)
        rows.append(
            {
                "group": one["group"] or "rings: " + one["name"].split("[")[0].removeprefix("test_").replace("_", " "),
                "name": one["extra_info"].get("label", one["name"].removeprefix("test_").replace("_", " ")),
                "ours": one["extra_info"].get("ours", True),
                "ns": one["stats"]["median"] / operations * 1e9,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """Markdown, a section per group, each row with its ratio to the group's first row of ours."""
    groups: dict[str, list[dict]] = collections.defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    lines = [
        "# Micro benchmarks",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}. Medians; compare ratios within a group, not runs. By `make bench`.",
    ]
    for group, members in groups.items():
        base = next((row for row in members if row["ours"]), members[0])["ns"]
        lines += ["", f"## {group}", "| what | ns per operation | ratio |", "|---|---:|---:|"]
        lines += [f"| {row['name']} | {row['ns']:,.1f} | {row['ns'] / base:,.2f} |" for row in members]
    return "\n".join(lines) + "\n"


def chart(rows: list[dict], path: pathlib.Path) -> None:
    """Bars on a logarithmic scale, ours in colour, one panel per group that has a rival in it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[str, list[dict]] = collections.defaultdict(list)
    compared = {row["group"] for row in rows if not row["ours"]}
    for row in rows:
        if row["group"] in compared:
            groups[row["group"]].append(row)
    heights = [len(members) + 1.6 for members in groups.values()]
    figure, panels = pyplot.subplots(
        len(groups), 1, figsize=(9, 0.32 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (group, members) in zip(panels[:, 0], groups.items(), strict=True):
        names = [row["name"] for row in members]
        values = [row["ns"] for row in members]
        bars = panel.barh(names, values, color=["#1f77b4" if row["ours"] else "#b8bec4" for row in members])
        panel.bar_label(bars, [f" {value:,.0f} ns" for value in values], fontsize=8)
        panel.set_xscale("log")
        panel.set_xlim(min(values) / 2, max(values) * 6)
        panel.invert_yaxis()
        panel.set_title(group, loc="left", fontsize=10, fontweight="bold")
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", help="run only benchmarks that match (writes nothing)")
    options = parser.parse_args()
    rows = measure(options.k)
    text = table(rows)
    print(text)
    if not options.k:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "micro.md").write_text(text)
        (RESULTS / "micro.json").write_text(json.dumps(rows, indent=1) + "\n")
        chart(rows, RESULTS / "micro.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
