"""One worker: a process that the supervisor forked, with its event loop and its Proxy.

It accepts on the sockets it was lent, says so on the supervisor's pipe, drains on SIGTERM and dies with the supervisor.
Nothing here decides anything about other workers.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from fastroute.config.schema import Config
from fastroute.errors import FastrouteError
from fastroute.proxy.seat import Seat
from fastroute.proxy.tls import quiet_hook

READY = b"+"
"""What the worker writes when every listener accepts."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger("fastroute.worker")


class ProxyLike(Protocol):
    """What a worker runs: fastroute.proxy.server.Proxy, or a stand-in in tests."""

    async def start(self) -> object: ...
    async def drain(self, timeout_s: float) -> object: ...
    async def aclose(self) -> object: ...


MakeProxy = Callable[..., ProxyLike]
"""Called as make(config, sockets={listener: [socket]}), with seat=Seat where the supervisor has a board."""


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however it dies (Linux; elsewhere the pipe alone).

    Notes:
        The signal is bound to the thread that forked: the supervisor has one only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # died between fork and prctl
        os._exit(1)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, or asyncio's where uvloop is missing."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_worker(
    config: Config,
    sockets: Mapping[str, list[socket.socket]],
    *,
    index: int,
    ready_fd: int,
    lifeline_fd: int,
    make: MakeProxy,
    seat: Seat | None = None,
) -> int:
    """Run until told to stop; returns the exit status.

    Args:
        config: the configuration.
        sockets: listener's name -> the sockets to accept on.
        index: which worker of the replica this is, for log lines.
        ready_fd: READY is written there once, then it is closed.
        lifeline_fd: end of file there means that the supervisor is gone.
        make: makes the Proxy.
        seat: where it counts, and whose orders it follows.
    """
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(config, sockets, index, ready_fd, lifeline_fd, make, seat))
    except FastrouteError as error:
        log.error("worker %d: %s", index, error)
        return 1
    except OSError as error:
        log.error("worker %d: %s", index, error)
        return 1
    except Exception:
        log.exception("worker %d failed; this is a bug in fastroute, please report it", index)
        return 1
    return 0


async def _serve(
    config: Config,
    sockets: Mapping[str, list[socket.socket]],
    index: int,
    ready_fd: int,
    lifeline_fd: int,
    make: MakeProxy,
    seat: Seat | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    sys.unraisablehook = quiet_hook(sys.unraisablehook)
    loop.add_reader(lifeline_fd, _supervisor_is_gone)
    proxy = make(config, sockets=sockets) if seat is None else make(config, sockets=sockets, seat=seat)
    if hasattr(proxy, "reopen_logs"):
        loop.add_signal_handler(signal.SIGUSR1, proxy.reopen_logs)
    try:
        await proxy.start()
        gc.collect()
        gc.freeze()  # what lives from here on is configuration and tables: no reason to walk it again
        with suppress(OSError):
            os.write(ready_fd, READY)
        os.close(ready_fd)
        await stop.wait()
        await proxy.drain(drain_s(config))
    finally:
        await proxy.aclose()
        loop.remove_reader(lifeline_fd)


def drain_s(config: Config) -> float:
    """How long requests may take to end after SIGTERM: the longest that a listener allows."""
    return max((listener.timeouts.drain_s for listener in config.listeners.values()), default=0.0)


def _supervisor_is_gone() -> Any:
    os._exit(1)
