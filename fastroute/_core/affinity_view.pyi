from typing import Final, Literal, Self, TypeAlias, final

from fastroute._core.affinity_table import AffinityTable
from fastroute._core.pool import Pool

BUSY: Final[Literal["busy"]]

_Verdict: TypeAlias = tuple[Literal["wrote", "other", "absent", "busy"], Binding | None]

@final
class Binding:
    @property
    def slot(self) -> int: ...
    @property
    def zone_slot(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def once(self) -> bool: ...
    @property
    def provisional(self) -> bool: ...
    @property
    def age_ms(self) -> int: ...

@final
class AffinityView:
    trust_stale: bool
    def __new__(
        cls,
        pool: Pool,
        table: AffinityTable,
        fleet: str,
        hash_key: bytes,
        *,
        ttl_s: float,
        once_s: float = ...,
        near_ttl_s: float = ...,
        max_lifetime_s: float = ...,
    ) -> Self: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def table(self) -> AffinityTable: ...
    @property
    def fleet(self) -> str: ...
    def refresh(self) -> None: ...
    def set_manual_ms(self, now_ms: int) -> None: ...
    def set_wall(self, wall_s: int) -> None: ...
    def fingerprint(self, key: bytes) -> bytes: ...
    def lookup(self, fingerprint: bytes) -> Binding | Literal["busy"] | None: ...
    def claim(
        self,
        fingerprint: bytes,
        slot: int,
        term: int,
        generation: int,
        *,
        once: bool = ...,
        provisional: bool = ...,
    ) -> _Verdict: ...
    def learn(self, fingerprint: bytes, slot: int, term: int, generation: int, *, once: bool = ...) -> _Verdict: ...
    def replace(
        self,
        fingerprint: bytes,
        old_term: int,
        old_generation: int,
        slot: int,
        term: int,
        generation: int,
        *,
        provisional: bool = ...,
    ) -> _Verdict: ...
    def touch(self, fingerprint: bytes, term: int, generation: int, *, verified: bool = ...) -> bool: ...
    def remove(self, fingerprint: bytes, term: int = ..., generation: int = ...) -> bool: ...
