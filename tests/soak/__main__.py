"""The soak: `python -m tests.soak --minutes 60` (make soak MINUTES=60). Status 0: nothing was lost, nothing leaked.

Theory of operation. Clients of all kinds go on all the time (clients.py), their answers are compared byte by byte. In
the first third servers are killed and started, workers are killed, the configuration is reloaded; in the rest servers
alone are killed, so that the workers live long enough to be seen growing: memory is sampled, and its slope after a
warm-up says whether they do. At the end the clients leave, and each worker must hold what it held at the beginning:
descriptors, tasks, nothing in flight.

What may be lost: requests whose connection was open when a server or a worker was killed, or began within GRACE_S after
it; and nothing else, through reloads either. A seed is printed and decides what happens when.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import pathlib
import random
import sys
import tempfile
import time
from typing import Any

from tests.soak.clients import Party, Tally
from tests.soak.stage import Stage, descriptors, rss_bytes

GRACE_S = 2.5
"""After a kill: within it everybody knows of it."""

GROWTH_BYTES_MAX = 4 << 20
"""What a worker may grow by after its warm-up, in runs too short for a slope to mean much."""

SLOPE_KIB_PER_MINUTE_MAX = 64.0
"""What it may grow by in runs with at least ten minutes of samples."""


def slope_kib_per_minute(samples: list[tuple[float, int]]) -> float:
    """Of (s, bytes), by least squares."""
    n = len(samples)
    if n < 3:
        return 0.0
    mean_t = sum(t for t, _ in samples) / n
    mean_b = sum(b for _, b in samples) / n
    across = sum((t - mean_t) ** 2 for t, _ in samples)
    return sum((t - mean_t) * (b - mean_b) for t, b in samples) / across * 60 / 1024 if across else 0.0


class Soak:
    """One run."""

    def __init__(self, stage: Stage, minutes: float, seed: int) -> None:
        self.stage, self.seed, self.duration_s = stage, seed, minutes * 60
        self.tally = Tally()
        self.pick = random.Random(seed)
        self.kills_s: list[float] = []
        self.events: dict[str, int] = {"servers killed": 0, "workers killed": 0, "reloads": 0}
        self.samples: dict[int, list[tuple[float, int]]] = {}

    async def run(self) -> dict[str, Any]:
        """What was found; its "failures" are empty when all is well."""
        stage = self.stage
        party = Party(stage.port, self.tally, self.seed)
        party.start(steady=10, aborter=3, slow_reader=2, slow_writer=2, socket=4)
        begun_s = time.monotonic()
        await self._rough(begun_s + self.duration_s / 3)
        before = await self._calm(begun_s + self.duration_s)
        await party.stop()
        after = await self._quiet()
        return self._report(before, after)

    async def _rough(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            await asyncio.sleep(self.pick.uniform(0.5, 3))
            what = self.pick.random()
            if what < 0.3:
                await self._kill_server()
            elif what < 0.5:
                self.events["workers killed"] += 1
                self.kills_s.append(time.monotonic())
                self.stage.kill_worker(self.pick.randrange(len(self.stage.workers())))
                await asyncio.sleep(1)
            else:
                self.events["reloads"] += 1
                self.stage.reload()
                await self._until(lambda: self.stage.reloaded() >= self.stage.reloads, "the reload is done")

    async def _kill_server(self) -> None:
        index = self.pick.randrange(len(self.stage.servers))
        self.events["servers killed"] += 1
        self.kills_s.append(time.monotonic())
        self.stage.kill_server(index)
        await asyncio.sleep(self.pick.uniform(0.2, 1))
        self.stage.start_server(index)
        server = self.stage.servers[index]
        await self._until(lambda: "ready" in server.output(), "the server is back")
        await asyncio.sleep(1)

    async def _calm(self, end_s: float) -> dict[int, dict[str, Any]]:
        """Only servers are killed; -> what the workers held at its beginning."""
        await self._until(lambda: len(self.stage.workers()) == self.stage.workers_wanted, "old workers are gone")
        await asyncio.sleep(1)
        before = self.stage.tell()
        for pid, told in before.items():
            told["descriptors"] = descriptors(pid)
        begun_s, kill_s = time.monotonic(), 0.0
        while time.monotonic() < end_s:
            await asyncio.sleep(1)
            for pid in before:
                self.samples.setdefault(pid, []).append((time.monotonic() - begun_s, rss_bytes(pid)))
            if time.monotonic() > kill_s:
                kill_s = time.monotonic() + self.pick.uniform(5, 15)
                await self._kill_server()
        return before

    async def _quiet(self) -> dict[int, dict[str, Any]]:
        """The clients are gone; what the workers hold once nothing is under way."""
        found: dict[int, dict[str, Any]] = {}

        def still() -> bool:
            found.update(self.stage.tell())
            return all(
                one["downstream_connections"] == one["in_flight"] == one["tunnels"] == 0 for one in found.values()
            )

        with contextlib.suppress(AssertionError):  # the report says what is left
            await self._until(still, "nothing is under way")
        for pid, told in found.items():
            told["descriptors"] = descriptors(pid)
        return found

    async def _until(self, what: Any, why: str, wait_s: float = 30.0) -> None:
        end_s = time.monotonic() + wait_s
        while not what():
            if time.monotonic() > end_s:
                raise AssertionError(f"never: {why}")
            await asyncio.sleep(0.05)

    def _report(self, before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]]) -> dict[str, Any]:
        tally, failures = self.tally, []
        excused, others = [], []
        for began_s, noticed_s, how in tally.lost:
            killed = any(began_s - GRACE_S < kill <= noticed_s for kill in self.kills_s)
            (excused if killed else others).append(how)
        if others:
            failures.append(f"{len(others)} requests lost without a reason: {sorted(set(others))[:8]}")
        if tally.wrong:
            failures.append(f"{len(tally.wrong)} answers were not right: {tally.wrong[:5]}")
        if sorted(after) != sorted(before):
            failures.append(f"workers {sorted(before)} became {sorted(after)}: one died by itself")
        workers = []
        for pid, told in after.items():
            rss = self.samples.get(pid, [])
            warm = rss[len(rss) // 3 :]
            slope = slope_kib_per_minute(warm)
            growth = max(b for _, b in warm[-5:]) - min(b for _, b in warm[:5]) if len(warm) > 5 else 0
            own = told["descriptors"] - told["upstream_open"]
            first = before.get(pid, told)
            workers.append(
                {
                    "rss_mib": round(rss[-1][1] / (1 << 20), 2) if rss else 0,
                    "growth_kib": growth >> 10,
                    "slope_kib_per_minute": round(slope, 2),
                    "descriptors_of_its_own": own,
                    "tasks": told["tasks"],
                    "in_flight": told["in_flight"],
                    "connections": told["downstream_connections"],
                    "tunnels": told["tunnels"],
                    "requests": told["requests"],
                    "limits_hit": {name: count for name, count in told["limits_hit"].items() if count},
                }
            )
            long_enough = bool(warm) and warm[-1][0] - warm[0][0] >= 600
            if growth > GROWTH_BYTES_MAX and (not long_enough or slope > SLOPE_KIB_PER_MINUTE_MAX):
                failures.append(f"worker {pid} grew by {growth >> 10} KiB ({slope:.1f} KiB a minute)")
            if told["in_flight"] or told["downstream_connections"] or told["tunnels"]:
                failures.append(f"worker {pid} holds what nobody uses: {workers[-1]}")
            limit = first["descriptors"] - first["upstream_open"] - first["downstream_connections"]
            if own > max(limit, 0) + 2:
                failures.append(f"worker {pid} has {own} descriptors of its own, {limit} at the beginning")
            if told["tasks"] > first["tasks"]:
                failures.append(f"worker {pid} has {told['tasks']} tasks, {first['tasks']} at the beginning")
        times = sorted(tally.latencies_s)
        return {
            "minutes": round(self.duration_s / 60, 2),
            "seed": self.seed,
            "events": self.events,
            "clients": dict(sorted(tally.seen.items())),
            "lost_with_a_killed_one": len(excused),
            "lost": len(others),
            "wrong": len(tally.wrong),
            "p50_ms": round(times[len(times) // 2] * 1e3, 2) if times else None,
            "p99_ms": round(times[len(times) * 99 // 100] * 1e3, 2) if times else None,
            "workers": workers,
            "failures": failures,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    chosen = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a client that writes to a connection that was cut is no news
    print(f"seed {chosen.seed}, {chosen.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory), workers=chosen.workers)
        try:
            found = asyncio.run(Soak(stage, chosen.minutes, chosen.seed).run())
            problems = [line for line in stage.replica.output().splitlines() if "bug in fastroute" in line]
        finally:
            stage.close()
    if problems:
        found["failures"].append(f"the replica's log: {problems[:3]}")
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
