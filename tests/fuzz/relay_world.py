"""What the relay runs in when it is fuzzed: a loop that never turns by itself, transports without sockets, servers that
are reached at the fuzzer's word. Everything else is the product, built from a configuration as `fastroute serve`
builds it.

Rules of this file: time stands still until it is moved; a transport does what asyncio's do, and counts as a finding
what asyncio would only warn of (a write after the end, an end after the end).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastroute._core.http_attempt import Attempt
from fastroute._core.http_log import AccessLog
from fastroute._core.http_relay import Relay
from fastroute._core.http_upstream import ServerLine, Upstream
from fastroute._core.http_wire import WRITE_HIGH_BYTES, Engine
from fastroute._core.zone import Zone
from fastroute.clock import ManualClock
from fastroute.config.load import loads
from fastroute.proxy.build import make_relay, open_parts
from fastroute.proxy.forward import SlowPath
from fastroute.proxy.seat import own_seat

UNSENT_BYTES_MAX = WRITE_HIGH_BYTES + (256 << 10) + (192 << 10)
"""What may wait for a peer: the mark at which its writer is stopped, what one write gathers, what one read brought."""

LOW_BYTES = WRITE_HIGH_BYTES // 4

PLAIN = """
zone = { name = "ZONE", size = "1MiB" }
[listeners.web]
bind = "127.0.0.1:1"
pool = "app"
[listeners.web.timeouts]
tunnel_idle = "60s"
[pools.app]
[[pools.app.servers]]
name = "s1"
address = "127.0.0.1:1001"
[[pools.app.servers]]
name = "s2"
address = "127.0.0.1:1002"
"""

CONFIGURATIONS = (
    PLAIN + "[pools.app.retry]\nattempts = 2\n",
    'secret = "a secret for tests of at least 32 bytes"\ndebug_headers = true\n'
    + PLAIN
    + '[pools.app.sticky]\non = "insert"\n',
    PLAIN.replace(
        'pool = "app"\n',
        'pool = "app"\ntrusted_proxies = ["192.0.2.0/24"]\nforwarded = true\nrequest_id = "X-Request-Id"\n'
        'routes = [{ host = "*.b.test", path_prefix = "/x", pool = "app", '
        'request_headers = { set = { X-Route = "1" }, remove = ["Cookie"] } }]\n',
        1,
    )
    + '[pools.app.sticky]\non = ["json:user", "header:X-User", "query:q"]\n[access_log]\nformat = "json"\n',
    PLAIN.replace('address = "127.0.0.1:1001"', 'address = "127.0.0.1:1001"\nmax_connections = 1')
    .replace('address = "127.0.0.1:1002"', 'address = "127.0.0.1:1002"\nmax_connections = 1')
    .replace(
        "[listeners.web.timeouts]",
        "[listeners.web.limits]\nrequests_per_connection = 3\nbody_bytes = 2000\nmin_rate_bytes = 10\n"
        '[listeners.web.timeouts]\ntotal = "40s"',
    ),
)
"""The listeners that are fuzzed: retries; the balancer's own cookie; keys in bodies, trusted peers and the access log;
limits, with servers that take one connection. Each in a zone of its own: what is in flight counts for all of a zone."""


class Finding(AssertionError):
    """What must hold does not."""


class Loop:
    """What the engine and the pool's line of waiting ask of an event loop."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._due: list[tuple[float, Callable[..., object], tuple[Any, ...], _Handle]] = []
        self.errors: list[Any] = []

    def call_soon(self, what: Callable[..., object], *arguments: Any) -> _Handle:
        return self.call_later(0, what, *arguments)

    def call_later(self, delay_s: float, what: Callable[..., object], *arguments: Any) -> _Handle:
        handle = _Handle()
        self._due.append((self.clock.monotonic_s() + delay_s, what, arguments, handle))
        return handle

    def call_exception_handler(self, context: Any) -> None:
        self.errors.append(context)

    def turn(self) -> bool:
        """Run what is due, once; False: nothing was."""
        now_s, due, self._due = self.clock.monotonic_s(), self._due, []
        self._due = [one for one in due if one[0] > now_s]
        ran = False
        for at_s, what, arguments, handle in due:
            if at_s <= now_s and not handle.cancelled:
                what(*arguments)
                ran = True
        return ran


