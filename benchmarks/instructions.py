"""`make instructions`: machine instructions of one selection, counted by valgrind's callgrind.

Times depend on the machine and its other guests; instructions do not, so that a change in them is a change in the code.
Each case runs its loop with N and with 2 N calls; the difference, divided by N, is free of whatever the loops share.
The interpreter's own part (the call, the loop) is in it: `len(str)` in the same loop is the yardstick.

    python -m benchmarks.instructions [--write | --check]

--write puts the figures into benchmarks/results/instructions.json; --check compares with them and exits with 1 when a
case costs more. Compared is what a case costs beyond len(str), since interpreters differ in the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

CALLS = 1_000
MARK, MARK_ENTERED = "srand48", "srand48_r"
"""A function of the C library that nothing else here calls, and what glibc calls in it: there callgrind dumps."""

GROWTH_MAX = 0.2
"""Growth that --check bears: compilers of one family differ by some percent; a lost fast path by far more."""

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "instructions.json"
POLICIES = ("round-robin", "random", "least-connections", "two-choices", "peak-ewma", "prequal")


def cases() -> dict[str, Callable[[int], None]]:
    """Name -> a function that makes so many calls."""
    from fastroute import Pool, Server
    from fastroute._core.hashes import xxh64

    keys = [f"session-{number:08d}" for number in range(CALLS)]

    def loop(call: Callable[[str], object]) -> Callable[[int], None]:
        def run(count: int) -> None:
            for _ in range(count // CALLS):
                for key in keys:
                    call(key)

        return run

    def servers(count: int) -> list[Server]:
        return [Server(f"10.0.{i >> 8}.{i & 255}:80", name=f"server-{i:05d}", weight=1 + i % 3) for i in range(count)]

    made: dict[str, Callable[[int], None]] = {"len(str)": loop(len), "xxh64(str)": loop(xxh64)}
    for count in (2, 10, 100, 1_000, 10_000):
        made[f"select, hash, {count:,} servers"] = loop(Pool("app", servers(count), policy="hash").select)
    for policy in POLICIES:
        made[f"select, {policy}, 100 servers"] = loop(Pool("app", servers(100), policy=policy, seed=1).select)
    batch = Pool("app", servers(100), policy="hash")
    made["select_many, hash, 100 servers, per key"] = lambda count: (
        [batch.select_many(keys) for _ in range(count // CALLS)] and None
    )
    return made


def child() -> None:
    """What valgrind runs: a mark before and after every loop."""
    mark = getattr(ctypes.CDLL(None), MARK)
    for run in cases().values():
        run(CALLS)  # what is built at first use
        mark(0)
        run(CALLS)
        mark(0)
        run(2 * CALLS)
        mark(0)


def measure() -> dict[str, float]:
    """Name -> instructions per call.

    Raises:
        RuntimeError: valgrind is not here, or its dumps are not what was asked for.
    """
    if shutil.which("valgrind") is None:
        raise RuntimeError("valgrind is not installed: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--dump-before={MARK_ENTERED}",
            f"--callgrind-out-file={scratch}/out",
        ]
        subprocess.run(
            [*command, sys.executable, "-m", "benchmarks.instructions", "--child"],
            check=True,
            cwd=pathlib.Path(__file__).resolve().parents[1],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stderr=subprocess.DEVNULL,
        )
        dumps = sorted(pathlib.Path(scratch).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.M)[1]) for dump in dumps]
    names = list(cases())
    if len(totals) < 3 * len(names):
        raise RuntimeError(f"{len(totals)} dumps for {len(names)} cases")
    return {name: round((totals[3 * i + 2] - totals[3 * i + 1]) / CALLS, 1) for i, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child()
        return
    found = measure()
    recorded = json.loads(RESULTS.read_text()) if given.check else {}
    grown = 0
    for name, count in found.items():
        note = ""
        if name in recorded:
            before = recorded[name] - recorded["len(str)"]
            more = count - found["len(str)"] > before + GROWTH_MAX * abs(before) + 5
            grown += more
            note = f", recorded {recorded[name]:8.1f}{'  GROWN' * more}"
        print(f"{name:45s} {count:8.1f} instructions{note}")
    if grown:
        sys.exit(f"{grown} cases cost more than {RESULTS.name} says; if that is meant: --write")
    if given.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
