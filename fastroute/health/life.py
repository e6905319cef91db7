"""Which life of a server an answer comes from, so that a restart is recognised. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["SAME_START_S", "boot_of"]

SAME_START_S = 5.0
"""Start times that are no further apart are one start: uptimes are whole seconds, and clocks of replicas differ."""

_BOOT_MAX = 128


def boot_of(fields: Mapping[str, str], boot_header: str, uptime_header: str, known: str, wall_s: float) -> str:
    """What names this life of the server; "" where the answer does not say.

    Args:
        fields: of the answer, names in lower case.
        boot_header: name of the field that names it.
        uptime_header: name of the field with the seconds since the start.
        known: what named it before.
        wall_s: now.
    """
    if boot_header:
        return fields.get(boot_header.lower(), "")[:_BOOT_MAX]
    if uptime_header:
        try:
            uptime_s = float(fields.get(uptime_header.lower(), ""))
        except ValueError:
            return ""
        if not math.isfinite(uptime_s) or not 0 <= uptime_s < 1e10:
            return ""
        start_s = wall_s - uptime_s
        if known.startswith("@") and abs(start_s - int(known[1:] or 0)) <= SAME_START_S:
            return known
        return f"@{int(start_s)}"
    return ""
