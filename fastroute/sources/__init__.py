"""Where a pool's servers come from besides the file of the configuration: DNS, or a watched file.

    source = make_source(of.discover)
    answer = await source.ask()         # servers, or why there are none that can be used; and when to ask again

Not here: what becomes of an answer (fastroute.admin.sourcing). Rules of this package: an answer is a set of servers by
name, in one order whatever the source's; one that is empty, broken or partial is none, and says why; asking has a time
limit and never raises what the world may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastroute.config.membership import name_of
from fastroute.config.schema import DiscoverConfig, ServerConfig

__all__ = ["Answer", "Source", "in_order", "make_source"]


@dataclass(frozen=True)
class Answer:
    """What a source said.

    Attributes:
        servers: all of them, by name; None: nothing that can be used.
        note: why not, "" where there are some.
        again_s: when to ask again.
    """

    servers: tuple[ServerConfig, ...] | None
    note: str
    again_s: float


class Source(Protocol):
    """One pool's."""

    async def ask(self) -> Answer: ...


def in_order(servers: list[ServerConfig]) -> tuple[ServerConfig, ...]:
    """By name, each once."""
    return tuple(sorted({name_of(one): one for one in servers}.values(), key=name_of))


def make_source(of: DiscoverConfig) -> Source:
    """The source of a configuration."""
    if of.file:
        from fastroute.sources.file import FileSource

        return FileSource(of.file)
    from fastroute.sources.dns import DnsSource  # only where it is configured: it brings a package along

    return DnsSource(of)
