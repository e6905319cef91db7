"""Machine instructions per proxied request, counted by valgrind's callgrind: what a noisy machine cannot hide.

    python -m benchmarks.proxy_instructions [--requests 2000] [--only NAME] [--functions 25] [--syscalls] [--out FILE]

The supervisor with its workers, as `fastroute serve` runs them (and nginx beside it), under callgrind; one client
sends keep-alive GETs with a cookie on 16 connections, one request at a time. A worker's counts are dumped before and
after N requests, and after as long a time in which nothing happens, which is taken off. Instructions are those of user
space: the kernel does the same for the same system calls, which --syscalls counts (strace). With two workers the sum
over both is divided by the requests.

--functions lists where the instructions are, and how often the allocators were called per request.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.load.rig import NGINX, rig
from fastroute.config.load import load
from fastroute.proxy.server import Proxy
from fastroute.proxy.supervisor import Supervisor
from tests.support.fleet import free_ports, unlink_zone

START_S = 180.0
CONNECTIONS = 16
WARM = 400
MARK, MARK_ENTERED = "srand48", "srand48_r"
"""A function of the C library that nothing else here calls, and what glibc calls in it: there callgrind dumps."""
ALLOCATORS = ("malloc", "realloc", "calloc", "_PyObject_Malloc", "PyObject_Malloc", "PyMem_Malloc", "PyObject_Calloc")

CONFIG = """
secret = "a secret for measurements of at least 32 bytes"
workers = {workers}
zone = {{ name = "{zone}", size = "8MiB" }}
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "app"
limits.requests_per_connection = 0
[pools.app]
[[pools.app.servers]]
address = "127.0.0.1:{server}"
{sticky}
"""

STICKY = '[pools.app.sticky]\nignore_layers = ["*"]\n'
"""Other layers are looked for some hundred times a second: no part of a request, but often, as slow as callgrind is."""

CASES: dict[str, tuple[int, str]] = {
    "no stickiness": (1, ""),
    "cookie:sid": (1, f'{STICKY}on = "cookie:sid"\nhint_cookie = false\n'),
    "cookie:sid, two workers": (2, f'{STICKY}on = "cookie:sid"\nhint_cookie = false\n'),
    "insert": (1, f'{STICKY}on = "insert"\n'),
    "access log": (1, '[access_log]\nformat = "json"\npath = "/dev/null"\n'),
    "routes": (1, '[[listeners.web.routes]]\nhost = "*.example"\npath_prefix = "/none"\npool = "app"\n'),
    "header rules": (
        1,
        '[listeners.web.request_headers]\nset = { "X-Real-IP" = "{client_ip}" }\nremove = ["X-None"]\n',
    ),
    "nginx": (1, ""),
}


class Client:
    """Keep-alive connections to one port, used in turn; keeps the cookies that it is given."""

    def __init__(self, port: int) -> None:
        self.connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(CONNECTIONS)]
        self.cookies = [f"sid={n:032d}" for n in range(64)]
        self.at = 0

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.at += 1
            one, who = self.connections[self.at % CONNECTIONS], self.at % len(self.cookies)
            head = "GET /small HTTP/1.1\r\nHost: a.example\r\nUser-Agent: measure/1\r\nAccept: */*\r\n"
            one.sendall(f"{head}Cookie: {self.cookies[who]}\r\n\r\n".encode())
            got = b""
            while not got.endswith(b".\n"):
                piece = one.recv(65536)
                assert piece, got
                got += piece
            if found := re.search(rb"(?i)\r\nset-cookie: (fastroute=[^;\r]+)", got):
                self.cookies[who] = found.group(1).decode()

    def close(self) -> None:
        for one in self.connections:
            one.close()


@contextlib.contextmanager
def started(name: str, directory: pathlib.Path, server: int, tool: list[str]) -> Iterator[tuple[int, list[int]]]:
    """A proxy below a tool: (port, pids that carry requests)."""
    workers, sticky = CASES[name]
    (port,) = free_ports(1)
    zone = f"t-instructions-{port}"
    if name == "nginx":
        path = directory / "nginx-case.conf"
        path.write_text(NGINX.format(d=directory, port=port, server=server, timeouts=""))
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        command = [program, "-c", str(path), "-p", str(directory)]
    else:
        path = directory / "case.toml"
        path.write_text(CONFIG.format(workers=workers, zone=zone, port=port, server=server, sticky=sticky))
        command = [sys.executable, "-m", "benchmarks.proxy_instructions", "--serve", str(path)]
    with (directory / "case.log").open("wb") as log:
        process = subprocess.Popen([*tool, *command], stdout=log, stderr=log, start_new_session=True)
    try:
        end_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=60).close()
                break
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError((directory / "case.log").read_text()[-2000:])
            time.sleep(0.1)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while name != "nginx" and len(children.read_text().split()) < workers:
            time.sleep(0.1)
        pids = [process.pid] if name == "nginx" else [int(pid) for pid in children.read_text().split()]
        yield port, pids
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        unlink_zone(zone)


def serve(path: str) -> int:
    """The replica, whose workers make callgrind dump when they get SIGUSR1."""
    mark = getattr(ctypes.CDLL(None), MARK)

    class Marking(Proxy):
        async def start(self) -> None:
            await super().start()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mark, 1)

    return Supervisor(load(path), lambda: load(path), make=Marking).run()


def _dump(directory: pathlib.Path, pids: list[int], *, control: bool) -> list[pathlib.Path]:
    """Have each process write what it counted since the last time; the files."""

    def dumps() -> set[pathlib.Path]:
        return {one for one in directory.glob("out.*.*") if b"totals:" in one.read_bytes()}

    written = []
    for pid in pids:
        before = dumps()
        if control:
            subprocess.run(["callgrind_control", "-d", str(pid)], check=True, capture_output=True, timeout=120)
        else:
            os.kill(pid, signal.SIGUSR1)
        end_s = time.monotonic() + 30
        while not (new := dumps() - before):
            assert time.monotonic() < end_s, f"no dump of {pid}: {sorted(directory.glob('out*'))}"
            time.sleep(0.1)
        written += sorted(new)
    return written


def _total(path: pathlib.Path) -> int:
    return int(re.findall(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)[-1])


def functions(path: pathlib.Path) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """(instructions in each function itself, calls of each function), of a dump."""
    names: dict[str, str] = {}
    own: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    now = callee = ""
    after_calls = False
    for line in path.read_text().splitlines():
        if found := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line):
            kind, number, name = found.groups()
            if name:
                names[number] = name
            if kind == "fn":
                now = names[number]
            else:
                callee = names[number]
        elif line.startswith("calls="):
            calls[callee] += int(line[6:].split()[0])
            after_calls = True
        elif line[:1] in "+-*0123456789" and line:
            words = line.split()
            if len(words) >= 2 and not after_calls:
                own[now] += int(words[1])
            after_calls = False
    return own, calls


def count(name: str, requests: int, most: int) -> dict[str, Any]:
    """One case under callgrind."""
    with rig() as here:
        server = here.server()
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        tool = ["valgrind", "--tool=callgrind", "--dump-line=no", f"--callgrind-out-file={here.directory}/out.%p"]
        tool += [f"--dump-before={MARK_ENTERED}"]
        control = name == "nginx"
        with started(name, here.directory, server.port, tool) as (port, pids):
            client = Client(port)
            client.ask(WARM)
            _dump(here.directory, pids, control=control)
            begun_s = time.monotonic()
            client.ask(requests)
            took_s = time.monotonic() - begun_s
            busy = _dump(here.directory, pids, control=control)
            time.sleep(took_s)
            idle = _dump(here.directory, pids, control=control)
            client.close()
            spent = sum(map(_total, busy)) - sum(map(_total, idle))
            found: dict[str, Any] = {"instructions_per_request": round(spent / requests)}
            if most:
                own, calls = collections.Counter[str](), collections.Counter[str]()
                for path in busy:
                    one = functions(path)
                    own.update(one[0])
                    calls.update(one[1])
                found["functions"] = {each: round(value / requests) for each, value in own.most_common(most)}
                found["allocator_calls_per_request"] = {
                    each: round(calls[each] / requests, 2) for each in ALLOCATORS if calls[each]
                }
    return found


def syscalls(name: str, requests: int) -> dict[str, float]:
    """System calls per request of one case, by strace."""
    with rig() as here:
        server = here.server()
        with started(name, here.directory, server.port, []) as (port, pids):
            client = Client(port)
            client.ask(WARM)
            out = here.directory / "calls"
            tracer = subprocess.Popen(
                ["strace", "-f", "-c", "-o", str(out), *(word for pid in pids for word in ("-p", str(pid)))],
                stderr=subprocess.PIPE,
            )
            assert tracer.stderr is not None
            tracer.stderr.readline()
            client.ask(requests)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
            tracer.stderr.close()
            client.close()
            rows = [line.split() for line in out.read_text().splitlines()]
    found = {
        row[-1]: int(row[3]) / requests for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"
    }
    return {each: round(value, 3) for each, value in sorted(found.items(), key=lambda one: -one[1]) if value > 0.01}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--only", default="")
    parser.add_argument("--functions", type=int, default=0)
    parser.add_argument("--syscalls", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        sys.exit(serve(chosen.serve))
    found: dict[str, Any] = {"requests": chosen.requests}
    for name in CASES:
        if chosen.only in name:
            found[name] = count(name, chosen.requests, chosen.functions)
            if chosen.syscalls:
                found[name]["syscalls_per_request"] = syscalls(name, chosen.requests)
            print(name, json.dumps(found[name], indent=1), flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
