"""One listener: its sockets, its servers of the event loop, its Relay.

Not here: binding (fastroute.proxy.sockets), what a connection does (http_relay).
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from fastroute._core.http_relay import Relay
from fastroute._core.http_routes import Networks
from fastroute._core.tcp_relay import TcpRelay
from fastroute.config.schema import ListenerConfig
from fastroute.proxy.door import Door
from fastroute.proxy.sockets import BACKLOG
from fastroute.proxy.tls import downstream_context

__all__ = ["Listener"]


class Listener:
    """A listener that accepts.

    Args:
        name: as configured.
        relay: makes its connections.
        sockets: bound and listening; closed with the listener.
        config: whether its connections begin with a handshake.
    """

    def __init__(
        self, name: str, relay: Relay | TcpRelay, sockets: list[socket.socket], config: ListenerConfig
    ) -> None:
        self.name, self.relay = name, relay
        self._sockets, self._config = sockets, config
        self._servers: list[asyncio.AbstractServer] = []
        self._doors: list[Door] = []

    @property
    def busy(self) -> bool:
        """Is a connection open, or about to be?"""
        return bool(self.relay.connections) or any(door.waiting for door in self._doors)

    @property
    def only_ending(self) -> bool:
        """Is nothing left but connections that wait for the other side to end TLS too?"""
        return self.relay.only_ending() and not any(door.waiting for door in self._doors)

    def addresses(self) -> list[tuple[str, int] | str]:
        """(host, port) of each TCP socket, the path of each unix socket."""
        found: list[tuple[str, int] | str] = []
        for one in self._sockets:
            name = one.getsockname()
            if isinstance(name, bytes):  # abstract
                name = "@" + name[1:].decode("utf-8", "replace")
            found.append(name if isinstance(name, str) else (name[0], name[1]))
        return found

    async def start(self) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            if self._config.tls is not None or self._config.proxy_protocol:
                self._doors.append(self._door(one))
                self._doors[-1].open()
                continue
            if one.family == socket.AF_UNIX:
                # The path belongs to whoever bound it, and other workers accept on it: from 3.13 on, event loops would
                # remove it when this one stops.
                keep: Any = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
                server = await loop.create_unix_server(self.relay.make, sock=one, backlog=BACKLOG, **keep)
            else:
                server = await loop.create_server(self.relay.make, sock=one, backlog=BACKLOG)
            self._servers.append(server)

    def _door(self, one: socket.socket) -> Door:
        of = self._config
        return Door(
            one,
            self.relay,
            context=downstream_context(of.tls, http=of.protocol == "http") if of.tls is not None else None,
            trusts=Networks(of.trusted_proxies) if of.proxy_protocol else None,
            limit_s=of.timeouts.head_s,
            counts=self.relay.engine,
        )

    def stop_accepting(self) -> None:
        """Refuse new connections; those that are open go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for door in self._doors:
            door.shut()

    async def abort(self) -> None:
        """Close every connection now."""
        self.stop_accepting()
        for door in self._doors:
            await door.abort()
        self.relay.abort()
