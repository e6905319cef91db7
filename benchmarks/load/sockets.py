"""WebSocket echo through fastroute, HAProxy and nothing: messages per second, latency, CPU time per message."""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.load.rig import LOAD_CORES, Running, main, rig
from tests.support.fleet import free_ports

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PAYLOAD = b"m" * 64
MESSAGE = b"\x82" + bytes([0x80 | len(PAYLOAD)]) + bytes(4) + PAYLOAD  # masked with zeros: as clients must
ECHO = b"\x82" + bytes([len(PAYLOAD)]) + PAYLOAD


class EchoServer(asyncio.Protocol):
    """Agrees, then sends each message of PAYLOAD's size back, unmasked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.kept, self.agreed = b"", False

    def data_received(self, data: bytes) -> None:
        self.kept += data
        if not self.agreed:
            if b"\r\n\r\n" not in self.kept:
                return
            head, _, self.kept = self.kept.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            assert found
            key = hashlib.sha1(found.group(1) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: " + base64.b64encode(key) + b"\r\n\r\n"
            )
            self.agreed = True
        count, left = divmod(len(self.kept), len(MESSAGE))
        if count:
            self.transport.write(ECHO * count)
            self.kept = self.kept[len(self.kept) - left :]


def serve(port: int) -> None:
    """The echo server as a process."""
    import uvloop

    async def run() -> None:
        await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", port)
        print("ready", flush=True)
        await asyncio.Event().wait()

    uvloop.run(run())


class Talker(asyncio.Protocol):
    """Sends the next message when the echo is back."""

    def __init__(self, times_s: list[float]) -> None:
        self.times_s, self.got, self.agreed, self.on = times_s, 0, False, True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        transport.write(ASK)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if not self.agreed:
            assert data.endswith(b"\r\n\r\n"), data
            self.agreed = True
        else:
            self.got += len(data)
            if self.got < len(ECHO):
                return
            self.got = 0
            self.times_s.append(now_s - self.sent_s)
        if self.on:
            self.sent_s = now_s
            self.transport.write(MESSAGE)


async def _talk(port: int, connections: int, seconds: float) -> list[float]:
    times_s: list[float] = []
    loop = asyncio.get_running_loop()
    talkers = [
        (await loop.create_connection(lambda: Talker(times_s), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(0.3)
    times_s.clear()
    await asyncio.sleep(seconds)
    for one in talkers:
        one.on = False
        one.transport.abort()
    return times_s


def _round(proxy: Running | None, port: int, chosen: argparse.Namespace) -> dict[str, float]:
    import uvloop

    cpu_s = proxy.cpu_s() if proxy else 0.0
    times_s = sorted(uvloop.run(_talk(port, chosen.connections, chosen.seconds)))
    cpu_s = (proxy.cpu_s() if proxy else 0.0) - cpu_s
    return {
        "messages_per_s": len(times_s) / chosen.seconds,
        "cpu_us_per_message": cpu_s / max(1, len(times_s)) * 1e6 * chosen.seconds / (chosen.seconds + 0.3),
        "p50_ms": times_s[len(times_s) // 2] * 1e3,
        "p99_ms": times_s[len(times_s) * 99 // 100] * 1e3,
    }


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-c", f"from benchmarks.load.sockets import serve; serve({port})"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORES),
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with rig() as here:
            proxies = [one for one in (here.fastroute(port), here.haproxy(port)) if one is not None]
            rows: dict[str, list[dict[str, float]]] = {}
            for _ in range(chosen.rounds):
                for proxy in proxies:
                    rows.setdefault(proxy.name, []).append(_round(proxy, proxy.port, chosen))
                rows.setdefault("no proxy", []).append(_round(None, port, chosen))
    finally:
        server.kill()
        server.wait()
    found: dict[str, Any] = {
        name: {key: round(statistics.median(row[key] for row in many), 3) for key in many[0]}
        for name, many in rows.items()
    }
    if "haproxy" in rows:
        found["cpu_ratio"] = round(
            statistics.median(
                a["cpu_us_per_message"] / b["cpu_us_per_message"]
                for a, b in zip(rows["fastroute"], rows["haproxy"], strict=True)
            ),
            3,
        )
    return found


if __name__ == "__main__":
    main(measure, __doc__ or "", connections=50, rounds=7, seconds=1.0)
