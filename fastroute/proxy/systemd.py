"""What a service manager hands over and wants to hear: sockets (LISTEN_FDS) and notifications (NOTIFY_SOCKET).

Not here: what is done with the sockets (sockets.py), when something is to be told (supervisor). Rules of this file: no
library of systemd's; nothing fails where there is no service manager; what is told is never waited for.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

__all__ = ["Notifier", "handed_over"]

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


def handed_over(environment: MutableMapping[str, str] | None = None) -> dict[str, list[int]]:
    """Name -> descriptors of the sockets that were handed to this very process, in their order.

    Args:
        environment: defaults to the process's own.

    Notes:
        Sockets without a name are named "unknown", as sd_listen_fds_with_names() does.
    """
    environment = os.environ if environment is None else environment
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    try:
        count = int(environment.get("LISTEN_FDS", "0"))
    except ValueError:
        return {}
    names = environment.get("LISTEN_FDNAMES", "")
    each = names.split(":") if names else []
    found: dict[str, list[int]] = {}
    for index in range(max(0, count)):
        found.setdefault(each[index] if index < len(each) else "unknown", []).append(FIRST_FD + index)
    return found


class Notifier:
    """Tells the service manager how things are; nothing where there is none.

    Args:
        environment: defaults to the process's own; the variables are taken out, so that programs started later do not
            speak in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._where = environment.pop("NOTIFY_SOCKET", "")
        every_us, of = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._every_s = 0.0
        if self._where and every_us.isdecimal() and of in ("", str(os.getpid())):
            self._every_s = int(every_us) / 2e6
        self._due_s = 0.0

    def tell(self, *lines: str) -> None:
        """Send these assignments as one message."""
        if not self._where:
            return
        # "@" stands for the NUL byte of an abstract name.
        address = "\0" + self._where[1:] if self._where.startswith("@") else self._where
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.setblocking(False)
            try:
                one.sendto("\n".join(lines).encode(), address)
            except OSError:  # it is gone, or does not listen: nobody is left to be told
                return

    def ready(self, status: str) -> None:
        """Everything runs, for the first time or after a reload."""
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; ready() ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self.tell("STOPPING=1")

    def alive(self, now_s: float) -> float | None:
        """Feed the watchdog if it is time to; when it wants to be fed next, None: there is none.

        Args:
            now_s: monotonic.
        """
        if not self._every_s:
            return None
        if now_s >= self._due_s:
            self._due_s = now_s + self._every_s  # half of what it allows, as sd_watchdog_enabled(3) recommends
            self.tell("WATCHDOG=1")
        return self._due_s
