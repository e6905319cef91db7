"""TLS contexts: what listeners show to clients, and how pools speak to their servers.

Rules of this file:
- Contexts are made by whoever checked the configuration, in the supervisor before it forks: workers inherit them, so
  that a worker that starts later shows the same certificates whatever has become of the files, and takes the session
  tickets of its siblings.
- Versions and ciphers are Mozilla's "intermediate" (server side TLS guidelines 5.7): TLS 1.2 with forward secrecy and
  AEAD, TLS 1.3, the client's order of preference, no compression, no renegotiation.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from fastroute.config.kinds import Mistake
from fastroute.config.schema import Config
from fastroute.config.tls import ListenerTls, PoolTls, load_pair
from fastroute.errors import FastrouteError

__all__ = [
    "CIPHERS",
    "TlsError",
    "downstream_context",
    "keep_contexts",
    "name_asked_for",
    "quiet_hook",
    "upstream_context",
]

CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "DHE-RSA-AES128-GCM-SHA256",
        "DHE-RSA-AES256-GCM-SHA384",
        "DHE-RSA-CHACHA20-POLY1305",
    )
)
"""Of TLS 1.2; those of 1.3 are OpenSSL's defaults, which are Mozilla's three."""

_contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}
"""By what they were made from, contents included."""


class TlsError(FastrouteError):
    """A certificate that was fine a moment ago cannot be loaded any more."""


def downstream_context(tls: ListenerTls, *, http: bool = True) -> ssl.SSLContext:
    """The context of a listener; the same one for the same contents.

    Args:
        tls: with the digests of its files.
        http: offer http/1.1 by ALPN.

    Raises:
        TlsError: a file was changed since it was checked, and does not fit now.
    """
    key = ("listener", http, *((name, pair) for name, pair in tls.pairs))
    found = _contexts.get(key)
    if found is None:
        by_name = {}
        for name, pair in tls.pairs:
            by_name[name] = context = _server_context(http)
            _load(context, pair.certificate, pair.key)
        found = _contexts[key] = by_name.pop("")
        found.sni_callback = _chooser(by_name)
    return found


def _server_context(http: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if http:
        context.set_alpn_protocols(["http/1.1"])
    return context


def _chooser(by_name: dict[str, ssl.SSLContext]) -> Any:
    """Chooses the context by the name that the client asks for: the whole name first, then "*." and all but its first
    label, as a certificate's own wildcard counts (RFC 6125, 6.4.3)."""

    def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().rstrip(".")
        connection.fr_name = name
        context = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if context is not None:
            connection.context = context

    return choose


def name_asked_for(connection: Any) -> str | None:
    """The server name that the client of an accepted connection asked for."""
    return getattr(connection, "fr_name", None)


def quiet_hook(before: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sys.unraisablehook that is silent about names that clients ask for and that are not ASCII: Python's ssl module
    refuses the handshake and writes a traceback, one for each connection that anybody makes."""

    def hook(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            before(unraisable)

    return hook


def upstream_context(tls: PoolTls) -> ssl.SSLContext:
    """The context of a pool; the same one for the same contents.

    Raises:
        TlsError: a file was changed since it was checked, and does not fit now.
    """
    found = _contexts.get(("pool", tls))
    if found is None:
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca or None)
        except OSError as error:
            raise TlsError(f"the authorities in {tls.ca} cannot be loaded any more: {error}") from error
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate:
            _load(context, tls.certificate, tls.key)
        found = _contexts["pool", tls] = context
    return found


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        load_pair(context, certificate, key)
    except Mistake as mistake:
        raise TlsError(mistake.message) from None


def keep_contexts(*configs: Config) -> None:
    """Make all contexts of these configurations, and let go of all others.

    Raises:
        TlsError: one cannot be made.
    """
    before = dict(_contexts)
    wanted: set[int] = set()
    for config in configs:
        for listener in config.listeners.values():
            if listener.tls is not None:
                wanted.add(id(downstream_context(listener.tls, http=listener.protocol == "http")))
        for pool in config.pools.values():
            if pool.tls is not None:
                wanted.add(id(upstream_context(pool.tls)))
    for key in before:
        if id(before[key]) not in wanted:
            del _contexts[key]
