"""The listening sockets of a replica: bound and owned by the supervisor, lent to the workers.

One TCP socket per worker and address (SO_REUSEPORT), so that the kernel spreads connections and a worker's queue
survives the worker: its replacement gets the same socket. A unix socket is one, shared by all workers; so is one that
was inherited ("fd:3", "systemd:NAME"), which belongs to whoever opened it: it is not bound, and its path not removed.

Rules of this file:
- The first socket of an address is bound without SO_REUSEPORT, which is set afterwards: a port that any other program
  has, another fastroute included, is refused, instead of being shared with it in silence.
- A socket that is open stays open as long as a configuration names its address, through reloads.
- IPv6 sockets take IPv6 alone, so that "0.0.0.0:80" and "[::]:80" stand beside each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from fastroute.config.schema import Config
from fastroute.errors import FastrouteError
from fastroute.model import is_inherited, parse_address
from fastroute.proxy.systemd import handed_over

BACKLOG = 4096
"""Connections that wait for accept; Linux's net.core.somaxconn since 5.4, which caps it anyway."""

Sockets = dict[str, list[socket.socket]]
"""Address as written -> its sockets."""


class Inherited(socket.socket):
    """A socket that this process was started with."""


class BindError(FastrouteError):
    """A listener's address cannot be had; no socket was left open."""


def open_sockets(config: Config, held: Sockets | None = None) -> Sockets:
    """Listening sockets for every address of the configuration.

    Args:
        config: whose listeners and workers count.
        held: sockets that are open already; those of addresses still named are taken over, extended where the number
            of workers grew, and never closed here.

    Raises:
        BindError: names listener and address; sockets opened by this call are closed again.
    """
    held = held or {}
    sockets: Sockets = {}
    opened: list[socket.socket] = []
    try:
        for name, listener in config.listeners.items():
            for address in listener.bind:
                have = list(held.get(address, ()))
                if is_inherited(address):
                    if not have:
                        have += _inherit(name, address)
                        opened += have
                    sockets[address] = have
                    continue
                wanted = 1 if isinstance(parse_address(address), str) else config.workers
                while len(have) < wanted:
                    fresh = _open(name, address, share=bool(have))
                    opened.append(fresh)
                    have.append(fresh)
                sockets[address] = have
        if config.admin is not None:
            address = config.admin.bind
            have = list(held.get(address, ()))
            if not have:
                have.append(_open("admin", address, share=False))
                opened.append(have[0])
                if have[0].family == socket.AF_UNIX:
                    os.chmod(have[0].getsockname(), 0o600)
            sockets[address] = have[:1]
    except BaseException:
        for fresh in opened:
            close_socket(fresh)
        raise
    return sockets


def lend(config: Config, sockets: Sockets, index: int) -> dict[str, list[socket.socket]]:
    """The sockets that worker `index` accepts on: listener's name -> sockets. Every socket has at least one worker."""
    lent: dict[str, list[socket.socket]] = {}
    for name, listener in config.listeners.items():
        own: list[socket.socket] = []
        for address in listener.bind:
            shared = sockets[address][0].family == socket.AF_UNIX or isinstance(sockets[address][0], Inherited)
            own += sockets[address] if shared else sockets[address][index :: config.workers]
        lent[name] = own
    return lent


def close_dropped(held: Sockets, kept: Sockets) -> None:
    """Close what `held` has and `kept` has not."""
    keep = {id(one) for many in kept.values() for one in many}
    for many in held.values():
        for one in many:
            if id(one) not in keep:
                close_socket(one)


def close_socket(one: socket.socket) -> None:
    """Close a listening socket; a unix socket's path goes with it."""
    if one.family == socket.AF_UNIX and not isinstance(one, Inherited):
        with contextlib.suppress(OSError):
            os.unlink(one.getsockname())
    one.close()


def _inherit(name: str, address: str) -> list[Inherited]:
    """Descriptors of our own for the sockets that `address` names: the first ones stay open, for a later reload."""
    if address.startswith("fd:"):
        numbers = [int(address[3:])]
    else:
        of_name = handed_over()
        numbers = of_name.get(address.removeprefix("systemd:"), [])
        if not numbers:
            known = ", ".join(sorted(of_name)) or "none"
            raise BindError(
                f"listener {name!r} cannot use {address}: no socket of this name was handed over; "
                f"handed over are: {known}"
            )
    found: list[Inherited] = []
    try:
        for number in numbers:
            one = Inherited(fileno=os.dup(number))
            found.append(one)
            os.set_inheritable(number, False)
            if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise BindError(f"listener {name!r} cannot use {address}: descriptor {number} is no listening socket")
            one.setblocking(False)
    except OSError as error:
        for one in found:
            one.close()
        raise BindError(
            f"listener {name!r} cannot use {address}: descriptor {number} is no socket ({error.strerror})"
        ) from error
    except BaseException:
        for one in found:
            one.close()
        raise
    return found


def _open(name: str, address: str, *, share: bool) -> socket.socket:
    try:
        parsed = parse_address(address)
        one = _open_unix(parsed) if isinstance(parsed, str) else _open_tcp(*parsed, share=share)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "it is taken by another program; stop that one or choose another port",
            errno.EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "this machine does not have this address",
        }.get(error.errno or 0, error.strerror or str(error))
        raise BindError(f"listener {name!r} cannot bind {address}: {reason}") from error
    one.setblocking(False)
    return one


def _open_tcp(host: str, port: int, *, share: bool) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(where)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.listen(BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def _open_unix(path: str) -> socket.socket:
    _remove_stale(path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(path)
        one.listen(BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def _remove_stale(path: str) -> None:
    """Remove the socket file of a program that is gone; a living one's is left and bind() refuses it."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return
