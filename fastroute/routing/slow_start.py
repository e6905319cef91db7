"""The ramps of slow start as pure functions: which part of its weight a server has, some time after it came back.

The compiled twin is ext/fr_slow_start.h, which also says how a share is held; tests hold the two together. When a ramp
begins is the pool's: only when a server that was "down" becomes "ready", never when it is new.
"""

from __future__ import annotations

__all__ = ["HAPROXY_STEPS", "envoy_ramp", "haproxy_ramp"]

HAPROXY_STEPS = 16
"""Steps of HAProxy's ramp: its weight divider for consistent hashing."""


def envoy_ramp(elapsed_s: float, window_s: float, *, aggression: float = 1.0, min_weight: float = 0.1) -> float:
    """Envoy's: max(min_weight, (elapsed / window) ** (1 / aggression)), with an elapsed time of at least a millisecond.

    Args:
        elapsed_s: since the server came back; from window_s on the ramp is over.
        window_s: length of the ramp; 0: none.
        aggression: above 1 faster at first, below 1 slower; 1 is a straight line.
        min_weight: smallest part, 0..1.

    Returns: 0..1, the part of the weight.

    Source: Envoy, Upstream::EdfLoadBalancerBase::applySlowStartFactor.
    """
    if elapsed_s >= window_s:
        return 1.0
    return min(1.0, max(min_weight, float((max(elapsed_s, 0.001) / window_s) ** (1.0 / aggression))))


def haproxy_ramp(elapsed_s: float, window_s: float, *, min_weight: float = 0.0, steps: int = HAPROXY_STEPS) -> float:
    """HAProxy's: whole steps of 1/steps, the first at once: (steps * elapsed / window + 1) // 1 / steps.

    Args:
        elapsed_s, window_s, min_weight: as envoy_ramp.
        steps: the divider of weights.

    Source: HAProxy, server_recalc_eweight: w = (wdiv * (now - last_change) + slowstart) / slowstart.
    """
    if elapsed_s >= window_s:
        return 1.0
    return min(1.0, max(min_weight, (int(steps * elapsed_s / window_s) + 1) / steps))
