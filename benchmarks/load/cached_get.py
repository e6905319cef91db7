"""A cached GET through proxies: processor time per request, beside nginx proxy_cache and Varnish.

    python -m benchmarks.load.cached_get [--rounds 12] [--seconds 1] [--size 1024] [--record]

One nginx is the origin: /hit may be stored for an hour, /pass may not; /plain is on a route without a cache. Each
proxy is one worker, asked by wrk over 32 connections with keep-alive, one after the other in short rounds, so that
what else the machine does meets all alike. The figure is the proxy's processor time (user and system, all its
processes) per request, the median of the rounds; ratios are medians of the rounds' own ratios. Two questions, with
their targets:
  hit / without a cache, both ours          at most 0.8: an answer from the cache costs less than asking a server
  hit, ours / hit, nginx                    at most 1.5
Needs wrk and nginx. Writes benchmarks/results/cached_get.json and .md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator

from tests.support.cache_proxies import Proxies, binary_of, caching_proxies, version_of
from tests.support.fleet import Process, free_ports, running

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
CONNECTIONS = 32
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SUBJECTS = (
    ("fastroute", "/hit"),
    ("fastroute", "/plain"),
    ("fastroute", "/pass"),
    ("nginx", "/hit"),
    ("nginx", "/plain"),
    ("varnish", "/hit"),
)
RATIOS = (
    (("fastroute", "/hit"), ("fastroute", "/plain"), 0.8),
    (("fastroute", "/hit"), ("nginx", "/hit"), 1.5),
    (("fastroute", "/hit"), ("varnish", "/hit"), None),
)


@contextlib.contextmanager
def origin(directory: pathlib.Path, size: int) -> Iterator[int]:
    """An nginx that answers by itself; its port."""
    (port,) = free_ports(1)
    path = directory / "origin.conf"
    nginx = binary_of("nginx")
    assert nginx is not None
    (directory / "hit").write_bytes(b"x" * size)
    (directory / "pass").write_bytes(b"x" * size)
    (directory / "plain").write_bytes(b"x" * size)
    path.write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid {directory}/origin.pid; error_log {directory}/origin.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; root {directory};
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/temp; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
    location /hit {{ add_header Cache-Control max-age=3600; }}
    location /pass {{ add_header Cache-Control no-store; }}
  }}
}}
""")
    process = Process([nginx, "-c", str(path), "-e", str(directory / "origin.log")], directory / "origin.out")
    with running(process):
        yield port


def processor_s(pids: list[int]) -> float:
    """Of these processes, all their threads."""
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def cost_us(proxies: Proxies, path: str, seconds: int) -> float:
    """Microseconds of processor time per request, over one round."""
    pids = proxies.pids
    before_s = processor_s(pids)
    url = f"http://127.0.0.1:{proxies.ports[0]}{path}"
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url], capture_output=True, text=True, check=True
    )
    used_s = processor_s(pids) - before_s
    count = re.search(r"([0-9]+) requests in", done.stdout)
    if count is None or "Non-2xx" in done.stdout or not int(count[1]):
        raise RuntimeError(f"{url}: {done.stdout}")
    return used_s / int(count[1]) * 1e6


def wait_for(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hit", timeout=10) as answer:
        answer.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None or binary_of("nginx") is None:
        print("needs wrk and nginx: apt-get install wrk nginx", file=sys.stderr)
        return 1
    subjects = [one for one in SUBJECTS if binary_of(one[0])]
    costs: dict[tuple[str, str], list[float]] = {one: [] for one in subjects}
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(origin(directory, options.size))
        proxies = {
            product: stack.enter_context(caching_proxies(product, port, directory=directory))
            for product in dict.fromkeys(product for product, _ in subjects)
        }
        for one in proxies.values():
            wait_for(one.ports[0])
        for round_number in range(options.rounds + 1):
            for product, path in subjects:
                cost = cost_us(proxies[product], path, options.seconds)
                if round_number:  # the first one fills caches and pools
                    costs[product, path].append(cost)
    words = {"/hit": "from its cache", "/plain": "without a cache", "/pass": "cached route, not storable"}
    lines = ["| what | processor time per request |", "|---|---:|"]
    for product, path in subjects:
        lines.append(f"| {version_of(product)}, {words[path]} | {statistics.median(costs[product, path]):.1f} us |")
    lines += ["", "| ratio | measured | target |", "|---|---:|---:|"]
    ratios = []
    for above, below, target in RATIOS:
        if above in costs and below in costs:
            ratio = statistics.median(a / b for a, b in zip(costs[above], costs[below], strict=True))
            name = f"{above[0]} {words[above[1]]} / {below[0]} {words[below[1]]}"
            lines.append(f"| {name} | {ratio:.2f} | {'' if target is None else f'<= {target}'} |")
            ratios.append({"name": name, "ratio": round(ratio, 3), "target": target})
    print("\n".join(lines))
    if options.record:
        today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        about = f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}, body of {options.size} bytes."
        rows = [
            {"product": product, "path": path, "us": [round(one, 2) for one in costs[product, path]]}
            for product, path in subjects
        ]
        told = {"date": today, "ratios": ratios, "rows": rows}
        RESULTS.joinpath("cached_get.json").write_text(json.dumps(told, indent=1) + "\n")
        RESULTS.joinpath("cached_get.md").write_text(
            f"# A cached GET through proxies\n{about} By `python -m benchmarks.load.cached_get`.\n\n"
            + "\n".join(lines)
            + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
