"""Long work from a list: one call per item, some at once, a progress bar, and a file of what is left to do.

    outcome = run(items, work, at_once=64, failed_path=None, title="loading", quiet=False)

Rules of this file:
  - Items are read while they are worked off: a list of any length needs the memory of a few.
  - An item is done, failed (the reason is counted, and told for the first few), or left: after Ctrl-C no further item
    is begun, those under way are finished, and what was not begun is left. A second Ctrl-C ends at once.
  - Failed and left items are written to `failed_path` as they were read, so that the same command with that file goes
    on where this one ended. What stands on standard input and was not read is lost: it cannot be known.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import IO, Any, NamedTuple

from fastroute.errors import FastrouteError, UsageError

__all__ = ["AT_ONCE_MAX", "Failed", "Item", "Outcome", "run"]

AT_ONCE_MAX = 1024
"""Items under way at once; more than that only queue elsewhere."""

READ_AHEAD = 256
"""Items that are read at once."""

REASONS_TOLD = 5
"""Different reasons that are kept with an example."""


class Item(NamedTuple):
    """One item.

    Attributes:
        raw: as it was read, for the file of what is left.
        value: what `work` gets; an exception: it could not be read, and has failed.
        read: bytes of the input up to its end.
    """

    raw: bytes
    value: Any
    read: int


class Failed(FastrouteError):
    """Raised by `work`: this item failed, and why."""


@dataclasses.dataclass
class Outcome:
    """What came of it.

    Attributes:
        done, failed, left: items.
        size_bytes: what `work` returned, added up.
        seconds: it took.
        interrupted: Ctrl-C.
        reasons: why items failed -> how many.
        examples: reason -> the first such item.
    """

    done: int = 0
    failed: int = 0
    left: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Everything was done."""
        return not (self.failed or self.left or self.interrupted)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = dataclasses.asdict(self)
        return {**told, "seconds": round(self.seconds, 3), "reasons": dict(self.reasons)}


class _Bar:
    """The progress bar on standard error; nothing where that is no terminal."""

    def __init__(self, title: str, total: int | None, quiet: bool) -> None:
        self._progress: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]} done"),
            TextColumn("{task.fields[failed]} failed"),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TimeRemainingColumn() if total else MofNCompleteColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(title, total=total, done=0, failed=0, rate=0.0)

    def __enter__(self) -> _Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, outcome: Outcome, read: int, began_s: float) -> None:
        if self._progress is not None:
            rate = outcome.done / max(time.monotonic() - began_s, 0.001)
            self._progress.update(self._task, completed=read, done=outcome.done, failed=outcome.failed, rate=rate)


class _Left:
    """The file of what failed or was left; made when the first such item comes."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def add(self, item: Item) -> None:
        if self._path is None:
            return
        if self._file is None:
            self._file = open(self._path, "wb")  # noqa: SIM115 - closed below
        self._file.write(item.raw)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        elif self._path is not None:
            with contextlib.suppress(FileNotFoundError), open(self._path, "r+b") as old:
                old.truncate()  # nothing is left of an earlier run


async def run(
    items: Iterator[Item],
    work: Callable[[Any], Awaitable[int]],
    *,
    at_once: int,
    title: str,
    failed_path: str | None = None,
    total: int | None = None,
    quiet: bool = False,
    rest_is_known: bool = True,
) -> Outcome:
    """Work a list off.

    Args:
        items: read in another thread, so it may block.
        work: what is done with one item's value; returns bytes, raises a FastrouteError where it failed.
        at_once: 1 to AT_ONCE_MAX.
        title: of the bar.
        failed_path: where what failed or was left is written to; None for nowhere.
        total: bytes of the input, where they are known.
        quiet: no bar.
        rest_is_known: whether reading on after Ctrl-C comes to an end soon (a file, not a pipe).

    Raises:
        UsageError: at_once is not accepted.
    """
    if not 1 <= at_once <= AT_ONCE_MAX:
        raise UsageError(f"--at-once {at_once}: accepted are 1 to {AT_ONCE_MAX}")
    outcome, left, stop = Outcome(), _Left(failed_path), asyncio.Event()
    loop, began_s, task = asyncio.get_running_loop(), time.monotonic(), asyncio.current_task()
    ahead: collections.deque[Item] = collections.deque()
    reading = asyncio.Lock()
    read, ended = 0, False

    def interrupt() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    async def following() -> Item | None:
        nonlocal ended
        async with reading:
            if not ahead and not ended:
                ahead.extend(await asyncio.to_thread(lambda: list(itertools.islice(items, READ_AHEAD))))
                ended = not ahead
            return ahead.popleft() if ahead else None

    def fail(item: Item, error: BaseException) -> None:
        outcome.failed += 1
        reason = str(error)
        if reason in outcome.examples or len(outcome.examples) < REASONS_TOLD:
            outcome.examples.setdefault(reason, item.raw.decode("utf-8", "replace").strip()[:200])
        else:
            reason = "other"
        outcome.reasons[reason] += 1
        left.add(item)

    async def worker(bar: _Bar) -> None:
        nonlocal read
        while not stop.is_set():
            item = await following()
            if item is None:
                return
            if stop.is_set():
                ahead.appendleft(item)
                return
            try:
                if isinstance(item.value, Exception):
                    raise item.value
                size_bytes = await work(item.value)
                outcome.size_bytes += size_bytes  # not in one: others add to it during the wait
            except FastrouteError as error:
                fail(item, error)
            except asyncio.CancelledError:
                outcome.left += 1
                left.add(item)
                raise
            else:
                outcome.done += 1
            read = max(read, item.read)
            bar.show(outcome, read, began_s)

    with contextlib.suppress(
        NotImplementedError, ValueError, RuntimeError
    ):  # not the main thread, or not on this system
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        with _Bar(title, total, quiet) as bar:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(at_once):
                        group.create_task(worker(bar))
            except asyncio.CancelledError:
                stop.set()
        outcome.interrupted = stop.is_set()
        rest = itertools.chain(ahead, items) if rest_is_known else iter(ahead)
        for item in rest:
            outcome.left += 1
            left.add(item)
    finally:
        left.close()
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)
        outcome.seconds = time.monotonic() - began_s
    return outcome
