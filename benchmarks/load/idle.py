"""Resident memory of ten thousand idle keep-alive connections, each of which has carried a request; nginx beside it."""

from __future__ import annotations

import argparse
import socket
import time
from typing import Any

from benchmarks.load.rig import Running, main, rig

GET = b"GET /small HTTP/1.1\r\nHost: a.example\r\nCookie: sid=%d\r\n\r\n"


def _open(proxy: Running, count: int) -> list[socket.socket]:
    many = []
    for n in range(count):
        one = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
        one.sendall(GET % n)
        got = b""
        while not got.endswith(b".\n"):
            piece = one.recv(4096)
            assert piece, got
            got += piece
        many.append(one)
    return many


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with rig() as here:
        server = here.server()
        for proxy in (
            here.fastroute(server.port, timeouts='idle = "10m"'),
            here.nginx(server.port),
        ):
            _open(proxy, 10)[0].close()
            before = proxy.memory_bytes()
            begun_s = time.monotonic()
            many = _open(proxy, chosen.connections)
            opened_s = time.monotonic() - begun_s
            after = proxy.memory_bytes()
            cpu_s, waited_s = proxy.cpu_s(), time.monotonic()
            time.sleep(3)
            cpu_s, waited_s = proxy.cpu_s() - cpu_s, time.monotonic() - waited_s
            found[proxy.name] = {
                "memory_mib": {"before": round(before / (1 << 20), 1), "with_them": round(after / (1 << 20), 1)},
                "bytes_per_connection": round((after - before) / chosen.connections),
                "cpu_share_while_idle": round(cpu_s / waited_s, 4),
                "opened_per_s": round(chosen.connections / opened_s),
            }
            for one in many:
                one.close()
    return found


if __name__ == "__main__":
    main(measure, __doc__ or "", connections=10_000)
