"""A memcached that says what a test tells it to: for answers that no real one gives, cut where the test wants.

    async with FakeMemcached(script) as fake: ...      # fake.address
`script(line)` is called for each command line and returns the bytes to answer, None for no answer, or CLOSE.
The probe `mn` of a new connection is answered by itself unless `probe=False`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from tests.support.loops import settled

CLOSE = b"\0close"

Script = Callable[[bytes], bytes | None]


class FakeMemcached:
    """Listens on a loopback port while the block runs.

    Args:
        script: command line (without its end) -> answer.
        chunk_bytes: answers are written in pieces of this size, each in its own segment as far as the kernel allows.
        probe: answer `mn` with `MN` without asking the script.
    """

    def __init__(self, script: Script, *, chunk_bytes: int = 0, probe: bool = True) -> None:
        self.script = script
        self.chunk_bytes = chunk_bytes
        self.probe = probe
        self.lines: list[bytes] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                line = line.rstrip(b"\r\n")
                words = line.split()
                if words[:1] == [b"ms"] or words[:1] in ([b"set"], [b"add"], [b"cas"]):
                    size = int(words[2] if words[0] == b"ms" else words[4])
                    await reader.readexactly(size + 2)
                self.lines.append(line)
                answer = b"MN\r\n" if self.probe and line == b"mn" else self.script(line)
                if answer is CLOSE:
                    break
                if answer is not None:
                    step = self.chunk_bytes or len(answer) or 1
                    for at in range(0, len(answer), step):
                        writer.write(answer[at : at + step])
                        await writer.drain()
                        if self.chunk_bytes:
                            await asyncio.sleep(0)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def __aenter__(self) -> FakeMemcached:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await settled()
        for writer in list(self._writers):
            writer.transport.abort()
        await settled()
        await self._server.wait_closed()


def opaque_of(line: bytes) -> bytes:
    """The mark that a reply to this command has to carry, with its blank; empty where it asks for none."""
    return b"".join(b" " + word for word in line.split()[1:] if word.startswith(b"O") and len(word) == 4)
