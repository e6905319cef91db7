"""The supervisor of a replica: binds the sockets, forks the workers, keeps them alive, reloads and stops them.

It serves no request and runs no event loop: one thread, one select() over the workers' pipes and the signals' pipe.

Rules of this file:
- Nothing runs before everything is valid: configuration, sockets, workers of the first generation. Then one line
  `ready` on standard error.
- The workers of one configuration are a generation. A reload makes a second one on the same sockets and drains the
  first only when all of the second accept; if one of them fails, the second goes and the first stays.
- Every wait has a limit; whoever is left when it passes is killed.
- What serves the admin listener is one more process of a generation, so that neither a scrape nor a mistake there costs
  a request anything. It is stopped last: what drains can be watched.
- Signals: TERM and INT drain and stop, a second one stops at once, HUP reloads. Workers get TERM (drain) and KILL only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fastroute._core.board import Board
from fastroute.config.load import Loaded
from fastroute.config.schema import Config
from fastroute.errors import FastrouteError
from fastroute.fleet.presence import make_name
from fastroute.health.command import Commands, tell_commands
from fastroute.metrics.layout import Columns, Ledger, make_board
from fastroute.proxy.seat import Seat, has_desk
from fastroute.proxy.sockets import Sockets, close_dropped, close_socket, lend, open_sockets
from fastroute.proxy.systemd import Notifier
from fastroute.proxy.tls import keep_contexts
from fastroute.proxy.worker import READY, MakeProxy, die_with_parent, drain_s, run_worker

RESTART_DELAY_MIN_S = 0.05
"""Wait before a dead worker's replacement: at once for people, but not a busy loop."""

RESTART_DELAY_MAX_S = 5.0
"""Longest wait after repeated deaths (each doubles it)."""

SETTLED_S = 10.0
"""A worker that lived this long starts again without the wait of earlier deaths."""

START_S = 30.0
"""Longest start of a worker: mapping the largest zone takes seconds."""

STOP_MARGIN_S = 2.0
"""What a worker gets beyond the drain time to close and exit."""

ADMIN = -1
"""Index of the process that serves the admin listener."""

log = logging.getLogger("fastroute.supervisor")

AdminMain = Callable[..., int]
"""Called in a process of its own as main(config, socket, board, columns, ready_fd=, lifeline_fd=); the exit status."""


@dataclass(eq=False)
class _Worker:
    index: int
    pid: int
    pipe: int
    started_s: float
    ready: bool = False
    stop_by_s: float | None = None
    """Set when it was told to stop: killed after that."""
    row: int = -1
    """Of the board."""
    told: bool = False
    """Of the admin process, when the replica stops: it was told to."""
    commands: Commands | None = None
    """What it runs for checks and hooks; ended with it."""

    @property
    def name(self) -> str:
        return "the admin process" if self.index == ADMIN else f"worker {self.index}"


@dataclass(eq=False)
class _Generation:
    config: Config
    sockets: Sockets
    workers: dict[int, _Worker] = field(default_factory=dict)
    """By index; a dead one is absent until its replacement runs."""
    due_s: dict[int, float] = field(default_factory=dict)
    """Index -> when its replacement starts."""
    deaths: dict[int, int] = field(default_factory=dict)
    columns: Columns | None = None
    """Of the board."""
    without_admin: bool = False

    def indices(self, with_admin: bool) -> list[int]:
        """Who belongs to it."""
        return [*range(self.config.workers), *([ADMIN] if with_admin and has_desk(self.config) else [])]

    @property
    def is_ready(self) -> bool:
        workers = [worker for worker in self.workers.values() if worker.index != ADMIN]
        admin = not has_desk(self.config) or self.without_admin or ADMIN in self.workers
        return len(workers) == self.config.workers and admin and all(one.ready for one in self.workers.values())


