"""Reads a configuration file: bytes, text, TOML, structs, rules. One mistake is one ConfigError; nothing starts.

The file is read once, so that a file replaced half-way is either the old or the new one. Rules of this file:
- Every error names file, line, what was found and what is accepted.
- Nothing of the file is run or expanded; secrets are resolved here and nowhere else.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fastroute.config import rules
from fastroute.config.kinds import Address, Bind, ListOf, Mistake, build, quote
from fastroute.config.locate import Path, line_of
from fastroute.config.pages import read_pages
from fastroute.config.schema import AdminConfig, Config, Secret, ZoneConfig
from fastroute.config.secrets import resolve_secret
from fastroute.config.tls import digests
from fastroute.errors import ConfigError, UsageError

__all__ = ["FILE_BYTES_MAX", "Loaded", "load", "loads"]

FILE_BYTES_MAX = 1 << 20
"""Largest file: about 10,000 servers, ten times the largest fleet of requirement 14; more is a wrong file."""

_WHERE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Loaded(msgspec.Struct, frozen=True):
    """A usable configuration and what is to be said about it.

    Attributes:
        config: the configuration, secrets resolved.
        warnings: (line or None, message) in the order of importance.
        path: the file, or None.
    """

    config: Config
    warnings: tuple[tuple[int | None, str], ...]
    path: str | None


def load(
    path: str | os.PathLike[str],
    *,
    environment: Mapping[str, str] | None = None,
    binds: Mapping[str, Sequence[str]] | None = None,
    admin: str | None = None,
) -> Loaded:
    """Read and check a configuration file.

    Args:
        path: a TOML file.
        environment: where env:NAME is looked up; defaults to the process's own.
        binds: listener's name -> addresses that replace its `bind`, as the command line gives them.
        admin: address that replaces that of [admin], or makes one.

    Raises:
        ConfigError: with the file and, where there is one, the line.
        UsageError: `binds` names a listener that is not there, or an address that is not accepted.
    """
    path = os.fspath(path)
    data, mode = _read(path)
    text = _decode(data, path)
    loaded = loads(text, path=path, environment=environment, binds=binds, admin=admin)
    extra: list[tuple[int | None, str]] = []
    if mode & 0o002:
        extra.append((None, f"the file has mode {stat.S_IMODE(mode):04o}: everybody on this machine can change it"))
    if mode & 0o044 and _has_literal_secret(text):
        extra.append(
            (
                None,
                f"the file has mode {stat.S_IMODE(mode):04o} and holds a secret: others can read it; use "
                "env:NAME or file:PATH, or chmod 600",
            )
        )
    return msgspec.structs.replace(loaded, warnings=loaded.warnings + tuple(extra)) if extra else loaded


def loads(
    text: str,
    *,
    path: str | None = None,
    environment: Mapping[str, str] | None = None,
    binds: Mapping[str, Sequence[str]] | None = None,
    admin: str | None = None,
) -> Loaded:
    """Check a configuration given as text; as load().

    Raises:
        ConfigError: with the line and, if given, the path.
    """
    table = _parse(text, path)
    try:
        config = _resolve(build(Config, table), environment)
    except Mistake as mistake:
        raise ConfigError(_full(mistake.where, mistake.message), path=path, line=line_of(text, mistake.where)) from None
    config = _rebind(config, binds or {}, admin)
    for where, message in rules.mistakes(config):
        raise ConfigError(_full(where, message), path=path, line=line_of(text, where))
    warnings = tuple((line_of(text, where), _full(where, message)) for where, message in rules.warnings(config))
    return Loaded(config, warnings, path)


def _full(where: Path, message: str) -> str:
    """The message with the table it speaks of: the line alone may not tell which of several `timeout` is meant."""
    named = where[:1] in (("pools",), ("listeners",))
    table = where if named and len(where) == 2 else where[:-1]
    parts: list[str] = []
    for part in table:
        if not isinstance(part, str):
            break
        parts.append(part)
    if parts and message.startswith(f"{parts[-1]}:") and not (named and len(parts) == 2):
        parts.pop()  # a list, which the message names itself
    return f"{'.'.join(parts)}: {message}" if parts else message


def _resolve(raw: Config, environment: Mapping[str, str] | None) -> Config:
    """Secrets read, defaults that depend on other keys filled in."""
    ring: list[Secret] = []
    for index, source in enumerate(raw.secret):
        try:
            value = resolve_secret(str(source), environment=environment)  # still text here
        except Mistake as mistake:
            raise mistake.below("secret", index) from None
        if value in ring:
            raise Mistake("secret: two entries of the list are the same; accepted is each once", ("secret", index))
        ring.append(value)
    identity: Secret | None = None
    if raw.identity_secret is not None:
        try:
            identity = resolve_secret(str(raw.identity_secret), name="identity_secret", environment=environment)
        except Mistake as mistake:
            raise mistake.below("identity_secret") from None
    zone = ZoneConfig(name=raw.zone.name or raw.fleet, size_bytes=raw.zone.size_bytes)
    workers = raw.workers or usable_cores()
    store = raw.store
    if store is not None and store.password is not None:
        try:
            password = resolve_secret(
                str(store.password), name="password", environment=environment, weakest=True
            )  # still text here
        except Mistake as mistake:
            raise mistake.below("store", "password") from None
        store = msgspec.structs.replace(store, password=password)
    admin = raw.admin
    if admin is not None:
        tokens = {key: _token(key, getattr(admin, key), environment) for key in ("token", "read_token")}
        admin = msgspec.structs.replace(admin, **tokens)
    listeners = dict(raw.listeners)
    for name, listener in raw.listeners.items():
        try:
            pages = read_pages(listener.error_pages)
        except Mistake as mistake:
            raise mistake.below("listeners", name, "error_pages") from None
        if pages:
            listeners[name] = msgspec.structs.replace(listener, error_pages=pages)
    raw = msgspec.structs.replace(raw, listeners=listeners)
    resolved = msgspec.structs.replace(
        raw, secret=tuple(ring), identity_secret=identity, zone=zone, workers=workers, store=store, admin=admin
    )
    return msgspec.structs.replace(
        resolved,
        listeners=_with_files("listeners", resolved.listeners),
        pools=_with_files("pools", resolved.pools),
    )


def _with_files(section: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Listeners or pools, knowing what their certificates' files hold."""
    found = {}
    for name, one in sections.items():
        try:
            found[name] = one if one.tls is None else msgspec.structs.replace(one, tls=digests(one.tls))
        except Mistake as mistake:
            raise mistake.below(section, name, "tls") from None
    return found


