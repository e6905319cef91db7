"""The balancer's own cookie around its token: the key ring, the attributes, the Set-Cookie text, the age of a token.

Not here: signing and verifying (fastroute/_core/token), reading Cookie fields (fastroute/_core/http_head), what a hint
is worth (the router).
Rules: no I/O but reading the secrets once; a secret's value appears in no message, repr or exception of this file.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from fastroute._core.token import TokenCodec
from fastroute.config.kinds import Mistake
from fastroute.config.schema import Secret
from fastroute.config.secrets import DISTINCT_BYTES_MIN, SECRET_BYTES_MAX, SECRET_BYTES_MIN, resolve_secret
from fastroute.errors import ConfigError

__all__ = ["CookieSettings", "cookie_codec", "judge_age", "key_ring", "mark_key"]

NAME_CHARACTERS_MAX: Final = 128
KEYS_MAX: Final = 8

AgeVerdict = Literal["fresh", "reissue", "stale", "expired"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)
_SAME_SITE = ("Lax", "Strict", "None")
_SECURE = ("auto", "always", "never")


def key_ring(
    sources: str | bytes | Iterable[str | bytes], *, environment: Mapping[str, str] | None = None
) -> tuple[Secret, ...]:
    """The secrets of a key ring, in order: the first signs, all verify.

    Args:
        sources: one source or several: "env:NAME", "file:PATH" or the secret itself (bytes: always the secret itself).
        environment: defaults to the process's own.

    Raises:
        ConfigError: no source, more than 8, a secret that is missing, short, a placeholder, readable by others or twice
            there. The message names the source, never the value.
    """
    listed = [sources] if isinstance(sources, (str, bytes)) else list(sources)
    if not 1 <= len(listed) <= KEYS_MAX:
        raise ConfigError(f"secret: {len(listed)} sources; accepted are 1 to {KEYS_MAX}")
    ring: list[Secret] = []
    for number, source in enumerate(listed, 1):
        name = "secret" if len(listed) == 1 else f"secret {number} of {len(listed)}"
        try:
            if isinstance(source, bytes):
                value = _checked(source, name)
            elif isinstance(source, str):
                value = resolve_secret(source, name=name, environment=environment)
            else:
                raise ConfigError(f'{name}: accepted is "env:NAME", "file:PATH" or the secret itself, as text or bytes')
        except Mistake as mistake:
            raise ConfigError(mistake.message) from None
        if value in ring:
            raise ConfigError(f"{name}: the same as secret {ring.index(value) + 1}; accepted is each once")
        ring.append(value)
    return tuple(ring)


def _checked(value: bytes, name: str) -> Secret:
    if not SECRET_BYTES_MIN <= len(value) <= SECRET_BYTES_MAX:
        raise ConfigError(f"{name}: {len(value)} bytes; accepted are {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}")
    if len(set(value)) < DISTINCT_BYTES_MIN:
        raise ConfigError(
            f"{name}: fewer than {DISTINCT_BYTES_MIN} different bytes, which can be guessed; "
            f"make one with: openssl rand -hex 32"
        )
    return Secret(value)


def cookie_codec(secrets: Iterable[bytes], fleet: str, pool: str) -> TokenCodec:
    """The codec of a pool's affinity cookie; every replica of the fleet makes the same one from the same secrets."""
    return TokenCodec(secrets, fleet, f"affinity:{pool}")


def mark_key(identity: bytes, fleet: str, pool: str) -> bytes:
    """16 bytes that key the marks by which a hint beside an application's cookie names that cookie's value.

    A mark is no fingerprint: what a client holds must not be the name of its record in the store.

    Args:
        identity: of the fleet, 16 bytes, derived from identity_secret (never from the cookies' ring, which is rotated).
        fleet, pool: their names.
    """
    context = b"%d:%s:%s" % (len(fleet), fleet.encode(), pool.encode())
    return hashlib.blake2b(context, key=identity, digest_size=16, person=b"fr-hint-mark").digest()


