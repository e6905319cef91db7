"""The relay whole, both directions, in process: http_reading to http_relay and http_upstream as they are
built.

An input is a connection's life, drawn from a seed: a client that sends plausible and spoiled requests in pieces,
servers that answer so, in any order; slow readers, ends and resets on either side, connections refused, time that
passes. What must hold: nothing is raised or logged; what goes on is read the same way by a strict parser and by h11;
no request reaches a server that the client did not make, none is answered twice or with another's answer; what waits
is bounded; when all is over nothing is in flight, and every connection has ended. The parts are in relay_world,
relay_words and relay_oracle.

    python -m tests.fuzz.relay SEED [BEFORE]

runs one input, such as the one that a finding names; with BEFORE as many others first, where it takes their bindings.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from tests.fuzz import relay_oracle as oracle
from tests.fuzz.relay_words import a_mark, a_request, an_answer, spoil
from tests.fuzz.relay_world import CONFIGURATIONS, Finding, Transport, World, open_world

STEPS_MAX = 400
PIECES = (1, 2, 3, 17, 100, 1000, 16_000, 65_536)
END_S = 400.0
"""Longer than every time limit of the configurations one after the other."""


class Server:
    """One connection to a server, and what is still to be said on it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.exchanges: list[oracle.Exchange] = []
        self.queue = b""
        self.ends = ""
        self.parsed, self.answered_at = 0, -1
        self.tunnel = False

    def ask(self, choice: random.Random) -> None:
        """Begin the answer to a request that has begun since the last one."""
        if self.tunnel or self.transport.lost:
            return
        sent = bytes(self.transport.written)
        message = oracle.parse(sent, self.parsed, method=None)
        if message is not None and message.complete and self.answered_at == self.parsed:
            self.parsed = message.end
            message = oracle.parse(sent, self.parsed, method=None)
        if message is None or self.answered_at == self.parsed or (not message.complete and choice.randrange(4)):
            return
        self.answered_at = self.parsed
        mark = a_mark(choice)
        self.exchanges.append(oracle.Exchange(mark.encode()))
        upgrade = bool(message.named(b"upgrade"))
        self.queue = spoil(an_answer(choice, mark, upgrade=upgrade), choice)
        self.tunnel = upgrade and b" 101 " in self.queue
        self.ends = choice.choice(("",) * 8 + ("eof", "eof", "reset"))


class Client:
    """One client: what it has to say, and its connection."""

    def __init__(self, world: World, choice: random.Random) -> None:
        many = choice.choice((1, 1, 2, 3, 5))
        self.asked = b"".join(spoil(a_request(choice, a_mark(choice)), choice) for _ in range(many))
        if choice.randrange(4):
            self.asked = self.asked.replace(b"v1.x.y.z", world.token(choice))
        self.given = self.heard = 0
        """Sent, and sent before the proxy said that it listens no more."""
        self.transport = Transport(world.loop, slow=choice.randrange(4) == 0)
        self.transport.begin(world.relay.make())

    def send(self, size: int) -> None:
        if self.transport.hears and self.given < len(self.asked):
            piece = self.asked[self.given : self.given + size]
            self.given += len(piece)
            if not self.transport.ended or b"HTTP/1.1 101 " in self.transport.written:  # in a tunnel one side may end
                self.heard += len(piece)
            self.transport.give(piece)


