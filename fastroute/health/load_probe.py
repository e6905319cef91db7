"""Active probes for the policy `prequal`: ask servers how loaded they are, as often as the pool wants it.

Not here: whom to ask and what the answers mean (ext/fr_policy_prequal.h), health (a probe that fails marks nobody).
What an answer says: ORCA's header `Endpoint-Load-Metrics: TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5`
(the load report of gRPC and Envoy, xds.data.orca.v3, in its text form), both or one of the two. What it leaves out: the
requests in flight are those that this machine's processes have there, the latency is that of the probe itself.

Rules of this file: one probe in flight per server, PROBES_MAX at once; a probe has a time limit; a failed one is
counted and forgotten.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from fastroute.errors import FastrouteError
from fastroute.health.head_request import HeadClient, HeadReply
from fastroute.model import parse_duration_s

__all__ = ["LoadProbe", "ProbeStatistics", "load_in"]

PROBES_MAX = 64
"""In flight at once; the pool asks for at most as many at a time."""

INTERVAL_S = 0.02
"""How often the pool is asked whom it wants probed: its probes are used for 1 s at most."""


@dataclass(slots=True)
class ProbeStatistics:
    """Counts since the start."""

    sent: int = 0
    failed: int = 0


def load_in(reply: HeadReply) -> tuple[int | None, float | None]:
    """(requests in flight, latency in ms) that the server reports; None for what it does not or not as a number."""
    text = reply.value("endpoint-load-metrics") or ""
    kind, _, rest = text.partition(" ")
    if kind != "TEXT":
        return None, None
    found: dict[str, float] = {}
    for pair in rest.split(","):
        name, _, value = pair.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number) and 0 <= number < 1e9:
            found[name.strip()] = number
    in_flight, latency_ms = found.get("named_metrics.in_flight"), found.get("named_metrics.latency_ms")
    return (None if in_flight is None else int(in_flight)), latency_ms


class LoadProbe:
    """Probes one pool's servers.

    Args:
        pool: a Pool of policy "prequal" (others ask for no probes).
        path: what is asked for, by HEAD.
        interval: between two looks at whom the pool wants probed; seconds, or "20ms".
        timeout: of a probe.

    Notes: belongs to one event loop; start(), aclose().
    """

    def __init__(
        self, pool: Any, path: str, *, interval: float | str = INTERVAL_S, timeout: float | str = "200ms"
    ) -> None:
        self.statistics = ProbeStatistics()
        self._pool, self._path = pool, path
        self._interval_s = parse_duration_s(interval, name="interval")
        self._timeout_s = parse_duration_s(timeout, name="timeout")
        self._clients: dict[str, HeadClient] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to probe."""
        self._loop = asyncio.get_running_loop().create_task(self._probe_wanted())

    async def aclose(self) -> None:
        """Stop, and close all connections."""
        tasks = [task for task in (self._loop, *self._running.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    async def _probe_wanted(self) -> None:
        while True:
            wanted = set(self._pool.probes_wanted())
            servers = {server.name: server for server in self._pool.servers}
            for name in [name for name in self._clients if name not in servers and name not in self._running]:
                self._clients.pop(name).close()
            for name in wanted - self._running.keys():
                if name in servers and len(self._running) < PROBES_MAX:
                    task = asyncio.get_running_loop().create_task(self._probe(servers[name]))
                    self._running[name] = task
            await asyncio.sleep(self._interval_s)

    async def _probe(self, server: Any) -> None:
        self.statistics.sent += 1
        try:
            client = self._clients.get(server.name)
            if client is None or client.address != server.address:
                if client is not None:
                    client.close()
                client = self._clients[server.name] = HeadClient(server.address, timeout_s=self._timeout_s)
            reply = await client.head(self._path)
            if reply.status >= 500:
                self.statistics.failed += 1
                return
            in_flight, latency_ms = load_in(reply)
            if in_flight is None:
                in_flight = self._own_in_flight(server.name)
            latency_s = reply.seconds if latency_ms is None else latency_ms / 1000
            self._pool.probe_result(server.name, in_flight, max(1, round(latency_s * 1e9)))
        except FastrouteError:  # it failed, or the server left the pool meanwhile
            self.statistics.failed += 1
        finally:
            self._running.pop(server.name, None)

    def _own_in_flight(self, name: str) -> int:
        return next((row.in_flight_zone for row in self._pool.statistics().servers if row.name == name), 0)
