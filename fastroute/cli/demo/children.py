"""The demo's processes: application servers, memcached if there is one, two replicas. They die with the demo.

Rules of this file: loopback only; every file lies in one temporary directory that goes at the end; secrets are made
here and handed over in the environment; a child that does not come up is an error with its own last words.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from fastroute.errors import FastrouteError, UsageError
from fastroute.proxy.worker import die_with_parent

START_S = 30.0
"""Longest start of a child: a busy machine's Python takes seconds."""

STOP_S = 5.0

ZONE_SIZE = "16MiB"
"""Two of them fit the 64 MiB of /dev/shm that containers get."""


class DemoError(FastrouteError):
    """The demo cannot run, or one of its processes ended."""


class Child:
    """One process, with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], directory: pathlib.Path, **environment: str) -> None:
        self.name, self.out, self.err = name, directory / f"{name}.out", directory / f"{name}.err"
        parent = os.getpid()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(  # noqa: S603  commands of this file
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is the demo's, which stops its children in order
                preexec_fn=lambda: die_with_parent(parent),  # safe: this process has one thread
            )

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def last_words(self) -> str:
        """The last line it wrote, for an error message."""
        lines = (_text(self.out) + _text(self.err)).strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self.popen.poll()}"

    async def wait_for(self, file: pathlib.Path, wanted: str = "\n") -> str:
        """The file's text as soon as it holds what is wanted.

        Raises:
            DemoError: the process ended first, or took too long.
        """
        end_s = time.monotonic() + START_S
        while True:
            text = _text(file)
            if wanted in text:
                return text
            if not self.is_alive or time.monotonic() > end_s:
                raise DemoError(f"{self.name} did not start: {self.last_words()}")
            await asyncio.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        if self.is_alive:
            self.popen.send_signal(number)


class Children:
    """All of them; `start`, use, `stop`.

    Attributes:
        apps: name -> process of each application server.
        replicas: the balancers, in the order of the ports.
        ports: what the replicas listen on.
        store: memcached's "host:port", or None: then both replicas share one zone.
        store_version: what memcached calls itself.
    """

    def __init__(self, *, ports: tuple[int, int], servers: int, memcached: bool) -> None:
        self.ports = tuple(port or free_port() for port in ports)
        self.store: str | None = None
        self.store_version = ""
        self.apps: dict[str, Child] = {}
        self.replicas: list[Child] = []
        self._memcached: Child | None = None
        self._with_memcached, self._server_count = memcached, servers
        self._directory: pathlib.Path | None = None
        self._zones: list[str] = []

    async def start(self) -> None:
        """Bring everything up; returns when both replicas accept.

        Raises:
            DemoError: something did not come up; stop() is still due.
        """
        for port in self.ports:
            _check_port(port)
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="fastroute-demo-"))
        for number in range(1, self._server_count + 1):
            name = f"app-{number}"
            command = [sys.executable, "-m", "fastroute.cli.demo.app", name]
            self.apps[name] = Child(name, command, self._directory)
        if self._with_memcached and (binary := _memcached_binary()):
            await self._start_memcached(binary)
        addresses = {name: int(await child.wait_for(child.out)) for name, child in self.apps.items()}
        keys = {"FASTROUTE_SECRET": secrets.token_hex(32), "FASTROUTE_IDENTITY_SECRET": secrets.token_hex(32)}
        for number, port in enumerate(self.ports, 1):
            zone = f"demo-{os.getpid()}-{number if self.store else 0}"
            self._zones.append(zone)
            path = self._directory / f"replica-{number}.toml"
            path.write_text(configuration(port, addresses, zone, self.store))
            command = [sys.executable, "-m", "fastroute", "serve", "-c", str(path)]
            self.replicas.append(Child(f"replica-{number}", command, self._directory, **keys))
        for child in self.replicas:
            await child.wait_for(child.err, "ready\n")

    async def _start_memcached(self, binary: str) -> None:
        assert self._directory is not None
        port_file = self._directory / "memcached.port"
        user = ["-u", getpass.getuser()] if os.geteuid() == 0 else []
        command = [binary, "-l", "127.0.0.1", "-p", "-1", "-U", "0", "-m", "64", *user]
        child = Child("memcached", command, self._directory, MEMCACHED_PORT_FILENAME=str(port_file))
        self._memcached = child
        try:
            text = await child.wait_for(port_file)
        except DemoError:
            child.tell(signal.SIGKILL)
            raise
        self.store = f"127.0.0.1:{int(text.rpartition(':')[2])}"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.store.rpartition(":")[2]))
        writer.write(b"version\r\n")
        self.store_version = (await reader.readline()).decode("latin-1").removeprefix("VERSION").strip()
        writer.close()
        await writer.wait_closed()

    def check(self) -> None:
        """Raise when a process that must live has ended.

        Raises:
            DemoError: a replica ended. (A server may: its users move. memcached may: nobody notices.)
        """
        for child in self.replicas:
            if not child.is_alive:
                raise DemoError(f"{child.name} ended: {child.last_words()}")

    def dead_servers(self) -> set[str]:
        """Names of application servers that have ended."""
        return {name for name, child in self.apps.items() if not child.is_alive}

    def store_text(self) -> str:
        """The store in use, for people."""
        if self.store is None:
            return "none: both replicas share one zone"
        if self._memcached is not None and not self._memcached.is_alive:
            return "memcached has ended: zones and deterministic answers carry on"
        return f"memcached {self.store_version} at {self.store}, a zone per replica"

    async def stop(self) -> None:
        """End every process and remove every file."""
        stores = [self._memcached] if self._memcached else []
        for group in (self.replicas, [*self.apps.values(), *stores]):
            for child in group:
                child.tell(signal.SIGTERM)
            end_s = time.monotonic() + STOP_S
            while any(child.is_alive for child in group) and time.monotonic() < end_s:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # Popen tells of the end only when asked
            for child in group:
                child.tell(signal.SIGKILL)
                child.popen.wait()
        if self._zones:
            from fastroute import Zone

            for zone in set(self._zones):
                Zone.unlink(zone)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def configuration(port: int, servers: dict[str, int], zone: str, store: str | None) -> str:
    """The file that a replica of the demo runs."""
    lines = [
        'secret = "env:FASTROUTE_SECRET"',
        'identity_secret = "env:FASTROUTE_IDENTITY_SECRET"',
        'fleet = "demo"',
        f'zone = {{ name = "{zone}", size = "{ZONE_SIZE}" }}',
        "debug_headers = true",
        *([f'[store]\nmemcached = ["{store}"]'] if store else []),
        f'[listeners.web]\nbind = "127.0.0.1:{port}"\npool = "app"',
        "limits.requests_per_connection = 0",
        'timeouts.drain = "2s"',
        '[pools.app]\npolicy = "round-robin"\nsticky.on = "cookie:sid"',
        *(f'[[pools.app.servers]]\nname = "{name}"\naddress = "127.0.0.1:{at}"' for name, at in servers.items()),
    ]
    return "\n".join(lines) + "\n"


def _text(file: pathlib.Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def parse_ports(text: str) -> tuple[int, int]:
    """Two ports from "8080,8081"; 0 stands for any free one.

    Raises:
        UsageError: anything else.
    """
    parts = text.split(",")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and int(part) <= 65535 for part in parts):
        first, second = int(parts[0]), int(parts[1])
        if first != second or first == 0:
            return first, second
    raise UsageError(f"--ports {text!r}: accepted are two different ports such as 8080,8081; 0 takes any free one")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
            raise DemoError(
                f"port {port} on 127.0.0.1 {reason}; choose others with --ports, such as "
                "fastroute demo --ports 8090,8091, or let it find free ones with --ports 0,0"
            ) from None


def _memcached_binary() -> str | None:
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/local/bin"])
    return shutil.which("memcached", path=places)
