"""Caching proxies in front of one origin, as processes: fastroute, nginx, Varnish, HAProxy, or none.

    with caching_proxies("fastroute", origin_port, replicas=2, directory=path) as proxies:
        proxies.ports       # one per replica, each accepting; [origin_port] for "none"
        proxies.pids        # of the processes that do the work, to read their processor time

What they are for: conformance of caches and comparison of their cost. fastroute's replicas share one memcached; the
replicas of the others have caches of their own, because they have no other kind.

Each is configured for the rules of the RFC and nothing else: no heuristic freshness, revalidation where there is a
validator. fastroute and nginx pass /plain on without their caches. Rules: loopback only, free ports, every process
ends with its block.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.fleet import START_S, Process, free_ports, running, unlink_zone
from tests.support.memcached import Memcached

PRODUCTS = ("fastroute", "nginx", "varnish", "haproxy", "none")

_BINARIES = {"nginx": "nginx", "varnish": "varnishd", "haproxy": "haproxy"}


class Proxies(NamedTuple):
    """What runs.

    Attributes:
        ports: of the replicas, on 127.0.0.1.
        processes: of the replicas.
        memcached: the shared one, with fastroute.
    """

    ports: list[int]
    processes: list[Process]
    memcached: Memcached | None = None

    @property
    def pids(self) -> list[int]:
        """The processes that answer requests: the replicas' own and their children."""
        return [pid for process in self.processes for pid in (process.pid, *_children(process.pid))]


def binary_of(product: str) -> str | None:
    """Path of a product's program; None where it is not installed."""
    if product in ("fastroute", "none"):
        return sys.executable
    # Servers are in /usr/sbin, which is not in everybody's PATH.
    return shutil.which(_BINARIES[product], path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def caching_proxies(
    product: str, origin_port: int, *, directory: pathlib.Path, replicas: int = 1, more: str = "", route_more: str = ""
) -> Iterator[Proxies]:
    """Replicas of a product before the origin.

    Args:
        product: one of PRODUCTS.
        origin_port: on 127.0.0.1.
        directory: for configurations and logs.
        replicas: how many.
        more: lines for fastroute's [cache] section.
        route_more: more keys for fastroute's route, such as ", heuristics = true".
    """
    if product == "none":
        yield Proxies([origin_port], [])
        return
    ports = free_ports(replicas)
    with contextlib.ExitStack() as stack:
        # One thread: what was written before somebody else asks is seen by him, however starved the machine is.
        memcached = stack.enter_context(Memcached("-m", "64", "-t", "1")) if product == "fastroute" else None
        processes = []
        for number, port in enumerate(ports):
            home = directory / f"{product}-{number}"
            home.mkdir(exist_ok=True)
            if memcached is not None:
                zone = f"cp{os.getpid()}-{port}"
                stack.callback(unlink_zone, zone)
                config = home / "fastroute.toml"
                config.write_text(_fastroute(port, origin_port, memcached.address, zone, more, route_more))
                command = [sys.executable, "-m", "fastroute", "serve", "-c", str(config)]
            else:
                command = _COMMANDS[product](home, port, origin_port)
            # Not the sanitizers that the tests may run under: other products were not built for them.
            env = {} if product == "fastroute" else {"LD_PRELOAD": ""}
            process = Process(command, home / "log", env)
            processes.append(process)
            stack.enter_context(running(process))
        for port, process in zip(ports, processes, strict=True):
            _wait(port, process)
        yield Proxies(ports, processes, memcached)


def _wait(port: int, process: Process) -> None:
    end_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if process.popen.poll() is not None or time.monotonic() > end_s:
                raise AssertionError(f"{process.popen.args} did not start: {process.output()[-3000:]}") from None
            time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in found for one in (int(child), *_children(int(child)))]


# A starved test machine can hold a process up for longer than [cache] timeout: that is not what is tested here.
def _fastroute(port: int, origin_port: int, memcached: str, zone: str, more: str, route_more: str) -> str:
    return f"""
identity_secret = "of tests, and at least 32 bytes long"
zone = {{ name = "{zone}", size = "8MiB" }}
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "app"
routes = [
  {{ path_prefix = "/", pool = "app", cache = true{route_more} }},
  {{ path_prefix = "/plain", pool = "app", cache = false }},
]
[listeners.web.limits]
requests_per_connection = 0
[pools.app]
[[pools.app.servers]]
address = "127.0.0.1:{origin_port}"
max_connections = 0
[cache]
enabled = true
memcached = ["{memcached}"]
{more}
{"" if "timeout" in more else 'timeout = "2s"'}
"""


def _nginx(home: pathlib.Path, port: int, origin_port: int) -> list[str]:
    path = home / "nginx.conf"
    path.write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/temp; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  proxy_cache_path {home}/cache levels=1:2 keys_zone=c:8m max_size=256m inactive=10m;
  upstream origin {{ server 127.0.0.1:{origin_port}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache c; proxy_cache_revalidate on;
    }}
    location /plain {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
""")
    (home / "error.log").touch()
    return [_found("nginx"), "-c", str(path), "-e", str(home / "error.log")]


def _varnish(home: pathlib.Path, port: int, origin_port: int) -> list[str]:
    path = home / "default.vcl"
    path.write_text(f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{origin_port}"; }}\n')
    parameters = ["default_ttl=0", "default_grace=0", "default_keep=3600", "thread_pool_min=10"]
    return [
        _found("varnish"),
        *("-F", "-n", str(home / "work"), "-a", f"127.0.0.1:{port}", "-T", "none", "-f", str(path)),
        *("-s", "malloc,64M", "-j", "none"),
        *(word for one in parameters for word in ("-p", one)),
    ]


def _haproxy(home: pathlib.Path, port: int, origin_port: int) -> list[str]:
    path = home / "haproxy.cfg"
    path.write_text(f"""
global
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
cache c
  total-max-size 64
  max-object-size 10000000
  max-age 36000
  process-vary on
frontend f
  bind 127.0.0.1:{port}
  filter cache c
  http-request cache-use c
  http-response cache-store c
  default_backend b
backend b
  server s 127.0.0.1:{origin_port}
""")
    return [_found("haproxy"), "-db", "-f", str(path)]


_COMMANDS = {"nginx": _nginx, "varnish": _varnish, "haproxy": _haproxy}


def _found(product: str) -> str:
    found = binary_of(product)
    if found is None:
        raise RuntimeError(f"{_BINARIES[product]} is not installed")
    return found


def version_of(product: str) -> str:
    """One line: which version it is."""
    if product == "none":
        return "no cache"
    if product == "fastroute":
        from fastroute import __version__

        return f"fastroute {__version__}"
    flag = {"nginx": "-v", "varnish": "-V", "haproxy": "-v"}[product]
    said = subprocess.run([_found(product), flag], capture_output=True, text=True, check=False)
    text = said.stdout + said.stderr
    found = re.search(r"[0-9]+(?:[.][0-9]+)+", text)
    return f"{product} {found[0]}" if found else product
