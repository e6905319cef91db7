"""Deliberate bugs: the product made wrong in one place each. What they show is the power of the checker.

Each is a context manager that replaces one function or method for as long as it lasts; all of them are mistakes that
somebody could make, and most have been made by some product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from fastroute.affinity import agreement, binding, copies, push, table
from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Decision, Heard, Kind, Lookup
from fastroute.affinity.base import AffinityBase
from fastroute.affinity.record import Record

Bug = Callable[[], AbstractContextManager[Any]]


@contextmanager
def _agreement(**replacements: Any) -> Iterator[None]:
    """Replace verbs where they are defined; `claim` and its like are called through the module."""
    with mock.patch.multiple(agreement, **replacements):
        yield


@contextmanager
def token_kept_over_reconnect() -> Iterator[None]:
    """A compare-and-set goes out on another connection than its number was read on: the client's check is left out."""
    read: dict[tuple[int, bytes], Any] = {}
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        if isinstance(command, CasThenGet):
            old, today = read.get((id(node), name)), (await node.get(name)).token
            if old is not None and today is not None and old.generation != today.generation:
                # What memcached would do with the old number on the new connection, sent past the client's check.
                link = node.connection._link
                line = b"ms %b %d C%d T%d\r\n" % (name, len(command.record), old.cas, command.ttl_s)
                link.transport.write(line + command.record + b"\r\n")
        answer = await original(self, node, name, command)
        if answer.token is not None:
            read.setdefault((id(node), name), answer.token)
        return answer

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def write_believed_over_read() -> Iterator[None]:
    """The answer to the writing half of a claim is taken for the outcome: whoever was refused believes in his own."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        answer = await original(self, node, name, command)
        if isinstance(command, AddThenGet) and answer.heard is Heard.RECORD:
            return Answer(Heard.RECORD, command.record, answer.token)
        return answer

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def fail_back() -> Iterator[None]:
    """A user is moved back to the server that hashing likes best, whenever his binding is looked at."""
    original = binding.Binder._usable_slot

    def usable(self: Any, record: Record) -> int:
        slot = original(self, record)
        if slot >= 0 and record.generation > 1:
            first = self._view.pool.fallback_slots(record.term.to_bytes(8, "little"), 1)
            if first and first[0] != slot and record.generation % 2 == 0:
                return -1
        return slot

    with mock.patch.object(binding.Binder, "_usable_slot", usable):
        yield


@contextmanager
def unknown_taken_as_lost() -> Iterator[None]:
    """A write without an answer counts as not done: the next try is another decision."""

    def claim(candidate: Record, ttl_s: int, *, full_ttl_s: int | None = None, home: int = 0) -> Any:
        answer = yield AddThenGet(candidate.pack(), ttl_s, home)
        if answer.heard is Heard.UNKNOWN:
            return Decision(Kind.WON, candidate, None)  # as if it had been ours to decide again
        return (yield from original(candidate, ttl_s, full_ttl_s=full_ttl_s, home=home))

    original = agreement.claim
    with _agreement(claim=claim), mock.patch.object(copies.agreement, "claim", claim):
        yield


@contextmanager
def higher_generation_ignored() -> Iterator[None]:
    """The store's record wins even where zone or cookie hold a later decision of its term."""
    with mock.patch.object(Record, "outranks", return_value=False):
        yield


@contextmanager
def term_changed_on_move() -> Iterator[None]:
    """A move draws a new term: nobody can tell any more which of two decisions is the later one."""

    def moved_to(self: Record, server: int, *, writer: int, minute: int, second: int = 0) -> Record:
        return Record(self.term ^ 0x5DEECE66D, 1, server, writer, minute)

    with mock.patch.object(Record, "moved_to", moved_to):
        yield


@contextmanager
def generation_not_raised() -> Iterator[None]:
    """A move keeps the generation: one decision, two servers."""

    def moved_to(self: Record, server: int, *, writer: int, minute: int, second: int = 0) -> Record:
        return Record(self.term, self.generation, server, writer, minute)

    with mock.patch.object(Record, "moved_to", moved_to):
        yield


@contextmanager
def near_used_past_its_time() -> Iterator[None]:
    """An entry of the near tier is used for as long as it is there, with a store that is not away."""
    original = table.Affinity.attach

    def attach(self: Any, *what: Any, **more: Any) -> Any:
        view = original(self, *what, **more)
        view.trust_stale = True
        return view

    with mock.patch.object(table.Affinity, "attach", attach):
        yield


@contextmanager
def follower_decides_while_home_is_up() -> Iterator[None]:
    """The second node of a key decides although the first answers."""

    def claim(candidate: Record, ttl_s: int, *, full_ttl_s: int | None = None, homes: int = 1) -> Any:
        return (yield from agreement.claim(candidate, ttl_s, full_ttl_s=full_ttl_s, home=homes - 1))

    with mock.patch.object(binding, "claim", claim):
        yield


