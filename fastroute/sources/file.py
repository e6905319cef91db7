"""Servers from a file that somebody else writes: JSON or TOML, looked at once a second.

    ["10.0.0.11:8080", {"name": "web-2", "address": "10.0.0.12:8080", "weight": 2}]          # .json
    servers = ["10.0.0.11:8080", { name = "web-2", address = "10.0.0.12:8080" }]             # .toml, or [[servers]]

JSON may have the list under "servers" too. A server is what the configuration's [[pools.NAME.servers]] takes.
The file is read when its time, size or inode has changed: write it aside and rename it, so that it is never half there.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tomllib
from typing import Any

from fastroute.config.kinds import Mistake, build
from fastroute.config.schema import ServerConfig
from fastroute.sources import Answer, in_order

__all__ = ["FILE_BYTES_MAX", "LOOK_S", "FileSource", "parse_servers"]

LOOK_S = 1.0
"""Between two looks at the file's time."""

FILE_BYTES_MAX = 16 << 20
"""65,000 servers of 250 bytes."""


def parse_servers(data: bytes, path: str) -> tuple[ServerConfig, ...]:
    """The servers of a file's content; `path` ends in .toml, else it is JSON.

    Raises:
        ValueError: no list of servers; the text says which one is wrong.
    """
    text = data.decode("utf-8")
    told: Any = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    if isinstance(told, dict):
        told = told.get("servers")
    if not isinstance(told, list):
        raise ValueError("it holds no list of servers")
    found = []
    for number, one in enumerate(told, 1):
        try:
            found.append(build(ServerConfig, {"address": one} if isinstance(one, str) else one))
        except Mistake as mistake:
            raise ValueError(f"server {number}: {mistake.message}") from None
    return in_order(found)


class FileSource:
    """One file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._answer = Answer(None, f"{path}: not read yet", LOOK_S)

    async def ask(self) -> Answer:
        """What it says now."""
        return await asyncio.get_running_loop().run_in_executor(None, self._look)

    def _look(self) -> Answer:
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._seen = ()
            return Answer(None, f"{self._path}: {error.strerror}", LOOK_S)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return Answer(None, f"{self._path}: not a regular file", LOOK_S)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return self._answer
            data = file.read(FILE_BYTES_MAX + 1)
        self._seen, self._answer = seen, self._parsed(data)
        return self._answer

    def _parsed(self, data: bytes) -> Answer:
        if len(data) > FILE_BYTES_MAX:
            return Answer(None, f"{self._path}: larger than {FILE_BYTES_MAX} bytes", LOOK_S)
        try:
            servers = parse_servers(data, self._path)
        except (ValueError, RecursionError) as error:
            return Answer(None, f"{self._path}: {str(error)[:200]}", LOOK_S)
        if not servers:
            return Answer(None, f"{self._path}: it names no server", LOOK_S)
        return Answer(servers, "", LOOK_S)
