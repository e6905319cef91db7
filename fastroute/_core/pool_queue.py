"""The waiting line of Pool.acquire: first come, first served, bounded in length and time.

Not here: who has room (the pool knows), the relay's own waiting (it asks the pool's has_room). One event loop a pool.
Rules: nobody overtakes; the head of the line is asked again whenever a request ends or the pool changes, and, where
other processes of a zone may make room unseen, every POLL_S.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from fastroute.errors import NoServerAvailable
from fastroute.model import parse_duration_s

if TYPE_CHECKING:
    from fastroute._core.pool import Pool, PoolRequest

Key = str | bytes | None

POLL_S = 0.005
"""How often the line is looked at when room can appear in another process."""


class Queue:
    """Who waits for a server of one pool."""

    def __init__(self, pool: Pool, limit: int, shared: bool) -> None:
        self._pool, self._limit, self._shared = pool, limit, shared
        self._line: deque[tuple[asyncio.Future[PoolRequest], Key, str | None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._line)

    def _request(self, key: Key, server: str | None) -> PoolRequest:
        return self._pool.request(key) if server is None else self._pool.request_to(server)

    async def take(self, key: Key, server: str | None, timeout_s: float) -> PoolRequest:
        """A request that is counted in flight.

        Raises:
            NoServerAvailable: see Pool.acquire.
        """
        try:
            if not self._line:
                return self._request(key, server).__enter__()
            refused = NoServerAvailable(self._pool.name, self._pool.reasons())
        except NoServerAvailable as error:
            refused = error
        if not any(reason.startswith("full") for reason in refused.reasons.values()) and not self._line:
            raise refused
        if len(self._line) >= self._limit:
            raise NoServerAvailable(
                self._pool.name, {**refused.reasons, "(queue)": f"{self._limit} requests wait already"}
            )
        self._loop = asyncio.get_running_loop()
        waiter: asyncio.Future[PoolRequest] = self._loop.create_future()
        entry = (waiter, key, server)
        self._line.append(entry)
        self._poll_on()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(waiter)
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()
            raise NoServerAvailable(
                self._pool.name, {**self._pool.reasons(), "(queue)": f"no room within {timeout_s:g} s"}
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().__exit__(None, None, None)
            raise
        finally:
            if not waiter.done():
                waiter.cancel()
                self._line.remove(entry)
                self.wake()

    def wake(self) -> None:
        """Room may be there: ask for the head of the line, soon and in the loop's thread."""
        if self._line and not self._woken and self._loop is not None and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        self._woken = False
        while self._line:
            waiter, key, server = self._line[0]
            if not waiter.done():
                try:
                    waiter.set_result(self._request(key, server).__enter__())
                except NoServerAvailable as error:
                    if any(reason.startswith("full") for reason in error.reasons.values()):
                        break
                    waiter.set_exception(error)
                except Exception as error:
                    waiter.set_exception(error)
            self._line.popleft()

    def _poll_on(self) -> None:
        if self._shared and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(POLL_S, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self._serve()
        if self._line:
            self._poll_on()


class Lease:
    """What Pool.acquire returns: an async context manager around a request in flight."""

    def __init__(self, queue: Queue, key: Key, server: str | None, timeout: float | str) -> None:
        self._queue, self._key, self._server = queue, key, server
        self._timeout_s = parse_duration_s(timeout, name="timeout")
        self._request: PoolRequest | None = None

    async def __aenter__(self) -> PoolRequest:
        self._request = await self._queue.take(self._key, self._server, self._timeout_s)
        return self._request

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._request is not None:
            self._request.__exit__(kind, error, traceback)
            self._request = None
