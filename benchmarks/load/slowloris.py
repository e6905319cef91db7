"""What other clients notice of thousands that never finish their heads: p99 with them and without, and nginx's."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.load.rig import LOAD_CORES, Running, main, median, rig, wrk

BEGIN = b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Slow: "


def attack(port: int, connections: int, every_s: float) -> None:
    """Hold so many connections, a byte on each every so often; make those anew that the proxy ends. Until killed."""
    many: list[socket.socket | None] = [None] * connections
    said = False
    while True:
        begun_s = time.monotonic()
        for n, one in enumerate(many):
            try:
                if one is None:
                    raise OSError
                one.send(b"x")
            except OSError:
                if one is not None:
                    one.close()
                many[n] = None
                with contextlib.suppress(OSError):
                    fresh = socket.create_connection(("127.0.0.1", port), timeout=5)
                    fresh.setblocking(False)
                    fresh.send(BEGIN)
                    many[n] = fresh
            if said and n % 50 == 49:  # evenly over the time, not all at once
                time.sleep(max(0.0, begun_s + every_s * n / connections - time.monotonic()))
        if not said:
            print("holding", sum(one is not None for one in many), flush=True)
            said = True


def _rounds(proxy: Running, chosen: argparse.Namespace) -> list[dict[str, float]]:
    return [wrk(f"http://127.0.0.1:{proxy.port}/small", chosen.seconds, 32) for _ in range(chosen.rounds)]


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with rig() as here:
        server = here.server()
        proxies = [
            here.fastroute(server.port, timeouts='head = "10s"'),
            here.nginx(server.port, timeouts="client_header_timeout 10s;"),
        ]
        for proxy in proxies:
            wrk(f"http://127.0.0.1:{proxy.port}/small", 1, 32)
            before = _rounds(proxy, chosen)
            code = f"from benchmarks.load.slowloris import attack; attack({proxy.port}, {chosen.attackers}, 5.0)"
            attackers = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            try:
                assert attackers.stdout is not None
                held = int(attackers.stdout.readline().split()[1])
                during = _rounds(proxy, chosen)
                memory = proxy.memory_bytes()
            finally:
                attackers.kill()
                attackers.wait()
            after = _rounds(proxy, chosen)
            found[proxy.name] = {
                "held": held,
                "memory_mib": round(memory / (1 << 20), 1),
                "p99_ms": {
                    "before": median(before, "p99_ms"),
                    "during": median(during, "p99_ms"),
                    "after": median(after, "p99_ms"),
                },
                "p99_ratio": round(median(during, "p99_ms") / median(before, "p99_ms"), 3),
                "requests_per_s": {
                    "before": median(before, "requests_per_s"),
                    "during": median(during, "requests_per_s"),
                },
                "errors": sum(row["errors"] for row in (*before, *during, *after)),
            }
    found["load_cores"] = len(LOAD_CORES)
    return found


if __name__ == "__main__":
    main(measure, __doc__ or "", attackers=5000, rounds=5, seconds=2.0)
