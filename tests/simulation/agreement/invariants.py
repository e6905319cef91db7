"""What must hold, checked at every change of a record and at every answer to a request.

Each invariant of the protocol as a predicate over what the checker sees: every change of every record in every node
(with the connection that made it), every selection that a worker returned (with the time its request began), every
decision that was made without the store. The decision of a key is a triple (term, generation, server).

- I1 one server per decision: a change of the store never names another server for a (term, generation) that stood
  before, unless the store has lost the record in between; and whatever a worker returns either stood in the store, or
  was decided while the store did not answer (provisional).
- I2 first writer wins, in the stronger form "what the store answers is the store's": a selection that the store decided
  stood at a home of its key at some instant of its request. And the home decides: a follower's record is written only
  to what an earlier home holds or held a moment ago, or by a worker that is without the earlier homes.
- I3 one transition out of a decision: a record is replaced only by the same term with a higher generation. One that is
  higher by one and was not known before needs a reason of its writer against the old server (no fail-back).
- I4 no way back: a request that begins after its machine returned (term, g) never gets (term, g') with g' < g, unless
  another term was its answer or stood in the store meanwhile, the key was released, or its record was due to expire.
- I5 bounded staleness: what a worker returns from its near tier was the store's latest decision (or was decided
  provisionally on that machine) within the last D = near_ttl + time limits + ticks, if the worker was connected to the
  key's home for so long. With the push channel an entry that is believed for longer has to be true for longer.
- I6 a compare-and-set or conditional delete carries only a number that was read on the connection that carries it.
- I7 no selection names a server that the worker itself holds down, but for a decision of another worker that is
  younger than MIN_HOLD_S (the guard against ping-pong).
- I8 a record does not expire within its lifetime (less the second that memcached's clock is coarse) after an answer
  for which the store was asked; with I5, which bounds how long it is not asked, that is the sliding expiry.
- I9 unknown is neither: both outcomes of an unanswered write happen in the model; I1 and I2 accept what stood, only.
- I10 after the faults: one request per worker and key, near_ttl, again one each, and all agree, with the store too;
  with copies a quarter of the ttl and once more, because followers are looked at so often only.
- I11 replies reach their own request: a term belongs to one key, in the store and in every answer; and every reply
  carries the mark of its request, which the product's codec checks.
- I12 records leave the store by expiry, eviction, flush or restart only; no command of a worker removes one.
- I13 what was released stays released: after a release that was reported as done, its term comes back to the deciding
  home with a later generation only, unless the home lost the record (other than by its expiry) or the writer's machine
  was without the store, or stood still, meanwhile. Only a release, asked for a moment ago, makes a record nobody's.
- liveness: no request fails but for lack of a server; none waits longer than its bound.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import TYPE_CHECKING, Any

from fastroute.affinity.base import store_key
from fastroute.affinity.binding import MIN_HOLD_S, ONCE_S
from fastroute.affinity.record import NOBODY, Record, server_id

if TYPE_CHECKING:
    from tests.simulation.agreement.fleet import Worker, World
    from tests.simulation.agreement.memcached import Session
    from tests.simulation.agreement.network import Node

Triple = tuple[int, int, str]

NOBODYS = "nobody"
"""What a released key's record names for a server."""

TICKS_S = 0.064 * 3
"""Ages are counted in ticks of 64 ms; a tick at each end and one of rounding."""

RETURN_CHECK_S = 0.3
"""A worker notices a quarter of a second late that the store is back, and trusts old entries until then."""

EVIDENCE_S = 0.6
"""A move is sent within so long of the reason for it: a request's tries and their time limits."""

ROUTE_S_MAX = 1.0
"""Bound of one route() or move() of a process that runs: tries times time limit, twice."""

HISTORY_MAX = 1024
"""Changes that are remembered per node and key: a node that is flushed loses and gets a record often in one second."""


class Violation(AssertionError):
    """An invariant does not hold; the message says which, when and where."""


