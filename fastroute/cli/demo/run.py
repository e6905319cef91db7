"""Runs the demo: start, show, stop; the exit status says whether every user stayed and every request was answered."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from fastroute.cli.demo.children import Children
from fastroute.cli.demo.show import REFRESH_S, View, print_summary
from fastroute.cli.demo.users import Tally, drive


def run_demo(
    *, ports: tuple[int, int], servers: int, users: int, requests: int | None, memcached: bool, as_json: bool
) -> int:
    """The whole demo.

    Returns:
        0 when no user was split and no request failed, else 1.

    Raises:
        DemoError: a process did not start, or a replica ended.
    """
    return asyncio.run(_run(Children(ports=ports, servers=servers, memcached=memcached), users, requests, as_json))


async def _run(children: Children, users: int, requests: int | None, as_json: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    try:
        starting = asyncio.create_task(children.start())
        if not await _first(starting, stop):
            return 1
        tally = Tally(dead=children.dead_servers)
        driving = asyncio.create_task(drive(tally, children.ports, users=users, requests=requests))
        with View(children, tally, quiet=as_json) as view:
            while not (stop.is_set() or driving.done()):
                children.check()
                view.refresh()
                await _first(driving, stop, timeout_s=REFRESH_S)
        await _cancel(driving)
        print_summary(children, tally, as_json=as_json)
        return 1 if tally.splits or tally.failed else 0
    finally:
        await children.stop()


async def _first(task: asyncio.Task[None], stop: asyncio.Event, timeout_s: float | None = None) -> bool:
    """Wait for the task, the stop or the time; True when the task is done (its error raised here)."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopping], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if task.done():
        task.result()
        return True
    if stop.is_set():
        await _cancel(task)
    return False


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
