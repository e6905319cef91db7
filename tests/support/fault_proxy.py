"""A TCP proxy that misbehaves on demand: between a balancer and its memcached, for partitions and delay.

    async with FaultProxy(target_port) as way:          # in the test's own event loop
        way.port; way.set("delay", 0.08)
    way = FaultProxyProcess(target_port, directory)     # a process of its own, for programs under load
    way.set("drop"); way.close()

Modes: "pass" forwards; "delay" forwards each piece so many seconds later; "drop" swallows both directions and lets new
connections come up (a black hole); "refuse" resets what is open and resets each new connection; "cut" resets what is
open once and goes on as "pass".
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import subprocess
import sys
from types import TracebackType

from tests.support.loops import settled

MODES = ("pass", "delay", "drop", "refuse", "cut")


class FaultProxy:
    """Forwards 127.0.0.1:port to 127.0.0.1:target_port while the block runs."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.mode, self.delay_s = "pass", 0.0
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, mode: str, delay_s: float = 0.0) -> None:
        """Change the mode, for what is open too."""
        assert mode in MODES, mode
        self.mode, self.delay_s = "pass" if mode == "cut" else mode, delay_s
        if mode in ("cut", "refuse"):
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.mode == "refuse":
            writer.transport.abort()
            return
        self._writers.add(writer)
        there_writer = None
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.add(there_writer)
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        except OSError:
            pass
        finally:
            for one in (writer, there_writer):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: set[asyncio.TimerHandle] = set()
        try:
            while data := await reader.read(65536):
                if self.mode == "delay":
                    late.add(loop.call_later(self.delay_s, writer.write, data))
                elif self.mode != "drop":
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            for handle in late:
                handle.cancel()
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await settled()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        while self._writers:
            await asyncio.sleep(0)  # their handlers end in the next turns


class FaultProxyProcess:
    """FaultProxy in a process of its own."""

    def __init__(self, target_port: int) -> None:
        root = pathlib.Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_proxy", str(target_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, mode: str, delay_s: float = 0.0) -> None:
        """Change the mode; it holds when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mode} {delay_s}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "ok"

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> FaultProxyProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _main(target_port: int) -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with FaultProxy(target_port) as proxy:
        print(proxy.port, flush=True)
        while line := (await commands.readline()).decode().split():
            proxy.set(line[0], float(line[1]))
            print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
