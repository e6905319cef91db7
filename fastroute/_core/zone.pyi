from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, final

__all__ = ["LAYOUT", "Zone", "ZoneStatistics", "arm_kill_point", "kill_points_passed"]

LAYOUT: Final[int]
DIRECTORY: Final[str]
SAMPLE_BUCKETS: Final[int]
CREATE_ATTEMPTS_MAX: Final[int]

class ZoneStatistics(NamedTuple):
    live_records: int
    capacity: int
    evictions: int
    lost: int
    repairs: int
    busy_reads: int
    busy_writes: int
    servers: int
    pools: int

@final
class Zone:
    def __new__(
        cls,
        name: str | None = "fr",
        size: int | str = "64MiB",
        identity: bytes | None = None,
        *,
        directory: str = "/dev/shm",
    ) -> Self: ...
    @property
    def name(self) -> str | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def path(self) -> str | None: ...
    @property
    def shared(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def capacity(self) -> int: ...
    def server_slot(self, fleet: str, pool: str, server: str) -> int: ...
    def cursor_address(self, fleet: str, pool: str) -> int: ...
    def statistics(self, now_tick: int | None = None) -> ZoneStatistics: ...
    def reap(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @staticmethod
    def unlink(name: str, *, directory: str = "/dev/shm") -> bool: ...

def arm_kill_point(n: int, action: Literal["kill", "stop", "off"] = "kill") -> None: ...
def kill_points_passed() -> int: ...
