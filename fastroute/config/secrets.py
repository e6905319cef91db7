"""Where secrets come from: env:NAME, file:PATH or the text itself. A secret's value is in no message of this file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from fastroute.config.kinds import Mistake, quote
from fastroute.config.schema import Secret

SECRET_BYTES_MIN = 32
"""The size of HMAC-SHA256's output: RFC 2104, section 3, strongly discourages shorter keys."""

SECRET_BYTES_MAX = 4096
"""More than any key needs, so that file:PATH cannot swallow a wrong file."""

DISTINCT_BYTES_MIN = 8
"""A random key of 32 bytes has about 30 different ones; fewer than 8 is a placeholder such as 000... or changeme."""


def resolve_secret(
    source: str, *, name: str = "secret", environment: Mapping[str, str] | None = None, weakest: bool = False
) -> Secret:
    """The secret that `source` names.

    Args:
        source: "env:NAME", "file:PATH" (mode 0600 or stricter) or the secret itself.
        name: the key of the configuration, for messages.
        environment: defaults to the process's own.
        weakest: of another's making, such as a password: any length but none is accepted.

    Raises:
        Mistake: nothing there, too short, too long, a placeholder, or a file that others can read.
    """
    environment = os.environ if environment is None else environment
    if source.startswith("env:"):
        variable = source[4:]
        text = environment.get(variable)
        if not text:
            state = "is empty" if text is not None else "is not set"
            raise Mistake(
                f"{name}: the environment variable {quote(variable)} {state}; "
                + ("set it" if weakest else f"set it to at least {SECRET_BYTES_MIN} random bytes"),
                whole=True,
            )
        value, origin = text.encode("utf-8", "surrogateescape"), f"the environment variable {quote(variable)}"
    elif source.startswith("file:"):
        value, origin = _read(source[5:], name), quote(source)
    else:
        value, origin = source.encode(), "the text"
    if weakest:
        if not 1 <= len(value) <= SECRET_BYTES_MAX:
            raise Mistake(
                f"{name}: {origin} holds {len(value)} bytes; accepted are 1 to {SECRET_BYTES_MAX}", whole=True
            )
        return Secret(value)
    if not SECRET_BYTES_MIN <= len(value) <= SECRET_BYTES_MAX:
        raise Mistake(
            f"{name}: {origin} holds {len(value)} bytes; accepted are {SECRET_BYTES_MIN} to "
            f"{SECRET_BYTES_MAX}, such as the output of: openssl rand -hex 32",
            whole=True,
        )
    if len(set(value)) < DISTINCT_BYTES_MIN:
        raise Mistake(
            f"{name}: {origin} repeats fewer than {DISTINCT_BYTES_MIN} different bytes and can be guessed; "
            f"make one with: openssl rand -hex 32",
            whole=True,
        )
    return Secret(value)


def _read(path: str, name: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise Mistake(f"{name}: the file {quote(path)} cannot be read: {reason}", whole=True) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Mistake(f"{name}: {quote(path)} is not a regular file", whole=True)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise Mistake(
                f"{name}: the file {quote(path)} has mode {mode:04o}, others could read it; accepted is 0600 "
                f"or stricter (chmod 600)",
                whole=True,
            )
        return os.read(handle, SECRET_BYTES_MAX + 2).rstrip(b"\r\n")
    finally:
        os.close(handle)
