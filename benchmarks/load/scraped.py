"""What scrapes cost the requests: `python -m benchmarks.load.scraped [--rounds 12] [--out FILE]`; needs wrk and nginx.

One replica of four workers and 1,000 servers, of which one gets the requests (the others have weight 0: they are told
like all others). wrk asks over 32 connections, in short rounds turn by turn: nobody scrapes; once a second (sixty
times as often as Prometheus does by default); one scrape after the other, without a pause. Figures: the workers'
processor time per request (/proc/PID/schedstat; the admin process's own is not in it), its ratio to the round without
scrapes, and how long a scrape took. With "without a pause" the admin process and whoever reads take what they can get
of the machine's cores; what they take of the workers' time is requests per second, not processor time per request.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import threading
import time
import urllib.request
from typing import Any

from benchmarks.load.rig import LOAD_CORES, PROXY_CORE, Running, main, rig, wrk
from tests.support.fleet import free_ports

FASTROUTE = """workers = {workers}
zone = {{ name = "scraped-{port}", size = "8MiB" }}
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "app"
[listeners.web.limits]
connections = 0
connections_per_client = 0
requests_per_connection = 0
[admin]
bind = "127.0.0.1:{admin}"
[[pools.app.servers]]
address = "127.0.0.1:{server}"
"""

SERVER = '[[pools.app.servers]]\nname = "web-{n}"\naddress = "10.1.{high}.{low}:80"\nweight = 0\n'
PAUSES_S = {"none": None, "each_second": 1.0, "without_pause": 0.0}


def _get(port: int, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return bytes(answer.read())


class Scraper:
    """Scrapes at a pace, in a thread."""

    def __init__(self, port: int, pause_s: float | None) -> None:
        self.took_ms: list[float] = []
        self._port, self._pause_s, self._over = port, pause_s, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Scraper:
        if self._pause_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._pause_s is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._pause_s is not None
        while not self._over.is_set():
            began_s = time.perf_counter()
            _get(self._port, "/metrics")
            took_s = time.perf_counter() - began_s
            self.took_ms.append(took_s * 1e3)
            self._over.wait(max(0.0, self._pause_s - took_s))


def _ran_us(pids: list[int]) -> float:
    """Processor time of these processes."""
    return sum(int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e3


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all paces, turn by turn."""
    port, admin = free_ports(2)
    rows: dict[str, list[dict[str, float]]] = {pace: [] for pace in PAUSES_S}
    with rig() as one:
        server = one.server()
        text = FASTROUTE.format(workers=chosen.workers, port=port, admin=admin, server=server.port)
        text += "".join(SERVER.format(n=n, high=n >> 8, low=n & 255) for n in range(1, chosen.servers))
        path = one.directory / "scraped.toml"
        path.write_text(text)
        command = [sys.executable, "-m", "fastroute", "serve", "-c", str(path)]
        one.running.append(Running("fastroute", port, command, one.directory, sorted({PROXY_CORE, *LOAD_CORES})))
        while len(pids := _workers(admin)) < chosen.workers:
            time.sleep(0.1)
        for turn in range(chosen.rounds + 1):
            for pace, pause_s in PAUSES_S.items():
                with Scraper(admin, pause_s) as scraper:
                    before_us = _ran_us(pids)
                    found = wrk(f"http://127.0.0.1:{port}/small", chosen.seconds, 32)
                    used_us = _ran_us(pids) - before_us
                if found["errors"]:
                    raise RuntimeError(f"{pace}: {found}")
                cost_us = used_us / (found["requests_per_s"] * chosen.seconds)
                row = {"worker_us": cost_us, "requests_per_s": found["requests_per_s"], "p99_ms": found["p99_ms"]}
                if scraper.took_ms:
                    row |= {"scrape_ms": statistics.median(scraper.took_ms), "scrapes": len(scraper.took_ms)}
                if turn:  # the first one fills caches
                    rows[pace].append(row)
    told: dict[str, Any] = {}
    for pace, these in rows.items():
        told[pace] = {key: round(statistics.median(row[key] for row in these), 3) for key in these[0]}
        ratios = [row["worker_us"] / none["worker_us"] for row, none in zip(these, rows["none"], strict=True)]
        told[pace]["worker_us_ratio"] = round(statistics.median(ratios), 4)
        quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        told[pace]["worker_us_ratio_quartiles"] = [round(quarters[0], 4), round(quarters[2], 4)]
    return told


def _workers(admin: int) -> list[int]:
    try:
        told = json.loads(_get(admin, "/api/v1/statistics"))["workers"]
    except OSError:
        return []
    return [one["pid"] for one in told if one["accepting"]]


if __name__ == "__main__":
    main(measure, (__doc__ or "").splitlines()[0], rounds=12, seconds=2, servers=1000, workers=4)
