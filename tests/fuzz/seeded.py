"""Inputs that are drawn from seeds, one after the other: the targets in Python that need no event loop."""

from __future__ import annotations

import time
from collections.abc import Callable


def run(target: str, judge: Callable[[int], object], seconds: float, runs: int, seed: int) -> int:
    """Judge the inputs of successive seeds for so long or so many; -> how many.

    Args:
        target: its module in tests.fuzz, named with the seed when `judge` raises: whatever it raises is a finding.
        judge: draws the input of a seed and looks at it.
        seconds: for so long, where runs is 0.
        runs: how many.
        seed: the first.
    """
    count, end_s = 0, time.monotonic() + seconds
    while (runs and count < runs) or (not runs and time.monotonic() < end_s):
        try:
            judge(seed + count)
        except BaseException:
            print(f"fuzz {target}: finding with seed {seed + count}: tests.fuzz.{target}.judge({seed + count})")
            raise
        count += 1
    return count
