"""[pools.NAME.health] and what belongs to it: how servers are asked how they are. Part of schema.py, by its rules."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fastroute.config.kinds import Choice, Duration, Flag, ListOf, Text, Whole, Words

__all__ = ["ContentConfig", "HealthConfig", "JoinConfig"]

named = msgspec.field


class HealthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.health]: active checks. The section's presence turns them on."""

    check: Annotated[str, Choice(("tcp", "tls", "http", "command"))] = "tcp"
    path: Annotated[str, Text()] = "/healthz"
    method: Annotated[str, Choice(("HEAD", "GET", "OPTIONS"))] = "HEAD"
    host: Annotated[str, Text()] = ""
    """Of the Host field; empty: the server's address."""
    expect: Annotated[tuple[int, ...], ListOf(Whole(100, 599), minimum=1, maximum=64)] = (200, 399)
    """HAProxy's httpchk takes 2xx and 3xx too."""
    body: Annotated[str, Text()] = ""
    """What the answer's body must contain, within its first 64 KiB."""
    port: Annotated[int, Whole(0, 65535)] = 0
    """HAProxy: `port` of a server; 0: the server's own."""
    command: Annotated[tuple[str, ...], Words()] = ()
    interval_s: Annotated[float, Duration(0.05)] = named(default=2.0, name="interval")
    """HAProxy: inter 2s."""
    fast_interval_s: Annotated[float, Duration(0)] = named(default=0.0, name="fast_interval")
    """While the state may be about to change; HAProxy: fastinter, by default inter. 0: interval."""
    timeout_s: Annotated[float, Duration(0.01)] = named(default=1.0, name="timeout")
    rise: Annotated[int, Whole(1, 100)] = 2
    """HAProxy: rise 2."""
    fall: Annotated[int, Whole(1, 100)] = 3
    """HAProxy: fall 3."""
    fleet: Annotated[bool, Flag()] = True
    """Each server is asked by one replica of the fleet, and all believe it; needs [store] and secret."""
    on_restart: Annotated[str, Choice(("keep", "move"))] = "keep"
    """What becomes of the bindings to a server that has restarted: it may have lost what it kept of its users."""
    boot_header: Annotated[str, Text()] = ""
    """A field of the answer that names this life of the server: another value means that it has restarted."""
    uptime_header: Annotated[str, Text()] = ""
    """A field of the answer with the seconds since the server started."""


class ContentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.content]: what the servers of a pool have in common, and what happens to one that differs."""

    paths: Annotated[tuple[str, ...], ListOf(Text(), maximum=16)] = ()
    """Asked for by GET; status and the first 64 KiB of each answer count."""
    header: Annotated[str, Text()] = ""
    """A field of the answer to the check that names the build, instead of paths."""
    interval_s: Annotated[float, Duration(0.1)] = named(default=30.0, name="interval")
    """Of looking at the paths."""
    timeout_s: Annotated[float, Duration(0.01)] = named(default=5.0, name="timeout")
    """Of one page."""
    on_drift: Annotated[str, Choice(("warn", "eject", "keep-bound-only"))] = "warn"


class JoinConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.on_join]: what must succeed before a server is ready."""

    command: Annotated[tuple[str, ...], Words()] = ()
    path: Annotated[str, Text()] = ""
    """Asked for by GET at the server itself; 2xx is success."""
    timeout_s: Annotated[float, Duration(0.01)] = named(default=60.0, name="timeout")
    interval_s: Annotated[float, Duration(0)] = named(default=0.0, name="interval")
    """Run again so often, for ready servers too; a failure is logged then. 0: only when a server joins."""
