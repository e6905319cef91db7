"""How often this process was forked off: what threads, locks and connections of before must not be used after.

Not here: what is made anew then (sync.py, cache/sync_driver.py). A number that the child's interpreter raises itself
costs a comparison where it is asked for; os.getpid() is a system call each time.
"""

from __future__ import annotations

import os

__all__ = ["count"]

count = 0
"""Read it as `forks.count`: a name bound by `from ... import` would not change."""


def _forked() -> None:
    global count
    count += 1


os.register_at_fork(after_in_child=_forked)