class CookieSettings:
    """The attributes of the balancer's cookie; immutable.

    Args:
        name: a token (RFC 6265, 4.1.1). "__Host-" and "__Secure-" carry their rules (RFC 6265bis, 4.1.3).
        domain: "" for the host alone.
        same_site: "Lax", "Strict" or "None"; "None" needs secure = "always".
        secure: "auto" = when the client came over TLS; "always" where a trusted front ends TLS; "never".

    Raises:
        ConfigError: a value outside these, or a combination that browsers drop.
    """

    __slots__ = ("_plain", "_tls", "domain", "name", "prefix", "same_site", "secure")

    name: str
    domain: str
    same_site: str
    secure: str
    prefix: bytes

    def __init__(self, name: str = "fastroute", domain: str = "", same_site: str = "Lax", secure: str = "auto") -> None:
        if not isinstance(name, str) or len(name) > NAME_CHARACTERS_MAX or not _TOKEN.match(name):
            raise ConfigError(f"cookie name {name!r}: accepted are 1-128 characters of A-Z a-z 0-9 and !#$%&'*+-.^_`|~")
        if not isinstance(domain, str) or (domain and not _DOMAIN.match(domain.removeprefix("."))):
            raise ConfigError(
                f'cookie domain {domain!r}: accepted is a domain such as "example.org", or "" for the host alone'
            )
        if same_site not in _SAME_SITE:
            raise ConfigError(f'cookie same_site {same_site!r}: accepted are "Lax", "Strict", "None"')
        if secure not in _SECURE:
            raise ConfigError(f'cookie secure {secure!r}: accepted are "auto", "always", "never"')
        if same_site == "None" and secure != "always":
            raise ConfigError(
                f'cookie same_site "None" with secure {secure!r}: browsers drop such a cookie; '
                'accepted: secure "always" with it'
            )
        prefixed = name.lower().startswith(("__host-", "__secure-"))
        if prefixed and secure != "always":
            raise ConfigError(
                f'cookie name {name!r} with secure {secure!r}: browsers drop such a cookie; accepted: secure "always"'
            )
        if domain and name.lower().startswith("__host-"):
            raise ConfigError(
                f"cookie name {name!r} with a domain: browsers drop such a cookie; accepted: no domain with it"
            )
        put = object.__setattr__
        put(self, "name", name)
        put(self, "domain", domain.removeprefix("."))
        put(self, "same_site", same_site)
        put(self, "secure", secure)
        put(self, "prefix", f"{name}=".encode("ascii"))
        shared = f"; Path=/; HttpOnly; SameSite={same_site}"
        ending = f"; Domain={self.domain}" if self.domain else ""
        put(self, "_plain", f"{shared}{'; Secure' if secure == 'always' else ''}{ending}".encode("ascii"))
        put(self, "_tls", f"{shared}{'' if secure == 'never' else '; Secure'}{ending}".encode("ascii"))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("CookieSettings is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("CookieSettings is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CookieSettings) and (self.prefix, self._plain, self._tls) == (
            other.prefix,
            other._plain,
            other._tls,
        )

    def __hash__(self) -> int:
        return hash((self.prefix, self._plain, self._tls))

    def __repr__(self) -> str:
        return (
            f"CookieSettings(name={self.name!r}, domain={self.domain!r}, same_site={self.same_site!r}, "
            f"secure={self.secure!r})"
        )

    _plain: bytes
    _tls: bytes

    def suffix(self, tls: bool) -> bytes:
        """What follows the token in the field's value; the compiled relay keeps both."""
        return self._tls if tls else self._plain

    def set_cookie_bytes(self, token: bytes, tls: bool) -> bytes:
        """The value of the Set-Cookie field.

        Args:
            token: as the codec signed it.
            tls: whether the client's connection is TLS.
        """
        return self.prefix + token + self.suffix(tls)


def judge_age(issued_minute: int, now_minute: int, ttl_s: float) -> AgeVerdict:
    """What a token's age asks for: the rule of the compiled relay, for those who embed the codec.

    Args:
        issued_minute: of the token, minutes since 1970.
        now_minute: wall clock, minutes since 1970.
        ttl_s: idle time of the binding, taken in whole minutes, at least one.

    Returns:
        "fresh"; "reissue" once a quarter of the ttl has passed; "stale" past the ttl: the hint no longer counts, but
        the key does, since its user may have been here up to a quarter of the ttl after the issue; "expired" past that,
        or issued further ahead of this clock than the ttl (so that a wrong clock pins nobody for ever).
    """
    ttl_minutes = max(1, math.ceil(ttl_s / 60))
    age_minutes = max(0, now_minute - issued_minute)
    if age_minutes > ttl_minutes + math.ceil(ttl_minutes / 4) or issued_minute > now_minute + ttl_minutes:
        return "expired"
    if age_minutes > ttl_minutes:
        return "stale"
    return "fresh" if age_minutes * 4 < ttl_minutes else "reissue"
