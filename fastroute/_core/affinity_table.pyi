from typing import Final, Literal, NamedTuple, Self, final

from fastroute._core.zone import Zone

__all__ = [
    "ABSENT",
    "BUSY",
    "ECHO",
    "FOUND",
    "GUARDED",
    "ONCE",
    "OTHER",
    "PROVISIONAL",
    "WROTE",
    "AffinityTable",
    "Record",
    "arm_kill_point",
    "fingerprint_for_test",
    "kill_points_passed",
]

ABSENT: Final[int]
FOUND: Final[int]
WROTE: Final[int]
OTHER: Final[int]
BUSY: Final[int]
ONCE: Final[int]
PROVISIONAL: Final[int]
GUARDED: Final[int]
ECHO: Final[int]

class Record(NamedTuple):
    term: int
    generation: int
    expires_tick: int
    verified_tick: int
    slot: int
    flags: int = 0

@final
class AffinityTable:
    def __new__(cls, zone: Zone) -> Self: ...
    @property
    def zone(self) -> Zone: ...
    @property
    def capacity(self) -> int: ...
    @property
    def buckets(self) -> int: ...
    def lookup_record(self, fingerprint: bytes, now_tick: int) -> tuple[int, Record | None]: ...
    def claim_record(self, fingerprint: bytes, now_tick: int, record: Record) -> tuple[int, Record | None]: ...
    def learn_record(self, fingerprint: bytes, now_tick: int, record: Record) -> tuple[int, Record | None]: ...
    def learn_guarded_record(
        self,
        fingerprint: bytes,
        now_tick: int,
        record: Record,
        guard: tuple[int, int] | None,
        own: int = 0,
        *,
        only_read: bool = False,
    ) -> tuple[int, Record | None]: ...
    def take_question_record(self, fingerprint: bytes, now_tick: int) -> int: ...
    def end_question_record(self, fingerprint: bytes, now_tick: int) -> None: ...
    def take_touch_record(self, fingerprint: bytes, now_tick: int, record: Record, expires_tick: int) -> int: ...
    def replace_record(
        self, fingerprint: bytes, now_tick: int, term: int, generation: int, record: Record
    ) -> tuple[int, Record | None]: ...
    def touch_record(
        self,
        fingerprint: bytes,
        now_tick: int,
        term: int,
        generation: int,
        expires_tick: int,
        verified_tick: int = 0,
        clear_flags: int = 0,
    ) -> int: ...
    def remove_record(self, fingerprint: bytes, now_tick: int, term: int = 0, generation: int = 0) -> int: ...
    def scan(
        self,
        start_bucket: int,
        limit: int,
        now_tick: int,
        *,
        slot: int | None = None,
        any_flags: int = 0,
        expires_after: int = 0,
        expires_until: int = 0xFFFFFFFF,
        buckets_max: int = 4294967295,
    ) -> tuple[list[tuple[bytes, Record]], int | None]: ...
    def check(self) -> int: ...
    def fill_for_test(self, first: int, count: int, now_tick: int, expires_tick: int) -> tuple[int, int, int]: ...
    def probe_for_test(self, first: int, count: int, now_tick: int, rounds: int = 1, chained: bool = False) -> int: ...
    def rewrite_for_test(self, i: int, count: int) -> int: ...
    def reread_for_test(self, i: int, count: int) -> tuple[int, int]: ...

def fingerprint_for_test(i: int) -> bytes: ...
def arm_kill_point(n: int, action: Literal["kill", "stop", "off"] = "kill") -> None: ...
def kill_points_passed() -> int: ...