class _Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Transport:
    """A connection whose other end is the fuzzer.

    Args:
        loop: where connection_lost waits for its turn.
        slow: the peer takes nothing by itself; take() makes it.
    """

    def __init__(self, loop: Loop, *, slow: bool) -> None:
        self.loop, self.slow = loop, slow
        self.protocol: Any = None
        self.written, self.unsent = bytearray(), 0
        self.high, self.stopped = WRITE_HIGH_BYTES, False
        self.reading, self.closing, self.aborted, self.lost = True, False, False, False
        self.ended = False
        """The proxy's side sends no more."""
        self.eof = False
        """The peer sends no more."""

    def begin(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    @property
    def seen(self) -> bytes:
        """What the peer got."""
        return bytes(self.written[: len(self.written) - self.unsent])

    # ---- what a protocol calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.9", 40000), "sockname": ("192.0.2.1", 80)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or WRITE_HIGH_BYTES

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        if self.closing or self.ended:
            raise self._finding("a write after the end")
        self.written += data
        if self.slow:
            self.unsent += len(data)
            if self.unsent > UNSENT_BYTES_MAX:
                raise self._finding(f"{self.unsent} bytes wait")
            if self.unsent > self.high and not self.stopped:
                self.stopped = True
                self.protocol.pause_writing()

    def write_eof(self) -> None:
        if self.closing or self.ended:
            raise self._finding("an end after the end")
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unsent:
                self._lose()

    def abort(self) -> None:
        self.aborted = True
        if not self.closing or self.unsent:
            self.closing = True
            self._lose()

    def _finding(self, text: str) -> Finding:
        found = Finding(f"{type(self.protocol).__name__}: {text}")
        self.loop.errors.append(found)  # the relay catches what transports raise
        return found

    def _lose(self, error: Exception | None = None) -> None:
        self.loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(error)

    # ---- what the fuzzer does

    @property
    def hears(self) -> bool:
        """Would the protocol get bytes now?"""
        return self.reading and not self.closing and not self.lost and not self.eof

    def give(self, data: bytes) -> None:
        """The peer's bytes arrive; only while it hears."""
        self.protocol.data_received(data)

    def give_eof(self) -> None:
        """The peer sends no more; only while the protocol hears."""
        self.eof = True
        if not self.protocol.eof_received():
            self.close()

    def take(self, size: int) -> None:
        """The peer reads."""
        self.unsent -= min(size, self.unsent)
        if self.stopped and self.unsent <= LOW_BYTES and not self.lost:
            self.stopped = False
            self.protocol.resume_writing()
        if self.closing and not self.unsent:
            self._lose()

    def reset(self) -> None:
        """The peer is gone."""
        self.closing = self.eof = self.aborted = True
        self._lost(ConnectionResetError())


class Slow(SlowPath):
    """The slow path with connections that the fuzzer opens, or does not."""

    def __init__(self, like: SlowPath) -> None:
        super().__init__(like._router, like._lines, names=like._names, connect_s=0, at_once=True)
        self.asked: list[tuple[Attempt, int, ServerLine]] = []

    def connect(self, request: Attempt, epoch: int, line: ServerLine) -> None:
        self._lines.count_connect()
        self.asked.append((request, epoch, line))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            work.send(None)
        except StopIteration:
            return
        raise Finding("a zone alone was waited for")


class World:
    """One listener before one pool of two servers."""

    def __init__(self, relay: Relay, engine: Engine, loop: Loop, slow: Slow, pool: Any, log: AccessLog | None) -> None:
        self.relay, self.engine, self.loop, self.slow, self.pool, self.log = relay, engine, loop, slow, pool, log
        self.clock = loop.clock

    def connect(self, index: int, *, slow: bool, outcome: str) -> Transport | None:
        """Decide a connection that was asked for: "open", "refused", "timeout", "own" (a fault of this end)."""
        request, epoch, line = self.slow.asked.pop(index)
        if outcome == "open":
            up, transport = Upstream(line), Transport(self.loop, slow=slow)
            transport.begin(up)
            if not request.connected(epoch, up):
                line.adopt(up)
            return transport
        self.pool.lines.count_connect_failure(outcome == "timeout")
        if outcome == "own":
            request.unconnected(epoch, 503)
        else:
            request.connect_failed(epoch, outcome == "timeout")
        return None

    def token(self, choice: random.Random) -> bytes:
        """A value of the balancer's own cookie, as one of six users has it: fresh, old, or hinting at nobody."""
        codec = self.pool.codec
        if codec is None:
            return b"v1.x.y.z"
        digest = choice.choice((codec.server_digest("s1"), codec.server_digest("s2"), 7))
        minute = int(self.clock.wall_s() / 60) - choice.choice((0, 0, 9, 60))
        key, term = bytes([choice.randrange(6)]) * 16, choice.choice((0, 1, 1 << 40))
        text: str = codec.sign_text(key, digest, term, choice.randrange(3), minute)
        return text.encode()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.engine.tick()
        self.settle()

    def settle(self) -> None:
        """Let the loop do what is due."""
        for _ in range(20):
            if not self.loop.turn():
                return


@contextlib.asynccontextmanager
async def open_world(number: int, make_loop: Callable[[ManualClock], Any] = Loop) -> AsyncIterator[World]:
    """The world of one of CONFIGURATIONS; entered within a running loop, which only the affinity looks at.

    Args:
        number: which configuration.
        make_loop: what the relay's side runs on: a Loop, or one that does the same.
    """
    zone = f"t-fuzz-{os.getpid()}-{number}"
    Zone.unlink(zone)  # of a process that had this number, and was killed
    config = loads(CONFIGURATIONS[number].replace("ZONE", zone)).config
    clock = ManualClock()
    loop, seat = make_loop(clock), own_seat(config)
    engine = Engine(clock, manual=True, row=seat.row)
    engine.start(loop)
    parts = await open_parts(config, engine, clock=clock, seat=seat)
    try:
        pool = parts.pools["app"]
        slow = pool.slow = Slow(pool.slow)
        log = AccessLog(engine, json=True, bytes_max=1 << 20) if config.access_log.format == "json" else None
        relay = make_relay(config, "web", parts.pools, engine, seat, log, None)
        yield World(relay, engine, loop, slow, pool, log)
    finally:
        engine.stop()
        await parts.aclose()
        Zone.unlink(zone)
