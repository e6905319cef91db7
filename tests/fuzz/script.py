"""Scripts against the relay whole, with feedback from its branches: the fast form of the target `relay`.

An input is a script: what up to four clients and their servers say, byte for byte, and what else happens
(script_words.h). It is run by script_drive.pyx and judged by script_judge.c; one of 128, and every one that joins the
corpus, also by the oracle of the target `relay`, with h11 (relay_oracle.py). Needs the build of `make test-sanitize`
(or FASTROUTE_TRACE=1), whose extensions tell their branches.

    python -m tests.fuzz.script [-seconds N | -runs N] [-seed N] [-keep DIRECTORY] [-one FILE]
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import pathlib
import random
import re
import sys
from contextlib import AsyncExitStack
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = ROOT / "build" / "fuzz" / "seeds-script"
SEED_COUNT = 600
SLICE = 2000
"""Inputs after which the event loop turns: what the affinity does beside requests."""
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"

Record = tuple[list[tuple[bytes, bytes, bool]], list[tuple[bytes, list[bytes]]]]


def drive() -> Any:
    """The compiled driver; the first of all extensions, so that theirs tell their branches to its engine."""
    found = sorted(HERE.glob("script_drive.*.so"))
    if not found:
        raise FileNotFoundError("tests/fuzz/script_drive is not built: run make test-sanitize")
    ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("tests.fuzz.script_drive")


def judge(record: Record) -> None:
    """By the oracle of the target `relay`."""
    from tests.fuzz import relay_oracle as oracle

    clients, servers = record
    spoken = [oracle.requests_of(said) for said, _, _ in clients]
    everything = [one for asked, _ in spoken for one in asked]
    answers: dict[bytes, Any] = {}
    sent: list[oracle.Message] = []
    for got, said in servers:
        exchanges = [oracle.Exchange(mark_of(one), bytearray(one)) for one in said]
        found = oracle.forwarded(got, exchanges, everything)
        sent += found
        for index, exchange in enumerate(exchanges):
            answers[exchange.mark] = exchange, found[index] if index < len(found) else None
    answers.pop(b"", None)
    oracle.once(sent, everything)
    for (_, seen, aborted), (asked, refused) in zip(clients, spoken, strict=True):
        oracle.answered(seen, asked, refused, answers, ended=True, aborted=aborted)


def mark_of(said: bytes) -> bytes:
    """The mark of the final answer in what a server said to one request; b"": it has none."""
    from fastroute._core.http_head import scan_response
    from fastroute.errors import UpstreamProtocolError
    from tests.fuzz.relay_words import is_mark

    at = 0
    while True:
        try:
            head = scan_response(said[at : at + 40_000], status_line_bytes=32768, fields=256)
        except UpstreamProtocolError:
            return b""
        if head is None:
            return b""
        if head["status"] >= 200 or head["status"] == 101:
            mark = next((value for name, value, *_ in head["fields"] if name.lower() == b"x-mark"), b"")
            return mark if is_mark(mark) else b""
        at += head["head_size"]


def a_script(choice: random.Random) -> bytes:
    """A plausible one, of what the target `relay` says: one to three requests and their answers."""
    from tests.fuzz.relay_words import a_request, an_answer, spoil

    def text(raw: bytes) -> bytes:
        raw = re.sub(rb"[\xec-\xff]", b"\xeb", raw).replace(b"MARK", b"\xef").replace(b"v1.x.y.z", b"\xec")
        return re.sub(rb"x{9999}x+", b"\xed\xed", raw)[:3000]

    def act(what: int, number: int) -> bytes:
        return bytes([what, 0x40 + number])

    script = bytes([choice.randrange(256) & choice.choice((0x0F, 0x3F, 0xFF))])
    for _ in range(choice.choice((1, 1, 2, 3))):
        asked = a_request(choice, "MARK")
        upgrade = b"upgrade: " in asked.lower()
        script += act(0xF0, choice.randrange(64) & choice.choice((0, 0, 3, 63))) + text(spoil(asked, choice))
        for _ in range(choice.choice((0, 0, 0, 1, 2))):
            script += act(0xF4 + choice.randrange(6), choice.randrange(64))
        said = an_answer(choice, "MARK", upgrade=upgrade)
        script += act(0xF2, choice.randrange(64) & choice.choice((0, 0, 0x38, 63))) + text(spoil(said, choice))
    return script


def write_seeds(into: pathlib.Path) -> None:
    choice = random.Random(1)
    into.mkdir(parents=True, exist_ok=True)
    for number in range(SEED_COUNT):
        (into / f"{number:04d}").write_bytes(a_script(choice))


async def _run(arguments: list[str]) -> int:
    driver_module = drive()
    from fastroute._core import http_wire
    from tests.fuzz import relay_oracle as oracle
    from tests.fuzz.relay_world import CONFIGURATIONS, open_world

    loop = importlib.import_module("tests.fuzz.script_wire").Loop

    vars(http_wire)["formatdate"] = lambda *_, **__: DATE  # it is a fifth of an input's time
    async with AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(open_world(number, loop)) for number in range(len(CONFIGURATIONS))]
        for world in worlds:
            world.engine.stop()  # scripts tick
        driver = driver_module.Driver(worlds, judge, oracle.logged)
        before, sys.unraisablehook = sys.unraisablehook, lambda about: driver.unraisable.append(about.exc_value)
        try:
            driver_module.begin(driver, arguments)
            while driver_module.more(SLICE):
                await asyncio.sleep(0)
        finally:
            sys.unraisablehook = before
        return int(driver_module.end())


def run(seconds: float, runs: int = 0, seed: int = 1) -> int:
    """Judge inputs for so long or so many; -> how many. A finding ends the process."""
    write_seeds(SEEDS)
    os.chdir(SEEDS.parent)  # where a finding is left
    much = ["-runs", str(runs)] if runs else ["-seconds", str(seconds)]
    return asyncio.run(_run([*much, "-seed", str(seed), str(SEEDS)]))


if __name__ == "__main__":
    write_seeds(SEEDS)
    asyncio.run(_run([*sys.argv[1:], *([] if "-one" in sys.argv else [str(SEEDS)])]))
