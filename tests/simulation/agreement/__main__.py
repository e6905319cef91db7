"""Many runs, or one again: `python -m tests.simulation.agreement --seeds 10000` or `--seed 17 --trace`.

Prints each failing seed with its violation and the command that replays it; exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time

from tests.simulation.agreement.invariants import Violation
from tests.simulation.agreement.simulation import EVENTS, run

COLLECT_EVERY = 10
"""A world is full of cycles and holds megabytes of shared memory; runs collect nothing by themselves."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.agreement")
    parser.add_argument("--seed", type=int, help="one run")
    parser.add_argument("--seeds", type=int, default=100, help="so many runs")
    parser.add_argument("--first", type=int, default=1, help="the first seed of many")
    parser.add_argument("--events", type=int, default=EVENTS, help="events of a run before the faults stop")
    parser.add_argument("--trace", action="store_true", help="print every answer, change and fault")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many failing seeds")
    arguments = parser.parse_args()
    seeds = (
        [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    )
    began_s, cpu_s = time.monotonic(), time.process_time()
    events, virtual_s, failures, done = 0, 0.0, 0, 0
    counts: dict[str, int] = {}
    gc.collect()
    gc.freeze()
    for number, seed in enumerate(seeds):
        if number % COLLECT_EVERY == 0:
            gc.collect()
        try:
            outcome = run(seed, events=arguments.events, trace=arguments.trace)
        except Violation as violation:
            failures += 1
            for line in getattr(violation, "trace", None) or ():
                print(line)
            if arguments.seed is not None:
                print(getattr(violation, "world", ""))
            print(
                f"seed {seed}: {violation}\n  replay: python -m tests.simulation.agreement --seed {seed} --trace",
                flush=True,
            )
            if failures >= arguments.failures:
                break
            continue
        done += 1
        if arguments.trace:
            print("\n".join(outcome.trace or ()))
        events += outcome.events
        virtual_s += outcome.virtual_s
        for name, count in outcome.counts.items():
            counts[name] = counts.get(name, 0) + count
        if done % 250 == 0:
            print(f"{done} runs, {events} events, {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"runs that passed: {done}; failing seeds: {failures}")
    print(f"events: {events}; virtual time: {virtual_s:.0f} s")
    print(f"time: {time.monotonic() - began_s:.1f} s, CPU {time.process_time() - cpu_s:.1f} s")
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