@contextmanager
def touch_that_resurrects() -> Iterator[None]:
    """Sliding an expiry writes the record that is known near, whatever stands in the store."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        answer = await original(self, node, name, command)
        if isinstance(command, Lookup) and command.ttl_s and answer.heard is Heard.RECORD:
            before = self.__dict__.setdefault("_remembered", {}).setdefault(name, answer.data)
            if before != answer.data:
                await node.set(name, before, command.ttl_s)
                return Answer(Heard.RECORD, before, answer.token)
        return answer

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def dead_server_chosen() -> Iterator[None]:
    """A record is believed although its server is down in this replica's own view."""
    original = binding.Binder._usable_slot

    def usable(self: Any, record: Record) -> int:
        original(self, record)
        return self._slot_of_id.get(record.server, -1)

    with mock.patch.object(binding.Binder, "_usable_slot", usable):
        yield


@contextmanager
def expiry_not_slid() -> Iterator[None]:
    """Reading a record leaves its expiry as it is."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        if isinstance(command, Lookup):
            command = dataclasses.replace(command, ttl_s=None)
        return await original(self, node, name, command)

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def down_taken_as_nothing() -> Iterator[None]:
    """A node that does not answer counts as one that has nothing: users are bound anew, for the whole fleet or not."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        answer = await original(self, node, name, command)
        if answer.heard is Heard.UNKNOWN and isinstance(command, AddThenGet | CasThenGet):
            return Answer(Heard.RECORD, command.record, None)  # it will have gone well
        return answer

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def delete_before_write() -> Iterator[None]:
    """A claim removes what stood, so that its add cannot be refused."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        if isinstance(command, AddThenGet):
            await node.delete(name)
        return await original(self, node, name, command)

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def release_by_delete() -> Iterator[None]:
    """A released record is removed: whoever still knows it takes that for a loss, and restores it."""
    original = table.Affinity._ask

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        if isinstance(command, CasThenGet) and (wanted := Record.unpack(command.record)) and wanted.released:
            await node.set(name, command.record, -1)
            return Answer(Heard.RECORD, command.record)
        return await original(self, node, name, command)

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def keys_mixed_up() -> Iterator[None]:
    """Now and then a request is given the answer of another key, as after a lost place in a connection's queue."""
    original = table.Affinity._ask
    last: dict[int, Answer] = {}
    turns = [0]

    async def ask(self: Any, node: Any, name: bytes, command: Any) -> Answer:
        answer = await original(self, node, name, command)
        if answer.heard is not Heard.RECORD:
            return answer
        turns[0] += 1
        before, last[id(self)] = last.get(id(self)), answer
        return before if before is not None and turns[0] % 40 == 0 else answer

    with mock.patch.object(table.Affinity, "_ask", ask):
        yield


@contextmanager
def fill_without_guard() -> Iterator[None]:
    """What was read is believed from when it is filled in: an announcement that came in between is forgotten."""

    async def drive(self: Any, name: bytes, homes: Any, steps: Any, view: Any = None) -> Any:
        written = 0
        try:
            command = next(steps)
            while True:
                answer = await self._ask(homes[command.home], name, command)
                written += answer.written
                if view is not None:
                    view.expect(view.guard(), written)
                try:
                    command = steps.send(answer)
                finally:
                    if view is not None:
                        view.expect(None)
        except StopIteration as end:
            return end.value

    with mock.patch.object(AffinityBase, "_drive", drive):
        yield


@contextmanager
def announcements_ignored() -> Iterator[None]:
    """The push channel is believed, and what it says is not acted upon."""
    with mock.patch.object(push.PushChannel, "announced", return_value=None):
        yield


WATCHED = {"watch": True, "near_ttl_s": 0.3, "machines": 2, "workers_each": (2, 1), "nodes": 1, "copies": 1}

BUGS: dict[str, tuple[Bug, dict[str, Any]]] = {
    "token kept over reconnect": (token_kept_over_reconnect, {"nodes": 1, "copies": 1}),
    "write believed over read": (write_believed_over_read, {}),
    "fail-back": (fail_back, {}),
    "unknown taken as lost": (unknown_taken_as_lost, {}),
    "higher generation ignored": (higher_generation_ignored, {}),
    "term changed on move": (term_changed_on_move, {}),
    "generation not raised": (generation_not_raised, {}),
    "near entry used past its time": (near_used_past_its_time, {"near_ttl_s": 0.3}),
    "follower decides while home is up": (follower_decides_while_home_is_up, {"nodes": 2, "copies": 2}),
    "touch that resurrects": (touch_that_resurrects, {}),
    "dead server chosen": (dead_server_chosen, {}),
    "expiry not slid": (expiry_not_slid, {"ttl_s": 8.0}),
    "unanswered write taken as done": (down_taken_as_nothing, {}),
    "delete before write": (delete_before_write, {}),
    "release by delete": (
        release_by_delete,
        {"watch": False, "machines": 2, "workers_each": (1, 1), "users": 2, "kinds": ("release",)},
    ),
    "fill without guard": (
        fill_without_guard,
        {**WATCHED, "users": 2, "rate": 100.0, "fault_every_s": 0.6, "kinds": ("slow_network", "health_error")},
    ),
    "announcements ignored": (announcements_ignored, WATCHED),
    "answers mixed up": (keys_mixed_up, {"users": 8}),
}
"""Name -> the bug, and the options that bring runs near it."""
