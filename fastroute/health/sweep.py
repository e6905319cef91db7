"""Outlier ejection by what a server did lately: the share of its requests that failed, and its latency. Pure.

Not here: failures in a row (the relay, outlier), how long a server is out (outlier.Outliers), who counts (the keeper).
The rules: of servers with `min_requests` or more since the last sweep, one is suspected when
  - at least `failure_ratio` of them failed: no answer, no connection, or a 5xx (Envoy: failure_percentage_threshold,
    in per cent, with failure_percentage_request_volume 50; off there unless enforced, and here at 0), or
  - its latency is more than `latency_factor` times the median of the others' (0: off). Two others at least must be
    measured: of two servers nobody can say which one is wrong.
The worst come first, so that a bound on how many may be out takes them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Window", "suspects"]

OTHERS_MIN = 2
"""Servers that a latency is compared with, at least."""


class Window(NamedTuple):
    """One server since the last sweep.

    Attributes:
        requests, failures: counts.
        latency_s: average, 0 where it is not known.
    """

    name: str
    requests: int
    failures: int
    latency_s: float


def suspects(
    windows: Iterable[Window], *, failure_ratio: float, latency_factor: float, min_requests: int
) -> list[tuple[str, str]]:
    """(server, why) of those that should be ejected, the worst first."""
    counted = [one for one in windows if one.requests >= max(min_requests, 1)]
    found: list[tuple[float, str, str]] = []
    for one in counted:
        ratio = one.failures / one.requests
        if failure_ratio and ratio >= failure_ratio:
            found.append((1e9 * ratio, one.name, f"{one.failures} of {one.requests} requests failed"))
            continue
        others = [other.latency_s for other in counted if other is not one and other.latency_s > 0]
        if latency_factor and one.latency_s > 0 and len(others) >= OTHERS_MIN:
            median_s = statistics.median(others)
            if one.latency_s > latency_factor * median_s:
                latency_ms, median_ms = one.latency_s * 1000, median_s * 1000
                why = f"its latency of {latency_ms:.1f} ms is above {latency_factor:g} x {median_ms:.1f} ms"
                found.append((one.latency_s / median_s, one.name, why))
    return [(name, why) for _, name, why in sorted(found, key=lambda row: (-row[0], row[1]))]
