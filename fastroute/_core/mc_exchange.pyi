import socket

from fastroute._core.mc_reply import Reply

def prepare(connected: socket.socket, timeout_s: float) -> int: ...
def read_key(
    fd: int, key: str | bytes, lease_s: float, value_bytes_max: int, incarnation: int, timeout_ms: int
) -> Reply | None: ...
