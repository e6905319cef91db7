"""Proxies and servers for the load measurements: started, pinned, looked into, ended.

Rules of this file: one process of each proxy, on core 0 where there are two; load and servers on the others. Loopback
and free ports only; every process ends with its block.
"""

# ruff: noqa: E501 (lines of other products' files)
from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.fleet import free_ports

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 20.0
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE = CORES[0]
LOAD_CORES = CORES[1:] or CORES

FASTROUTE = """
workers = 1
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "app"
[listeners.web.limits]
body_bytes = 0
connections = 0
connections_per_client = 0
requests_per_connection = 0
[listeners.web.timeouts]
{timeouts}
[pools.app]
[[pools.app.servers]]
address = "127.0.0.1:{server}"
"""

NGINX = """daemon off; master_process off; worker_processes 1; pid {d}/nginx.pid; error_log /dev/null;
events {{ worker_connections 18000; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0; {timeouts}
 client_body_temp_path {d}/n1; proxy_temp_path {d}/n2; fastcgi_temp_path {d}/n3; uwsgi_temp_path {d}/n4; scgi_temp_path {d}/n5;
 upstream u {{ server 127.0.0.1:{server}; keepalive 256; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_max_temp_file_size 0; proxy_request_buffering off; proxy_pass http://u; }} }} }}
"""

HAPROXY = """global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  timeout connect 5s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{server}
"""

SERVER = """daemon off; master_process off; worker_processes 1; pid {d}/server.pid; error_log /dev/null;
events {{ worker_connections 18000; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on; client_max_body_size 0;
 client_body_temp_path {d}/s1; proxy_temp_path {d}/s2; fastcgi_temp_path {d}/s3; uwsgi_temp_path {d}/s4; scgi_temp_path {d}/s5;
 server {{ listen 127.0.0.1:{port} backlog=4096; root {d}/files; location = /small {{ default_type text/plain;
   return 200 "a body of one hundred and twenty eight bytes ...........................................................................\\n"; }} }} }}
"""


class Running:
    """One proxy or server: its port and its processes."""

    def __init__(self, name: str, port: int, arguments: list[str], directory: pathlib.Path, cores: list[int]) -> None:
        self.name, self.port = name, port
        self._log = (directory / f"{name}.log").open("wb")
        self._process = subprocess.Popen(
            arguments,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        end_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError(f"{name}: {(directory / f'{name}.log').read_text()[-2000:]}") from error
                time.sleep(0.05)

    @property
    def pids(self) -> list[int]:
        """Of itself and its children."""
        mine = [self._process.pid]
        for pid in mine:
            with contextlib.suppress(OSError):
                mine += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return mine

    def cpu_s(self) -> float:
        """User and system time so far."""
        total = 0.0
        for pid in self.pids:
            words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(words[11]) + int(words[12])) * TICK_S
        return total

    def memory_bytes(self) -> int:
        """Resident, the largest of its processes: the one that carries the connections."""
        return max(
            int(line.split()[1]) << 10
            for pid in self.pids
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        )

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 15)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._log.close()


class Rig:
    """A directory, a server, and the proxies before it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        (directory / "files").mkdir()
        self.running: list[Running] = []

    def server(self) -> Running:
        """nginx with files from `files` and /small, 128 bytes."""
        return self._nginx("server", SERVER, LOAD_CORES)

    def fastroute(self, server: int, *, timeouts: str = "") -> Running:
        (port,) = free_ports(1)
        path = self.directory / "fr.toml"
        path.write_text(FASTROUTE.format(port=port, server=server, timeouts=timeouts))
        return self._add("fastroute", port, [sys.executable, "-m", "fastroute", "serve", "-c", str(path)], [PROXY_CORE])

    def nginx(self, server: int, *, timeouts: str = "") -> Running:
        return self._nginx("nginx", NGINX, [PROXY_CORE], server=server, timeouts=timeouts)

    def haproxy(self, server: int) -> Running | None:
        """None where there is none."""
        if not (found := shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")):
            return None
        (port,) = free_ports(1)
        path = self.directory / "haproxy.cfg"
        path.write_text(HAPROXY.format(port=port, server=server))
        return self._add("haproxy", port, [found, "-db", "-f", str(path)], [PROXY_CORE])

    def _nginx(self, name: str, text: str, cores: list[int], **more: Any) -> Running:
        (port,) = free_ports(1)
        path = self.directory / f"{name}.conf"
        path.write_text(text.format(d=self.directory, port=port, **more))
        found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        return self._add(name, port, [found, "-c", str(path), "-p", str(self.directory)], cores)

    def _add(self, name: str, port: int, arguments: list[str], cores: list[int]) -> Running:
        one = Running(name, port, arguments, self.directory, cores)
        self.running.append(one)
        return one


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """A Rig; the load itself goes to the cores that the proxies do not have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, LOAD_CORES)
    with tempfile.TemporaryDirectory(prefix="fastroute-load-") as directory:
        one = Rig(pathlib.Path(directory))
        try:
            yield one
        finally:
            for each in reversed(one.running):
                each.end()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wrk(url: str, seconds: float, connections: int) -> dict[str, float]:
    """requests/s, p50 and p99 in ms, errors."""
    text = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {"errors": 0.0}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Requests/sec:"]:
            found["requests_per_s"] = float(words[1])
        elif words[:1] in (["50%"], ["99%"]):
            unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[words[1].lstrip("0123456789.")]
            found[f"p{words[0][:-1]}_ms"] = float(words[1].rstrip("umins")) * unit
        elif "Socket errors" in line:
            found["errors"] += sum(int(word.rstrip(",")) for word in words if word.rstrip(",").isdigit())
        elif "Non-2xx" in line:
            found["errors"] += int(words[-1])
    return found


def median(rows: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(row[name] for row in rows), 4)


def main(measure: Callable[[argparse.Namespace], dict[str, Any]], about: str, **options: Any) -> None:
    """A command line: --NAME for each option, --out."""
    parser = argparse.ArgumentParser(description=about)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--out", type=pathlib.Path)
    chosen = parser.parse_args()
    found = {
        "machine": f"{platform.system()} {platform.release()}, {len(CORES)} cores",
        "load_average": os.getloadavg()[0],
        **{name: getattr(chosen, name) for name in options},
        **measure(chosen),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n")
