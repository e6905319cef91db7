"""CPU of a TCP relay beside HAProxy's: `python -m benchmarks.compare_tcp [--rounds N] [--gibibytes N]`.

Three questions, each asked of both in turn, round by round, on one machine: how much processor time does the relay's
process need for a round trip of 64 bytes on an open connection, for a connection with one round trip, for a gibibyte
towards the client. Both have one worker, HAProxy one thread (`mode tcp`), and least-connections over two servers. The
figures are medians over the rounds; the ratio is what travels between machines. Results: results/compare_tcp.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import uvloop

RESULT = pathlib.Path(__file__).parent / "results" / "compare_tcp.json"
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 32
PIECE = 1 << 20


class _Serve(asyncio.Protocol):
    """Echoes; after a first byte of "G" and eight digits it sends that many MiB."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data[:1] == b"G":
            self.left = int(data[1:9])
            self.resume_writing()
        else:
            self.transport.write(data)

    left = 0
    paused = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(bytes(PIECE))


def _server(ready) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Serve, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def _cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for one in found:
        found += [int(child) for child in pathlib.Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


class _Client(asyncio.Protocol):
    def __init__(self, trips: int) -> None:
        self.left, self.done = trips, asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(b"e" * 64)

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left:
            self.transport.write(b"e" * 64)
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _trips(port: int, connections: int, trips: int) -> None:
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: _Client(trips), "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.gather(*(one.done for one in made))


def _download(port: int, mebibytes: int) -> None:
    buffer = bytearray(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"G%08d" % mebibytes)
        left = mebibytes * PIECE
        while left:
            left -= one.recv_into(buffer)


def _measure(port: int, pid: int, gibibytes: float) -> dict[str, float]:
    pids = _family(pid)

    def spent(work, units: float) -> float:
        before = _cpu_s(pids)
        work()
        return (_cpu_s(pids) - before) / units * 1e6

    return {
        "round_trip_us": spent(lambda: uvloop.run(_trips(port, CONNECTIONS, 2000)), CONNECTIONS * 2000),
        "connection_us": spent(lambda: [uvloop.run(_trips(port, 50, 1)) for _ in range(40)], 2000),
        "gibibyte_s": spent(lambda: _download(port, int(gibibytes * 1024)), gibibytes) / 1e6,
    }


def _accepts(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gibibytes", type=float, default=2)
    options = parser.parse_args()
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        print("haproxy is not installed", file=sys.stderr)
        return 1
    servers, ports = [], []
    for _ in range(2):
        here, there = multiprocessing.Pipe()
        servers.append(multiprocessing.Process(target=_server, args=(there,), daemon=True))
        servers[-1].start()
        ports.append(here.recv())
    with tempfile.TemporaryDirectory() as scratch:
        at = {"fastroute": _free_port(), "haproxy": _free_port()}
        own = pathlib.Path(scratch, "fr.toml")
        own.write_text(
            f'[listeners.a]\nbind = "127.0.0.1:{at["fastroute"]}"\nprotocol = "tcp"\npool = "p"\n'
            'limits.connections_per_client = 0\n[pools.p]\npolicy = "least-connections"\n'
            + "".join(f'[[pools.p.servers]]\naddress = "127.0.0.1:{port}"\n' for port in ports)
        )
        other = pathlib.Path(scratch, "haproxy.cfg")
        other.write_text(
            "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
            f"  timeout server 60s\nlisten a\n  bind 127.0.0.1:{at['haproxy']}\n  balance leastconn\n"
            + "".join(f"  server s{n} 127.0.0.1:{port}\n" for n, port in enumerate(ports))
        )
        made = {
            "fastroute": subprocess.Popen([sys.executable, "-m", "fastroute", "serve", "-c", str(own)]),
            "haproxy": subprocess.Popen([haproxy, "-db", "-f", str(other)]),
        }
        try:
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in made}
            for port in at.values():
                _accepts(port)
            for _ in range(options.rounds):
                for name, process in made.items():
                    rows[name].append(_measure(at[name], process.pid, options.gibibytes))
        finally:
            for process in made.values():
                process.terminate()
                process.wait(20)
            for server in servers:
                server.terminate()
    found = {
        name: {what: round(statistics.median(row[what] for row in each), 3) for what in each[0]}
        for name, each in rows.items()
    }
    found["ratio"] = {
        what: round(statistics.median(a[what] / b[what] for a, b in zip(*rows.values(), strict=True) if b[what]), 3)
        for what in found["haproxy"]
    }
    version = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    found["about"] = {"haproxy_version": version, "cores": os.cpu_count(), "rounds": options.rounds}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
