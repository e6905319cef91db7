"""Load over the fleet: what each replica has in flight per server, said in the store, summed up from what others say.

Not here: how picks see it (fastroute._core.zone_guest), who calls (the keeper), other I/O than that of the mail.

Theory of operation. Each INTERVAL_S a replica whose pools want it publishes its requests in flight, servers without any
left out, and reads what the others say. What a replica said counts while its message is fresh: its version has grown
within `age_s` of the reader's own clock. Replicas that share a zone see each other there already: they carry the zone's
name and are left out, and the first of them by name alone writes into the zone what the rest of the fleet says.

So a number is at most INTERVAL_S old plus one reading, or gone after `age_s`. Machines that pick within that time do
not know of each other's pick. So that they do not all take the first of the idle servers, each has a part of the pool
where its choice among equals begins (turn_of): machines in the order of their names, parts that move on every TURN_S of
the wall clock, so that over time each begins everywhere. Two of them still meet where more users come at once than
there are servers in a part, or for a moment when the parts move on: that costs one request more there, as with two
workers at once.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

from fastroute.clock import SYSTEM, Clock
from fastroute.fleet.messages import Mail

__all__ = ["AGE_S", "INTERVAL_S", "TURN_S", "Load", "turn_of"]

INTERVAL_S = 0.2
"""Between two messages."""

AGE_S = 1.0
"""How old what a replica said may be and still count: five messages missed."""

SERVERS_MAX = 4096
"""Servers of a pool that one message tells of, the busiest first: some 80 bytes each, of the 512 KiB of a message."""

TURN_S = 5.0
"""How long a machine begins in one part of a pool: long beside INTERVAL_S, for which two may then be in the same."""

TTL_S = 3.0
LOAD = "load"
"""Kind of message."""

InFlight = Mapping[str, Mapping[str, int]]
"""pool -> server -> requests in flight."""


class Load:
    """One replica's part.

    Args:
        mail: sends as this replica.
        own: called each turn: what this replica has in flight.
        zone: names the memory that this replica shares with others of its machine; "" for none.
        clock: for ages.
        age_s: see AGE_S.
    """

    def __init__(
        self, mail: Mail, own: Callable[[], InFlight], *, zone: str, clock: Clock = SYSTEM, age_s: float = AGE_S
    ) -> None:
        self._mail, self._own, self._zone, self._clock, self._age_s = mail, own, zone, clock, age_s
        self._heard: dict[str, tuple[int, float, dict[str, Any]]] = {}
        self.machine = (0, 1)
        """(which of the machines that share load this is, how many there are)."""

    async def turn(self, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Publish and read: what all other machines have in flight, {} where this replica is not to write it.

        Args:
            names: of the living replicas.
        """
        me = self._mail.sender
        own = {pool: _busiest(servers) for pool, servers in self._own().items()}
        await self._mail.publish(LOAD, me, {"zone": self._zone, "pools": own}, TTL_S)
        found = await self._mail.fetch(LOAD, [name for name in names if name != me])
        now_s = self._clock.monotonic_s()
        for name, one in found.items():
            if one.message is not None and isinstance(one.message.body, dict):
                known = self._heard.get(name)
                if known is None or one.message.version > known[0]:
                    self._heard[name] = (one.message.version, now_s, one.message.body)
        self._heard = {name: heard for name, heard in self._heard.items() if name in found}
        fresh = {name: body for name, (_, at_s, body) in self._heard.items() if now_s - at_s < self._age_s}
        beside = [name for name, body in fresh.items() if self._zone and body.get("zone") == self._zone]
        if any(name < me for name in beside):
            return {}
        first: dict[str, str] = {}
        for name in sorted({me, *fresh} - set(beside)):
            zone = self._zone if name == me else fresh[name].get("zone")
            first.setdefault(zone if isinstance(zone, str) and zone else name, name)
        self.machine = (list(first.values()).index(me), len(first))
        return _sum([body for name, body in fresh.items() if name not in beside])


def turn_of(machine: tuple[int, int], servers: int, wall_s: float) -> tuple[int, int]:
    """(begin, end) of the places where a machine's choice among equals begins now.

    Args:
        machine: which of how many.
        servers: eligible ones, at least 1.
        wall_s: now; machines whose clocks differ by less than TURN_S are mostly in parts of their own.
    """
    index, count = machine
    part = (index + int(wall_s / TURN_S)) % count
    begin = part * servers // count
    return begin, max((part + 1) * servers // count, begin + 1)


def _busiest(servers: Mapping[str, int]) -> dict[str, int]:
    """Those that have something in flight."""
    busy = {name: count for name, count in servers.items() if count}
    if len(busy) > SERVERS_MAX:
        busy = dict(sorted(busy.items(), key=lambda pair: -pair[1])[:SERVERS_MAX])
    return busy


def _sum(bodies: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """pool -> server -> requests in flight, of bodies as far as they are of the form that is expected."""
    sums: dict[str, collections.Counter[str]] = {}
    for body in bodies:
        pools = body.get("pools")
        for pool, servers in pools.items() if isinstance(pools, dict) else ():
            if not isinstance(servers, dict):
                continue
            for server, count in servers.items():
                if isinstance(pool, str) and isinstance(server, str) and type(count) is int and 0 <= count < 1 << 24:
                    sums.setdefault(pool, collections.Counter())[server] += count
    return {pool: dict(servers) for pool, servers in sums.items()}
