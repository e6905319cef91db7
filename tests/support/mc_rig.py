"""A codec of the meta protocol with hand-made bytes: who asks, what it writes, what it is given to read."""

from __future__ import annotations

from typing import Any

from fastroute._core import mc_meta


class Waiter:
    """A future without a loop."""

    def __init__(self) -> None:
        self.result: Any = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or self.result is not None

    def set_result(self, result: object) -> None:
        assert not self.done(), "completed twice"
        self.result = result


class Rig:
    """A codec with what its connection would hear from it."""

    def __init__(self, *, up: bool = True, **options: Any) -> None:
        self.codec = mc_meta.MetaCodec(**options)
        self.codec.set_clock_ms(1_000_000)
        self.notified = self.ups = 0
        self.failures: list[str] = []
        self.codec.attach(Waiter, self._notify, self.codec.opening, self._up, self.failures.append)
        if up:
            self.connect()

    def _notify(self) -> None:
        self.notified += 1

    def _up(self) -> None:
        self.ups += 1

    def connect(self) -> None:
        assert self.codec.hello() == b"mn\r\n"
        self.codec.feed(b"MN\r\n")
        assert self.codec.up


def statuses(*waiters: Any) -> list[str]:
    return [waiter.result.status_name if waiter.result is not None else "waiting" for waiter in waiters]
