from typing import NamedTuple

from typing_extensions import disjoint_base

from fastroute.model import Server

SERVERS_MAX: int

class ServerStatistics(NamedTuple):
    name: str
    address: str
    state: str
    weight: int
    weight_effective: float
    backup: bool
    in_flight: int
    requests_total: int
    failures_total: int
    latency_ms: float
    in_flight_zone: int

@disjoint_base
class ServerTable:
    @property
    def capacity(self) -> int: ...
    def statistics_of(
        self, server: Server, slot: int, state: str, weight_effective: float, in_flight_zone: int
    ) -> ServerStatistics: ...
