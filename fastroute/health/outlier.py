"""Outlier ejection: a server that fails requests in a row is out for a while, longer each time. Pure: values in, out.

Not here: who counts failures in a row (the relay), refused connections (passive), checks that ask the server (active).
The rule is Envoy's (outlier_detection, consecutive_5xx): out for `eject_s` times the number of ejections in a row, at
most LONGEST_S; the number starts again once the server has stayed in for as long as it was out. Never more than
`max_ejected_ratio` of the servers at once, and never the last one.
"""

from __future__ import annotations

__all__ = ["LONGEST_S", "Outliers"]

LONGEST_S = 300.0
"""Envoy: max_ejection_time 300 s."""


class Outliers:
    """Ejections by one process of the servers of one pool.

    Args:
        eject_s: of the first ejection.
        max_ejected_ratio: 0..1 of the servers.
        longest_s: no ejection is longer, but for eject_s itself.
    """

    def __init__(self, *, eject_s: float, max_ejected_ratio: float, longest_s: float = LONGEST_S) -> None:
        self._eject_s, self._ratio, self._longest_s = eject_s, max_ejected_ratio, longest_s
        self._seen: dict[str, tuple[int, float]] = {}

    def failed(self, server: str, *, now_s: float, servers: int, ejected: int, others_ready: int) -> float | None:
        """A server failed as often in a row as is configured.

        Args:
            server: its name.
            now_s: of a monotonic clock.
            servers: how many the pool has.
            ejected: how many of them are out by this rule now.
            others_ready: how many others take requests.

        Returns:
            Seconds to leave it out, or None when it must stay in.
        """
        if others_ready < 1 or ejected + 1 > servers * self._ratio:
            return None
        times, back_s = self._seen.get(server, (0, now_s))
        times = times + 1 if now_s - back_s < times * self._eject_s else 1
        out_s = min(self._eject_s * times, max(self._longest_s, self._eject_s))
        self._seen[server] = (times, now_s + out_s)
        return out_s
