"""When does sharing give more than it costs? Three workloads on one memcached, and what statistics() says of each.

    python examples/cache_costs.py --memcached 127.0.0.1:11211

    report       costs 5 ms to compute, 100 of them, asked for again and again
    sum          costs some microseconds: less than a question to the store
    stranger     costs 5 ms, but hardly any key is ever asked for twice

`gain` is saved_time_s: hits times the mean computation, less the time in which the store was read or others were waited
for. Negative: compute it each time. Near zero: what is written is seldom read; look at `stored` beside `hits_far`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import random
import time
from typing import Any

from fastroute.cache import CacheStatistics, SharedCache
from fastroute.memcache import Memcached

REQUESTS = 2000


async def slow(number: int) -> dict[str, Any]:
    """A query that takes 5 ms."""
    await asyncio.sleep(0.005)
    return {"number": number, "lines": [f"line {line}" for line in range(10)]}


async def cheap(number: int) -> int:
    """Less work than asking."""
    return sum(range(number % 50))


async def run(store: Memcached, namespace: str, compute: Any, keys: int) -> CacheStatistics:
    """REQUESTS requests by eight callers; near values are off, as for a key that another process asked for last."""
    seeded = random.Random(1)  # noqa: S311
    async with SharedCache(store, namespace=f"costs-{namespace}-{time.time_ns()}", near_bytes=0) as cache:

        async def caller() -> None:
            for _ in range(REQUESTS // 8):
                number = seeded.randrange(keys)
                await cache.get_or_compute(number.to_bytes(4, "big"), functools.partial(compute, number), ttl=60)

        await asyncio.gather(*(caller() for _ in range(8)))
        return cache.statistics()


async def main(nodes: list[str]) -> None:
    print(f"{'':10}{'hits_far':>9}{'stored':>8}{'compute_s':>11}{'read_s':>8}{'gain_s':>8}")
    async with Memcached(nodes, timeout="1s") as store:
        for name, compute, keys in (("report", slow, 100), ("sum", cheap, 100), ("stranger", slow, 1_000_000)):
            seen = await run(store, name, compute, keys)
            print(
                f"{name:10}{seen.hits_far:9}{seen.stored:8}{seen.compute_time_s:11.3f}{seen.read_time_s:8.3f}"
                f"{seen.saved_time_s:8.3f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="what sharing gives and costs")
    parser.add_argument("--memcached", action="append", required=True, metavar="HOST:PORT")
    asyncio.run(main(parser.parse_args().memcached))
