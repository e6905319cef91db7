"""A copy of this machine's zone, so that looking at it changes nothing: not its directory, not a record, not a cursor.

Opening a zone registers the pool's servers in its directory and may wait for locks; a tool that only asks works on a
private copy of the file instead. A record that was being written at the moment of the copy reads as busy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from fastroute._core.zone import DIRECTORY, LAYOUT, Zone
from fastroute.affinity.base import identity_of
from fastroute.config.schema import Config
from fastroute.errors import ConfigError, UsageError

__all__ = ["COPY_BYTES_MAX", "zone_copy", "zone_path"]

COPY_BYTES_MAX = 1 << 30
"""Largest zone that is copied: a quarter of a second and 1 GiB of the disk for temporary files."""


def zone_path(name: str, directory: str = DIRECTORY) -> str:
    """Where this user's zone of that name lies."""
    return os.path.join(directory, f"fastroute.{LAYOUT}.{os.geteuid()}.{name}")


@contextlib.contextmanager
def zone_copy(config: Config) -> Iterator[tuple[Zone | None, str]]:
    """(the copy or None, what was found in words) for the zone that a configuration names."""
    name = config.zone.name or config.fleet
    path = zone_path(name)
    try:
        size = os.stat(path).st_size
    except OSError:
        yield None, f"zone {name!r} is not there: no replica of this fleet has run on this machine"
        return
    if size > COPY_BYTES_MAX:
        yield (
            None,
            f"zone {name!r} has {size >> 20} MiB, more than the {COPY_BYTES_MAX >> 20} MiB that are copied: not read",
        )
        return
    with tempfile.TemporaryDirectory(prefix="fastroute-") as directory:
        zone: Zone | None = None
        try:
            copy = zone_path(name, directory)
            shutil.copyfile(path, copy)
            os.chmod(copy, 0o600)
            zone = Zone(
                name, config.zone.size_bytes, identity_of(config.identity_secret, config.fleet), directory=directory
            )
            said = f"zone {name!r}: read"
        except (OSError, ConfigError, UsageError) as error:
            said = f"zone {name!r} could not be read: {error}"
        try:
            yield zone, said
        finally:
            if zone is not None:
                zone.close()
