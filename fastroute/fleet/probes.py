"""Probes: which replica asks which server, and what all of them then hold of it. No I/O: the keeper asks and publishes.

Theory of operation. For each server the ring (rendezvous over the names of the living replicas) gives one owner and
one second. The owner asks, on the configured interval; the others read what it publishes, so that a server is asked as
often whatever the number of replicas. What the owner says of a server is one of

    up        believed by all at once
    suspect   its checks have failed `fall` times; every other replica goes on as before. The second asks the server
              too, from its own place, and publishes what it finds under the owner's number for this episode
    down      the second has found the same (or could not be asked for CONFIRM_S): down for the whole fleet
    joining   up, but its hook has not succeeded yet

A replica that is alone, because it is or because it cannot see the store, owns all servers and needs no second. Who
becomes the owner of a server goes on from what was held of it, and begins somewhere within the interval. What the
owner does not say (it has just begun, its configuration lacks the server) stays as it was.

A restart is recognised by the owner: another boot id (or start time) in an answer to a check than in the one before,
or a connection that was refused before one that is accepted. It is published as a number that grows.

Rules of this file: time comes in through the clock, chance through `draw`; what others say is checked field by field.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fastroute._core.hashes import xxh64
from fastroute.clock import SYSTEM, Clock
from fastroute.fleet.messages import Versions
from fastroute.health.state import Status, after, backed_off, wait_s

__all__ = ["BODY_BYTES_MAX", "CONFIRM_S", "Errand", "Held", "Key", "Last", "Plan", "Probes", "Role"]

CONFIRM_S = 10.0
"""How long an owner waits for its second's opinion before it decides alone: the second may lack the server."""

BODY_BYTES_MAX = 400 << 10
"""Of what one replica publishes at a time, of the 512 KiB of a message: some 4,000 servers that it asks, those that
changed last first. Beyond it the others keep what they hold of the rest."""

STEP = 100
"""Servers that are heard of in one step: well under a millisecond."""

_ENTRY_BYTES = 64
"""Of an entry, beside its texts: nine numbers and lengths."""

Key = tuple[str, str]
"""(pool, server)."""

Errand = Literal["check", "join", "content"]
Role = Literal["owner", "second", "reader"]

_UP, _SUSPECT, _DOWN, _JOINING, _SEEN_UP, _SEEN_DOWN = range(6)
_TELLS_MAX = 160


@dataclass(frozen=True, slots=True)
class Plan:
    """How a server is asked.

    Attributes:
        interval_s, fast_interval_s, rise, fall: see fastroute.health.state.
        shared: with the fleet; else every replica asks for itself.
        join: has it a hook that must succeed before it is ready? join_interval_s: run again so often; 0: never.
        content_interval_s: how often its contents are fingerprinted; 0: never.
    """

    interval_s: float = 2.0
    fast_interval_s: float = 0.0
    rise: int = 2
    fall: int = 3
    shared: bool = True
    join: bool = False
    join_interval_s: float = 0.0
    content_interval_s: float = 0.0


class Held(NamedTuple):
    """What is held of a server.

    Attributes:
        up: None: nothing yet.
        why: in words.
        by: the replica whose word it is.
    """

    up: bool | None
    joining: bool
    restarts: int
    why: str
    by: str


@dataclass(slots=True)
class Last:
    """The last check that is known of: `at_s` by this machine's monotonic clock, `by` the replica that made it."""

    ok: bool
    tells: str
    seconds: float
    at_s: float
    by: str


@dataclass(slots=True)
class _Case:
    plan: Plan
    owner: str = ""
    second: str = ""
    role: Role = "reader"
    status: Status = field(default_factory=Status)
    up: bool | None = None
    joining: bool = False
    episode: int = 0
    suspect_s: float = 0.0
    confirming: int = 0
    restarts: int = 0
    boot: str = ""
    was_refused: bool = False
    fingerprint: str = ""
    why: str = ""
    changed_s: float = 0.0
    last: Last | None = None
    said: _Entry | None = None
    due_s: dict[str, float] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)


class _Entry(NamedTuple):
    """What a replica says of a server."""

    state: int
    episode: int
    age_ms: int
    latency_us: int
    ok: bool
    restarts: int
    boot: str
    fingerprint: str
    tells: str


