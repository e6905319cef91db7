"""A memcached register for one key, as far as the agreement uses it: add, compare-and-set, read, and its accidents.

Semantics as verified on memcached 1.6.18: the reading half of a pair answers what stands after the writing half;
compare-and-set tokens are process-wide numbers; a restart forgets everything and starts them again, and tokens of
an earlier connection are refused by the client (invariant I6), which is modelled by `connection`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Command, ExpireThenGet, Heard


@dataclass
class Register:
    """One key on one node."""

    data: bytes | None = None
    cas: int = 0
    counter: int = 0
    connection: int = 1
    up: bool = True
    writes: int = 0

    def ask(self, command: Command) -> Answer:
        """Execute the command; the answer is that of its reading half."""
        if not self.up:
            return Answer(Heard.DOWN)
        added = isinstance(command, AddThenGet) and self.data is None
        current = isinstance(command, CasThenGet | ExpireThenGet) and command.token == (self.connection, self.cas)
        if isinstance(command, ExpireThenGet):
            self.data = None if current else self.data
        elif added or (current and self.data is not None):
            self._store(command.record)
        if self.data is None:
            return Answer(Heard.NOTHING)
        return Answer(Heard.RECORD, self.data, (self.connection, self.cas))

    def _store(self, data: bytes) -> None:
        self.counter += 1
        self.data, self.cas = data, self.counter
        self.writes += 1

    def forget(self) -> None:
        """Eviction, expiry or flush."""
        self.data = None

    def restart(self) -> None:
        """A new process: empty, numbers start again, connections are new."""
        self.data, self.counter = None, 0
        self.connection += 1
