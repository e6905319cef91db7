"""`Proxy`: the reverse proxy as an object inside a running uvloop or asyncio loop.

Not here: processes, signals, binding addresses for several workers (supervisor, worker, sockets).
Theory of operation. start() builds everything between listeners and servers, then accepts; drain() stops accepting,
ends idle connections, lets requests end with `Connection: close`, tells the clients of WebSockets to go elsewhere, and
cuts what is left when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from fastroute._core.http_log import AccessLog
from fastroute._core.http_relay import Relay
from fastroute._core.http_wire import Engine
from fastroute._core.tcp_relay import TcpRelay
from fastroute.affinity import Affinity
from fastroute.clock import SYSTEM, Clock
from fastroute.config.schema import Config
from fastroute.errors import UsageError
from fastroute.model import Server
from fastroute.proxy.access_log import LogFile
from fastroute.proxy.build import Parts, make_relay, open_parts
from fastroute.proxy.hooks import HookRequest, HookResponse, Hooks
from fastroute.proxy.keeper import Keeper, keeps_anything
from fastroute.proxy.layers import Layers
from fastroute.proxy.listener import Listener
from fastroute.proxy.seat import Seat, own_seat
from fastroute.proxy.sockets import Inherited, lend, open_sockets
from fastroute.proxy.tcp import make_tcp_relay

__all__ = ["Proxy"]

DRAIN_LOOK_S = 0.02
"""How often a drain looks whether the last connection has ended."""

ENDING_S = 1.0
"""How long a draining proxy waits for clients to answer the end of TLS, when it waits for nothing else."""

GOODBYES_PER_LOOK = 20
"""How many WebSockets a draining proxy tells to go elsewhere at each look: a thousand a second, so that their clients
do not all come back at once; more only where they would not all be told in half of the drain's time."""

IDLE_GRACE_S = 1.0
"""How long a draining proxy keeps idle connections open: a request that is already on its way is still answered, with
`Connection: close`, instead of meeting a closed connection."""


