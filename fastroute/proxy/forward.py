"""What a request waits for: the affinity's answer, another server, a fresh connection. Asked by the compiled relay.

Theory of operation. The relay calls route, move or connect with the request's epoch and goes on; each starts a task
that ends in one call back (routed, unrouted, connected, connect_failed, unconnected). A call back for a request that
is over is ignored by the relay, so tasks need no cancelling when a client leaves.

Rules of this file: every task has a time limit of its own (connect timeout, the store's timeout) and one outcome; a
server that refuses is reported to passive health before the request goes on, so that its next choice knows.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Coroutine, Generator, Mapping
from typing import Any

from fastroute._core.http_attempt import Attempt
from fastroute._core.http_upstream import Lines, ServerLine
from fastroute._core.router import Router
from fastroute._core.selection import Selection
from fastroute.errors import ConnectError, ConnectTimeout, NoServerAvailable
from fastroute.health.outlier import Outliers
from fastroute.health.passive import Passive
from fastroute.health.standing import Standing
from fastroute.proxy.upstream import PLAIN, Reach, open_upstream

__all__ = ["SlowPath"]

log = logging.getLogger("fastroute.proxy")

OWN_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why a connect fails here and not at the server: nothing is known of it, and its users must not move."""

CookieHint = tuple[int, int, int]
"""(digest of the server's name, term, generation) from a verified cookie."""


