"""One large body through, down and up: rate and CPU time, fastroute and nginx turn by turn."""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time
from typing import Any

from benchmarks.load.rig import Running, main, rig

BLOCK = bytes(1 << 20)


def _drink(one: socket.socket, size: int) -> None:
    buffer, got = bytearray(1 << 20), 0
    while got < size:
        count = one.recv_into(buffer)
        assert count, "the connection ended early"
        got += count


class Sink:
    """A server that reads one body and answers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            one, _ = self._socket.accept()
            with one:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = one.recv(65536)
                    if not piece:
                        break
                    head += piece
                else:
                    _drink(one, self._size - len(head.partition(b"\r\n\r\n")[2]))
                    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _down(proxy: Running, size: int) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as one:
        one.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        _drink(one, size)


def _up(proxy: Running, size: int) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as one:
        one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(BLOCK)):
            one.sendall(BLOCK)
        assert one.recv(65536).startswith(b"HTTP/1.1 200")


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    size = chosen.mebibytes << 20
    found: dict[str, Any] = {}
    with rig() as here:
        with (here.directory / "files" / "large").open("wb") as file:
            for _ in range(chosen.mebibytes):
                file.write(BLOCK)
        for way, transfer, port in (("down", _down, here.server().port), ("up", _up, Sink(size).port)):
            proxies = [here.fastroute(port, timeouts='total = "10m"'), here.nginx(port)]
            rates: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
            cpus: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
            for round_ in range(chosen.rounds):
                for proxy in proxies if round_ % 2 else reversed(proxies):
                    cpu_s, begun_s = proxy.cpu_s(), time.monotonic()
                    transfer(proxy, size)
                    rates[proxy.name].append(size / (time.monotonic() - begun_s) / (1 << 20))
                    cpus[proxy.name].append(proxy.cpu_s() - cpu_s)
            found[way] = {
                "mib_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
                "cpu_s": {name: round(statistics.median(values), 2) for name, values in cpus.items()},
                "rate_ratio": round(
                    statistics.median(a / b for a, b in zip(rates["fastroute"], rates["nginx"], strict=True)), 3
                ),
                "cpu_ratio": round(
                    statistics.median(a / b for a, b in zip(cpus["fastroute"], cpus["nginx"], strict=True)), 3
                ),
            }
            for proxy in proxies:
                proxy.end()
                here.running.remove(proxy)
    return found


if __name__ == "__main__":
    main(measure, __doc__ or "", mebibytes=1024, rounds=5)
