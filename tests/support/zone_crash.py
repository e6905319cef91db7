"""Helpers of the zone's crash tests: made-up fingerprints that stand where a test wants them, and children that die.

Children are forked, so that they have the parent's mapping; they never return into pytest.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.zone import Zone

ZONE_SIZE = "256KiB"
STRIPES = 8
FAILED = 250


def shared_zone() -> Zone:
    """A zone that only this process and its children can reach: its name is already gone."""
    name = f"crash-{os.getpid()}-{os.urandom(4).hex()}"
    zone = Zone(name, ZONE_SIZE)
    Zone.unlink(name)
    return zone


def key_at(table: AffinityTable, stripe: int, home: int, other: int, wanted: int, salt: int = 0) -> bytes:
    """A fingerprint of a 256 KiB table by where it belongs (see the head of ext/fr_bucket.h); another per salt."""
    per_stripe = table.buckets // STRIPES
    within = ((home << 64) + (1 << 63)) // per_stripe
    lo = (stripe << 61) | (within >> 3)
    hi = ((other << 64) + (1 << 63)) // per_stripe
    lo = (lo & ~0xFFFFFF) | (salt & 0xFFFF) << 8 | (1 + salt % 255)
    hi = (hi & ~0xFFFFFFFF) | (salt & 0xFFFF) << 16 | (wanted * 65536 // 24 + 100)
    return lo.to_bytes(8, "little") + hi.to_bytes(8, "little")


def fork_to(work: Callable[[], int | None]) -> int:
    """Pid of a child that does the work and exits with its result (0 for None, FAILED for an exception)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child only calls compiled code
        pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        code = work() or 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """The child's exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until_stopped(pid: int) -> None:
    """Return when the child stands still; fail when it ended instead."""
    status = os.waitpid(pid, os.WUNTRACED)[1]
    assert os.WIFSTOPPED(status), f"the child did not stop, it ended with {os.waitstatus_to_exitcode(status)}"
    assert os.WSTOPSIG(status) == signal.SIGSTOP