class Proxy:
    """A reverse proxy.

    Args:
        config: loaded and checked (fastroute.config.load).
        sockets: listener's name -> bound, listening sockets, which the proxy then owns; None: it binds them itself.
        clock: stamps cookies; tests hold it still.
        affinity: what remembers bindings, for all sticky pools; None: made from the configuration.
        seat: where it counts for others to read, and whose orders it follows; None: by itself.
        on_request, on_selection, on_response: hooks (fastroute.proxy.hooks), called in the event loop for every
            request; looked at when the proxy starts.

    Notes:
        Belongs to one event loop. `async with` starts it and closes it.
    """

    def __init__(
        self,
        config: Config,
        *,
        sockets: Mapping[str, list[socket.socket]] | None = None,
        clock: Clock = SYSTEM,
        affinity: Any = None,
        seat: Seat | None = None,
        on_request: Callable[[HookRequest], object] | None = None,
        on_selection: Callable[[HookRequest, Server, str], object] | None = None,
        on_response: Callable[[HookRequest, HookResponse], object] | None = None,
    ) -> None:
        self.on_request, self.on_selection, self.on_response = on_request, on_selection, on_response
        self._config, self._given, self._clock, self._affinity = config, sockets, clock, affinity
        self._seat = seat if seat is not None else own_seat(config)
        self._keeper: Keeper | None = None
        self._alone = seat is None
        self._engine: Engine | None = None
        self._parts: Parts | None = None
        self._log: LogFile | None = None
        self._listeners: list[Listener] = []
        self._paths: list[str] = []
        self._addresses: dict[str, list[tuple[str, int] | str]] = {}

    async def start(self) -> None:
        """Return when every listener accepts.

        Raises:
            BindError: an address cannot be had.
            FastrouteError: the configuration cannot be served; nothing stays open.
        """
        if self._engine is not None:
            raise UsageError("this proxy was started before; make another one")
        self._engine = engine = Engine(self._clock, row=self._seat.row)
        try:
            self._parts = await open_parts(
                self._config, engine, clock=self._clock, affinity=self._affinity, seat=self._seat
            )
            self._seat.start(self._parts)
            sockets = self._given if self._given is not None else self._open()
            engine.start(asyncio.get_running_loop())
            lines = self._open_log(engine)
            hooks = Hooks(self.on_request, self.on_selection, self.on_response)
            for name, listener in self._config.listeners.items():
                relay: Relay | TcpRelay
                if listener.protocol == "tcp":
                    relay = make_tcp_relay(self._config, name, self._parts.pools, engine, self._seat, lines)
                else:
                    relay = make_relay(self._config, name, self._parts.pools, engine, self._seat, lines, hooks)
                self._listeners.append(Listener(name, relay, list(sockets[name]), listener))
            layers = Layers(self._config, self._parts.pools, self._seat, self._clock)
            if layers.looks:
                layers.look()
                engine.watches.append(layers.look)
            for ready in self._listeners:
                await ready.start()
                self._addresses[ready.name] = ready.addresses()
            self._seat.accept(True)
            if keeps_anything(self._config, self._parts):
                self._keeper = Keeper(self._config, self._parts, self._seat, alone=self._alone)
                self._keeper.start()
        except BaseException:
            await self.aclose()
            raise

    def _open_log(self, engine: Engine) -> AccessLog | None:
        of = self._config.access_log
        if of.format == "off":
            return None
        lines = AccessLog(engine, json=of.format == "json", bytes_max=of.buffer_bytes)
        self._log = LogFile(lines, of.path)
        self._log.start()
        engine.watches.append(self._log.look)
        return lines

    def reopen_logs(self) -> None:
        """Open the access log's path again, which was moved away."""
        if self._log is not None:
            self._log.reopen()

    def _open(self) -> dict[str, list[socket.socket]]:
        alone = msgspec.structs.replace(self._config, workers=1)
        opened = open_sockets(alone)
        self._paths = [
            one.getsockname()
            for many in opened.values()
            for one in many
            if one.family == socket.AF_UNIX and not isinstance(one, Inherited)
        ]
        return lend(alone, opened, 0)

    def _leave_paths(self) -> None:
        """Remove the paths of the unix sockets that this proxy has bound itself."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths = []

    def addresses(self) -> dict[str, list[tuple[str, int] | str]]:
        """Listener's name -> (host, port) or path of each of its sockets."""
        return {name: list(found) for name, found in self._addresses.items()}

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting, let requests in flight end, then close.

        Args:
            timeout_s: what is still open after it is cut off.
        """
        if self._engine is None:
            return
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        ending_until_s = loop.time() + ENDING_S
        idle_until_s = loop.time() + min(IDLE_GRACE_S, timeout_s / 2)
        self._engine.drain()
        self._seat.accept(False)
        await self._end_keeping()
        self._leave_paths()
        for listener in self._listeners:
            listener.stop_accepting()
        await self._retire()
        goodbyes = max(
            GOODBYES_PER_LOOK,
            math.ceil(self._engine.counters()["tunnels"] * 2 * DRAIN_LOOK_S / max(timeout_s, DRAIN_LOOK_S)),
        )
        while True:
            left = goodbyes
            for listener in self._listeners:
                left -= listener.relay.go_away(left)
            if loop.time() >= idle_until_s:
                for listener in self._listeners:
                    listener.relay.close_idle()
            if not any(listener.busy for listener in self._listeners) or loop.time() >= end_s:
                break
            if not all(listener.only_ending for listener in self._listeners):
                ending_until_s = loop.time() + ENDING_S
            elif loop.time() >= ending_until_s:
                break
            await asyncio.sleep(min(DRAIN_LOOK_S, max(0.0, end_s - loop.time())))
        await self.aclose()

    async def _retire(self) -> None:
        """Let another process of the machine run the push channel from now on."""
        pools = self._parts.pools.values() if self._parts is not None else ()
        for affinity in {id(pool.affinity): pool.affinity for pool in pools}.values():
            if isinstance(affinity, Affinity):
                await affinity.retire()

    async def aclose(self) -> None:
        """Close everything now. Safe to call again."""
        self._leave_paths()
        for listener in self._listeners:
            await listener.abort()
        await self._end_keeping()
        self._seat.accept(False)
        self._seat.stop()
        if self._parts is not None:
            for parts in self._parts.pools.values():
                parts.lines.close_idle()
            await self._parts.aclose()
            self._parts = None
        if self._engine is not None:
            for _ in range(50):  # the loop tells the connections that they are gone
                if (
                    not any(listener.relay.connections for listener in self._listeners)
                    and not self._engine.upstream_open
                ):
                    break
                await asyncio.sleep(0)
            self._engine.stop()
        if self._log is not None:
            await self._log.aclose()
            self._log = None
        self._listeners = []

    async def _end_keeping(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.aclose()

    def tick(self) -> None:
        """Look at the clocks now; the loop does it a few times a second."""
        if self._engine is not None:
            self._engine.tick()

    def statistics(self) -> dict[str, Any]:
        """Counters since the start: requests, responses, retries, limits, connections; and each pool's."""
        found: dict[str, Any] = self._engine.counters() if self._engine is not None else {}
        found["listeners"] = {one.name: {"connections": len(one.relay.connections)} for one in self._listeners}
        if self._parts is not None:
            found["pools"] = {name: parts.pool.statistics() for name, parts in self._parts.pools.items()}
        return found

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
