"""Log lines on standard error: time, level, message, one line per event. No secret and no client's data is in them.

As text for people, or as JSON for programs. The same line over and over is told REPEATS_MAX times in REPEATS_S; what
was left out is counted in the next one that is told.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable

__all__ = ["log_to_stderr"]

REPEATS_MAX = 5
"""Of one line, within REPEATS_S: enough to see a pattern."""

REPEATS_S = 10.0

LINES_MAX = 512
"""Different lines whose repeats are counted; beyond it the oldest is forgotten and may be told again."""


def _stamp(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class _Lines(logging.Formatter):
    """2026-11-22T01:02:03.456Z warning message"""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_stamp(record)} {record.levelname.lower()} {_message(record)}"
        if record.exc_info and record.exc_info[1] is not None:  # a bug: the trace is worth its lines
            text += "\n" + self.formatException(record.exc_info)
        return text


class _Json(logging.Formatter):
    """One object per line: time, level, part, pid, message; trace where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("fastroute."),
            "pid": record.process,
            "message": _message(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    left_out = getattr(record, "left_out", 0)
    message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in record.getMessage())  # one event is one line
    return f"{message} (and {left_out} times before, not told)" if left_out else message


class Repeats(logging.Filter):
    """Lets the same line pass REPEATS_MAX times in REPEATS_S.

    Args:
        now_s: a monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._told: dict[tuple[str, int, str], list[float]] = {}
        """Line -> [when its time began, told since, left out since]."""

    def filter(self, record: logging.LogRecord) -> bool:
        key, now_s = (record.name, record.levelno, record.getMessage()), self._now_s()
        entry = self._told.get(key)
        if entry is None:
            if len(self._told) >= LINES_MAX:
                del self._told[next(iter(self._told))]
            self._told[key] = [now_s, 1, 0]
            return True
        if now_s - entry[0] >= REPEATS_S:
            record.left_out = int(entry[2])
            entry[:] = [now_s, 1, 0]
            return True
        entry[1] += 1
        if entry[1] > REPEATS_MAX:
            entry[2] += 1
            return False
        return True


def log_to_stderr(level: int = logging.INFO, *, as_json: bool = False) -> None:
    """Send fastroute's log lines to standard error; a reader that has gone away stops nobody."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Lines())
    handler.addFilter(Repeats())
    logger = logging.getLogger("fastroute")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.raiseExceptions = False
