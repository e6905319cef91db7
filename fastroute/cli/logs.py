"""Log lines on standard error: time, level, message, one line per event. No secret and no client's data is in them."""

from __future__ import annotations

import logging
import sys
import time


class _Lines(logging.Formatter):
    """2026-11-22T01:02:03.456Z warning message"""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:  # a bug: the trace is worth its lines
            text += "\n" + self.formatException(record.exc_info)
        return text


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send fastroute's log lines to standard error; a reader that has gone away stops nobody."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("fastroute")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.raiseExceptions = False