@dataclasses.dataclass(slots=True)
class Track:
    """What is known of one key."""

    key: bytes
    homes: tuple[str, ...] = ()
    epoch: int = 0  # grows whenever the deciding home loses the record
    histories: dict[str, list[tuple[float, Triple | None]]] = dataclasses.field(default_factory=dict)
    committed: dict[Triple, float] = dataclasses.field(default_factory=dict)  # -> when it was decided
    decided: dict[tuple[int, int], tuple[str, int]] = dataclasses.field(default_factory=dict)  # -> server, epoch
    provisional: dict[Triple, dict[int, float]] = dataclasses.field(default_factory=dict)  # -> zone -> last time
    returned: dict[int, list[tuple[float, int, int]]] = dataclasses.field(default_factory=dict)  # zone -> (time, T, g)
    released_s: float = -1.0
    ended: dict[int, tuple[int, float]] = dataclasses.field(default_factory=dict)  # released term -> generation, when
    lost_s: float = -1.0  # last time the deciding home held nothing
    used: dict[Triple, float] = dataclasses.field(default_factory=dict)
    promised: dict[Triple, tuple[float, Any, float]] = dataclasses.field(default_factory=dict)
    """As used, by a touch that follows the answer: until when, whose touch, the answer's beginning."""


class Checker:
    """Sees everything; raises Violation at the first thing that must not be."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tracks: dict[bytes, Track] = {}  # by the key's name in the store
        self.names: dict[bytes, bytes] = {}  # user's key -> name in the store
        self.term_owner: dict[int, bytes] = {}
        self.digest = 0
        self.counts: dict[str, int] = {}
        self.trace: list[str] | None = None
        self.server_of_id = {server_id(name): name for name in world.servers.names} | {NOBODY: NOBODYS}
        self.violation: Violation | None = None
        self.refusals_allowed = False

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def fail(self, invariant: str, message: str) -> None:
        """Note the first violation; it is raised at the end of the event (a task of the product would swallow it)."""
        if self.violation is None:
            self.violation = Violation(f"{invariant} at {self.world.scheduler.now_s:.6f}: {message}")

    def note(self, *what: Any) -> None:
        """Into the digest of the run, and into the trace if there is one."""
        self.digest = zlib.crc32(repr(what).encode(), self.digest)
        if self.trace is not None:
            self.trace.append(f"{self.world.scheduler.now_s:.6f} " + " ".join(str(one) for one in what))

    def track(self, worker: Worker, key: bytes) -> Track:
        name = self.names.get(key)
        if name is None:
            name = store_key(worker.affinity.fleet, worker.pool.name, worker.view.fingerprint(key))
            self.names[key] = name
        track = self.tracks.get(name)
        if track is None:
            track = self.tracks[name] = Track(key)
        if not track.homes:
            track.key = key
            track.homes = self.world.homes_of(worker, name)
        return track

    # -- the store

    def changed(
        self, node: Node, name: bytes, before: bytes | None, after: bytes | None, cause: str, session: Session | None
    ) -> None:
        """A record of a node changed."""
        if b":a:" not in name:
            return
        track = self.tracks.get(name)
        if track is None:
            track = self.tracks[name] = Track(b"?")
        now_s = self.world.scheduler.now_s
        old, new = self._triple(before), self._triple(after)
        if self.trace is not None:
            self.note("store", node.host, track.key, old, "->", new, cause, session.owner.name if session else "")
        else:
            self.digest = zlib.crc32(struct.pack("<dII", now_s, node.number, new[1] if new else 0), self.digest)
        history = track.histories.setdefault(node.host, [])
        history.append((now_s, new))
        if len(history) > HISTORY_MAX:
            del history[: HISTORY_MAX // 2]
        home = not track.homes or track.homes[0] == node.host
        if new is None:
            if home:
                track.epoch += 1
                track.lost_s = now_s
                if cause != "expiry":
                    track.ended.clear()
            self._left(track, node, old, cause, session)
            if home:
                track.used.clear()
                track.promised.clear()  # what is written again has the rest of its life
            return
        if after is not None and len(after) != 32:
            self.fail("I12", f"{node.host} {name!r}: a record of {len(after)} bytes")
        owner = self.term_owner.setdefault(new[0], name)
        if owner != name:
            self.fail("I11", f"{node.host}: term {new[0]:x} of {owner!r} was written to {name!r}")
        if home:
            self._stays_released(track, node, new, session)
            self._decision(track, node, new)
            if old is None:
                track.lost_s = now_s
        if not home:
            self._followed(track, node, new, session)
        if old is not None:
            self._transition(track, node, old, new, session, home)
        if old is not None:
            track.committed[new] = now_s  # decided now, perhaps anew after a loss; else restored
        track.committed.setdefault(new, now_s)

    def _stays_released(self, track: Track, node: Node, new: Triple, session: Session | None) -> None:
        generation, ended_s = track.ended.get(new[0], (0, 0.0))
        if new[1] >= generation or session is None or node.sent_s < ended_s:
            return
        worker: Worker = session.owner.worker
        now_s = self.world.scheduler.now_s
        mates = [one for one in self.world.workers if one.machine is worker.machine]
        if any(self.connected_s(one, node.host) > ended_s for one in mates):
            return  # it kept what it knew alive while it was without the store
        expired = now_s > ended_s + self.world.options.ttl_s
        if expired and (self.world.options.hints or any(end > ended_s for _, _, end in self.world.pauses)):
            return  # a cookie that was laid aside, or a worker that stood still with an old answer
        self.fail(
            "I13",
            f"{node.host} {track.key!r}: {_shown(new)} is back by {worker.name}, released at {ended_s:.6f}"
            f" with generation {generation}",
        )

    def _decision(self, track: Track, node: Node, new: Triple) -> None:
        known = track.decided.get(new[:2])
        if known is not None and known[0] != new[2]:
            if known[1] == track.epoch:
                self.fail("I1", f"{node.host} {track.key!r}: ({new[0]:x}, {new[1]}) was {known[0]}, is now {new[2]}")
            self.count("decisions made again after a loss")
        track.decided[new[:2]] = new[2], track.epoch

    def _followed(self, track: Track, node: Node, new: Triple, session: Session | None) -> None:
        """A record of a follower changed: to what an earlier home holds, unless its writer was without that home."""
        now_s = self.world.scheduler.now_s
        if session is None or now_s - node.sent_s > 0.1 or node.host not in track.homes:
            return  # what lands late was right when it was sent, perhaps
        worker: Worker = session.owner.worker
        for host in track.homes[: track.homes.index(node.host)]:
            if self._stood_at(track, host, new, now_s - 2.0 - worker.recent_pause_s(now_s)):
                return
            if self.connected_s(worker, host) > now_s - 0.5:
                return
        self.fail(
            "I2", f"{node.host} {track.key!r}: {_shown(new)} by {worker.name}, whose earlier homes answer and differ"
        )

    def _transition(
        self, track: Track, node: Node, old: Triple, new: Triple, session: Session | None, home: bool
    ) -> None:
        where = f"{node.host} {track.key!r}: {_shown(old)} -> {_shown(new)}"
        if not home:
            if (
                old is not None
                and new[0] == old[0]
                and new[1] <= old[1]
                and not self._stood(track, new, self.world.scheduler.now_s - 2.0)
            ):
                self.fail("I3", f"{where}: a follower went back to what no home holds")
            return
        if self.world.options.copies > 1 and self._stood_elsewhere(track, node, new):
            return  # a follower with a later decision, or the acting home's
        if old[2] == NOBODYS and (new[0] != old[0] or new[1] > old[1]):
            return  # bound again
        if new[0] != old[0] and self._released_elsewhere(track, node, old):
            return  # bound again; this home was away when it was released
        if new[2] == NOBODYS and session is not None:
            if node.sent_s - track.released_s > 1.0 + self.world.longest_pause_s:
                self.fail("I13", f"{where}: by {session.owner.name}, and nobody has asked for a release")
            if new[0] == old[0] and new[1] > old[1]:
                return
        if new[0] != old[0] or new[1] <= old[1]:
            self.fail("I3", f"{where}: not the same term with a higher generation")
        if new[1] == old[1] + 1 and new not in track.committed and new not in track.provisional and session is not None:
            worker: Worker = session.owner.worker
            sent_s = node.sent_s
            late_s = EVIDENCE_S + worker.recent_pause_s(sent_s)
            if worker.against(old[2], sent_s) < sent_s - late_s and track.lost_s < sent_s - late_s:
                self.fail("I3", f"{where}: by {worker.name}, which had nothing against {old[2]}")

    def _left(self, track: Track, node: Node, old: Triple | None, cause: str, session: Session | None) -> None:
        now_s = self.world.scheduler.now_s
        if cause == "refused" and not self.refusals_allowed:
            self.fail("I12", f"{node.host} {track.key!r}: {_shown(old)} was removed by a refused store")
        if cause == "delete":
            who = session.owner.name if session else "nobody"
            self.fail("I12", f"{node.host} {track.key!r}: {_shown(old)} was deleted by {who}")
        if cause == "expiry" and old is not None and track.homes and track.homes[0] == node.host:
            until_s = track.used.get(old, 0.0)
            later_s, worker, began_s = track.promised.get(old, (0.0, None, 0.0))
            if later_s > until_s and self.connected_s(worker, node.host) < began_s:
                until_s = later_s  # else its process, or the connection that carried the touch, is gone
            if now_s < until_s:
                self.fail("I8", f"{node.host} {track.key!r}: {_shown(old)} expired {until_s - now_s:.3f} s too early")

    def _triple(self, data: bytes | None) -> Triple | None:
        record = Record.unpack(data)
        if record is None:
            return None
        return record.term, record.generation, self.server_of_id.get(record.server, "?")

    # -- answers

    def decided(self, worker: Worker, name: bytes, server: str, bound: Any) -> None:
        """A worker's steps for a key ended; without the store's word the decision is provisional."""
        if bound.kind not in ("unknown", "down") or not bound.term:
            return
        track = self.tracks.setdefault(name, Track(b"?"))
        triple = (bound.term, bound.generation, server)
        owner = self.term_owner.setdefault(bound.term, name)
        if owner != name:
            self.fail("I11", f"{worker.name}: term {bound.term:x} of {owner!r} was decided for {name!r}")
        zone = id(worker.machine.zone)
        track.provisional.setdefault(triple, {})[zone] = self.world.scheduler.now_s
        if triple not in track.committed:
            self.count("provisional decisions")

    def released(self, worker: Worker, key: bytes) -> None:
        track = self.track(worker, key)
        track.released_s = self.world.scheduler.now_s
        self.note("release", worker.name, key)

    def ended(self, worker: Worker, key: bytes) -> None:
        """A release was reported as done."""
        track = self.track(worker, key)
        now_s = self.world.scheduler.now_s
        for _, value in reversed(track.histories.get(track.homes[0], ())):
            if value is not None:
                if value[2] != NOBODYS or track.ended.get(value[0], (0, 0.0))[0] < value[1]:
                    track.ended[value[0]] = value[1] + (value[2] != NOBODYS), now_s
                self.count("releases that are remembered")
                break

    def returned(self, worker: Worker, key: bytes, began_s: float, selection: Any, bound: Any, paused_s: float) -> None:
        """A worker's answer to a request that began at began_s. bound: how its steps ended; None for a near answer."""
        now_s = self.world.scheduler.now_s
        kind = bound.kind if bound is not None else "near"
        server, term, generation = selection.server.name, selection.term, selection.generation
        self.count("answers")
        self.count(selection.reason)
        self.note("answer", worker.name, key, began_s, (term, generation, server), selection.reason, kind)
        if now_s - began_s - paused_s > ROUTE_S_MAX:
            self.fail("liveness", f"{worker.name} {key!r}: an answer took {now_s - began_s:.3f} s")
        if not term:
            if not worker.takes(server) and worker.pool.ready_count:
                self.fail("I7", f"{worker.name} {key!r}: {server} is {worker.pool.state_of(server)} in its own view")
            self.count("answers without a binding")
            return
        triple: Triple = (term, generation, server)
        track = self.track(worker, key)
        name = self.names[key]
        where = f"{worker.name} {key!r}: {_shown(triple)} ({selection.reason}, {kind}; began {began_s:.6f})"
        if self.term_owner.get(term, name) != name:
            self.fail("I11", f"{where}: the term is that of {self.term_owner[term]!r}")
        if triple not in track.committed and triple not in track.provisional:
            self.fail("I1", f"{where}: never stood in the store, and was not decided without it")
        if not worker.takes(server) and not self._held(track, triple, now_s):
            self.fail("I7", f"{where}: it is {worker.pool.state_of(server)} in its own view")
        self._monotone(worker, track, triple, began_s, now_s, where)
        self._fresh(worker, track, triple, began_s, now_s, bound, where, paused_s)
        asked = bound is not None and bound.kind not in ("unknown", "down") and bound.reason != "affinity-near"
        if asked and self.connected_s(worker, track.homes[0]) < began_s:
            ttl_s = self.world.options.ttl_s  # the store was asked, so its record lives on from the beginning on
            until_s = began_s + (ttl_s if bound.kind == "near" else min(ttl_s, ONCE_S)) - 1.0
            if bound.only_read:
                track.promised[triple] = max(
                    track.promised.get(triple, (0.0, worker, 0.0)), (until_s, worker, began_s), key=lambda one: one[0]
                )
            else:
                track.used[triple] = max(track.used.get(triple, 0.0), until_s)

    def _held(self, track: Track, triple: Triple, now_s: float) -> bool:
        """May a worker send to a server that it holds down, because another one moved the key there a moment ago?"""
        since_s = now_s - track.committed.get(triple, -1e9)
        return triple[1] > 1 and since_s < MIN_HOLD_S + 1.0 + self.world.wall_error_s

    def _monotone(self, worker: Worker, track: Track, triple: Triple, began_s: float, now_s: float, where: str) -> None:
        zone = id(worker.machine.zone)
        before = track.returned.setdefault(zone, [])
        for when_s, term, generation in reversed(before):
            if when_s >= began_s:
                continue
            if when_s <= track.released_s:
                break  # what stood before a release counts no more; another machine may know an older decision
            if when_s < began_s - self.world.options.ttl_s + self.world.options.near_ttl_s + 0.5:
                break  # the machine may have forgotten it: expiry slides when the store is asked
            if term == triple[0] and generation > triple[1] and not self._other_term(track, term, when_s):
                self.fail("I4", f"{where}: generation {generation} was returned at {when_s:.6f} on this machine")
            break
        before.append((now_s, triple[0], triple[1]))
        if len(before) > HISTORY_MAX:
            del before[: HISTORY_MAX // 2]

    def _other_term(self, track: Track, term: int, since_s: float) -> bool:
        """Has a home held another term since then? Whoever learned of it has forgotten the first one's decisions."""
        for history in track.histories.values():
            for when_s, value in reversed(history):
                if value is not None and value[0] != term:
                    return True
                if when_s < since_s:
                    break
        return False

    def _fresh(
        self,
        worker: Worker,
        track: Track,
        triple: Triple,
        began_s: float,
        now_s: float,
        bound: Any,
        where: str,
        paused_s: float,
    ) -> None:
        options = self.world.options
        if bound is not None and (bound.kind in ("unknown", "down") or bound.reason == "affinity-near"):
            return  # the store was away: what the zone and the cookie know
        asked = bound is not None
        if asked:
            if not self._stood(track, triple, began_s):
                self.fail("I2", f"{where}: did not stand in the store during the request")
            return
        home = track.homes[0]
        oldest_s = began_s - options.near_ttl_s - options.timeout_s * 1.3 - TICKS_S - worker.machine_pause_s(began_s)
        if self.connected_s(worker, home) > oldest_s - RETURN_CHECK_S:
            return  # it was without the store a moment ago
        if any(self._latest_at(track, host, triple, oldest_s) for host in track.homes):
            return
        if track.provisional.get(triple, {}).get(id(worker.machine.zone), -1.0) >= oldest_s:
            return
        up = [node.name for node in worker.store.nodes if node.up]
        self.fail(
            "I5", f"{where}: has not stood in the store since {oldest_s:.6f}; up: {up}, {worker.view.trust_stale}"
        )

    def connected_s(self, worker: Worker, host: str) -> float:
        """Since when the worker's connection to that node lives; the far future while it is not up."""
        node = next(node for node in worker.store.nodes if node.name.startswith(host + ":"))
        if not node.up:
            return float("inf")
        return self.world.network.connected_s.get((worker.process, self.world.network.nodes[host]), float("inf"))

    def _stood(self, track: Track, triple: Triple, since_s: float) -> bool:
        """Did a home hold this decision at any instant since then?"""
        return any(self._stood_at(track, host, triple, since_s) for host in track.homes)

    def _stood_at(self, track: Track, host: str, triple: Triple, since_s: float) -> bool:
        for when_s, value in reversed(track.histories.get(host, ())):
            if value == triple:
                return True
            if when_s < since_s:
                return False
        return False

    def _latest_at(self, track: Track, host: str, triple: Triple, since_s: float) -> bool:
        """Was this the node's latest decision at any instant since then? That it lost it meanwhile changes nothing."""
        for when_s, value in reversed(track.histories.get(host, ())):
            if value == triple:
                return True
            if value is not None and when_s < since_s:
                return False
        return False

    def _stood_elsewhere(self, track: Track, node: Node, triple: Triple) -> bool:
        since_s = self.world.scheduler.now_s - 2.0
        return any(self._stood_at(track, host, triple, since_s) for host in track.homes if host != node.host)

    def _released_elsewhere(self, track: Track, node: Node, old: Triple) -> bool:
        """Was this decision's term released at another home, which decided while this one was away?"""
        return any(
            value is not None and value[0] == old[0] and value[1] > old[1] and value[2] == NOBODYS
            for host in track.homes
            if host != node.host
            for _, value in track.histories.get(host, ())
        )

    # -- after each event, and at the end

    def after_event(self) -> None:
        if self.violation is not None:
            raise self.violation

    def look(self) -> None:
        """What is checked now and then rather than at an answer."""
        for node in self.world.network.nodes.values():
            if node.model is not None:
                node.model.expire_due()
                if node.model.foreign_cas:
                    self.fail("I6", f"{node.host}: {node.model.foreign_cas[0]}")
        for worker in self.world.workers:
            if worker.process.errors:
                self.fail("liveness", f"{worker.name}: {worker.process.errors[0]}")

    def converged(self, answers: dict[bytes, dict[str, Triple]]) -> None:
        """I10: the answers of all workers to the last request of each key."""
        for key, by_worker in answers.items():
            if len(set(by_worker.values())) > 1:
                shown = ", ".join(f"{name} {_shown(triple)}" for name, triple in by_worker.items())
                self.fail("I10", f"{key!r}: {shown}")
                return
            name = self.names[key]
            track = self.tracks[name]
            triple = next(iter(by_worker.values()))
            for host in track.homes:
                model = self.world.network.nodes[host].model
                item = model.find(name) if model is not None else None
                stands = self._triple(item.value) if item is not None else None
                if stands != triple:
                    self.fail("I10", f"{key!r}: all say {_shown(triple)}, {host} holds {_shown(stands)}")
                    return


def _shown(triple: Triple | None) -> str:
    return "nothing" if triple is None else f"({triple[0] & 0xFFFF:04x}, {triple[1]}) {triple[2]}"
