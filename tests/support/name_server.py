"""A small DNS server on the loopback, for tests: what it answers can be changed while it runs.

with NameServer() as names:
    names.set("app.test", "A", "10.0.0.1", "10.0.0.2", ttl=30)
    names.set("_http._tcp.app.test", "SRV", "10 5 8080 a.test.")
    names.broken = True             # SERVFAIL for everything
    names.address                   # "127.0.0.1:45123"
    names.asked                     # [(name, kind), ...]
"""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers over UDP."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
        self.broken = False
        self.broken_kinds: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:{1}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def set(self, name: str, kind: str, *values: str, ttl: int = 1) -> None:
        """What a question is answered with from now on; nothing: no such record."""
        self._records[name, kind] = (ttl, values)

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(data)).to_wire(), peer)

    def _answer(self, question: dns.message.Message) -> dns.message.Message:
        (wanted,) = question.question
        name, kind = wanted.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(wanted.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        if self.broken or kind in self.broken_kinds:
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer
        ttl, values = self._records.get((name, kind), (1, ()))
        if values:
            answer.answer.append(dns.rrset.from_text(wanted.name, ttl, "IN", kind, *values))
        elif not any(key[0] == name and row[1] for key, row in self._records.items()):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()
