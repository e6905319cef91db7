"""The replica and the servers of a soak, as processes that can be killed, reloaded and looked into."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.support.fleet import Process, free_ports, unlink_zone

WAIT_S = 30.0


def until(what: Callable[[], object], why: str) -> None:
    """Poll what another process brings about."""
    end_s = time.monotonic() + WAIT_S
    while not what():
        if time.monotonic() > end_s:
            raise AssertionError(f"never: {why}")
        time.sleep(0.02)


class Stage:
    """Servers and one replica before them."""

    def __init__(self, directory: pathlib.Path, *, workers: int = 2, servers: int = 3, sticky: bool = True) -> None:
        self.directory, self.workers_wanted, self.sticky = directory, workers, sticky
        (self.port, *self.server_ports) = free_ports(servers + 1)
        self.zone = f"t-soak-{self.port}"
        self.idle_s = 60
        self.reloads = 0
        self.servers = [self._server(port) for port in self.server_ports]
        for one in self.servers:
            one.wait_for_line("ready")
        self._write()
        self.replica = Process(
            [sys.executable, "-m", "tests.soak.replica", str(directory / "fr.toml"), str(directory)],
            directory / "replica.log",
        )
        self.replica.wait_for_line("ready")

    def close(self) -> None:
        for one in (self.replica, *self.servers):
            one.kill()
            one.popen.wait(10)
        unlink_zone(self.zone)

    def _server(self, port: int) -> Process:
        return Process(
            [sys.executable, "-m", "tests.soak.server", str(port)],
            self.directory / f"server-{port}-{time.monotonic_ns()}.log",
        )

    def _write(self) -> None:
        servers = "".join(f'[[pools.app.servers]]\naddress = "127.0.0.1:{port}"\n' for port in self.server_ports)
        sticky = '[pools.app.sticky]\non = "insert"\n' if self.sticky else ""
        (self.directory / "fr.toml").write_text(
            f'secret = "a secret for a soak of at least 32 bytes"\nworkers = {self.workers_wanted}\n'
            f'zone = {{ name = "{self.zone}", size = "8MiB" }}\n'
            f'[listeners.web]\nbind = "127.0.0.1:{self.port}"\npool = "app"\n'
            f'[listeners.web.timeouts]\nidle = {self.idle_s}\ndrain = "10s"\ntotal = "5m"\n'
            f"[listeners.web.limits]\nmin_rate_bytes = 100\n[pools.app]\n"
            f'policy = "least-connections"\n{servers}{sticky}'
        )

    def workers(self) -> list[int]:
        """Pids of the living workers; those that drain are among them."""
        found = []
        children = pathlib.Path(f"/proc/{self.replica.pid}/task/{self.replica.pid}/children").read_text().split()
        for pid in map(int, children):
            try:
                state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(pid)
        return found

    def kill_server(self, index: int) -> None:
        self.servers[index].kill()
        self.servers[index].popen.wait(10)

    def start_server(self, index: int) -> None:
        """It accepts some time after this returns."""
        self.servers[index] = self._server(self.server_ports[index])

    def kill_worker(self, index: int) -> None:
        os.kill(self.workers()[index], signal.SIGKILL)

    def reload(self) -> None:
        """A changed configuration; done when reloaded() says so."""
        self.reloads += 1
        self.idle_s = 60 + self.reloads
        self._write()
        os.kill(self.replica.pid, signal.SIGHUP)

    def reloaded(self) -> int:
        """How many reloads are over: all workers of that configuration accept."""
        up: Counter[int] = Counter()
        for path in self.directory.glob("up-*"):
            up[int(path.name.split("-")[1])] += 1
        return max((idle_s for idle_s, count in up.items() if count >= self.workers_wanted), default=60) - 60

    def tell(self) -> dict[int, dict[str, Any]]:
        """What each worker holds now, by pid; those that drain or die meanwhile are left out."""
        found: dict[int, dict[str, Any]] = {}
        for pid in self.workers():
            to = self.directory / f"{pid}.json"
            to.unlink(missing_ok=True)
            try:
                os.kill(pid, signal.SIGUSR1)
                until(lambda to=to, pid=pid: to.exists() or pid not in self.workers(), f"worker {pid} tells")  # type: ignore[misc]
                found[pid] = json.loads(to.read_text())
            except (OSError, ValueError):
                continue
        return found


def rss_bytes(pid: int) -> int:
    """Memory of its own: what it shares with its parent and with others is not counted twice."""
    total = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) << 10
    return total


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
