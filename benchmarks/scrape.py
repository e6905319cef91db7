"""What a scrape costs: `python -m benchmarks.scrape [--servers N] [--workers N]`; see results/scrape.json.

The board is filled as workers fill it (every server counted by every worker), then read and written as /metrics does.
What a worker pays for it twice a second (publish) is measured too. Not here: what counting costs a request, which is
instructions in the relay (docs/metrics.md), and what scrapes cost requests meanwhile (benchmarks/load/scraped.py).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import time

import fastroute
from fastroute._core.board import Tally
from fastroute.config.load import loads
from fastroute.metrics import families
from fastroute.metrics.figures import read
from fastroute.metrics.layout import Ledger, make_board
from fastroute.proxy.build import make_pool

RESULT = pathlib.Path(__file__).parent / "results" / "scrape.json"
LIMIT_MS = 50.0


def figures(servers: int, workers: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a scrape's parts, and microseconds of what a worker writes twice a second."""
    listed = "".join(
        f'[[pools.app.servers]]\nname = "web-{n}"\naddress = "10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80"\n'
        for n in range(servers)
    )
    config = loads(
        f'workers = {workers}\n[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[pools.app]\n{listed}'
    ).config
    board = make_board(config)
    columns = Ledger(board).assign(config)
    pool = make_pool(config, "app", config.pools["app"], None)
    publish_us = []
    for row in range(workers):
        board.take(row, os.getpid())
        tally = Tally(board.row(row), 0, columns.servers["app"])
        board.row(row).words("pool", 0)[59] = servers
        for _ in range(rounds):
            start = time.perf_counter()
            tally.publish(pool)
            publish_us.append((time.perf_counter() - start) * 1e6)
        for column in columns.servers["app"].values():
            board.row(row).words("server", column)[2] = 1_000_000 + column
    read_ms, write_ms, cpu_ms = [], [], []
    for _ in range(rounds):
        start, cpu_start = time.perf_counter(), time.process_time()
        found = read(board, columns, config)
        middle = time.perf_counter()
        page = families.page(found, fastroute.__version__)
        write_ms.append((time.perf_counter() - middle) * 1e3)
        read_ms.append((middle - start) * 1e3)
        cpu_ms.append((time.process_time() - cpu_start) * 1e3)
    return {
        "servers": servers,
        "workers": workers,
        "read_ms": round(statistics.median(read_ms), 2),
        "write_ms": round(statistics.median(write_ms), 2),
        "scrape_ms": round(statistics.median(r + w for r, w in zip(read_ms, write_ms, strict=True)), 2),
        "scrape_processor_ms": round(statistics.median(cpu_ms), 2),
        "publish_us": round(statistics.median(publish_us), 1),
        "page_bytes": len(page),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=31)
    chosen = parser.parse_args()
    found = figures(chosen.servers, chosen.workers, chosen.rounds)
    found["limit_ms"] = LIMIT_MS
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if found["scrape_ms"] > LIMIT_MS:
        raise SystemExit(f"a scrape takes more than {LIMIT_MS:g} ms")


if __name__ == "__main__":
    main()
