"""A worker process of the push channel's tests: python -m tests.support.push_worker ZONE ADDRESSES TTL MODE

ADDRESSES with a comma between: as many copies of each binding.

Lines on standard output say what it is: "owner" when it runs the channel, "other" when it does not any more, "push"
and "poll" when the zone's entries are believed and when not. MODE "sit" waits; "hammer" routes user-0..19 over and over
as long as it lives; "poll" does so without the push channel, with near_ttl NEAR_TTL_S.
Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading

from fastroute import Affinity, Memcached, Pool, Router, Server, Zone
from fastroute.affinity.base import identity_of

SECRET = b"an identity secret of at least 32 bytes"
USERS = 20
NEAR_TTL_S = 0.5


def zone_of(name: str) -> Zone:
    """The zone that the workers of a test share."""
    return Zone(name, "1MiB", identity_of(SECRET, "fr"))


def pool_of() -> Pool:
    """The pool of all these tests."""
    return Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 6)])


async def _work(zone_name: str, addresses: list[str], ttl_s: float, mode: str) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stop.set)), daemon=True).start()
    with zone_of(zone_name) as zone:
        store = Memcached(addresses, copies=len(addresses), timeout="1s", watch=mode != "poll")
        near_ttl = NEAR_TTL_S if mode == "poll" else 2
        async with store, Affinity(store, ttl=ttl_s, near_ttl=near_ttl, identity_secret=SECRET, zone=zone) as affinity:
            router = Router(pool_of(), affinity=affinity, key="cookie:sid")
            owner, push = False, False
            while not stop.is_set():
                counts = affinity.statistics.push
                assert counts is not None
                if counts.owner != owner:
                    owner = counts.owner
                    print("owner" if owner else "other", flush=True)
                if (affinity.statistics.near_mode == "push") != push:
                    push = not push
                    print("push" if push else "poll", flush=True)
                if mode in ("hammer", "poll"):
                    for n in range(USERS):
                        await router.route(f"user-{n}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.005)


class Worker:
    """The process, from the test's side."""

    def __init__(self, zone: str, address: str, *, ttl_s: float = 60, mode: str = "sit") -> None:
        command = [sys.executable, "-m", "tests.support.push_worker", zone, address, str(ttl_s), mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def says(self, word: str) -> None:
        """Return when it says this; whatever else it says before is skipped."""
        assert self.process.stdout is not None
        while True:
            line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 60)
            assert line, "the worker ended"
            if line.decode().strip() == word:
                return

    def end(self) -> None:
        """Kill what is left of it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], sys.argv[2].split(","), float(sys.argv[3]), sys.argv[4]))
