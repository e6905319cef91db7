"""The file of the access log, and the thread that writes it.

Not here: lines (ext/fr_log.h), what is counted. Theory of operation. Requests append lines to a bounded buffer in
memory (AccessLog). At the event loop's next tick the thread is woken; it takes what is there and writes it, whole lines
at a time. While a disk is slow the thread waits, the buffer fills, and lines are dropped and counted; no request waits.

Rules of this file: every write ends with a whole line, so that several workers can share a file (O_APPEND) or a pipe
(at most PIPE_BUF bytes at once, which the kernel does not mix with others').
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import threading
import time

from fastroute._core.http_log import AccessLog
from fastroute.errors import ConfigError

__all__ = ["LogFile"]

CLOSE_S = 2.0
"""How long the end of a proxy waits for the last lines to be written."""

SAY_S = 60.0
"""Between two messages about a file that cannot be written."""

log = logging.getLogger("fastroute.access_log")


class LogFile:
    """Where the lines of an AccessLog go.

    Args:
        lines: what is written.
        path: of a file, which is created if it is missing; "-": standard output.
    """

    def __init__(self, lines: AccessLog, path: str) -> None:
        self._lines, self._path = lines, path
        self._wake = threading.Event()
        self._stopping = self._reopening = False
        self._said_s = -SAY_S
        self._fd = -1
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done = asyncio.Event()

    def start(self) -> None:
        """Open the file and write from now on.

        Raises:
            ConfigError: the file cannot be opened.
        """
        try:
            self._fd = self._open()
        except OSError as error:
            raise ConfigError(f"access_log: {self._path} cannot be opened: {error.strerror}") from None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Wake the thread if lines wait; called at every tick."""
        if self._lines.size:
            self._wake.set()

    def reopen(self) -> None:
        """Open the path again: it was moved away (logrotate). What waits goes into the new file."""
        self._reopening = True
        self._wake.set()

    async def aclose(self) -> None:
        """Write what waits, for a while, and end the thread."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._done.wait()
            self._thread.join()
        except TimeoutError:
            log.warning("access log %s: the last lines could not be written in %.0f s", self._path, CLOSE_S)
        self._thread = None

    # The thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            stopping = self._stopping
            if self._reopening:
                self._reopening = False
                self._again()
            lines = self._lines.take()
            if lines:
                self._write(lines)
            if stopping:
                self._close()
                if self._loop is not None:
                    with contextlib.suppress(RuntimeError):  # it did not wait for this
                        self._loop.call_soon_threadsafe(self._done.set)
                return

    def _open(self) -> int:
        if self._path == "-":
            return os.dup(1)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _again(self) -> None:
        try:
            fresh = self._open()
        except OSError as error:  # the old file is better than none
            self._say(error)
            return
        self._close()
        self._fd = fresh

    def _write(self, lines: bytes) -> None:
        at, size = 0, len(lines)
        most = select.PIPE_BUF if not stat.S_ISREG(os.fstat(self._fd).st_mode) else size
        while at < size:
            end = size
            if size - at > most:
                end = lines.rfind(b"\n", at, at + most) + 1 or lines.find(b"\n", at) + 1
            try:
                at += os.write(self._fd, lines[at:end])
            except BlockingIOError:
                if self._stopping:
                    break
                select.select([], [self._fd], [], 0.25)
            except OSError as error:
                self._say(error)
                break
        if at < size:
            self._lines.lost(lines.count(b"\n", at))

    def _say(self, error: OSError) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= SAY_S:
            self._said_s = now_s
            log.error("access log %s cannot be written: %s; lines are dropped", self._path, error.strerror)
