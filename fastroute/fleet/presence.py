"""Presence: which replicas of the fleet live, as each of them says in the store.

Presence      one replica's part: says that it lives and reads who else does; turn() is called once per interval.
read_fleet    one look at all of it, for the admin interface.
Not here: who calls turn() (one worker per replica), what is done with the list (probes, load, changes).

Theory of operation. memcached cannot list keys, so there is a directory: one message `fr:f:directory:all` with the
names of the replicas, changed by compare-and-set and only when a replica comes or has long been gone. What a replica
says of itself stands under its own key, `fr:f:replica:<name>`, rewritten each INTERVAL_S: no two replicas write one
key in normal times. Who does not find itself in the directory adds itself, so that a directory that was lost, or laid
back to an old one, is whole again one interval later.

Alive is whose version has grown within TTL_S of the reader's own monotonic clock: the clocks of two machines are never
compared, and a message that somebody keeps in place does not keep its sender alive. A replica that stops takes its
message away and is gone at the next reading; one that is killed is gone after TTL_S.

A replica that cannot read the directory for TTL_S knows of itself alone, and acts as if it were (`sees` is False).
The order of names is the same everywhere; nothing else about the list is promised while it changes.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastroute.clock import SYSTEM, Clock
from fastroute.fleet.messages import Fetched, Mail, Message

__all__ = ["INTERVAL_S", "REPLICAS_MAX", "TTL_S", "Presence", "Replica", "make_name", "read_fleet"]

INTERVAL_S = 1.0
"""Between two turns: what a change of the fleet takes to be seen."""

TTL_S = 3.5
"""Without a sign of life: three turns missed, and a moment."""

FORGET_S = 60.0
"""Without a sign of life until a name leaves the directory: a machine that restarts is not written out and in again."""

DIRECTORY_TTL_S = 86_400.0
"""A day; who misses itself in the directory writes it again anyway."""

REPLICAS_MAX = 256
"""In one fleet: each reads a message of each once a second."""

ATTEMPTS_MAX = 4
"""To change the directory in one turn: others may be changing it too."""

DIRECTORY, REPLICA, ALL = "directory", "replica", "all"
"""Kinds of messages, and the name of the one directory."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica says of itself.

    Attributes:
        name: of the replica, new with each start.
        facts: plain data: host, pid, started_s, version, workers and what others add.
        age_s: since its last sign of life, by the reader's clock; 0 for the reader itself.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    age_s: float = 0.0


def make_name() -> str:
    """A name for a replica that starts now: the host's, for people, and 48 random bits."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:32] or "host"
    return f"{host}-{secrets.token_hex(6)}"


def own_facts(**more: Any) -> dict[str, Any]:
    """What every replica says of itself."""
    return {"host": socket.gethostname()[:64], "pid": os.getpid(), **more}


@dataclass(slots=True)
class _Sign:
    version: int
    seen_s: float
    facts: Mapping[str, Any]


class Presence:
    """One replica's part in its fleet.

    Args:
        mail: sends as this replica.
        facts: called each turn: what this replica says of itself; plain data, small.
        clock: for ages.
        ttl_s, interval_s: see above.
    """

    def __init__(
        self,
        mail: Mail,
        facts: Callable[[], Mapping[str, Any]],
        *,
        clock: Clock = SYSTEM,
        ttl_s: float = TTL_S,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.name = mail.sender
        self.interval_s = interval_s
        self.sees = False
        """Could the directory be read lately?"""
        self.live: tuple[Replica, ...] = (Replica(mail.sender),)
        """In the order of their names; always with this one."""
        self._mail, self._facts, self._clock, self._ttl_s = mail, facts, clock, ttl_s
        self._signs: dict[str, _Sign] = {}
        self._missing_s: dict[str, float] = {}
        self._read_s: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the living, in order."""
        return tuple(replica.name for replica in self.live)

    async def turn(self) -> tuple[Replica, ...]:
        """Say that this replica lives, and read who else does: `live` afterwards."""
        facts = dict(self._facts())
        await self._mail.publish(REPLICA, self.name, facts, self._ttl_s + 1)
        names = await self._directory()
        now_s = self._clock.monotonic_s()
        if names is not None:
            self._read_s = now_s
            found = await self._mail.fetch(REPLICA, [name for name in names if name != self.name])
            for name, one in found.items():
                self._note(name, one, now_s)
            for name in [name for name in self._signs if name not in found]:
                del self._signs[name]
        self.sees = self._read_s is not None and now_s - self._read_s < self._ttl_s
        living = {
            name: Replica(name, sign.facts, now_s - sign.seen_s)
            for name, sign in self._signs.items()
            if self.sees and now_s - sign.seen_s < self._ttl_s
        }
        living[self.name] = Replica(self.name, facts)
        self.live = tuple(living[name] for name in sorted(living))
        return self.live

    async def leave(self) -> None:
        """This replica stops: the others need not wait for its silence."""
        await self._mail.withdraw(REPLICA, self.name)

    def _note(self, name: str, found: Fetched, now_s: float) -> None:
        sign, message = self._signs.get(name), found.message
        if message is not None:
            facts = message.body if isinstance(message.body, dict) else {}
            if sign is None or message.version > sign.version:
                self._signs[name] = _Sign(message.version, now_s, facts)
            self._missing_s.pop(name, None)
        elif found.known:
            self._signs.pop(name, None)
            self._missing_s.setdefault(name, now_s)

    async def _directory(self) -> list[str] | None:
        """The names in the directory, with this replica's; None where it cannot be read."""
        for _ in range(ATTEMPTS_MAX):
            found = (await self._mail.fetch(DIRECTORY, [ALL], any_age=True))[ALL]
            if not found.known:
                return None
            names = _names_in(found.message)
            now_s = self._clock.monotonic_s()
            gone = {name for name, since_s in self._missing_s.items() if now_s - since_s >= FORGET_S}
            wanted = [name for name in names if name not in gone]
            if self.name not in wanted:
                if len(wanted) >= REPLICAS_MAX:  # those that are silent now make room
                    wanted = [name for name in wanted if name not in self._missing_s]
                wanted = sorted([*wanted[: REPLICAS_MAX - 1], self.name])
            self._missing_s = {name: since_s for name, since_s in self._missing_s.items() if name in wanted}
            if wanted == names:
                return names
            above = found.message.version if found.message is not None else 0
            if await self._mail.replace(DIRECTORY, ALL, wanted, DIRECTORY_TTL_S, instead_of=found, above=above):
                return wanted
        return None


def _names_in(message: Message | None) -> list[str]:
    if message is None or not isinstance(message.body, list):
        return []
    return [name for name in message.body if isinstance(name, str) and 0 < len(name) <= 64][:REPLICAS_MAX]


async def read_fleet(mail: Mail) -> list[Replica] | None:
    """All replicas whose message is in the store, in the order of their names; None where the store does not answer.

    Args:
        mail: of any sender.
    """
    directory = (await mail.fetch(DIRECTORY, [ALL], any_age=True))[ALL]
    if not directory.known:
        return None
    found = await mail.fetch(REPLICA, _names_in(directory.message), any_age=True)
    told = [one.message for one in found.values() if one.message is not None and isinstance(one.message.body, dict)]
    return [Replica(message.name, message.body) for message in sorted(told, key=lambda message: message.name)]
