"""A blocking server for one connection that may begin with a PROXY header and with TLS: for a thread.

Streams would read TLS's first bytes together with the header.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from fastroute.proxy.proxy_protocol import Header, parse_header

WAIT_S = 40.0


def serve_one(
    listening: socket.socket, answer: bytes, *, header: bool, context: ssl.SSLContext | None
) -> Header | None:
    """Accept a connection, read what it begins with and one request without a body, answer, end; the header."""
    listening.settimeout(WAIT_S)
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(WAIT_S)
        data, found = b"", None
        while header and (found := parse_header(data)) is None:
            data += connection.recv(1)
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                data += connection.recv(65536)
            connection.sendall(answer)
            if isinstance(connection, ssl.SSLSocket):
                with contextlib.suppress(OSError):  # who only checks says no goodbye
                    connection.unwrap()
    return found
