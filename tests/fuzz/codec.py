"""The memcached codec as the client uses it, fed with mutated replies; what must hold is in `judge`.

What tests/fuzz/meta.c cannot reach: whose reply it is, futures, values as Python objects, the end of a connection.
Run it by tests/fuzz/run.py; a short run is among the tests.
"""

from __future__ import annotations

import random
from typing import Any

from fastroute._core import mc_queue, mc_reply
from fastroute._core.mc_meta import MetaCodec
from tests.fuzz import seeded

WORDS = [
    b"VA 5 c5 t60 f7", b"VA 0 c1 W", b"VA 2 c3 X Z", b"HD c5", b"HD", b"EN", b"NS c0", b"EX c0", b"NF", b"MN", b"OK",
    b"STORED", b"ERROR", b"CLIENT_ERROR bad data chunk", b"SERVER_ERROR out of memory", b"VERSION 1.6.18",
    b"VA 18446744073709551615", b"VA -1", b"VA 05", b"", b"HD c99999999999999999999", b"VA 1048065 f0",
]  # fmt: skip


class Waiter:
    """What the codec takes for a future."""

    def __init__(self) -> None:
        self.result: Any = None
        self.times = 0

    def done(self) -> bool:
        return self.times > 0

    def set_result(self, result: Any) -> None:
        self.result = result
        self.times += 1


def ask(codec: MetaCodec, choice: random.Random) -> tuple[list[Any], list[int]]:
    """Some requests, drawn; -> (waiters, what was asked)."""
    waiters, kinds = [], []
    for _ in range(choice.randrange(1, 6)):
        kind = choice.randrange(8)
        kinds.append(kind)
        waiters.append(
            [
                lambda: codec.get("k"),
                lambda: codec.get("k", 60),
                lambda: codec.set("k", b"v"),
                lambda: codec.add_then_get("k", b"v", 60),
                lambda: codec.touch("k", 60),
                lambda: codec.delete("k"),
                lambda: codec.increment("k"),
                lambda: codec.noop(),
            ][kind]()
        )
    return waiters, kinds


def plausible(codec: MetaCodec, kinds: list[int], choice: random.Random, first: int) -> bytes:
    """Answers as memcached would give them, before they are spoiled."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    out, number = [], first
    for kind in kinds:
        for part in range(2 if kind == 3 else 1):
            mark = b" O" + bytes(alphabet[number >> shift & 63] for shift in (12, 6, 0))
            number += 1
            if kind in (0, 1) or (kind == 3 and part):
                value = choice.randbytes(choice.choice((0, 1, 5, 300)))
                out.append(choice.choice((b"EN\r\n", b"VA %d c7 t9 f1%b\r\n%b\r\n" % (len(value), mark, value))))
            elif kind in (2, 3):
                out.append(choice.choice((b"HD c8%b\r\n" % mark, b"NS c0%b\r\n" % mark, b"SERVER_ERROR x\r\n")))
            elif kind == 4:
                out.append(choice.choice((b"HD%b\r\n" % mark, b"EN\r\n")))
            elif kind == 5:
                out.append(choice.choice((b"HD%b\r\n" % mark, b"NF%b\r\n" % mark)))
            elif kind == 6:
                out.append(b"VA 1 c9%b\r\n7\r\n" % mark)
            else:
                out.append(b"MN\r\n")
    return b"".join(out)


def spoil(data: bytes, choice: random.Random) -> bytes:
    """None to three changes."""
    for _ in range(choice.randrange(4)):
        at = choice.randrange(len(data) + 1)
        how = choice.randrange(6)
        if how == 0 and data:
            data = data[:at] + bytes([choice.randrange(256)]) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[at + choice.randrange(1, 5) :]
        elif how == 2:
            data = data[:at] + choice.choice(WORDS) + b"\r\n" + data[at:]
        elif how == 3:
            data = data[:at] + choice.choice((b"\r", b"\n", b" ", b"0", b"\r\n")) + data[at:]
        elif how == 4:
            data = data[:at]
        else:
            data = data + choice.choice(WORDS) + choice.choice((b"\r\n", b"\n", b""))
    return data


def judge(seed: int) -> None:
    """One input: nothing is raised, everybody is answered, nobody twice, and pieces do not matter."""
    outcomes = []
    for pieces in (False, True):
        choice = random.Random(seed)
        failures: list[str] = []
        codec = MetaCodec()
        codec.attach(Waiter, lambda: None, codec.opening, None, failures.append)
        codec.hello()
        codec.feed(b"MN\r\n")
        heard: list[Any] = []
        first = 0
        for _ in range(choice.randrange(1, 3)):
            waiters, kinds = ask(codec, choice)
            codec.take()
            data = spoil(plausible(codec, kinds, choice, first), choice)
            first += len(kinds) + kinds.count(3)
            heard += waiters
            if pieces:
                cut = random.Random(seed + 1)
                while data:
                    size = cut.choice((1, 2, 3, 17, 400))
                    codec.feed(data[:size])
                    data = data[size:]
            else:
                codec.feed(data)
        assert bool(failures) == (codec.state == mc_queue.AWAY), failures
        assert len(failures) <= 1, failures
        codec.close()
        for waiter in heard:
            assert waiter.times == 1, "answered once"
        flat = [
            one for waiter in heard for one in (waiter.result if isinstance(waiter.result, tuple) else [waiter.result])
        ]
        for reply in flat:
            assert mc_reply.HIT <= reply.status <= mc_reply.DOWN
            assert reply.value is None or len(reply.value) <= mc_queue.VALUE_BYTES_MAX
        outcomes.append(([(r.status, r.value, r.cas, r.ttl_s, r.client_flags) for r in flat], failures))
    assert outcomes[0] == outcomes[1], "pieces made a difference"


def run(seconds: float, runs: int = 0, seed: int = 1) -> int:
    """Judge inputs for so long or so many; -> how many. An AssertionError or any other exception is a finding."""
    return seeded.run("codec", judge, seconds, runs, seed)
