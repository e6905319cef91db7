"""What a pool accepts: names of policies and rings, lists of servers. Pure; the control plane of ext/pool.pyx alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from fastroute._core.dialects import DIALECTS
from fastroute._core.server_table import SERVERS_MAX
from fastroute.errors import UsageError
from fastroute.model import STATES, Server, parse_duration_s

_READY, _DOWN, _EJECTED = (STATES.index(state) for state in ("ready", "down", "ejected"))

POLICIES = ("round-robin", "random", "hash", "least-connections", "two-choices", "peak-ewma", "prequal")
"""In the order of the FR_* constants in ext/fr_policies.h."""

RAMPS = ("envoy", "haproxy")
"""Ramps of slow start; fastroute/routing/slow_start.py has them as functions."""

MAX_LOAD_PERCENT_MAX = 10_000
"""A bound of 100 times the average bounds nothing."""

PENDING_MAX = 1_000_000
"""Most requests that may wait in acquire()."""

RINGS = ("table", *DIALECTS)


class Options(NamedTuple):
    """The checked arguments of a pool that are more than a value."""

    bound: tuple[int, int]
    """(max_load in percent, 0 for none; floor)"""
    ramp: tuple[int, float, float, bool]
    """(window in milliseconds, 0 for none; aggression; smallest part; HAProxy's ramp)"""
    panic_ratio: float
    pending: int
    pending_s: float


class Ramps:
    """Who is in slow start, and who will be when it is ready again: immutable, a new one for each change.

    Only a server that was "down" ramps, from the moment it is "ready", whatever it was in between; never a new one.
    """

    __slots__ = ("_was_down", "_window_ms", "returned_ms")

    def __init__(
        self, window_ms: int, returned_ms: Mapping[str, int] | None = None, was_down: frozenset[str] = frozenset()
    ) -> None:
        self._window_ms, self._was_down = window_ms, was_down
        self.returned_ms: Mapping[str, int] = returned_ms or {}
        """Name -> when it became ready."""

    def after(self, name: str, state: int, now_ms: int) -> Ramps:
        """What holds when the server has this state."""
        if not self._window_ms or state not in (_DOWN, _READY):
            return self
        returned_ms = {other: since for other, since in self.returned_ms.items() if other != name}
        if state == _READY and name in self._was_down:
            returned_ms[name] = now_ms
        elif state == _READY:
            returned_ms = dict(self.returned_ms)
        was_down = self._was_down | {name} if state == _DOWN else self._was_down - {name}
        return Ramps(self._window_ms, returned_ms, was_down)

    def among(self, names: Container[str], now_ms: int) -> Ramps:
        """The same without who left the pool and whose ramp is over."""
        if not self.returned_ms and not self._was_down:
            return self
        returned_ms = {
            name: since
            for name, since in self.returned_ms.items()
            if name in names and since + self._window_ms > now_ms
        }
        return Ramps(self._window_ms, returned_ms, frozenset(name for name in self._was_down if name in names))


def check_options(
    policy: str,
    max_load: object,
    max_load_floor: object,
    charge_sticky: object,
    slow_start: object,
    panic: object,
    pending: object,
    pending_time: object,
) -> Options:
    """The options as the compiled core takes them.

    Raises:
        UsageError: an argument outside its range, or one that the policy has no use for.
    """
    percent = 0
    if max_load is not None:
        if isinstance(max_load, bool) or not isinstance(max_load, (int, float)) or not math.isfinite(max_load):
            raise UsageError(f"max_load {max_load!r}: accepted are None, 0 and 1.01 to 100")
        percent = round(max_load * 100)
        if max_load and not 101 <= percent <= MAX_LOAD_PERCENT_MAX:
            raise UsageError(
                f"max_load {max_load!r}: accepted are None, 0 and 1.01 to 100 (at 1 no request could be placed)"
            )
        if percent and policy != "hash":
            raise UsageError(f'max_load {max_load!r}: it bounds policy "hash"; {policy!r} balances by itself')
    if isinstance(max_load_floor, bool) or not isinstance(max_load_floor, int) or not 1 <= max_load_floor <= 65_535:
        raise UsageError(f"max_load_floor {max_load_floor!r}: accepted are whole numbers from 1 to 65535")
    if not isinstance(charge_sticky, bool):
        raise UsageError(f"charge_sticky {charge_sticky!r}: accepted are True and False")
    if charge_sticky and policy != "round-robin":
        raise UsageError(f'charge_sticky charges policy "round-robin"; the policy is {policy!r}')
    ratio = _number("panic", panic, 0, 1)
    if isinstance(pending, bool) or not isinstance(pending, int) or not 0 <= pending <= PENDING_MAX:
        raise UsageError(f"pending {pending!r}: accepted are whole numbers from 0 to {PENDING_MAX}")
    pending_s = parse_duration_s(pending_time, name="pending_time")
    return Options((percent, max_load_floor), _ramp(slow_start), ratio, pending, pending_s)


def _number(what: str, value: object, low: float, high: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise UsageError(f"{what} {value!r}: accepted are numbers from {low} to {high}")


def _ramp(slow_start: object) -> tuple[int, float, float, bool]:
    if slow_start is None:
        return (0, 1.0, 0.1, False)
    if not isinstance(slow_start, Mapping):
        raise UsageError(f"slow_start: found {type(slow_start).__name__}; accepted is a mapping or None")
    if unknown := sorted(str(key) for key in set(slow_start) - {"window", "aggression", "min_weight", "ramp"}):
        raise UsageError(f"slow_start: {', '.join(unknown)} unknown; accepted: window, aggression, min_weight, ramp")
    window_s = parse_duration_s(slow_start.get("window", 0), name="slow_start window")
    aggression = _number("slow_start aggression", slow_start.get("aggression", 1.0), 0.01, 100)
    min_weight = _number("slow_start min_weight", slow_start.get("min_weight", 0.1), 0.001, 1)
    ramp = slow_start.get("ramp", "envoy")
    if ramp not in RAMPS:
        raise UsageError(f"slow_start ramp {ramp!r}: accepted: {', '.join(RAMPS)}")
    return (math.ceil(window_s * 1000), aggression, min_weight, ramp == "haproxy")


def eligible_of(
    servers: tuple[Server, ...], states: Mapping[str, int], panic_ratio: float
) -> tuple[int, list[Server], bool, bool]:
    """Who may take unbound requests: (how many are ready, the eligible, are they backups, is it panic).

    Panic: so small a part of the servers that could be ready is, that the rest would be overrun; then those that are
    down or ejected are used as well. What an operator took out (draining, maintenance) stays out. While no main server
    is ready and a backup is, the backups take over and there is no panic.
    """
    ready = [server for server in servers if states[server.name] == _READY]
    main = [server for server in ready if server.weight and not server.backup]
    backups = [server for server in ready if server.weight and server.backup]
    if panic_ratio and (main or not backups):
        could = [
            server
            for server in servers
            if server.weight and not server.backup and states[server.name] in (_READY, _DOWN, _EJECTED)
        ]
        if could and len(main) < panic_ratio * len(could):
            return len(ready), could, False, True
    return len(ready), main or backups, not main, False


def check_choice(kind: str, value: object, known: tuple[str, ...]) -> str:
    """Return the name of a policy or ring if it is one that is built.

    Raises:
        UsageError: any other value; the message lists the known ones.
    """
    if isinstance(value, str) and value in known:
        return value
    raise UsageError(f"{kind} {value!r} is unknown; accepted: {', '.join(known)}")


def names_of(servers: Iterable[Server]) -> tuple[str, ...]:
    """Their names, in their order."""
    return tuple([server.name for server in servers])


def in_order(servers: Iterable[Server]) -> tuple[Server, ...]:
    """The servers in the order of their declaration.

    Raises:
        UsageError: no sequence of Server objects.
    """
    if isinstance(servers, (str, bytes, Server)) or not isinstance(servers, Iterable):
        raise UsageError(f"servers: found {type(servers).__name__}; accepted is a sequence of Server")
    rows = tuple(servers)
    for server in rows:
        if not isinstance(server, Server):
            raise UsageError(f"servers: found {type(server).__name__}; accepted are Server objects")
    return rows


def check_servers(servers: Iterable[Server]) -> tuple[Server, ...]:
    """The servers in the order of their names.

    Raises:
        UsageError: no sequence of Server objects, a name or a ring's key that is there twice, or too many.
    """
    rows = list(in_order(servers))
    if len(rows) > SERVERS_MAX:
        raise UsageError(f"{len(rows)} servers: a pool holds at most {SERVERS_MAX}")
    rows.sort(key=lambda server: server.name)
    for left, right in itertools.pairwise(rows):
        if left.name == right.name:
            raise UsageError(f"server name {left.name!r} is there twice; the name is the server's identity")
    keys: dict[str, Server] = {}
    for server in rows:
        other = keys.setdefault(server.hash_key or server.name, server)
        if other is not server:
            raise UsageError(f"servers {other.name!r} and {server.name!r} have the same hash_key; each needs its own")
    return tuple(rows)


def ring_inputs(servers: Iterable[Server], slots: dict[str, int], backup: bool) -> tuple[tuple[str, int, int], ...]:
    """What a ring is built from: (key, weight, slot) of each server that can be picked, in the order of the names."""
    return tuple(
        (server.hash_key or server.name, server.weight, slots[server.name])
        for server in servers
        if server.weight and server.backup == backup
    )