class Life:
    """One input."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.choice = world, random.Random(seed)
        self.clients: list[Client] = []
        self.clients_max = self.choice.choice((1, 1, 2, 2, 4))
        self.servers: list[Server] = []
        self.kind = self.choice.randrange(4)
        """Of pieces: whole, any, small, large."""
        self.mishaps = self.choice.choice((0, 0, 1, 4))
        """One of so many steps is one; 0: none."""

    def piece(self) -> int:
        choice = self.choice
        if self.kind == 0:
            return 1 << 16
        if self.kind == 1:
            return choice.choice(PIECES)
        return choice.choice(PIECES[:4] if self.kind == 2 and choice.randrange(20) else PIECES[4:])

    def live(self) -> None:
        """Until nothing is left to do, or for so many steps."""
        for _ in range(STEPS_MAX):
            self.step()
            self.world.settle()
            if (
                len(self.clients) == self.clients_max
                and all(one.transport.lost or one.given == len(one.asked) for one in self.clients)
                and not self.choice.randrange(20)
            ):
                break
        self.finish()

    def transports(self) -> list[Transport]:
        return [one.transport for one in (*self.clients, *self.servers)]

    def step(self) -> None:
        choice = self.choice
        what = choice.randrange(40)
        if len(self.clients) < self.clients_max and (not self.clients or what < 3):
            self.clients.append(Client(self.world, choice))
        elif what < 14:
            choice.choice(self.clients).send(self.piece())
        elif what < 22:
            self.connections()
        elif what < 37:
            self.servers_say()
        elif what == 37:
            for one in self.transports():
                if one.unsent and choice.randrange(2):
                    one.take(choice.choice((1, 1000, 100_000)))
        elif what == 38:
            if choice.randrange(4) == 0:
                self.world.pass_time(choice.choice((0.01,) * 4 + (0.3,) * 8 + (1, 1, 1, 5, 40)))
        elif self.mishaps and choice.randrange(self.mishaps) == 0:
            self.mishap()

    def mishap(self) -> None:
        choice, what = self.choice, self.choice.randrange(9)
        if what == 8:
            self.world.relay.close_idle()
            return
        client = choice.choice(self.clients) if what < 4 or not self.servers else None
        one = client.transport if client is not None else choice.choice(self.servers).transport
        if one.hears and what % 2:
            if client is not None:
                client.asked = client.asked[: client.given]
            one.give_eof()
        elif not one.lost and what % 4 == 0:
            one.reset()

    def connections(self) -> None:
        choice = self.choice
        while self.world.slow.asked:
            outcome = choice.choice(("open",) * 20 + ("refused", "timeout", "own"))
            at = choice.randrange(len(self.world.slow.asked))
            made = self.world.connect(at, slow=choice.randrange(4) == 0, outcome=outcome)
            if made is not None:
                self.servers.append(Server(made))
            if choice.randrange(2):
                return

    def servers_say(self) -> None:
        for one in self.servers:
            one.ask(self.choice)
            if one.queue and one.transport.hears:
                piece, one.queue = one.queue[: (size := self.piece())], one.queue[size:]
                one.exchanges[-1].given += piece
                one.transport.give(piece)
            if not one.queue and one.ends and one.transport.hears:
                if one.ends == "eof":
                    one.transport.give_eof()
                else:
                    one.transport.reset()

    def finish(self) -> None:
        """All goes on to its end, or nobody does more than read; then time passes until everything has ended."""
        if self.choice.randrange(4):
            for _ in range(60):
                for client in self.clients:
                    client.transport.take(1 << 20)
                    client.send(self.piece())
                self.connections()
                self.servers_say()
                self.world.settle()
        passed_s = 0.0
        while True:
            while self.world.slow.asked:
                self.world.connect(0, slow=False, outcome="refused")
                self.world.settle()
            for one in self.transports():
                if one.unsent:
                    one.take(1 << 22)
            self.world.settle()
            if passed_s >= END_S or all(one.lost for one in self.transports()):
                return
            self.world.pass_time(5)
            passed_s += 5

    def judge(self) -> None:
        """What must hold now that it is over."""
        world, check = self.world, oracle.check
        check(not world.loop.errors, "raised or logged:", *world.loop.errors)
        check(all(one.transport.lost for one in self.clients), "a client's connection has not ended")
        check(all(one.transport.lost for one in self.servers), "a server's connection has not ended")
        counts = world.engine.counters()
        for name in ("downstream_connections", "upstream_open", "tunnels"):
            check(counts[name] == 0, name, counts[name])
        lines = world.pool.lines
        check(
            (lines.pending, lines.active, lines.retrying) == (0, 0, 0),
            "pending",
            lines.pending,
            lines.active,
            lines.retrying,
        )
        check(world.pool.waiting.count == 0, "a request waits that is over")
        check(all(one.in_flight == 0 for one in world.pool.pool.statistics().servers), "in_flight")
        check(not world.relay.connections, "connections are kept")

        spoken = [oracle.requests_of(one.asked[: one.heard]) for one in self.clients]
        everything = [one for asked, _ in spoken for one in asked]
        answers: dict[bytes, Any] = {}
        sent: list[oracle.Message] = []
        for server in self.servers:
            got = oracle.forwarded(bytes(server.transport.written), server.exchanges, everything)
            sent += got
            for index, exchange in enumerate(server.exchanges):
                answers[exchange.mark] = exchange, got[index] if index < len(got) else None
        oracle.once(sent, everything)
        for client, (asked, refused) in zip(self.clients, spoken, strict=True):
            one = client.transport
            oracle.answered(one.seen, asked, refused, answers, ended=True, aborted=one.aborted or one.unsent > 0)
        if world.log is not None:
            oracle.logged(world.log.take())


def judge_in(world: World, seed: int) -> None:
    """One input in a world that others have left clean."""
    unraisable: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        life = Life(world, seed)
        life.live()
        life.judge()
    finally:
        sys.unraisablehook = before
    if unraisable:
        raise Finding(f"raised where nobody hears it: {unraisable[0].exc_value!r}")


async def _run(seconds: float, runs: int, seed: int) -> int:
    count, end_s = 0, time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(open_world(number)) for number in range(len(CONFIGURATIONS))]
        while (runs and count < runs) or (not runs and time.monotonic() < end_s):
            now = seed + count
            try:
                judge_in(worlds[now % len(worlds)], now)
            except BaseException:
                print(f"fuzz relay: finding with seed {now}: python -m tests.fuzz.relay {now}")
                raise
            count += 1
            if count % 256 == 0:
                await asyncio.sleep(0)  # what the affinity does beside requests
    return count


def run(seconds: float, runs: int = 0, seed: int = 1) -> int:
    """Judge inputs for so long or so many; -> how many. A Finding or any other exception is a finding."""
    return asyncio.run(_run(seconds, runs, seed))


if __name__ == "__main__":
    more = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    run(0, 1 + more, int(sys.argv[1]) - more)