class Probes:
    """One replica's part.

    Args:
        me: this replica's name.
        plans: of all servers that are checked.
        clock: monotonic time.
        draw: random numbers 0..1.
    """

    def __init__(
        self,
        me: str,
        plans: Mapping[Key, Plan],
        *,
        clock: Clock = SYSTEM,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.me, self._clock, self._draw = me, clock, draw
        self.dirty = False
        """Is there something that others should hear soon?"""
        self._versions = Versions(clock)
        self._cases: dict[Key, _Case] = {key: _Case(plan) for key, plan in plans.items()}
        self._names: tuple[str, ...] = ()
        self._heard: dict[str, dict[Key, _Entry]] = {}
        self._touched: set[Key] = set()

    # ---- who asks

    def members(self, names: Iterable[str]) -> None:
        """Who lives, this replica among them; nothing is asked before the first call."""
        names = tuple(sorted({*names, self.me}))
        if names == self._names:
            return
        self._names = names
        self._heard = {name: entries for name, entries in self._heard.items() if name in names}
        for key, case in self._cases.items():
            owner = case.owner
            case.owner, case.second = rank(key, names if case.plan.shared else (self.me,))
            self._take(key, case)
            if case.owner != owner:
                self._look_at(key)

    def update(self, plans: Mapping[Key, Plan]) -> None:
        """Other servers: who stays goes on."""
        for key in self._cases.keys() - plans.keys():
            del self._cases[key]
            self._touched.discard(key)
        for key, plan in plans.items():
            case = self._cases.get(key)
            if case is None:
                case = self._cases[key] = _Case(plan)
                if self._names:
                    case.owner, case.second = rank(key, self._names if plan.shared else (self.me,))
                    self._take(key, case)
            case.plan = plan

    def _take(self, key: Key, case: _Case) -> None:
        role: Role = "owner" if case.owner == self.me else "second" if case.second == self.me else "reader"
        if role == case.role:
            return
        now_s = self._clock.monotonic_s()
        if role == "owner":
            self._adopt(key, case)  # before it is ours: what the last owner held
            case.status = Status(up=case.up)
            case.due_s = {"check": now_s + case.plan.interval_s * self._draw()}
            if case.plan.content_interval_s:
                case.due_s["content"] = now_s + case.plan.content_interval_s * self._draw()
            if case.joining or (case.plan.join and case.plan.join_interval_s):
                case.due_s["join"] = now_s if case.joining else now_s + case.plan.join_interval_s * self._draw()
        else:
            case.due_s = {}
        case.role, case.episode, case.confirming, case.was_refused, case.said = role, 0, 0, False, None
        self.dirty = True

    def resume(self, key: Key, up: bool, joining: bool, restarts: int) -> None:
        """What was held of a server before this object was made: a replica's keeper changes, its verdicts stay."""
        case = self._cases[key]
        case.up, case.joining, case.restarts = up, joining, restarts
        case.status = Status(up=up)

    def role_of(self, key: Key) -> Role:
        """This replica's."""
        return self._cases[key].role

    @property
    def owned(self) -> int:
        """How many servers this replica asks."""
        return sum(case.role == "owner" for case in self._cases.values())

    def due(self) -> list[tuple[Key, Errand]]:
        """What to do now; each is running until its result comes."""
        now_s = self._clock.monotonic_s()
        found: list[tuple[Key, Errand]] = []
        for key, case in self._cases.items():
            for what, at_s in case.due_s.items():
                if at_s <= now_s and what not in case.running:
                    case.running.add(what)
                    found.append((key, what))  # type: ignore[arg-type]
        return found

    def next_s(self) -> float | None:
        """When something is due next, by the monotonic clock."""
        times = [at_s for case in self._cases.values() for what, at_s in case.due_s.items() if what not in case.running]
        return min(times) if times else None

    # ---- what was found

    def checked(
        self,
        key: Key,
        ok: bool,
        tells: str,
        seconds: float,
        *,
        heavy: bool = False,
        refused: bool = False,
        boot: str = "",
    ) -> None:
        """The result of a check.

        Args:
            tells: in words.
            heavy: the answer was slower or larger than it should be.
            refused: nobody listened.
            boot: what names this life of the server, "" where it does not say.
        """
        case = self._cases.get(key)
        if case is None:
            return
        now_s = self._clock.monotonic_s()
        case.running.discard("check")
        self._touched.add(key)
        case.last = Last(ok, tells[:_TELLS_MAX], seconds, now_s, self.me)
        case.status, flip = after(case.status, ok, rise=case.plan.rise, fall=case.plan.fall)
        case.status = backed_off(case.status, heavy)
        if "check" in case.due_s:
            plan = case.plan
            wait = wait_s(
                case.status, interval_s=plan.interval_s, fast_interval_s=plan.fast_interval_s, draw=self._draw()
            )
            # From when it was due, not from its end: neither slow answers nor a busy loop change the rate.
            case.due_s["check"] = max(now_s, case.due_s["check"] + wait)
        if case.role == "owner":
            self._note_life(case, ok, refused, boot)
        if flip is not None:
            case.why = tells[:_TELLS_MAX]
            case.changed_s = now_s
            self.dirty = True
        self._settle(key, case)

    def _note_life(self, case: _Case, ok: bool, refused: bool, boot: str) -> None:
        restarted = bool(boot and case.boot and boot != case.boot)
        if ok and case.was_refused and case.up is not None:
            restarted = True
        case.was_refused = refused or (case.was_refused and not ok)
        if boot:
            case.boot = boot
        if restarted:
            case.restarts = self._versions.next(above=case.restarts)
            case.changed_s = self._clock.monotonic_s()
            self.dirty = True

    def joined(self, key: Key, ok: bool, tells: str) -> None:
        """The result of a server's hook."""
        case = self._cases.get(key)
        if case is None:
            return
        case.running.discard("join")
        self._touched.add(key)
        now_s = self._clock.monotonic_s()
        if case.role != "owner":
            case.due_s.pop("join", None)
            return
        if case.joining and ok:
            case.joining, case.why, case.changed_s, self.dirty = False, "its hook has succeeded", now_s, True
        elif case.joining:
            case.why = f"its hook fails: {tells}"[:_TELLS_MAX]
        wait = case.plan.interval_s if case.joining else case.plan.join_interval_s
        if wait:
            case.due_s["join"] = now_s + wait
        else:
            case.due_s.pop("join", None)

    def fingerprinted(self, key: Key, fingerprint: str) -> None:
        """What the contents of a server come to; "" where that could not be told."""
        case = self._cases.get(key)
        if case is None:
            return
        case.running.discard("content")
        if "content" in case.due_s:
            case.due_s["content"] = self._clock.monotonic_s() + case.plan.content_interval_s
        if fingerprint and fingerprint != case.fingerprint and case.role == "owner":
            case.fingerprint, case.changed_s, self.dirty = fingerprint, self._clock.monotonic_s(), True

    # ---- what others say

    def hear(self, bodies: Mapping[str, Any]) -> None:
        """What the living replicas published last; those that are missing are as before."""
        for _ in self.hear_in_steps(bodies):
            pass

    def hear_in_steps(self, bodies: Mapping[str, Any]) -> Iterator[None]:
        """The same, a hundred servers a step, for an event loop that has something else to do."""
        seen = 0
        for name, body in bodies.items():
            if name not in self._names or name == self.me:
                continue
            before, now = self._heard.get(name, {}), {}
            known = self._heard[name] = dict(before)
            for key, entry in _entries(body):
                now[key] = known[key] = entry
                if before.get(key) != entry:
                    self._look_at(key)
                seen += 1
                if seen % STEP == 0:
                    yield
            self._heard[name] = now
            for key in before.keys() - now.keys():
                self._look_at(key)
        for key in [key for key, case in self._cases.items() if case.episode]:
            self._look_at(key)  # an answer may be overdue

    def _look_at(self, key: Key) -> None:
        case = self._cases.get(key)
        if case is not None:
            self._adopt(key, case)
            self._settle(key, case)

    def _adopt(self, key: Key, case: _Case) -> None:
        """Take over what the owner says, or else who says the most recent."""
        if case.role == "owner" and case.up is not None:
            return
        said = self._heard.get(case.owner, {}).get(key)
        by = case.owner
        if said is None or said.state > _JOINING:
            if case.up is not None:
                return
            others = [(name, entries[key]) for name, entries in self._heard.items() if key in entries]
            others = [(name, one) for name, one in others if one.state <= _JOINING]
            if not others:
                return
            by, said = min(others, key=lambda pair: pair[1].age_ms)
        if said == case.said:
            return
        case.said = said
        self._touched.add(key)
        if said.restarts > case.restarts:
            case.restarts = said.restarts
        case.boot, case.fingerprint = said.boot or case.boot, said.fingerprint or case.fingerprint
        now_s = self._clock.monotonic_s()
        if said.state != _SUSPECT:
            case.up, case.joining = said.state != _DOWN, said.state == _JOINING
            case.why = said.tells
        case.last = Last(said.ok, said.tells, said.latency_us / 1e6, now_s - said.age_ms / 1000, by)

    def _settle(self, key: Key, case: _Case) -> None:
        """Bring what is held of a server up to date."""
        if case.role == "owner":
            self._settle_owner(key, case)
        elif case.role == "second":
            said = self._heard.get(case.owner, {}).get(key)
            episode = said.episode if said is not None and said.state == _SUSPECT else 0
            if episode != case.confirming:
                case.confirming, case.status = episode, Status()
                case.due_s = {"check": self._clock.monotonic_s()} if episode else {}

    def _settle_owner(self, key: Key, case: _Case) -> None:
        now_s = self._clock.monotonic_s()
        if case.joining and case.plan.join:
            case.due_s.setdefault("join", now_s)
        if case.status.up is None or case.status.up == case.up:
            if case.status.up is not None:
                case.episode = 0
            return
        if case.status.up:
            self._come_up(case, now_s)
            return
        if case.up is not None and case.second:
            if not case.episode:
                case.episode, case.suspect_s, case.changed_s = self._versions.next(), now_s, now_s
                self.dirty = True
            seen = self._heard.get(case.second, {}).get(key)
            agrees = seen is not None and seen.episode == case.episode and seen.state == _SEEN_DOWN
            answered = seen is not None and seen.episode == case.episode and seen.state in (_SEEN_UP, _SEEN_DOWN)
            if not agrees and (answered or now_s - case.suspect_s < CONFIRM_S):
                return
            case.why = f"{case.why}; {'confirmed by ' + case.second if agrees else 'nobody else has answered'}"
        self._touched.add(key)
        case.up, case.joining, case.episode, case.changed_s, self.dirty = False, False, 0, now_s, True
        case.due_s.pop("join", None)

    def _come_up(self, case: _Case, now_s: float) -> None:
        case.up, case.episode, case.changed_s, self.dirty = True, 0, now_s, True
        if case.plan.join:
            case.joining, case.due_s["join"] = True, now_s

    # ---- what this replica says

    def body(self) -> dict[str, list[list[Any]]]:
        """What to publish: pool -> entries of the servers that this replica asks."""
        now_s = self._clock.monotonic_s()
        mine = [(key, case) for key, case in self._cases.items() if case.role == "owner" and case.status.up is not None]
        mine += [(key, case) for key, case in self._cases.items() if case.confirming and case.status.up is not None]
        if len(mine) * _ENTRY_BYTES * 4 > BODY_BYTES_MAX:
            mine.sort(key=lambda pair: -pair[1].changed_s)
        found: dict[str, list[list[Any]]] = {}
        size = 0
        for (pool, server), case in mine:
            last = case.last or Last(True, "", 0.0, now_s, self.me)
            entry = _Entry(
                _state_of(case),
                case.episode or case.confirming,
                max(0, round((now_s - last.at_s) * 1000)),
                round(last.seconds * 1e6),
                last.ok,
                case.restarts,
                case.boot,
                case.fingerprint,
                case.why if not last.ok or case.joining else last.tells,
            )
            texts = (server, entry.boot, entry.fingerprint, entry.tells)
            size += _ENTRY_BYTES + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)
            if size > BODY_BYTES_MAX:
                break
            found.setdefault(pool, []).append([server, *entry])
        self.dirty = False
        return found

    # ---- what is held

    def held(self, key: Key) -> Held:
        """What is held of a server now."""
        case = self._cases[key]
        return Held(case.up, case.joining, case.restarts, case.why, case.owner)

    def touched(self) -> list[Key]:
        """The servers that something was heard of since the last call."""
        found, self._touched = self._touched, set()
        return [key for key in found if key in self._cases]

    def last(self, key: Key) -> Last | None:
        """The last check that is known of."""
        return self._cases[key].last

    def boot_of(self, key: Key) -> str:
        """What names the present life of a server."""
        return self._cases[key].boot

    def fingerprints(self, pool: str) -> dict[str, str]:
        """Server -> what its contents come to, of those that are up and known."""
        return {
            server: case.fingerprint
            for (of, server), case in self._cases.items()
            if of == pool and case.fingerprint and case.up
        }


