"""Servers from DNS: the addresses of a name (A and AAAA), or what its SRV records name; as long as they may be kept.

One address is one server, named by its address. Records are asked for again when the shortest time to live of the
answer is over (RFC 1035, 3.2.1), at least every `interval`, and no sooner than after TTL_MIN_S. An answer counts only
if it is whole: a name server that fails for one family, or for one target of SRV, leaves what was known.
SRV (RFC 2782): the lowest priority serves, the others are backups; the weight is the record's, 1 for 0.
"""

from __future__ import annotations

import asyncio
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from fastroute.config.schema import DiscoverConfig, ServerConfig
from fastroute.model import parse_address
from fastroute.sources import Answer, in_order

__all__ = ["FAILED_S", "TTL_MIN_S", "DnsSource"]

TTL_MIN_S = 1.0
"""A time to live of 0 is asked again after this: a name server is not to be asked in a loop."""

FAILED_S = 2.0
"""After an answer that cannot be used."""

LIFETIME_S = 5.0
"""Of one question, all name servers and tries included; what resolv.conf(5) has for one try."""

TARGETS_MAX = 256
"""Names in SRV records whose addresses are looked up."""


class _Nothing(Exception):
    """The answer cannot be used; the text says why."""


class DnsSource:
    """One name.

    Args:
        of: with `dns` or `srv`.
    """

    def __init__(self, of: DiscoverConfig) -> None:
        self._of = of
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def ask(self) -> Answer:
        """What the name servers say now."""
        try:
            if self._resolver is None:
                self._resolver = self._make()
            servers, ttl_s = await (self._srv() if self._of.srv else self._addresses())
        except (_Nothing, dns.exception.DNSException, OSError) as error:
            name = self._of.srv or self._of.dns
            return Answer(None, f"{name}: {str(error)[:200] or type(error).__name__}", FAILED_S)
        return Answer(servers, "", min(max(ttl_s, TTL_MIN_S), self._of.interval_s))

    def _make(self) -> dns.asyncresolver.Resolver:
        made = dns.asyncresolver.Resolver(configure=not self._of.resolvers)
        made.lifetime = LIFETIME_S
        made.cache = None
        if self._of.resolvers:
            places = [parse_address(one) for one in self._of.resolvers]
            made.nameservers = [
                dns.nameserver.Do53Nameserver(one[0], one[1]) for one in places if not isinstance(one, str)
            ]
        return made

    async def _addresses(self) -> tuple[tuple[ServerConfig, ...], float]:
        host, port = _split(self._of.dns)
        found, ttl_s = await self._lookup(host)
        servers = [ServerConfig(address=_written(one, port), weight=self._of.weight) for one in found]
        return in_order(servers), ttl_s

    async def _srv(self) -> tuple[tuple[ServerConfig, ...], float]:
        answer = await self._ask(self._of.srv, "SRV")
        if answer is None:
            raise _Nothing("no SRV record")
        records = sorted(answer, key=lambda one: (one.priority, str(one.target), one.port))[:TARGETS_MAX]
        first = records[0].priority
        looked = await asyncio.gather(*(self._lookup(str(one.target).rstrip(".")) for one in records))
        servers = [
            ServerConfig(address=_written(address, one.port), weight=max(1, one.weight), backup=one.priority != first)
            for one, (found, _) in zip(records, looked, strict=True)
            for address in found
        ]
        # The first of an address stands: the lower priority.
        unique = {one.address: one for one in reversed(servers)}
        ttl_s = min(float(answer.rrset.ttl if answer.rrset is not None else 0), *(ttl for _, ttl in looked))
        return in_order(list(unique.values())), ttl_s

    async def _lookup(self, host: str) -> tuple[list[str], float]:
        """(all addresses, the shortest time to live)."""
        answers = [
            one for one in await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA")) if one is not None
        ]
        if not answers:
            raise _Nothing(f"{host} has no address")
        ttls = [float(one.rrset.ttl) for one in answers if one.rrset is not None]
        return [record.address for one in answers for record in one], min(ttls, default=0.0)

    async def _ask(self, name: str, kind: str) -> Any:
        """The answer; None where the name has no such record."""
        assert self._resolver is not None
        try:
            return await self._resolver.resolve(name, kind, search=False)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return None


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _written(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
