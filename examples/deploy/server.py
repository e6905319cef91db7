"""A server for compose.yaml: says who it is. Standard library only."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ.get("NAME", "web")


class Handler(BaseHTTPRequestHandler):
    """Answers everything with its name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """200 and the name."""
        body = f"{NAME}\n".encode()
        self.send_response(200)
        self.send_header("X-Served-By", NAME)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    place = (os.environ.get("BIND", "0.0.0.0"), int(os.environ.get("PORT", "9000")))  # noqa: S104  in a container
    ThreadingHTTPServer(place, Handler).serve_forever()
