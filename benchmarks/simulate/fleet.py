"""Replicas: real Pools, driven at the virtual time. The one place that touches the product.

Rules: a Pool's clock is held (whole milliseconds) before each call that reads it; a request is entered and left through
`pool.request`, as an application does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.simulate.engine import Events, Job, SimulatedServer
from fastroute import Pool, Server

EPOCH_MS = 1_000_000
"""A held clock of 0 would go on with the machine's."""


class Fleet:
    """`replicas` balancers before the same servers, each with its own view unless they share a zone.

    `probes`: answer the active probes that `prequal` asks for. Other options go to each Pool.
    """

    def __init__(
        self,
        events: Events,
        servers: Sequence[SimulatedServer],
        policy: str,
        *,
        replicas: int = 1,
        seed: int = 1,
        zone: Any = None,
        timeout_ms: float = 5000.0,
        probes: bool = False,
        **options: Any,
    ) -> None:
        self.events, self.servers, self.timeout_ms = events, {server.name: server for server in servers}, timeout_ms
        rows = [Server("127.0.0.1:1", name=server.name) for server in servers]
        self.pools = [
            Pool("app", rows, policy=policy, seed=seed + (policy != "hash") * number, zone=zone, slots=4096, **options)
            for number in range(replicas)  # with `hash` the seed is the keys', and alike everywhere
        ]
        self.picks: list[tuple[float, str]] = []
        self.on_pick: Callable[[str], None] | None = None
        self._chance = random.Random(seed)
        self._hold(*self.pools)
        self._probes = probes

    def _hold(self, *pools: Pool) -> None:
        for pool in pools:
            pool.hold_clock(EPOCH_MS + int(self.events.now_ms))

    def set_state(self, name: str, state: str) -> None:
        """On all replicas."""
        self._hold(*self.pools)
        for pool in self.pools:
            pool.set_state(name, state)

    def request(self, work_ms: float, done: Callable[[float, bool], None], key: str | None = None) -> None:
        """One request through a replica drawn at random; done(latency_ms, served)."""
        pool = self._chance.choice(self.pools)
        self._hold(pool)
        selection = pool.request(key)
        selection.__enter__()
        began_ms, server = self.events.now_ms, self.servers[selection.server.name]
        if self.on_pick:
            self.on_pick(server.name)

        def finished(served: bool) -> None:
            self._hold(pool)
            if not served:
                selection.failed()
            selection.__exit__(None, None, None)
            done(self.events.now_ms - began_ms, served)

        job = Job(work_ms, finished)
        server.begin(job)
        if not job.over:
            self.events.at(began_ms + self.timeout_ms, lambda: server.give_up(job))
        if self._probes:
            self._probe(pool)

    def _probe(self, pool: Any) -> None:
        """Answer the active probes that the policy asks for (they take no time here)."""
        for name in pool.probes_wanted():
            in_flight, latency_ms = self.servers[name].probe()
            pool.probe_result(name, in_flight, int(latency_ms * 1e6))
