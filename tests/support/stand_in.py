"""A stand-in for the proxy, so that supervision is tested alone: `python -m tests.support.stand_in CONFIG`.

It answers every connection with "PID FLEET" and closes it. What a connection sends first decides more: "hold" keeps
it open until another line, "die" kills the worker, "stop" makes the worker deaf to everything. With STAND_IN_FAIL in
the environment and in the fleet's name, start() fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping

from fastroute.cli.logs import log_to_stderr
from fastroute.config.load import load
from fastroute.config.schema import Config
from fastroute.errors import FastrouteError, InternalError
from fastroute.proxy.supervisor import Supervisor


class StandIn:
    """Has the methods of Proxy that a worker calls."""

    def __init__(self, config: Config, *, sockets: Mapping[str, list[socket.socket]]) -> None:
        self.config, self.sockets = config, sockets
        self.servers: list[asyncio.Server] = []
        self.open = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def start(self) -> None:
        failing = os.environ.get("STAND_IN_FAIL")
        if failing and failing in self.config.fleet:
            raise InternalError("told to fail")
        for many in self.sockets.values():
            for one in many:
                make = asyncio.start_unix_server if one.family == socket.AF_UNIX else asyncio.start_server
                self.servers.append(await make(self._answer, sock=one))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.idle.clear()
        try:
            writer.write(f"{os.getpid()} {self.config.fleet}\n".encode())
            told = await reader.readline()
            if told == b"die\n":
                os.kill(os.getpid(), signal.SIGKILL)
            if told == b"stop\n":
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                while True:
                    time.sleep(60)  # noqa: ASYNC251  a worker that hangs
            if told == b"hold\n":
                await reader.readline()
                writer.write(b"held\n")
                await writer.drain()
        finally:
            writer.close()
            self.open -= 1
            if not self.open:
                self.idle.set()

    async def drain(self, timeout_s: float) -> None:
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), timeout_s)

    async def aclose(self) -> None:
        for server in self.servers:
            server.close()


def main(path: str) -> int:
    log_to_stderr()
    try:
        return Supervisor(load(path), lambda: load(path), make=StandIn).run()
    except FastrouteError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
