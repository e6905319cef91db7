"""HTTP caches under the public cache-tests suite: what each of them passes.

    python -m benchmarks.cache_tests                                 # fastroute with 1, 2 and 3 replicas; the targets
    python -m benchmarks.cache_tests --product nginx --product varnish --replicas 1
    python -m benchmarks.cache_tests --id vary-star                  # one test, with all heads on the wire
    python -m benchmarks.cache_tests --record                        # writes benchmarks/results/cache_tests.json, .md

Counts are the suite's: a test whose setup or dependency failed is not passed. Its authors say that it is no
conformance suite, and that passing all of it means nothing; it is the measure by which caches are compared in public.
What the RFCs say is tested by tests/conformance/test_http_cache_*.py.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import sys
import tempfile
from typing import Any

from benchmarks.cache_tests import suite as suite_of
from tests.support.cache_proxies import PRODUCTS, binary_of, caching_proxies, version_of

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
KINDS = ("required", "optimal", "check")
TARGETS = {"required": 145, "optimal": 75}
"""Of 160 and 105 tests, as the suite has them since 2025; an older suite is held to the same shares."""
TARGETS_OF = {"required": 160, "optimal": 105}
REPLICAS_DIFFERENCE_MAX = 2
"""Tests that several replicas may pass more or less than one."""

Row = dict[str, Any]


def tally(rows: list[Row]) -> dict[str, dict[str, int]]:
    """kind -> verdict -> count, with "of" for all."""
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    for row in rows:
        counts[row["kind"]][row["verdict"]] += 1
        counts[row["kind"]]["of"] += 1
    return {kind: dict(count) for kind, count in counts.items()}


def measure(suite: pathlib.Path, product: str, replicas: int, only: str | None) -> list[Row] | str:
    with tempfile.TemporaryDirectory() as scratch, suite_of.Origin(suite) as origin:
        directory = pathlib.Path(scratch)
        with caching_proxies(product, origin.port, directory=directory, replicas=replicas) as proxies:
            return suite_of.run(suite, proxies.ports, only)


def table(runs: list[Row]) -> str:
    lines = [
        "| cache | replicas | required | optimal | check | failed | setup or dependency |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        counts = run["counts"]
        passed = [f"{counts[kind].get('pass', 0)} of {counts[kind].get('of', 0)}" for kind in KINDS]
        failed = counts["required"].get("fail", 0)
        blocked = sum(counts["required"].get(verdict, 0) for verdict in ("setup", "dependency", "untested"))
        lines.append(f"| {run['version']} | {run['replicas']} | {' | '.join(passed)} | {failed} | {blocked} |")
    return "\n".join(lines)


def misses(runs: list[Row]) -> list[str]:
    """What falls short of the targets, for fastroute."""
    found = []
    ours = [run for run in runs if run["product"] == "fastroute"]
    for run in ours:
        for kind, target in TARGETS.items():
            count = run["counts"][kind]
            wanted = target * count["of"] / TARGETS_OF[kind]
            if count.get("pass", 0) < wanted:
                found.append(f"{kind} with {run['replicas']}: {count.get('pass', 0)}, wanted {wanted:.0f}")
    for run in ours[1:]:
        for kind in TARGETS:
            difference = run["counts"][kind].get("pass", 0) - ours[0]["counts"][kind].get("pass", 0)
            if abs(difference) > REPLICAS_DIFFERENCE_MAX:
                found.append(f"{kind} with {run['replicas']} replicas: {difference:+d} beside one")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--product", action="append", choices=PRODUCTS)
    parser.add_argument("--replicas", default=None, help="1,2,3 for fastroute, else 1")
    parser.add_argument("--suite", type=pathlib.Path, help="directory of a checkout of the suite")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("build/cache-tests"))
    parser.add_argument("--id", help="one test, told at length")
    parser.add_argument("--failures", action="store_true", help="list what did not pass")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--require", action="store_true", help="status 1 when fastroute misses a target")
    options = parser.parse_args()
    try:
        suite = (options.suite or suite_of.install(options.cache)).resolve()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    runs: list[Row] = []
    for product in options.product or ["fastroute"]:
        if binary_of(product) is None:
            print(f"{product} is not installed", file=sys.stderr)
            continue
        default = "1" if product != "fastroute" or options.id else "1,2,3"
        for replicas in map(int, (options.replicas or default).split(",")):
            measured = measure(suite, product, replicas, options.id)
            if isinstance(measured, str):
                print(measured)
                continue
            run = {"product": product, "version": version_of(product), "replicas": replicas}
            runs.append({**run, "counts": tally(measured), "rows": measured})
            if options.failures:
                for row in measured:
                    if row["verdict"] != "pass" and row["kind"] != "check":
                        print(f"{row['verdict']:10} {row['kind']:8} {row['suite']}/{row['id']}: {row['detail']}")
    if options.id:
        return 0
    text = json.dumps(runs, indent=1) if options.json else table(runs)
    print(text)
    if options.record:
        today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        version = json.loads((suite / "package.json").read_text())["version"]
        kept = []
        for run in runs:
            found = [row for row in run["rows"] if row["verdict"] != "pass" and row["kind"] != "check"]
            named = [f"{row['kind']} {row['suite']}/{row['id']}: {row['verdict']}" for row in found]
            kept.append({**{key: value for key, value in run.items() if key != "rows"}, "not_passed": named})
        RESULTS.joinpath("cache_tests.json").write_text(json.dumps({"date": today, "runs": kept}, indent=1) + "\n")
        RESULTS.joinpath("cache_tests.md").write_text(
            f"# HTTP caches under the public cache-tests suite\n{today}, suite {version}. `make cache-tests`.\n"
            "Requests of one test go to the replicas in turn; the other products' replicas have caches of their own.\n"
            f"\n{table(runs)}\n"
        )
    short = misses(runs)
    for line in short:
        print(f"short of the target: {line}", file=sys.stderr)
    return 1 if short and options.require else 0


if __name__ == "__main__":
    sys.exit(main())