class _Rest:
    """The rest of a coroutine that ran up to its first wait, to be awaited by a task."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work, self._waits_for = work, waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    heard = yield waits_for
                except BaseException as error:
                    waits_for = self._work.throw(error)
                else:
                    waits_for = self._work.send(heard)
        except StopIteration:
            return


async def _finish(rest: _Rest) -> None:
    await rest


class SlowPath:
    """The slow path of one pool's requests.

    Args:
        router: of the pool.
        lines: its connections.
        names: digest of a server's name -> the name.
        connect_s: time limit of one connect, 0 for none.
        at_once: the affinity hardly ever waits (there is no store): run its answer in the request's own callback, and
            make a task only if it does wait. A task costs as much as a proxied request.
        outliers: who is ejected for failing in a row, and for how long; None: nobody.
        reach: what a connection to a server begins with.
        standing: of the pool: where what is seen here is marked.
    """

    def __init__(
        self,
        router: Router,
        lines: Lines,
        *,
        names: dict[int, str],
        connect_s: float,
        at_once: bool = False,
        outliers: Outliers | None = None,
        reach: Reach = PLAIN,
        standing: Standing | None = None,
    ) -> None:
        self._at_once, self._reach = at_once, reach
        self._router, self._lines, self._names, self._connect_s = router, lines, names, connect_s
        self._pool = router.pool
        self._standing = standing if standing is not None else Standing(router.pool)
        self._passive, self._outliers = Passive(), outliers
        self._tasks: set[asyncio.Task[None]] = set()
        self._returns: dict[str, asyncio.TimerHandle] = {}
        self._ejected: dict[str, asyncio.TimerHandle] = {}
        self._tell_from_s = 0.0

    def route(self, request: Attempt, epoch: int, key: bytes, hint: CookieHint | None) -> None:
        """Ask the affinity for the key's server."""
        work = self._route(request, epoch, key, hint)
        if not self._at_once:
            self._start(work)
            return
        try:
            waits_for = work.send(None)
        except StopIteration:
            return
        self._start(_finish(_Rest(work, waits_for)))

    def move(self, request: Attempt, epoch: int, selection: Selection, timed_out: bool) -> None:
        """The selection's server could not be reached: bind its key to another one."""
        self._start(self._move(request, epoch, selection, timed_out))

    def connect(self, request: Attempt, epoch: int, line: ServerLine) -> None:
        """Open a connection for the request."""
        self._start(self._connect(request, epoch, line))

    def name(self, names: dict[int, str]) -> None:
        """The pool's servers now: digest of a name -> the name, for hints."""
        self._names = names

    def full(self) -> bool:
        """Would a server take a request, had it room?"""
        return _is_full(self._pool.reasons())

    def eject(self, line: ServerLine) -> None:
        """The line's server failed as often in a row as is configured."""
        pool, name = self._pool, line.server.name if line.server else ""
        if self._outliers is None or pool.slot_of(name) < 0 or pool.state_of(name) != "ready":
            return
        loop = asyncio.get_running_loop()
        out_s = self._outliers.failed(
            name,
            now_s=loop.time(),
            servers=len(pool.servers),
            ejected=len(self._ejected),
            others_ready=pool.ready_count - 1,
        )
        if out_s is None:
            return
        log.warning("pool %s: server %s fails request after request and is ejected for %.0f s", pool.name, name, out_s)
        self._standing.mark(name, "outlier", True)
        self._ejected[name] = loop.call_later(out_s, self._take_back, name)

    async def aclose(self) -> None:
        """End what is still waiting."""
        for handle in (*self._returns.values(), *self._ejected.values()):
            handle.cancel()
        self._returns.clear()
        self._ejected.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _route(self, request: Attempt, epoch: int, key: bytes, hint: CookieHint | None) -> None:
        try:
            name = self._names.get(hint[0]) if hint else None
            selection = await self._router.route(key, (name, hint[1], hint[2]) if hint and name else None)
        except NoServerAvailable as error:
            if _is_full(error.reasons):
                request.full(epoch)
            else:
                request.unrouted(epoch, 503)
        except Exception:
            log.exception("routing failed; this is a bug in fastroute, please report it")
            request.unrouted(epoch, 500)
        else:
            request.routed(epoch, selection)

    async def _move(self, request: Attempt, epoch: int, selection: Selection, timed_out: bool) -> None:
        kind = ConnectTimeout if timed_out else ConnectError
        evidence = kind("could not be reached", server=selection.server.name)
        try:
            moved = await self._router.move(selection, evidence)
        except NoServerAvailable:
            request.unrouted(epoch, 503)
        except Exception:
            log.exception("moving a binding failed; this is a bug in fastroute, please report it")
            request.unrouted(epoch, 500)
        else:
            request.routed(epoch, moved)

    async def _connect(self, request: Attempt, epoch: int, line: ServerLine) -> None:
        self._lines.count_connect()
        try:
            about = request.addresses() if self._reach.send_proxy != "off" else None
            upstream = await open_upstream(line, self._connect_s, self._reach, about=about, raw=request.raw)
        except ConnectError as error:
            self._lines.count_connect_failure(isinstance(error, ConnectTimeout))
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OWN_ERRORS:
                self._tell_own(error)
                request.unconnected(epoch, 503)
                return
            self._refused(error)
            request.connect_failed(epoch, isinstance(error, ConnectTimeout))
        except Exception:
            log.exception("connecting failed; this is a bug in fastroute, please report it")
            request.connect_failed(epoch, False)
        else:
            self._passive.accepted(line.server.name if line.server else "")
            if not request.connected(epoch, upstream):
                line.adopt(upstream)

    def _tell_own(self, error: ConnectError) -> None:
        """Log a failure that is ours, at most once a second: it comes with every request."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._tell_from_s:
            self._tell_from_s = now_s + 1.0
            log.error("pool %s: %s; this process has reached a limit of its own", self._pool.name, error)

    def _refused(self, error: ConnectError) -> None:
        """Leave the server out for a while, if others can take its requests."""
        name, pool = error.server, self._pool
        if name in self._returns or pool.slot_of(name) < 0 or pool.state_of(name) != "ready":
            return
        out_s = self._passive.refused(name, others_ready=pool.ready_count - 1)
        if out_s is None:
            return
        log.warning("pool %s: server %s is out for %.0f s: %s", pool.name, name, out_s, error.detail)
        self._standing.mark(name, "refused", True)
        self._returns[name] = asyncio.get_running_loop().call_later(out_s, self._let_in, name)

    def _let_in(self, name: str) -> None:
        """Let it have requests again: the first one is the try."""
        del self._returns[name]
        self._standing.mark(name, "refused", False)

    def _take_back(self, name: str) -> None:
        del self._ejected[name]
        self._standing.mark(name, "outlier", False)


def _is_full(reasons: Mapping[str, str]) -> bool:
    return any(reason.startswith("full") for reason in reasons.values())
