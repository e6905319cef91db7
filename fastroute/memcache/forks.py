"""How often this process was forked off: what threads, locks and connections of before must not be used after.

Not here: what is made anew then (sync.py, cache/sync_driver.py); how it is counted (ext/forks.pyx).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from fastroute._core.forks import forks

__all__ = ["begin_anew", "forks"]

_turn = threading.RLock()


class _Born(Protocol):
    _born: int


def begin_anew(what: _Born, begin: Callable[[], None]) -> None:
    """Call `begin` unless another thread of this process has done so since the fork.

    Args:
        what: remembers in `_born` the number of forks at which it was made.
        begin: makes it anew; sets `_born` as the last thing, since others look at it without a lock.
    """
    with _turn:
        if what._born != forks.count:
            begin()


def _forked() -> None:
    global _turn
    _turn = threading.RLock()


os.register_at_fork(after_in_child=_forked)
