"""Errands that move bindings away from a server: all of them, because an operator says so, with progress.

Each binding is moved by compare-and-set to the server that the pool's policy picks among the others; one that was moved
or released meanwhile is left alone (a later decision stands). What counts are the bindings in this machine's zone: a
fleet-wide release is one errand per replica.

Rules of this file: one errand per server at a time; bounded in rate and in flight; ends when the zone has none left, or
when nothing more can be moved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from fastroute.admin.mirror import Mirror
from fastroute.errors import FastrouteError, UsageError

__all__ = ["Release", "Releases"]

RATE_PER_S = 2_000
"""Bindings moved per second: a third of what a restarted store gets back (fastroute.affinity.republish)."""

CHUNK = 50
KEPT = 32
"""Errands that are over and still told."""

log = logging.getLogger("fastroute.admin")


@dataclass
class Release:
    """One errand."""

    pool: str
    server: str
    bindings: int
    """At the start."""
    started_s: float = field(default_factory=time.time)
    moved: int = 0
    kept: int = 0
    """Moved or ended by others meanwhile, or they could not be moved."""
    state: str = "running"
    note: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "pool": self.pool,
            "server": self.server,
            "state": self.state,
            "bindings": self.bindings,
            "moved": self.moved,
            "kept": self.kept,
            "left": max(0, self.bindings - self.moved - self.kept) if self.state == "running" else 0,
            "started_at": self.started_s,
            "note": self.note,
        }


class Releases:
    """The errands of one replica; close with aclose()."""

    def __init__(self, mirror: Mirror, *, rate_per_s: float = RATE_PER_S) -> None:
        self._mirror, self._rate_per_s = mirror, rate_per_s
        self._jobs: list[Release] = []
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def of(self, pool: str) -> list[Release]:
        """A pool's, the newest first."""
        return [job for job in reversed(self._jobs) if job.pool == pool]

    def start(self, pool: str, server: str) -> Release:
        """Begin; what already runs for this server is told instead.

        Raises:
            UsageError: the pool is not sticky, or nobody else could take the bindings.
        """
        whose = (pool, server)
        if whose in self._tasks:
            return next(job for job in self.of(pool) if job.server == server)
        if self._mirror.other_slot(pool, server) < 0:
            raise UsageError(f"no other server of pool {pool!r} takes bindings now: nothing was released")
        job = Release(pool, server, len(self._mirror.bindings_of(pool, server)))
        self._jobs = [*self._jobs[-KEPT:], job]
        task = self._tasks[whose] = asyncio.get_running_loop().create_task(self._run(job))
        task.add_done_callback(lambda _: self._tasks.pop(whose, None))
        return job

    async def aclose(self) -> None:
        """End what still runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Release) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        try:
            tried: set[bytes] = set()
            while left := [one for one in self._mirror.bindings_of(job.pool, job.server) if one not in tried]:
                job.bindings = max(job.bindings, job.moved + job.kept + len(left))
                for at in range(0, len(left), CHUNK):
                    batch = left[at : at + CHUNK]
                    for moved in await asyncio.gather(
                        *(self._mirror.move_away(job.pool, one, job.server) for one in batch)
                    ):
                        job.moved += moved
                        job.kept += not moved
                    tried.update(batch)
                    due_s = max(due_s + len(batch) / self._rate_per_s, loop.time())
                    await asyncio.sleep(max(0.0, due_s - loop.time()))
            job.state = "done"
        except FastrouteError as error:
            job.state, job.note = "failed", str(error)
        except asyncio.CancelledError:
            job.state = "ended"
            raise
        except Exception:
            job.state, job.note = "failed", "the log says why"
            log.exception("releasing bindings failed; this is a bug in fastroute, please report it")
        log.info("pool %s: server %s: %d bindings moved, %d kept", job.pool, job.server, job.moved, job.kept)
