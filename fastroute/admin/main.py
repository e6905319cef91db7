"""The admin process of a replica: forked by the supervisor, it serves the admin listener and keeps the replica's desk.

It shares the board with the workers and carries no request: a scrape, a dashboard or a mistake here costs them nothing.
If it dies, the supervisor starts another one on the same socket; orders and counts are in the board.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress

from fastroute._core.board import Board
from fastroute.admin.api import Api
from fastroute.admin.desk import Desk
from fastroute.admin.http import AdminServer
from fastroute.admin.mirror import Mirror
from fastroute.admin.replica import Replica
from fastroute.config.schema import Config
from fastroute.errors import FastrouteError
from fastroute.metrics.layout import Columns
from fastroute.proxy.worker import READY, new_event_loop

__all__ = ["run_admin"]

log = logging.getLogger("fastroute.admin")


def run_admin(
    config: Config, sock: socket.socket | None, board: Board, columns: Columns, *, ready_fd: int, lifeline_fd: int
) -> int:
    """Serve until told to stop; returns the exit status.

    Args:
        config: with an [admin] section where there is a socket.
        sock: bound and listening; None: nobody can ask, and the replica follows its fleet and its sources alone.
        board, columns: of the replica.
        ready_fd: READY is written there once, then it is closed.
        lifeline_fd: end of file there means that the supervisor is gone.
    """
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(config, sock, board, columns, ready_fd, lifeline_fd))
    except (FastrouteError, OSError) as error:
        log.error("the admin process: %s", error)
        return 1
    except Exception:
        log.exception("the admin process failed; this is a bug in fastroute, please report it")
        return 1
    return 0


async def _serve(
    config: Config, sock: socket.socket | None, board: Board, columns: Columns, ready_fd: int, lifeline_fd: int
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(lifeline_fd, os._exit, 1)
    async with Mirror(config) as mirror:
        desk, server = Desk(Replica(board, columns, config), mirror), None
        await desk.start()
        if sock is not None:
            api = Api(board, columns, config, mirror, os.getppid(), desk)
            server = AdminServer(api.handle, sock)
            await server.start()
        with suppress(OSError):
            os.write(ready_fd, READY)
        os.close(ready_fd)
        await stop.wait()
        if server is not None:
            await server.aclose()
            await api.aclose()
        await desk.aclose()
    loop.remove_reader(lifeline_fd)
