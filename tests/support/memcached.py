"""Real memcached processes for tests: started on a free port, stopped, killed, suspended and started again.

    with Memcached() as store:              # ready when the block begins: it answered a request
        store.address                       # "127.0.0.1:45123", or "unix:PATH"
        store.kill(); store.start()         # kill -9, then an empty one on the same port
        store.suspend(); store.resume()     # SIGSTOP, SIGCONT
        store.command("flush_all")          # one text command, the raw answer

Rules: loopback only; nothing sleeps to hope (readiness is an answer to `mn`, death is waited for); every process
ends with the block, and at the latest with the interpreter.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from types import TracebackType

from tests.support.ports import free_port as free_port

START_TIMEOUT_S = 30.0
"""A memcached is up within milliseconds; this long only on a machine that is starved."""

_POLL_S = 0.005
_REFUSALS = (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR", b"BUSY")
_running: set[Memcached] = set()


def memcached_binary() -> str:
    """Path of the memcached binary; a clear error where there is none."""
    found = shutil.which("memcached")
    if found is None:
        raise RuntimeError("memcached is not installed; tests of the store need it: apt-get install memcached")
    return found


class Memcached:
    """One memcached process; the port stays the same over kill() and start().

    Args:
        arguments: further memcached arguments, such as ("-m", "1") or ("-Y", path).
        unix_path: listen on this unix socket instead of a port.
        tls_ca: file of the CA that signed its certificate, where `arguments` start it with TLS.
        start: False leaves the process to start(), with the port reserved by number only.
    """

    def __init__(
        self, *arguments: str, unix_path: str | None = None, start: bool = True, tls_ca: str | None = None
    ) -> None:
        self.arguments = arguments
        self.unix_path = unix_path
        self.tls_ca = tls_ca
        self.host = "127.0.0.1"
        self.port = 0 if unix_path else free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    @property
    def address(self) -> str:
        return f"unix:{self.unix_path}" if self.unix_path else f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it and return when it answers."""
        assert not self.alive, "already started"
        where = ["-s", self.unix_path] if self.unix_path else ["-l", self.host, "-p", str(self.port), "-U", "0"]
        who = ["-u", getpass.getuser()] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(  # stderr is inherited: why it did not start belongs into the test's output
            [memcached_binary(), *where, *who, "-t", "2", *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _running.add(self)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not self.alive:
                code = self.process.wait()
                _running.discard(self)
                raise RuntimeError(f"memcached on {self.address} ended with status {code} at its start")
            if time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"memcached on {self.address} did not answer within {START_TIMEOUT_S} s")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """SIGTERM and wait; nothing happens when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL and wait."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """kill -9 and start an empty one on the same port."""
        self.kill()
        self.start()

    def suspend(self) -> None:
        """SIGSTOP, and return when it is stopped: it accepts connections (the kernel does) and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT: it goes on, late answers included."""
        os.kill(self.pid, signal.SIGCONT)

    def connect(self, timeout_s: float = START_TIMEOUT_S) -> socket.socket:
        """A blocking connection to it."""
        if self.unix_path is None:
            return socket.create_connection((self.host, self.port), timeout=timeout_s)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(self.unix_path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _speak(self) -> socket.socket:
        connection = self.connect()
        if self.tls_ca is None:
            return connection
        return ssl.create_default_context(cafile=self.tls_ca).wrap_socket(connection, server_hostname=self.host)

    def command(self, line: str, *, end: bytes = b"\r\n") -> bytes:
        """Send one text command on a connection of its own; read until the answer ends with `end`, or is a refusal."""
        with self._speak() as connection:
            connection.sendall(line.encode() + b"\r\n")
            answer = b""
            while not answer.endswith(end) and not (answer.startswith(_REFUSALS) and answer.endswith(b"\r\n")):
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
            return answer

    def all_keys(self) -> list[str]:
        """All keys it holds, percent-encoded as it writes them."""
        end_s = time.monotonic() + START_TIMEOUT_S
        # Its own look for what has run out is a crawl too, and there is one at a time.
        while (answer := self.command("lru_crawler metadump all", end=b"END\r\n")).startswith(b"BUSY"):
            if time.monotonic() > end_s:
                raise TimeoutError("memcached: its crawler is always busy")
            time.sleep(_POLL_S)
        return re.findall(r"^key=(\S+)", answer.decode(), re.MULTILINE)

    def statistics(self, what: str = "") -> dict[str, str]:
        """The answer of `stats`."""
        lines = self.command(f"stats {what}".strip(), end=b"END\r\n").decode().splitlines()
        return {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("STAT ")}

    def _answers(self) -> bool:
        # With -Y the answer is an error line: any line shows that it serves.
        try:
            return self.command("mn") != b""
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)  # a stopped process takes SIGTERM only when it goes on
            try:
                self.process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        _running.discard(self)
        if self.unix_path and os.path.exists(self.unix_path):
            os.unlink(self.unix_path)

    def __enter__(self) -> Memcached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()  # SIGTERM would take memcached a second


@atexit.register
def _stop_all() -> None:
    for one in list(_running):
        one.kill()
