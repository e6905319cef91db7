"""Passive health: a server that refuses connections is out for a while, longer each time. Pure: values in, values out.

Not here: checks that ask the server (active), failed responses (outlier ejection), timers and pools (the caller's).
The rule: out for 1 s, doubled at each refusal that follows the try, at most 30 s; a connection that is accepted clears
the record. The last server that takes requests stays in: a wrong answer of ours must not turn a pool off.
"""

from __future__ import annotations

__all__ = ["OUT_FIRST_S", "OUT_LONGEST_S", "Passive"]

OUT_FIRST_S = 1.0
"""First absence: contracts, pools.health."""

OUT_LONGEST_S = 30.0
"""Longest absence: Envoy's base_ejection_time is 30 s."""


class Passive:
    """Refusals seen by one process, per server name."""

    def __init__(self, *, first_s: float = OUT_FIRST_S, longest_s: float = OUT_LONGEST_S) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._out_s: dict[str, float] = {}

    def refused(self, server: str, *, others_ready: int) -> float | None:
        """A connection was refused or timed out.

        Args:
            server: its name.
            others_ready: how many other servers of the pool take requests.

        Returns:
            Seconds to leave it out before the next try, or None when it must stay in.
        """
        if others_ready < 1:
            return None
        before_s = self._out_s.get(server)
        out_s = self._first_s if before_s is None else min(before_s * 2, self._longest_s)
        self._out_s[server] = out_s
        return out_s

    def accepted(self, server: str) -> None:
        """It took a connection."""
        self._out_s.pop(server, None)
