"""Every error fastroute raises, by whose fault it is: the configuration, the caller, a server, a client, the store, us.

An error says what was found, where, what is accepted and what to do; transport errors also say whether a retry is safe.
"""

from __future__ import annotations

__all__ = [
    "AffinityConflict",
    "CacheError",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "DownstreamProtocolError",
    "FastrouteError",
    "InternalError",
    "MemcacheDown",
    "MemcacheError",
    "MemcacheProtocolError",
    "MemcacheUnknown",
    "NoServerAvailable",
    "ReadTimeout",
    "UpstreamError",
    "UpstreamProtocolError",
    "UsageError",
]


class FastrouteError(Exception):
    """Base of all errors of this package."""


class ConfigError(FastrouteError, ValueError):
    """A configuration that cannot be used; nothing was started or changed.

    Attributes:
        path: the file, or None for a configuration given in memory.
        line: 1-based line, or None where there is none to point at.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


class UsageError(FastrouteError, ValueError):
    """A call with an argument that is not accepted; the object is as it was."""


class NoServerAvailable(FastrouteError):
    """No server of the pool can take the request now.

    Attributes:
        pool: the pool's name.
        reasons: server name -> why it was passed over.
    """

    def __init__(self, pool: str, reasons: dict[str, str]) -> None:
        self.pool, self.reasons = pool, reasons
        listed = ", ".join(f"{name}: {why}" for name, why in sorted(reasons.items())[:8]) or "the pool has no server"
        super().__init__(f"pool {pool!r} has no server available ({listed})")


class UpstreamError(FastrouteError):
    """A server failed a request.

    Attributes:
        server: the server's name.
        phase: "connect", "handshake" (TLS), "send", "response" or "body".
        retryable: True when another attempt cannot execute the request twice.
        detail: what happened, without the server and the phase.
    """

    def __init__(self, message: str, *, server: str, phase: str, retryable: bool) -> None:
        self.server, self.phase, self.retryable, self.detail = server, phase, retryable, message
        super().__init__(f"server {server!r}, {phase}: {message}")


class ConnectError(UpstreamError):
    """The server refused or could not be reached; nothing was sent, a retry is safe."""

    def __init__(self, message: str, *, server: str, phase: str = "connect", retryable: bool = True) -> None:
        super().__init__(message, server=server, phase=phase, retryable=retryable)


class ConnectTimeout(ConnectError):
    """The connect time limit passed; nothing was sent, a retry is safe."""


class ReadTimeout(UpstreamError):
    """The server did not answer within its time limit; it may have executed the request."""


class UpstreamProtocolError(UpstreamError):
    """The server's answer is not valid HTTP, or ended early."""


class DownstreamProtocolError(FastrouteError):
    """A client's message is not acceptable HTTP.

    Attributes:
        status_hint: the status that answers it (400, 413, 414, 417, 431, 501, 505).
    """

    def __init__(self, message: str, *, status_hint: int = 400) -> None:
        self.status_hint = status_hint
        super().__init__(message)


class MemcacheError(FastrouteError):
    """Base of the store's errors."""


class MemcacheDown(MemcacheError):
    """The node is known to be away; nothing was sent."""


class MemcacheUnknown(MemcacheError):
    """Sent, but the answer did not come: a write may or may not have happened, a read says nothing."""


class MemcacheProtocolError(MemcacheError):
    """The node answered something that is not the protocol; the connection was closed."""


class AffinityConflict(FastrouteError):
    """A binding could not be changed because another replica keeps changing it."""


class CacheError(FastrouteError):
    """A cached value could not be produced or stored, and the caller asked to be told."""


class InternalError(FastrouteError):
    """A bug in fastroute: please report it with this message."""
