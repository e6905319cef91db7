"""Asks the sources of a replica's pools, and gives what they find to the replica.

Rules of this file: what a source found last stays until it finds something else that the pool can have; what is wrong
with it is logged when it changes, and shown with the pool; each source is asked at its own pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastroute.admin.replica import Replica
from fastroute.config.membership import name_of
from fastroute.errors import UsageError
from fastroute.sources import Answer, Source, make_source

__all__ = ["Sourcing"]

FIRST_S = 6.0
"""How long the start of a replica waits for the first answers."""

log = logging.getLogger("fastroute.sources")


class Sourcing:
    """The sources of one replica.

    Args:
        replica: who gets the servers.
        note: called with (pool, text) for people.
    """

    def __init__(self, replica: Replica, note: Callable[[str, str], None]) -> None:
        self._replica, self._note = replica, note
        self._sources: dict[str, Source] = {
            name: make_source(of.discover) for name, of in replica.file.pools.items() if of.discover is not None
        }
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Ask all, and go on asking."""
        loop = asyncio.get_running_loop()
        firsts = []
        for pool, source in self._sources.items():
            first = loop.create_future()
            firsts.append(first)
            self._tasks.append(loop.create_task(self._run(pool, source, first)))
        if firsts:
            await asyncio.wait(firsts, timeout=FIRST_S)
            await self._replica.followed(self._replica.board.version)

    async def aclose(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, pool: str, source: Source, first: asyncio.Future[None]) -> None:
        while True:
            try:
                answer = await source.ask()
                self._take(pool, answer)
            except Exception:
                log.exception("pool %s: its source failed; this is a bug in fastroute, please report it", pool)
                answer = Answer(None, "", 10.0)
            if not first.done():
                first.set_result(None)
            await asyncio.sleep(answer.again_s)

    def _take(self, pool: str, answer: Answer) -> None:
        replica = self._replica
        _ = replica.config
        before = replica.changes_of(pool)
        servers, note = answer.servers, answer.note
        same = servers is None or (before.found is not None and tuple(before.found) == servers)
        if same and note == before.found_note:
            return
        if servers is not None and not same:
            known, now = {name_of(one) for one in before.found or ()}, {name_of(one) for one in servers}
            try:
                replica.set_found(pool, servers, "")
            except UsageError as error:
                servers, note = None, f"what was found cannot be used: {error}"
                if note == before.found_note:
                    return
            else:
                text = f"found {len(now)} servers: {len(now - known)} new, {len(known - now)} gone"
                log.info("pool %s: %s", pool, text)
                self._note(pool, text)
                return
        if note:
            log.warning("pool %s: %s; the %d servers found before stay", pool, note, len(before.found or ()))
            self._note(pool, note)
        else:
            log.info("pool %s: its source answers again", pool)
        replica.set_found(pool, None, note)