def _token(key: str, source: object, environment: Mapping[str, str] | None) -> Secret | None:
    """A token of [admin]; never the text itself: the file is read by more people than a token is for."""
    if source is None:
        return None
    text = str(source)  # still text here
    if not text.startswith(("env:", "file:")):
        raise Mistake(f'{key}: found a literal; accepted: "file:PATH" or "env:NAME"', ("admin", key), whole=True)
    try:
        token = resolve_secret(text, name=key, environment=environment, weakest=True)
    except Mistake as mistake:
        raise mistake.below("admin", key) from None
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise Mistake(f"{key}: it holds a character that no header can carry", ("admin", key), whole=True)
    return token


def _rebind(config: Config, binds: Mapping[str, Sequence[str]], admin: str | None) -> Config:
    if admin is not None:
        try:
            bind = Address().convert(admin)
        except Mistake as mistake:
            raise UsageError(f"--admin {admin}: accepted: {mistake.message}") from None
        config = msgspec.structs.replace(
            config, admin=msgspec.structs.replace(config.admin or AdminConfig(), bind=bind)
        )
    listeners = dict(config.listeners)
    for name, addresses in binds.items():
        if name not in listeners:
            known = ", ".join(listeners) or "none"
            raise UsageError(f"--bind {name}=...: no listener {name!r} is configured; configured are: {known}")
        try:
            several = ListOf(Bind(), minimum=1).convert(list(addresses))
        except Mistake as mistake:
            raise UsageError(f"--bind {name}=...: {mistake.message}") from None
        listeners[name] = msgspec.structs.replace(listeners[name], bind=several)
    return msgspec.structs.replace(config, listeners=listeners) if binds else config


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> tuple[bytes, int]:
    """The file's bytes and mode; never waits (a FIFO) and never reads without end (a device)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise ConfigError(f"cannot be read: {reason}", path=path) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise ConfigError("is not a regular file; accepted is a TOML file", path=path)
    with os.fdopen(handle, "rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"is larger than {FILE_BYTES_MAX} bytes, the most that is accepted", path=path)
    return data, status.st_mode


def _decode(data: bytes, path: str | None) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError("starts with a byte order mark; accepted is UTF-8 without one", path=path, line=1)
    if (at := data.find(b"\0")) >= 0:
        raise ConfigError("holds a NUL byte; accepted is UTF-8 text", path=path, line=data.count(b"\n", 0, at) + 1)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"byte 0x{data[error.start]:02x} is not UTF-8; accepted is UTF-8 text", path=path, line=line
        ) from None


def _parse(text: str, path: str | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = str(error), None
        if found := _WHERE.search(message):
            line = int(found[1]) if found[1] else text.count("\n") + (not text.endswith("\n"))
            message = message[: found.start()]
        raise ConfigError(
            f"not valid TOML: {message[:1].lower()}{message[1:]}{_excerpt(text, line)}", path=path, line=line
        ) from None
    except RecursionError:
        raise ConfigError("lists or tables are nested too deeply", path=path) from None
    except ValueError as error:  # a number of more digits than Python converts
        raise ConfigError(f"not valid TOML: {error}", path=path) from None


def _excerpt(text: str, line: int | None) -> str:
    """The line as it stands; nothing of a line with a string in it, which may be a secret."""
    if line is None or not 1 <= line <= len(lines := text.split("\n")):
        return ""
    found = lines[line - 1].strip()
    return f"; found {quote(found)}" if found and not any(mark in found for mark in "\"'") else ""


def _has_literal_secret(text: str) -> bool:
    table = tomllib.loads(text)
    entries = [
        table.get("identity_secret", "env:"),
        store.get("password", "env:") if isinstance(store := table.get("store"), dict) else "env:",
        *(lambda s: s if isinstance(s, list) else [s])(table.get("secret", "env:")),
    ]
    return any(isinstance(entry, str) and not entry.startswith(("env:", "file:")) for entry in entries)
