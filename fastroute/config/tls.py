"""TLS in the configuration: certificates of listeners, and what pools ask of their servers.

Rules of this file:
- What is written is paths; what counts is the files' contents. Their digest is part of the configuration, so that a
  reload with new contents under old names is a change, and one without is none.
- A pair that does not fit, a file that is no certificate, a key with a passphrase: refused where the configuration is
  read, before anything starts, with the line.
- Keys never come into memory here: OpenSSL reads them.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from fastroute.config.certificates import Validity, validity
from fastroute.config.kinds import Flag, Kind, Mistake, Text, build, quote

__all__ = ["CertificatePair", "ListenerTls", "PoolTls", "SniMap", "digests", "tls_mistakes"]

FILE_BYTES_MAX = 1 << 20
"""Largest PEM file that is read: the system's whole list of authorities has some 220 KiB."""

_NAME = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\Z", re.ASCII)


class CertificatePair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """{ certificate = "...", key = "..." }: PEM files; the certificate's has the chain behind it."""

    certificate: Annotated[str, Text()]
    key: Annotated[str, Text()]
    digest: str = ""
    """Of the contents, once loaded; not a key of the file."""
    begins_s: float = 0.0
    ends_s: float = 0.0
    """When the certificate and its chain are valid, once loaded; not keys of the file."""


class SniMap(Kind):
    """A table of server names, each with its pair."""

    accepted = 'a table such as { "a.example" = { certificate = "...", key = "..." } }'

    def convert(self, value: Any) -> dict[str, CertificatePair]:
        if not isinstance(value, dict):
            raise Mistake(self.accepted)
        found: dict[str, CertificatePair] = {}
        for name, table in value.items():
            if len(name) > 253 or not _NAME.match(name):
                raise Mistake(
                    f'server name {quote(name)}; accepted: a name such as "a.example", or "*.a.example" for every name '
                    "one label longer",
                    (name,),
                    whole=True,
                )
            if name.lower() in found:
                raise Mistake(f"server name {quote(name)} stands twice; accepted is once", (name,), whole=True)
            try:
                found[name.lower()] = build(CertificatePair, table)
            except Mistake as mistake:
                raise mistake.below(name) from None
        return found


class ListenerTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """tls = { ... } of a listener: what it shows to clients."""

    certificate: Annotated[str, Text()]
    """For clients that name no server, or one that `sni` has not."""
    key: Annotated[str, Text()]
    sni: Annotated[dict[str, CertificatePair], SniMap()] = {}
    """By the name that the client asks for, in lower case."""
    digest: str = ""
    """Of the contents of certificate and key, once loaded."""
    begins_s: float = 0.0
    ends_s: float = 0.0

    @property
    def pairs(self) -> Iterator[tuple[str, CertificatePair]]:
        """("" or the server's name, pair), the default first."""
        yield (
            "",
            CertificatePair(
                certificate=self.certificate,
                key=self.key,
                digest=self.digest,
                begins_s=self.begins_s,
                ends_s=self.ends_s,
            ),
        )
        yield from self.sni.items()


class PoolTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pools.NAME.tls]: servers are spoken to over TLS. Paths of PEM files."""

    ca: Annotated[str, Text()] = ""
    """Who signs the servers' certificates; empty: the system's authorities."""
    verify: Annotated[bool, Flag()] = True
    """Whether a certificate must be valid, and the server's. nginx: proxy_ssl_verify off; HAProxy: verify required."""
    server_name: Annotated[str, Text()] = ""
    """Asked for (SNI) and looked for in the certificate; empty: the host in the server's address."""
    certificate: Annotated[str, Text()] = ""
    """Ours, for servers that ask for one."""
    key: Annotated[str, Text()] = ""
    digest: str = ""
    begins_s: float = 0.0
    ends_s: float = 0.0


def _contents(path: str, key: str) -> bytes:
    try:
        with open(path, "rb") as file:
            found = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise Mistake(f"{key}: the file {quote(path)} cannot be read: {reason}", (key,), whole=True) from None
    if len(found) > FILE_BYTES_MAX:
        raise Mistake(f"{key}: the file {quote(path)} is larger than {FILE_BYTES_MAX} bytes", (key,), whole=True)
    return found


def _looked_at(of: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """What its files hold: digest and times."""
    total, times = hashlib.sha256(), Validity()
    for key in keys:
        if path := getattr(of, key):
            contents = _contents(path, key)
            total.update(hashlib.sha256(contents).digest())
            if key == "certificate":
                times = validity(contents)
    return {"digest": total.hexdigest(), "begins_s": times.begins_s, "ends_s": times.ends_s}


def digests(tls: ListenerTls | PoolTls | None) -> Any:
    """The same with the digests of its files, and the times of its certificates.

    Raises:
        Mistake: a file cannot be read.
    """
    if tls is None:
        return None
    if isinstance(tls, PoolTls):
        return msgspec.structs.replace(tls, **_looked_at(tls, ("ca", "certificate", "key")))
    sni = {}
    for name, pair in tls.sni.items():
        try:
            sni[name] = msgspec.structs.replace(pair, **_looked_at(pair, ("certificate", "key")))
        except Mistake as mistake:
            raise mistake.below("sni", name) from None
    return msgspec.structs.replace(tls, sni=sni, **_looked_at(tls, ("certificate", "key")))


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a pair into a context.

    Raises:
        Mistake: what is wrong with it, in words.
    """

    def refuse() -> str:
        raise Mistake(f"the key in {quote(key)} has a passphrase; accepted: a key without one", whole=True)

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Mistake(
                f"the key in {quote(key)} is not that of the certificate in {quote(certificate)}", whole=True
            ) from None
        raise Mistake(
            f"{quote(certificate)} and {quote(key)} are not a certificate and its key in PEM "
            f"({error.reason or 'no PEM block found'})",
            whole=True,
        ) from None
    except OSError as error:
        raise Mistake(f"{quote(certificate)} or {quote(key)} cannot be read: {error.strerror}", whole=True) from None


def tls_mistakes(tls: ListenerTls | PoolTls) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with the files: (key path below `tls`, message)."""
    if isinstance(tls, ListenerTls):
        for name, pair in tls.pairs:
            try:
                load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair.certificate, pair.key)
            except Mistake as mistake:
                yield ("sni", name) if name else (), mistake.message
        return
    if bool(tls.certificate) != bool(tls.key):
        yield (), "certificate and key: accepted are both or none"
    elif tls.certificate:
        try:
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls.certificate, tls.key)
        except Mistake as mistake:
            yield (), mistake.message
    if tls.server_name and not (len(tls.server_name) <= 253 and _NAME.match(tls.server_name)):
        yield ("server_name",), f'server_name: found {quote(tls.server_name)}; accepted: a name such as "a.example"'
    elif tls.server_name.startswith("*"):
        yield ("server_name",), f"server_name: found {quote(tls.server_name)}; accepted: one name, without a wildcard"
    if tls.ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.ca)
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror or "no certificate found"
            yield ("ca",), f"ca: {quote(tls.ca)} holds no certificates in PEM ({reason})"
