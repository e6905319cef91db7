"""What users of a fleet notice when something fails: fastroute beside two HAProxy with peers, fault by fault.

    python -m benchmarks.faults [--hold 10] [--users 400] [--sessions 100000] [--only TEXT] [--out DIRECTORY]

Two replicas with two workers and a zone of their own each, four servers, memcached; requests go on all the time while
the fault comes and goes (tests/support/fault_scenarios.py). Writes results/faults.json and results/faults.md, whose
tables are those of docs/design/faults.md. The first one is the burst: sessions that come first through four replicas at
once (agree.py of the shared tools). The second: how soon all balancers know a move after kill -9 of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.study_agreement import MOVES_HEAD, moves_row
from tests.support.fault_scenarios import SCENARIOS, Scenario, run
from tests.support.faults import Crowd, Rig
from tests.support.shared import shared

RESULTS = pathlib.Path(__file__).parent / "results"


def suffer(scenario: Scenario, product: str, hints: bool, options: argparse.Namespace) -> dict[str, Any]:
    """One scenario in a fleet of its own; -> its report."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Rig(
            pathlib.Path(directory),
            ways=scenario.ways,
            nodes=scenario.nodes,
            node_arguments=scenario.node_arguments,
            product=product,
            **({"store_more": f"copies = {scenario.nodes}\n"} if scenario.nodes > 1 else {}),
        ) as rig,
    ):

        async def one() -> dict[str, Any]:
            crowd = Crowd(rig.ports, users=options.users, hints=hints)
            try:
                return (await run(rig, crowd, scenario, hold_s=options.hold, before_s=2.0, after_s=1.0)).row()
            finally:
                crowd.close()

        return asyncio.run(one())


def burst(product: str, options: argparse.Namespace) -> dict[str, Any]:
    """First requests of new sessions through all replicas at once: four of fastroute, two of HAProxy."""
    replicas = 4 if product == "fastroute" else 2
    sessions = options.sessions if product == "fastroute" else max(1000, options.sessions // 20)
    with (
        tempfile.TemporaryDirectory() as directory,
        Rig(pathlib.Path(directory), replicas=replicas, product=product, store_timeout="2s", zone_size="64MiB") as rig,
    ):
        addresses = ",".join(f"127.0.0.1:{port}" for port in rig.ports)
        command = [sys.executable, str(shared("tools", "agree.py")), "--replicas", addresses]
        done = subprocess.run(
            [*command, "--sessions", str(sessions), "--tasks", "50"],
            capture_output=True,
            text=True,
            check=False,
        )
        return {"replicas": replicas, **json.loads(done.stdout)}


def shown(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"


def row(name: str, r: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [
        name,
        r["requests"],
        r["failed"],
        f"{r['moved_all']} / {r['split_all']}",
        r["moved_one_at_home"],
        f"{r['moved_one']} / {r['split_one']}",
        r["answered_by_moves"],
        f"{r['p99_before_ms']:.0f} / {r['p99_during_ms']:.0f}",
        shown(r["back_ms"]),
        shown(r["agree_ms"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "| fault | requests | failed | known to all: moved / split | known to one, asked there: moved | "
    "asked elsewhere too: moved / split | changes per user, most | p99 before / during, ms | p99 back after, ms | "
    "all agree after, ms |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hold", type=float, default=10.0, help="seconds a pause or an absence lasts")
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--sessions", type=int, default=100_000, help="of the burst; 0 leaves it out")
    parser.add_argument("--kills", type=int, default=5, help="of servers, for the table of moves; 0 leaves it out")
    parser.add_argument("--only", default="", help="scenarios whose name holds one of these texts (a|b)")
    parser.add_argument("--product", default="", help="tables whose title holds this text")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {platform.processor() or 'cpu'}, Python {platform.python_version()}",
        "hold_s": options.hold,
        "users": options.users,
        "faults": {},
    }
    lines: list[str] = []
    if options.sessions:
        found["burst"] = {product: burst(product, options) for product in ("fastroute", "haproxy")}
        lines += ["| first requests at once | replicas | sessions | split | split 50 ms later | moved | failed |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for product, b in found["burst"].items():
            counts = (b["replicas"], b["sessions"], b["split"], b["split_later"], b["moved"], b["failed"])
            lines.append(f"| {product} | " + " | ".join(map(str, counts)) + " |")
        lines.append("")
        print("\n".join(lines), flush=True)
    if options.kills:
        lines += [MOVES_HEAD]
        print(MOVES_HEAD, flush=True)
        for replicas in (2, 3, 4):
            figures, line = moves_row(replicas, options.kills, users=240)
            found.setdefault("moves", {})[replicas] = figures
            lines.append(line)
            print(line, flush=True)
        lines.append("")
    for product, hints, title in (
        ("fastroute", True, "fastroute, users keep the hint cookie"),
        ("fastroute", False, "fastroute, no hint: zone and store alone"),
        ("haproxy", False, "two HAProxy with peers"),
    ):
        if options.product not in title:
            continue
        lines += [f"**{title}**", "", HEAD]
        print(lines[-3], HEAD, sep="\n", flush=True)
        for name, scenario in SCENARIOS.items():
            if not any(text in name for text in options.only.split("|")) or (
                product == "haproxy" and not scenario.haproxy
            ):
                continue
            began_s = time.monotonic()
            try:
                report = suffer(scenario, product, hints, options)
            except AssertionError as error:  # a port that was free a moment ago is taken: once more, with others
                print(f"{name}: {error}; once more", file=sys.stderr)
                report = suffer(scenario, product, hints, options)
            report["seconds"] = round(time.monotonic() - began_s, 1)
            found["faults"].setdefault(name, {})[title] = report
            lines.append(row(scenario.says, report))
            print(lines[-1], flush=True)
        lines.append("")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "faults.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
