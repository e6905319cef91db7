"""Running a check's or a hook's command, so that nothing of it is left when it ends, is late, or who ran it is killed.

A command is a session of its own: it is killed with its children when it has ended or its time is over. Its worker may
be killed before that (SIGKILL, out of memory). Then the kernel kills the program itself (PR_SET_PDEATHSIG), also if
supervisor and worker go together; and the supervisor, which reads in Commands what its workers run, kills the whole
group. What stays is what a command started, where supervisor and worker were killed at once.

Not here: what its status means (checks). Rules of this file: no shell; of this process's environment a command gets
what is named in PASSED_ON.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

__all__ = ["COMMANDS_MAX", "COMMAND_BYTES_MAX", "Commands", "run_command", "tell_commands"]

COMMAND_BYTES_MAX = 1024
"""Of a command's output: what is kept to say why it failed."""

COMMANDS_MAX = 256
"""Commands of one process that its supervisor knows of: twice what a keeper runs at once (asking.CHECKS_MAX)."""

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a command gets of this process's environment: secrets stand there too, and are none of its business."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Commands:
    """The commands that a worker runs, in memory that it shares with its supervisor: made before the fork.

    The worker adds and removes; end() is the supervisor's, when the worker is gone.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * COMMANDS_MAX)
        self._groups = memoryview(self._memory).cast("q")

    def add(self, group: int) -> None:
        """A command has begun; without room it is not known of."""
        for at, known in enumerate(self._groups):
            if not known:
                self._groups[at] = group
                return

    def remove(self, group: int) -> None:
        """It is over."""
        for at, known in enumerate(self._groups):
            if known == group:
                self._groups[at] = 0

    def end(self) -> int:
        """Kill what is left; how many there were."""
        left = [group for group in self._groups if group]
        for group in left:
            _kill(group)
            self.remove(group)
        return len(left)

    def close(self) -> None:
        """Give the memory back."""
        self._groups.release()
        self._memory.close()


_told: Commands | None = None


def tell_commands(commands: Commands | None) -> None:
    """Where this process says from now on what it runs."""
    global _told
    _told = commands


async def run_command(command: Sequence[str], where: tuple[str, int] | str, pool: str, server: str) -> tuple[bool, str]:
    """Run a command until it ends or this is cancelled.

    Args:
        command: program and arguments; {address}, {host}, {port}, {server}, {pool} in them are filled in.
        where: the server's (host, port), or the path of its socket.
        pool, server: names.

    Returns:
        (status 0?, in words).
    """
    host, port = (where, "") if isinstance(where, str) else (where[0], str(where[1]))
    address = f"unix:{where}" if isinstance(where, str) else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    told = {"pool": pool, "server": server, "address": address, "host": host, "port": port}
    arguments = [_fill(argument, told) for argument in command]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {f"FASTROUTE_{name.upper()}": value for name, value in told.items()}
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=_dies_with_this_process(),
    )
    assert process.stdout is not None
    if _told is not None:
        _told.add(process.pid)
    said = bytearray()
    try:
        while piece := await process.stdout.read(COMMAND_BYTES_MAX):
            said += piece[: COMMAND_BYTES_MAX - len(said)]
        status = await process.wait()
    finally:
        _kill(process.pid)  # whom it left behind goes with it
        if process.returncode is None:
            await asyncio.shield(process.wait())
        if _told is not None:
            _told.remove(process.pid)
        process._transport.close()  # type: ignore[attr-defined]  # its pipe may still be held by somebody
    text = " ".join(said.decode("utf-8", "replace").split())
    text = "".join(character for character in text if character.isprintable())[:120]
    how = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
    return status == 0, f"{how}: {text}" if text else how


def _dies_with_this_process() -> Callable[[], None] | None:
    """What the child does before it becomes the command; None where that is not safe or not known.

    uvloop forks in C and knows of this step; asyncio's own loop warns of it, from Python 3.12 on, beside threads.
    """
    if sys.platform != "linux" or not type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        return None
    parent_pid, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # it was killed between fork and prctl
            os._exit(1)

    return before_exec


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _fill(argument: str, told: Mapping[str, str]) -> str:
    for name, value in told.items():
        argument = argument.replace("{" + name + "}", value)
    return argument
