from typing_extensions import disjoint_base

from fastroute._core.http_facts import Facts

@disjoint_base
class Client(Facts):
    def come_from(self, source: tuple[str, int] | None, destination: tuple[str, int] | None) -> None: ...
    def addresses(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]: ...