class Supervisor:
    """One replica's processes.

    Args:
        loaded: the configuration to start with.
        read: reads and checks it again, with what the command line overrides, for each reload; raises ConfigError.
        make: makes a worker's Proxy; imported before the fork, so that the workers share its code's memory.
        admin: serves the admin listener; None: nothing is counted for others, and [admin] is not looked at.
    """

    def __init__(
        self, loaded: Loaded, read: Callable[[], Loaded], *, make: MakeProxy, admin: AdminMain | None = None
    ) -> None:
        self._loaded, self._read, self._make, self._admin = loaded, read, make, admin
        self._board: Board | None = None
        self._ledger: Ledger | None = None
        self._rows: list[int] = []
        self._current: _Generation | None = None
        self._next: _Generation | None = None
        self._leaving: list[_Worker] = []
        self._stopping = False
        self._announced = False
        self._reload_again = False
        self._status = 0
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._signals, self._signals_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lifeline, self._lifeline_in = os.pipe2(os.O_CLOEXEC)

    def run(self) -> int:
        """Serve until stopped.

        Returns:
            Exit status: 0 after a stop that was asked for, 1 when nothing could be started.

        Raises:
            BindError: a listener's address cannot be had; nothing was started.
        """
        loaded = self._loaded
        self._warn(loaded)
        _raise_file_limit()
        keep_contexts(loaded.config)
        sockets = open_sockets(loaded.config)
        if self._admin is not None:
            self._board = make_board(loaded.config)
            self._board.name = make_name()
            self._ledger = Ledger(self._board)
            self._rows = list(range(self._board.rows))[::-1]
        self._current = self._generation(loaded.config, sockets)
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(self._signals, selectors.EVENT_READ, None)
        try:
            for index in self._current.indices(self._admin is not None):
                self._start(self._current, index)
            while self._turn():
                pass
            return self._status
        finally:
            self._kill_all()
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._close_sockets()
            self._selector.close()
            for end in (self._signals, self._signals_in, self._lifeline, self._lifeline_in):
                os.close(end)

    # One turn of the loop ---------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Wait for the next thing and do it; False when there is nothing left to supervise."""
        for key, _ in self._selector.select(self._wait_s()):
            if key.data is None:
                self._on_signals()
            else:
                self._on_pipe(key.data)
        self._reap()
        now_s = time.monotonic()
        self._notifier.alive(now_s)
        for generation in self._generations():
            for index in [index for index, due_s in generation.due_s.items() if due_s <= now_s]:
                del generation.due_s[index]
                self._start(generation, index)
        for worker in [*self._leaving, *self._starting()]:
            if self._deadline_s(worker) <= now_s:
                log.warning(
                    "%s (pid %d) did not %s in time: killed",
                    worker.name,
                    worker.pid,
                    "stop" if worker.stop_by_s is not None else "start",
                )
                _kill(worker.pid, signal.SIGKILL)
                worker.stop_by_s = now_s + START_S  # until it is reaped
        self._settle()
        if self._stopping and self._leaving and all(worker.index == ADMIN for worker in self._leaving):
            self._stop_admins()
        return bool(self._leaving) if self._stopping else True

    def _stop_admins(self) -> None:
        """The last worker is gone: nothing is left to be watched."""
        for worker in self._leaving:
            if not worker.told:
                worker.told = True
                worker.stop_by_s = time.monotonic() + STOP_MARGIN_S
                _kill(worker.pid, signal.SIGTERM)

    def _wait_s(self) -> float | None:
        times = [self._deadline_s(worker) for worker in [*self._leaving, *self._starting()]]
        now_s = time.monotonic()
        times += [] if (due_s := self._notifier.alive(now_s)) is None else [due_s]
        times += [due_s for generation in self._generations() for due_s in generation.due_s.values()]
        return max(0.0, min(times) - now_s) if times else None

    def _generations(self) -> list[_Generation]:
        return [one for one in (self._current, self._next) if one is not None]

    def _starting(self) -> list[_Worker]:
        return [worker for one in self._generations() for worker in one.workers.values() if not worker.ready]

    @staticmethod
    def _deadline_s(worker: _Worker) -> float:
        return worker.started_s + START_S if worker.stop_by_s is None else worker.stop_by_s

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop(signal.Signals(number).name)
                elif number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR1:  # logs were moved away: whoever writes opens them again
                    for worker in [*self._leaving, *(w for one in self._generations() for w in one.workers.values())]:
                        _kill(worker.pid, signal.SIGUSR1)

    def _on_pipe(self, worker: _Worker) -> None:
        if worker.pipe < 0:  # killed and forgotten by a signal of the same turn
            return
        told = os.read(worker.pipe, 16)
        if told.startswith(READY):
            worker.ready = True
        self._forget_pipe(worker)

    def _forget_pipe(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    # Workers ----------------------------------------------------------------------------------------------------------

    def _generation(self, config: Config, sockets: Sockets) -> _Generation:
        columns = self._ledger.assign(config) if self._ledger is not None else None
        return _Generation(config, sockets, columns=columns, without_admin=self._admin is None)

    def _take_row(self, index: int) -> int:
        """A row for a worker, whose counts it goes on from; -1: none is left, or there is no board."""
        if self._board is None or index == ADMIN:
            return -1
        if not self._rows:
            log.warning("worker %d counts for itself: more workers drain than the board has rows", index)
            return -1
        row = self._rows.pop()
        self._board.take(row, os.getpid())  # the child writes its own pid: gauges are clean before it begins
        return row

    def _leave_row(self, worker: _Worker) -> None:
        if self._board is not None and worker.row >= 0:
            self._board.leave(worker.row)
            self._rows.append(worker.row)
            worker.row = -1

    @staticmethod
    def _end_commands(worker: _Worker) -> None:
        """The worker is gone: what it ran goes too."""
        if worker.commands is not None:
            worker.commands.end()
            worker.commands.close()
            worker.commands = None

    def _run_child(self, generation: _Generation, index: int, row: int, writing: int) -> int:
        """In the child."""
        if index == ADMIN:
            assert self._admin is not None
            admin = generation.config.admin
            own = generation.sockets[admin.bind][0] if admin is not None else None
            self._close_others({id(own)})
            return self._admin(
                generation.config,
                own,
                self._board,
                generation.columns,
                ready_fd=writing,
                lifeline_fd=self._lifeline,
            )
        lent = lend(generation.config, generation.sockets, index)
        self._close_others({id(one) for many in lent.values() for one in many})
        seat = None
        if row >= 0 and self._board is not None and generation.columns is not None:
            self._board.take(row, os.getpid())
            seat = Seat(self._board.row(row), generation.columns)
        return run_worker(
            generation.config,
            lent,
            index=index,
            ready_fd=writing,
            lifeline_fd=self._lifeline,
            make=self._make,
            seat=seat,
        )

    def _start(self, generation: _Generation, index: int) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        parent_pid = os.getpid()
        row = self._take_row(index)
        commands = Commands() if index != ADMIN else None
        sys.stderr.flush()
        sys.stdout.flush()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._become_worker(blocked, parent_pid)
                tell_commands(commands)
                status = self._run_child(generation, index, row, writing)
            except BaseException:
                log.exception("worker %d failed; this is a bug in fastroute, please report it", index)
            finally:
                logging.shutdown()
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writing)
        worker = _Worker(index, pid, reading, time.monotonic(), row=row, commands=commands)
        generation.workers[index] = worker
        self._selector.register(reading, selectors.EVENT_READ, worker)

    def _become_worker(self, blocked: Iterable[int], parent_pid: int) -> None:
        """In the child: forget what is the supervisor's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        die_with_parent(parent_pid)
        self._selector.close()
        for worker in [*self._leaving, *(w for one in self._generations() for w in one.workers.values())]:
            if worker.pipe >= 0:
                os.close(worker.pipe)
        for end in (self._signals, self._signals_in, self._lifeline_in):
            os.close(end)

    def _close_others(self, mine: set[int]) -> None:
        """In the child: sockets that other workers accept on; held open here they would outlive their owner."""
        for generation in self._generations():
            for many in generation.sockets.values():
                for one in many:
                    if id(one) not in mine:
                        one.close()

    def _reap(self) -> None:
        for worker in [*self._leaving, *(w for one in self._generations() for w in one.workers.values())]:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                if worker.pipe >= 0:
                    self._on_pipe(worker)
                self._on_death(worker, os.waitstatus_to_exitcode(status))

    def _on_death(self, worker: _Worker, code: int) -> None:
        self._leave_row(worker)
        self._end_commands(worker)
        if worker in self._leaving:
            self._leaving.remove(worker)
            return
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        generation = next(one for one in self._generations() if one.workers.get(worker.index) is worker)
        del generation.workers[worker.index]
        if generation is self._next and not worker.ready:
            self._refuse_reload(f"a process of the new configuration {how}")
            self._drop_next()
        elif not self._announced and generation is self._current:
            log.error("%s %s before it accepted: nothing is served", worker.name, how)
            self._status = 1
            self._stop("a failed start", quiet=True)
        else:
            lived_s = time.monotonic() - worker.started_s
            deaths = 1 if lived_s >= SETTLED_S else generation.deaths.get(worker.index, 0) + 1
            generation.deaths[worker.index] = deaths
            delay_s = restart_delay_s(deaths)
            log.error("%s (pid %d) %s; another starts in %.2f s", worker.name, worker.pid, how, delay_s)
            generation.due_s[worker.index] = time.monotonic() + delay_s

    # Changes ----------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Act on what has become ready."""
        if self._stopping:
            return
        if self._current is not None and not self._announced and self._current.is_ready:
            self._announced = True
            with contextlib.suppress(OSError):
                print("ready", file=sys.stderr, flush=True)
            self._notifier.ready(f"{self._current.config.workers} workers accept")
        if self._next is not None and self._next.is_ready:
            old, self._current, self._next = self._current, self._next, None
            if old is not None:
                self._tell_to_stop(old)
                close_dropped(old.sockets, self._current.sockets)
                keep_contexts(self._current.config)
            done = f"{self._current.config.workers} workers run the new configuration"
            log.info("reload done: %s", done)
            self._note_reload(True, done)
            if self._reload_again:
                self._reload_again = False
                self._reload()

    def _reload(self) -> None:
        if self._stopping or self._current is None:
            log.warning("reload refused: the replica is stopping")
            return
        if self._next is not None or not self._announced:
            self._reload_again = True
            return
        self._notifier.reloading()
        try:
            loaded = self._read()
            if loaded.config == self._current.config:
                self._warn(loaded)  # what depends on the time has another text, as how long a certificate has to go
                log.info("reload: nothing has changed")
                self._note_reload(True, "nothing has changed")
                return
            keep_contexts(self._current.config, loaded.config)
            self._warn(loaded)
            sockets = open_sockets(loaded.config, self._current.sockets)
        except FastrouteError as error:
            self._refuse_reload(str(error))
            return
        self._next = self._generation(loaded.config, sockets)
        for index in self._next.indices(self._admin is not None):
            self._start(self._next, index)

    def _refuse_reload(self, why: str) -> None:
        log.error("reload refused, the old configuration stays: %s", why)
        self._note_reload(False, why)

    def _note_reload(self, ok: bool, text: str) -> None:
        if self._board is not None:
            self._board.note_reload(ok, text)
        self._notifier.ready(f"reload done: {text}" if ok else f"reload refused: {text}".replace("\n", " "))

    def _warn(self, loaded: Loaded) -> None:
        """Log what the last configuration did not draw already."""
        known = {message for _, message in self._loaded.warnings} if loaded is not self._loaded else set()
        for line, message in loaded.warnings:
            if message not in known:
                log.warning("%s%s: %s", loaded.path, f":{line}" if line else "", message)
        self._loaded = loaded

    def _drop_next(self) -> None:
        """Give up the new generation."""
        if self._next is None or self._current is None:
            return
        dropped, self._next = self._next, None
        for worker in dropped.workers.values():
            _kill(worker.pid, signal.SIGKILL)
            worker.stop_by_s = time.monotonic() + START_S
            self._leaving.append(worker)
        close_dropped(dropped.sockets, self._current.sockets)
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _tell_to_stop(self, generation: _Generation) -> None:
        by_s = time.monotonic() + drain_s(generation.config) + STOP_MARGIN_S
        for worker in generation.workers.values():
            worker.stop_by_s = by_s
            self._leaving.append(worker)
            if worker.index == ADMIN and self._stopping:
                worker.stop_by_s = by_s + STOP_MARGIN_S  # its turn comes when the last worker is gone
            else:
                _kill(worker.pid, signal.SIGTERM)
        generation.workers.clear()
        generation.due_s.clear()

    def _stop(self, why: str, *, quiet: bool = False) -> None:
        if self._stopping:
            if self._leaving:
                log.warning("%s again: stopping at once", why)
            self._kill_all()
            return
        self._stopping = True
        self._notifier.stopping()
        if self._board is not None:
            self._board.stopping = True
        generations = self._generations()
        if not quiet:
            seconds = max((drain_s(one.config) for one in generations), default=0.0)
            log.info("%s: draining, at most %.0f s; once more stops at once", why, seconds)
        for generation in generations:
            self._tell_to_stop(generation)
        self._close_sockets()

    def _kill_all(self) -> None:
        """No worker outlives this call."""
        for worker in [*self._leaving, *(w for one in self._generations() for w in one.workers.values())]:
            _kill(worker.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
            self._end_commands(worker)
            self._forget_pipe(worker)
        self._leaving.clear()
        for generation in self._generations():
            generation.workers.clear()

    def _close_sockets(self) -> None:
        for generation in self._generations():
            for many in generation.sockets.values():
                for one in many:
                    if one.fileno() >= 0:
                        close_socket(one)


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def restart_delay_s(deaths: int) -> float:
    """Wait before a replacement after so many deaths in a row (1 or more)."""
    return min(RESTART_DELAY_MAX_S, RESTART_DELAY_MIN_S * 2.0 ** (min(deaths, 32) - 1))


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _raise_file_limit() -> None:
    """A request holds two descriptors: the usual soft limit of 1024 is far below the default of 10000 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
