"""A write on one replica: how long until the others see it.

    python -m benchmarks.cache_visibility [--writes 200] [--others 2] [--record]

Each replica is a process with a store and a near cache of its own. One writes; the others read the key all the time (a
near hit, as long as it is not invalidated) and note when the new value came. The time is from before the write, so the
write itself is in it. Three ways: announcements with asyncio, with threads, and none (near_ttl alone, which is the
bound in every case). Writes benchmarks/results/cache_visibility.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time
from typing import Any

from fastroute.cache.push import hub_of
from fastroute.cache.push_thread import thread_of
from fastroute.cache.shared import SharedCache
from fastroute.memcache import Memcached
from fastroute.sync import Memcached as BlockingMemcached
from fastroute.sync import SharedCache as BlockingSharedCache
from tests.support.memcached import Memcached as Process

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
WAYS = ("asyncio", "threads", "near_ttl")
LOOK_S = 0.0002
"""Pause between two looks: part of what is measured, and small beside it."""
NEAR_TTL_S = 2.0
SETTLE_S_MAX = 20.0


def seen(value: Any, last: int) -> int:
    """Note a new value on standard output; returns the last one."""
    if isinstance(value, int) and value > last:
        print(json.dumps([value, time.monotonic_ns()]), flush=True)
        return value
    return last


async def follow_asyncio(address: str, watch: bool) -> None:
    async with (
        Memcached([address], timeout="2s") as store,
        SharedCache(store, namespace="visible", near_ttl=NEAR_TTL_S, watch=watch) as cache,
    ):
        end_s = time.monotonic() + SETTLE_S_MAX
        while watch and not hub_of(store, "fr").live and time.monotonic() < end_s:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        await cache.get("k")
        print("ready", flush=True)
        last = -1
        while True:
            last = seen(await cache.get("k"), last)
            await asyncio.sleep(LOOK_S)


def follow_threads(address: str) -> None:
    with (
        BlockingMemcached([address], timeout="2s") as store,
        BlockingSharedCache(store, namespace="visible", near_ttl=NEAR_TTL_S) as cache,
    ):
        end_s = time.monotonic() + SETTLE_S_MAX
        while not thread_of(store, "fr").live and time.monotonic() < end_s:
            time.sleep(0.01)
        cache.get("k")
        print("ready", flush=True)
        last = -1
        while True:
            last = seen(cache.get("k"), last)
            time.sleep(LOOK_S)


def measure(address: str, way: str, writes: int, others: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cache_visibility", "--follow", way, "--address", address]
    followers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(others)]
    delays_ms: list[float] = []
    rng = random.Random(1)
    try:
        with BlockingMemcached([address], timeout="2s") as store:
            cache = BlockingSharedCache(store, namespace="visible", watch=False)
            cache.set("k", -1, ttl=3600)
            for follower in followers:
                assert follower.stdout is not None
                line = follower.stdout.readline()
                while line.strip() != "ready":
                    line = follower.stdout.readline()
            for number in range(writes):
                time.sleep(rng.uniform(0.002, 0.02))
                began_ns = time.monotonic_ns()
                assert cache.set("k", number, ttl=3600)
                for follower in followers:
                    assert follower.stdout is not None
                    value, at_ns = -1, 0
                    while value != number:
                        line = follower.stdout.readline()
                        if not line:
                            raise RuntimeError("a reader ended")
                        value, at_ns = json.loads(line)
                    delays_ms.append((at_ns - began_ns) / 1e6)
            cache.close()
    finally:
        for follower in followers:
            follower.kill()
            follower.communicate()
    delays_ms.sort()
    return {
        "way": way,
        "writes": writes,
        "others": others,
        "median_ms": round(statistics.median(delays_ms), 2),
        "p99_ms": round(delays_ms[min(len(delays_ms) - 1, int(len(delays_ms) * 0.99))], 2),
        "max_ms": round(delays_ms[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--writes", type=int, default=200)
    parser.add_argument("--others", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--follow", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow == "threads":
        follow_threads(options.address)
    elif options.follow:
        asyncio.run(follow_asyncio(options.address, options.follow == "asyncio"))
    rows = []
    with Process() as process:
        for way in WAYS:
            writes = options.writes if way != "near_ttl" else max(3, options.writes // 20)
            rows.append(measure(process.address, way, writes, options.others))
    lines = ["| seen by | writes | median | 99 % | longest |", "|---|---:|---:|---:|---:|"]
    names = {
        "asyncio": "announcement, asyncio",
        "threads": "announcement, threads",
        "near_ttl": "`near_ttl` of 2 s alone",
    }
    for row in rows:
        times = " | ".join(f"{row[name]:,.1f} ms" for name in ("median_ms", "p99_ms", "max_ms"))
        lines.append(f"| {names[row['way']]} | {row['writes']} | {times} |")
    print("\n".join(lines))
    if options.record:
        today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        about = f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.others} other replicas."
        RESULTS.joinpath("cache_visibility.json").write_text(json.dumps({"date": today, "rows": rows}, indent=1) + "\n")
        RESULTS.joinpath("cache_visibility.md").write_text(
            f"# A write on one replica until the others see it\n{about} By `python -m benchmarks.cache_visibility`.\n\n"
            + "\n".join(lines)
            + "\n"
        )


if __name__ == "__main__":
    main()
