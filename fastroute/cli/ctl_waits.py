"""What `fastroute ctl drain --wait` waits for: bindings that end, a drain that ends, requests under way that end.

Not here: how it is shown (ctl_changes). Rules of this file: a drain that has ended by its deadline is over when no
request is under way at the server any more, on any replica with --fleet; for tunnels and streams, which may last for
hours, nobody waits longer than REQUESTS_S.
"""

from __future__ import annotations

import time
from typing import Any

from fastroute.cli import ctl_tables as tables
from fastroute.cli.ctl_client import AdminClient

__all__ = ["REQUESTS_S", "DrainWatch"]

REQUESTS_S = 30.0
"""For requests that are under way when a drain has ended: as long as pools wait for a response (timeouts.response)."""


class DrainWatch:
    """Looks how far one server's drain is.

    Args:
        client: of the replica that is asked.
        pool, name: the server's.
        ends: does the drain end by itself?
    """

    def __init__(self, client: AdminClient, pool: str, name: str, *, ends: bool) -> None:
        self._client, self._pool, self._name, self._ends = client, pool, name, ends
        self._ended_s: float | None = None

    def look(self) -> tuple[int, str, Any, bool]:
        """(how much is left, the line that says so, the same as JSON, is it over)."""
        told = self._client.get("pools", self._pool, "servers", self._name)
        states, in_flight = set(told["states"]) or {told["state"]}, told["in_flight"]
        if self._client.everywhere:
            for state, count in self._others():
                states.add(state)
                in_flight += count
        state = "draining" if "draining" in states else told["state"]
        drained = bool(states) and (states == {"maintenance"} if self._ends else True)
        over = drained and not in_flight and (self._ends or not told["bindings"])
        if self._ends and told["state"] != "draining":
            now_s = time.monotonic()
            self._ended_s = now_s if self._ended_s is None else self._ended_s
            over = over or now_s - self._ended_s >= REQUESTS_S
        left = f"{tables.counted(told['bindings'], 'binding')} and {tables.counted(in_flight, 'request')} left"
        as_json = {"state": state, "bindings": told["bindings"], "in_flight": in_flight}
        return told["bindings"] + in_flight, f"{self._pool}/{self._name}: {state}, {left}", as_json, over

    def _others(self) -> list[tuple[str, int]]:
        """(state, requests under way) at each other replica; one that does not follow yet has the state "ready"."""
        found = []
        for one in self._client.get("fleet")["replicas"]:
            leaving = one.get("leaving")
            if not isinstance(leaving, dict) or one["here"]:  # another version's; the one that was asked tells itself
                continue
            state, count = leaving.get(self._pool, {}).get(self._name, ("ready", 0))
            found.append((str(state), int(count)))
        return found
