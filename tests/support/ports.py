"""Numbers of ports for programs that must be told one: free now, and nobody's by chance later.

Port zero and outgoing connections get numbers of the kernel's own range. A number of that range which is free for a
moment (a server that is yet to start, one that was killed and comes back, one that is to refuse) can become another
socket's meanwhile; a client that tries such a port can even be connected to itself. So these lie outside of that
range, and a process gives none of them out twice.
"""

from __future__ import annotations

import os
import pathlib
import socket

_KERNELS = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST = 10_000, 65_535
_FEW = 1000
"""With fewer numbers than this outside of the kernel's range the kernel is asked after all."""


def _outside() -> range:
    try:
        first, last = (int(part) for part in _KERNELS.read_text().split())
    except OSError:
        first, last = 49_152, _HIGHEST  # RFC 6335, section 6
    return max(range(_LOWEST, first), range(last + 1, _HIGHEST + 1), key=len)


_numbers = _outside()
_at = int.from_bytes(os.urandom(4), "little")  # two processes begin at different places


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))  # without SO_REUSEADDR: connections that linger count as taken
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nothing listens on, and that nothing is given unless it asks for this number."""
    global _at
    if len(_numbers) >= _FEW:
        for _ in range(len(_numbers)):
            _at += 1
            port = _numbers[_at % len(_numbers)]
            if _is_free(port):
                return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Some of them, all different."""
    found: list[int] = []
    while len(found) < count:
        if (port := free_port()) not in found:
            found.append(port)
    return found
