"""Everything at once for a few seconds: clients that leave, servers that die, odd framings. Nothing may be left behind,
and no client may ever see another one's answer."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import uvloop

from tests.support.relaying import Client, Seen, configured, proxying, read_request, serving, until

SECONDS = 3.0
CLIENTS = 32


def unruly(dice: random.Random) -> Any:
    """A server that mostly answers with the request's own target, in any framing, and sometimes misbehaves."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(seen, reader)
            said = head.split(b" ")[1] + b" %d\n" % len(body)
            said *= dice.choice([1, 1, 1, 5000])
            what = dice.random()
            if what < 0.02:
                writer.transport.abort()
                return
            if what < 0.04:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + said[:100])
                return
            if what < 0.05:
                writer.write(b"HTTP/1.1 bad\r\n\r\n")
            elif what < 0.4:
                writer.write(b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, len(said), 7001):
                    piece = said[at : at + 7001]
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            elif what < 0.5:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + said)
                return
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
            await writer.drain()
            if what > 0.97:
                return

    return handle


async def visit(dice: random.Random, web: int, name: str, tally: dict[str, int]) -> None:
    """One connection with a few requests, left early now and then."""
    one = Client(*await asyncio.open_connection("127.0.0.1", web, limit=1 << 20))
    try:
        for n in range(dice.randint(1, 12)):
            target = f"/{name}/{n}"
            size = dice.choice([0, 0, 10, 70_000])
            body = b"b" * size
            lines = f"{'POST' if size else 'GET'} {target} HTTP/1.1\r\nHost: a\r\nCookie: sid={dice.randint(0, 50)}\r\n"
            if size and dice.random() < 0.5:
                raw = lines.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, body)
            else:
                raw = lines.encode() + b"Content-Length: %d\r\n\r\n" % size + body
            cut = dice.randint(1, len(raw))
            one.send(raw[:cut])
            await one.writer.drain()
            if dice.random() < 0.05:
                one.writer.transport.abort()
                return
            one.send(raw[cut:])
            await one.writer.drain()
            status, fields = await one.head()
            while status == 103:
                status, fields = await one.head()
            if dice.random() < 0.03:
                return
            answer = await one.body(fields)
            tally[str(status)] = tally.get(str(status), 0) + 1
            if status == 200:
                line = f"{target} {size}\n".encode()
                assert answer == line * (len(answer) // len(line)), (target, answer[:200])
            if fields.get("connection") == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        tally["cut"] = tally.get("cut", 0) + 1
    finally:
        await one.close()


async def chaos(seed: int) -> None:
    dice, tally, wrong = random.Random(seed), dict[str, int](), list[Any]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    async with serving(unruly(dice)) as (p1, _), serving(unruly(dice)) as (p2, _):
        async with proxying(configured([p1, p2], sticky='on = "cookie:sid"')) as (proxy, web):
            end_s = loop.time() + SECONDS

            async def visitor(number: int) -> None:
                n = 0
                while loop.time() < end_s:
                    n += 1
                    await visit(dice, web, f"{number}-{n}", tally)

            await asyncio.gather(*(visitor(number) for number in range(CLIENTS)))
            await until(lambda: proxy.statistics()["downstream_connections"] == 0, "all clients have left")
            found = proxy.statistics()
            assert [server.in_flight for server in found["pools"]["app"].servers] == [0, 0]
            assert found["upstream_open"] <= 2 * CLIENTS
        assert proxy.statistics()["upstream_open"] == 0
    assert not wrong
    assert tally["200"] > 200
    assert tally.get("502", 0) < tally["200"] // 5


def test_nothing_is_left_behind_and_every_answer_is_ones_own() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print("CHAOS_SEED =", seed)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(chaos(seed))
