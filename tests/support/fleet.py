"""Real processes for tests: application servers, replicas (`fastroute serve`), and users who compare the answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.support.ports import free_ports as free_ports
from tests.support.shared import shared

START_S = 60.0


class Process:
    """A child process with its output in a file, killed with everything it started."""

    def __init__(
        self,
        arguments: list[str],
        log: pathlib.Path,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_line(self, line: str) -> None:
        """Until the output holds this line; if the process ends first or takes too long, an error with its output."""
        end = time.monotonic() + START_S
        while line not in self.output().splitlines():
            if self.popen.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"no line {line!r} from {self.popen.args}: {self.output()[-3000:]}")
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.popen.pid, signal.SIGTERM)
        try:
            return self.popen.wait(40)
        finally:
            self.kill()


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.popen.wait(10)


def start_upstreams(directory: pathlib.Path, ports: list[int]) -> list[Process]:
    """One application server process per port, so that each can be killed alone."""
    started = [
        Process([sys.executable, str(shared("tools", "upstreams.py")), str(port)], directory / f"up-{port}.log")
        for port in ports
    ]
    for process in started:
        process.wait_for_line("ready")
    return started


def start_replica(
    directory: pathlib.Path,
    name: str,
    *,
    port: int,
    upstream_ports: list[int],
    zone: str,
    memcached: list[str] | None = None,
    workers: int = 1,
    on: str = "cookie:sid",
    more: str = "",
    pool_more: str = "",
    store_more: str = "",
    store_timeout: str = "2s",
    sticky_more: str = "",
    secret: str | list[str] = "a secret for tests of at least 32 bytes",
    zone_size: str = "8MiB",
    policy: str = "round-robin",
    ttl: str = "30m",
) -> Process:
    """`fastroute serve` with this configuration, accepting when this returns."""
    # A starved test machine can hold a process up for longer than the default 50 ms: that is not what is tested here.
    store = f'[store]\nmemcached = {memcached!r}\ntimeout = "{store_timeout}"\n{store_more}' if memcached else ""
    servers = "".join(f'[[pools.app.servers]]\nname = "up-{p}"\naddress = "127.0.0.1:{p}"\n' for p in upstream_ports)
    config = directory / f"{name}.toml"
    config.write_text(
        f"secret = {secret!r}\n"
        f'identity_secret = "another one of at least 32 bytes!!"\n'
        f'workers = {workers}\nzone = {{ name = "{zone}", size = "{zone_size}" }}\n{more}\n{store}'
        f'[listeners.web]\nbind = "127.0.0.1:{port}"\npool = "app"\n'
        f"[listeners.web.limits]\nrequests_per_connection = 0\n"
        f'[pools.app]\npolicy = "{policy}"\n{pool_more}\n{servers}'
        f'[pools.app.sticky]\non = "{on}"\nttl = "{ttl}"\n{sticky_more}'
    )
    replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(config)], directory / f"{name}.log")
    try:
        replica.wait_for_line("ready")
    except BaseException:
        replica.kill()
        raise
    return replica


def unlink_zone(*names: str) -> None:
    from fastroute import Zone

    for name in names:
        Zone.unlink(name)


class User:
    """One user with a session cookie and a keep-alive connection to each replica; remembers who answered."""

    def __init__(self, ports: list[int], cookie: str, timeout_s: float = 30.0) -> None:
        self.ports, self.cookie, self.timeout_s = ports, cookie, timeout_s
        self.streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self.seen: list[str] = []
        self.failures: list[str] = []

    async def get(self, port: int) -> str | None:
        """Who served one GET through this replica; None, remembered as a failure, for anything but a 200."""
        try:
            async with asyncio.timeout(self.timeout_s):
                if port not in self.streams:
                    self.streams[port] = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = self.streams[port]
                writer.write(f"GET /who HTTP/1.1\r\nHost: t.test\r\nCookie: {self.cookie}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(fields.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append(repr(error))
            self.drop(port)
            return None
        status = head.split(" ", 2)[1]
        if fields.get("connection") == "close":
            self.drop(port)
        if status != "200":
            self.failures.append(status)
            return None
        self.seen.append(fields["x-served-by"])
        return fields["x-served-by"]

    def drop(self, port: int) -> None:
        if port in self.streams:
            self.streams.pop(port)[1].close()

    async def close(self) -> None:
        for port in list(self.streams):
            _, writer = self.streams.pop(port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
