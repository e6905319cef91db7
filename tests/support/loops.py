"""Tests on the event loop of the workers (uvloop), or on each of the two."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

LOOPS: dict[str, Any] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Test = Callable[..., Awaitable[None]]

SETTLING_TURNS = 10
"""Of an event loop, between accepting a connection and the first step of who serves it: four, and some to spare."""


async def settled() -> None:
    """Every connection that was accepted has its handler begun: one that is cancelled before that closes nothing."""
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


def _run(test: Test, loop: str, *given: Any, **named: Any) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test(*given, **named))  # type: ignore[arg-type]


def on_uvloop(test: Test) -> Callable[..., None]:
    """The test as a plain one that runs on uvloop."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        _run(test, "uvloop", *given, **named)

    return run


def on_each_loop(test: Test) -> Callable[..., None]:
    """The test twice: on asyncio's loop and on uvloop."""

    @functools.wraps(test)
    def run(*given: Any, loop: str, **named: Any) -> None:
        _run(test, loop, *given, **named)

    signature = inspect.signature(test)
    more = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", sorted(LOOPS))(run)
