"""One question to the store per key and machine: who asks, and how the other processes of the zone wait for the answer.

What it is: the waiting, as a generator that yields the pauses; a driver sleeps them (asyncio) or blocks (threads).
What it is not: the mark itself, which is a bit of the zone's record (ext/fr_affinity.h), or the asking.

An entry whose time is up (near_ttl, a loss of the push channel) is asked about by the first process that needs it; the
others look for its answer in the zone. Rules of this file:

  * Waiting is bounded by a share of the store's time limit, counted in pauses: the one who asks may have died or be
    stopped. After that each asks for itself, as if there were no zone.
  * Only keys that the zone knows are waited for: a new binding is one round trip for everybody.
"""

from __future__ import annotations

from collections.abc import Generator

from fastroute._core.affinity_view import AffinityView, Binding

__all__ = ["PAUSE_S_MIN", "WAIT_SHARE", "turn"]

WAIT_SHARE = 0.5
"""Of the store's time limit: so a request waits at most 1.5 of them."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.0005, 0.004
"""Between two looks at the zone; doubled. A round trip on one machine takes 0.1 to 0.3 ms."""


def turn(view: AffinityView, fingerprint: bytes, timeout_s: float) -> Generator[float, None, Binding | bool]:
    """Wait for another process's answer, if one is asking.

    Args:
        view, fingerprint: whose key.
        timeout_s: the store's time limit.

    Returns:
        The Binding to use; or True: this caller has taken the question on and ends it (AffinityView.end_question); or
        False: this caller asks, and somebody else may be asking too.
    """
    left_s, pause_s = timeout_s * WAIT_SHARE, PAUSE_S_MIN
    while not view.take_question(fingerprint):
        if left_s <= 0:
            return False
        yield pause_s
        left_s -= pause_s
        pause_s = min(2 * pause_s, PAUSE_S_MAX)
        near = view.near_binding(fingerprint)
        if near is not None:
            return near
    near = view.near_binding(fingerprint)  # answered between the caller's look and this
    if near is not None:
        view.end_question(fingerprint)
        return near
    return True