def rank(key: Key, names: tuple[str, ...]) -> tuple[str, str]:
    """(owner, second) of a server among replicas; second "" where there is one replica."""
    text = f"{key[0]}\0{key[1]}".encode()
    order = sorted(names, key=lambda name: (xxh64(text, xxh64(name.encode())), name), reverse=True)
    return order[0], order[1] if len(order) > 1 else ""


def _state_of(case: _Case) -> int:
    if case.role != "owner":
        return _SEEN_UP if case.status.up else _SEEN_DOWN
    if case.episode:
        return _SUSPECT
    return _DOWN if case.up is False else _JOINING if case.joining else _UP


def _entries(body: Any) -> Iterator[tuple[Key, _Entry]]:
    """What a body says, as far as it is of the form that is expected."""
    for pool, entries in body.items() if isinstance(body, dict) else ():
        for one in entries if isinstance(entries, list) else ():
            match one:
                case [
                    str(server),
                    int(state),
                    int(episode),
                    int(age_ms),
                    int(latency_us),
                    bool(ok),
                    int(restarts),
                    str(boot),
                    str(fingerprint),
                    str(tells),
                ] if _UP <= state <= _SEEN_DOWN:
                    tells = tells[:_TELLS_MAX]
                    numbers = state, episode, age_ms, latency_us, ok, restarts
                    yield (pool, server), _Entry(*numbers, boot, fingerprint, tells)
