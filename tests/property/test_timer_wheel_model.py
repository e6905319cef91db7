"""The coarse timer wheel against a dict: every limit that passed fires once, never early, at most two ticks late."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core.http_wire import wheel_trace

TICK_MS = 256

_step = st.one_of(
    st.tuples(st.just("arm"), st.integers(0, 15), st.integers(1, 400_000)),
    st.tuples(st.just("disarm"), st.integers(0, 15)),
    st.tuples(st.just("advance"), st.integers(0, 200_000)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_step, max_size=60), st.integers(1, 50))
def test_limits_fire_once_never_early_and_at_most_two_ticks_late(
    given_steps: list[tuple[str, int, int]], most: int
) -> None:
    now, steps, armed = 0, [], dict[int, int]()
    checks: list[tuple[int, dict[int, int]]] = []
    for step in [*given_steps, ("advance", 600_000)]:
        if step[0] == "advance":
            now += step[1]
            steps.append(("advance", now))
        elif step[0] == "arm":
            steps.append(("arm", step[1], now + step[2]))
        else:
            steps.append(step)
    trace = iter(wheel_trace(steps, most))
    for step in steps:
        if step[0] == "arm":
            armed[step[1]] = step[2]
        elif step[0] == "disarm":
            armed.pop(step[1], None)
        else:
            fired = next(trace)
            assert len(set(fired)) == len(fired)
            for timer in fired:
                assert armed.pop(timer) <= step[1]
            assert all(deadline > step[1] - 2 * TICK_MS for deadline in armed.values())
            checks.append((step[1], dict(armed)))
    assert not armed
