"""The values everything else speaks of: servers, names, durations and sizes. No I/O, nothing mutable.

A server's identity is its name, a stable string; nothing depends on Python's hash() or on the order of a list.
"""

from __future__ import annotations

import math
import re
from typing import Any

from fastroute.errors import UsageError

WEIGHT_MAX = 65_535
"""Highest weight of a server: fits 16 bits, above HAProxy's 256 and Envoy's 128 per host in EDF practice."""

STATES = ("ready", "draining", "maintenance", "down", "ejected")
"""States in the order of the FR_* constants in ext/fr_base.h."""

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)\Z")
_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)?\Z")
_SIZE_UNITS_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION_MAX_S = 10 * 365 * 86400


def check_name(kind: str, name: object) -> str:
    """Return a pool's, server's or fleet's name if it is acceptable.

    Args:
        kind: what is named, for the message.
        name: 1-64 characters of A-Za-z0-9._:-

    Raises:
        UsageError: any other value.
    """
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise UsageError(f"{kind} name {name!r}: accepted are 1-64 characters of A-Z a-z 0-9 . _ : -")


def parse_address(address: str) -> tuple[str, int] | str:
    """Split "host:port" or "[v6]:port" into (host, port); "unix:PATH" gives PATH.

    Raises:
        UsageError: anything else, or a port outside 1..65535.
    """
    if address.startswith("unix:") and len(address) > 5 and "\0" not in address:
        return address[5:]
    found = _ADDRESS.match(address)
    if found and 1 <= int(found["port"]) <= 65535:
        return (found["v6"] or found["host"], int(found["port"]))
    raise UsageError(f"address {address!r}: accepted are host:port, [v6]:port (port 1-65535) and unix:PATH")


def is_inherited(bind: str) -> bool:
    """Whether a listener's bind names sockets that the process is started with: "fd:3", "systemd:NAME"."""
    return bind.startswith(("fd:", "systemd:"))


def parse_duration_s(value: object, *, name: str = "duration") -> float:
    """Seconds from a number of seconds or from "50ms", "30s", "30m", "12h", "7d".

    Raises:
        UsageError: not such a value, negative, not finite, or over ten years.
    """
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (found := _DURATION.match(value)):
        seconds = float(found[1]) * _DURATION_UNITS_S[found[2]]
    if seconds is not None and math.isfinite(seconds) and 0 <= seconds <= _DURATION_MAX_S:
        return seconds
    raise UsageError(
        f'{name} {value!r}: accepted are seconds as a number or "50ms", "30s", "30m", "12h", up to ten years'
    )


def parse_size_bytes(value: object, *, name: str = "size") -> int:
    """Bytes from a whole number or from "512KiB", "64MiB", "1GiB".

    Raises:
        UsageError: not such a value, or negative.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _SIZE.match(value)):
        return int(found[1]) * _SIZE_UNITS_BYTES[found[2]]
    raise UsageError(f'{name} {value!r}: accepted are bytes as a whole number or "512KiB", "64MiB", "1GiB"')


class Server:
    """One member of a pool: immutable, compared by value.

    Args:
        address: "host:port", "[v6]:port" or "unix:PATH", kept as written.
        name: identity, 1-64 characters of A-Za-z0-9._:- ; defaults to the address (which may be longer).
        weight: 0..65535; 0 takes no unbound key and keeps the bound ones.
        hash_key: what rings hash instead of what their rule says.
        id: HAProxy's numeric server id, 1..2**31-1, for the haproxy rings.
        backup: used only when no other server is ready.
        max_connections: 0 for no limit.

    Raises:
        UsageError: an argument outside these ranges.
    """

    __slots__ = ("address", "backup", "hash_key", "id", "max_connections", "name", "weight")

    address: str
    name: str
    weight: int
    hash_key: str | None
    id: int | None
    backup: bool
    max_connections: int

    def __init__(
        self,
        address: str,
        *,
        name: str | None = None,
        weight: int = 1,
        hash_key: str | None = None,
        id: int | None = None,
        backup: bool = False,
        max_connections: int = 0,
    ) -> None:
        if not isinstance(address, str):
            raise UsageError(f"server address {address!r}: accepted is a string such as '10.0.0.11:8080'")
        parse_address(address)
        check_weight(weight, name or address)
        if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 0:
            raise UsageError(f"server {name or address}: max_connections {max_connections!r}: accepted is 0 or more")
        if id is not None and (isinstance(id, bool) or not isinstance(id, int) or not 1 <= id < 2**31):
            raise UsageError(f"server {name or address}: id {id!r}: accepted are whole numbers from 1 to 2147483647")
        if hash_key is not None and not (isinstance(hash_key, str) and hash_key):
            raise UsageError(f"server {name or address}: hash_key {hash_key!r}: accepted is a string that is not empty")
        put = object.__setattr__
        put(self, "address", address)
        put(self, "name", address if name is None else check_name("server", name))
        put(self, "weight", weight)
        put(self, "hash_key", hash_key)
        put(self, "id", id)
        put(self, "backup", bool(backup))
        put(self, "max_connections", max_connections)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Server is immutable; make another one to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("Server is immutable")

    def replace(self, **changes: Any) -> Server:
        """A copy with some arguments changed."""
        values = {field: getattr(self, field) for field in self.__slots__}
        values.update(changes)
        return Server(
            values.pop("address"),
            name=None if values["name"] == self.address else values["name"],
            **{field: value for field, value in values.items() if field != "name"},
        )

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Server) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"Server({self.address!r}, name={self.name!r}, weight={self.weight})"


def check_weight(weight: object, server: str) -> int:
    """Return the weight if it is 0..65535.

    Raises:
        UsageError: any other value.
    """
    if isinstance(weight, int) and not isinstance(weight, bool) and 0 <= weight <= WEIGHT_MAX:
        return weight
    raise UsageError(f"server {server}: weight {weight!r}: accepted are whole numbers from 0 to {WEIGHT_MAX}")
