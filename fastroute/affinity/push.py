"""The push channel of a zone: one process of the machine listens to the store and the zone's entries follow it.

PushChannel    shared by all affinities of one process over one zone and one store; made by join(), ended by leave().
PushStatistics what it did.
Not here: sockets and lines (memcache/watch), the board in shared memory and its proof (ext/fr_push.h), writing bindings
back (republish).

Every process offers itself each LOOK_S; the one that holds the lease (500 ms, renewed with each beat) watches ALL
nodes: entries are believed while the least lively node has proved itself within LIVE_S. When the owner dies or is
stopped, entries lapse to near_ttl by themselves within LIVE_S, and another process takes over within TAKEOVER_S_MAX,
plus the making of its connections.

A loss makes all entries of the zone hints at once. Losses that come too thick (LOSSES_MAX in LOSSES_WINDOW_S) turn the
channel off for a while: a question per near_ttl is cheaper than one per loss and key.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import random
import secrets
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fastroute._core.hashes import xxh64
from fastroute._core.zone_push import LEASE_S, NodeLife, PushBoard, fingerprint_of
from fastroute.affinity.republish import Republisher
from fastroute.memcache.watch import BEAT_S, LIVE_S, NodeFacts, NodeWatch

if TYPE_CHECKING:
    from fastroute.affinity.table import Affinity
    from fastroute.memcache.cluster import Memcached

__all__ = ["NearMode", "PushChannel", "PushStatistics", "join", "leave", "store_digest"]

NearMode = Literal["push", "poll"]

LOOK_S = 0.1
"""How often a process that is not the owner looks whether there is one (-20 % jitter)."""
AGAIN_S = 1.0
"""Pause after an error that nobody foresaw."""
LOSSES_MAX, LOSSES_WINDOW_S = 8, 10.0
"""More losses than this in so long, and the channel rests."""
REST_S_MIN, REST_S_MAX = 5.0, 60.0
"""How long it rests; doubled each time until it has held for REST_S_MAX."""

_log = logging.getLogger("fastroute.affinity.push")


@dataclass(slots=True)
class PushStatistics:
    """What this process did for the zone's push channel; only the owner's counts grow.

    Attributes:
        owner: does this process run the channel now?
        elected: times it took it over.
        lines: announcements heard.
        invalidations: near entries that became hints by them.
        losses: cause -> count: reconnect, protocol, refused, skipped, dropped, gaps, restart, flush; all became hints.
        doubts: cause -> count: silence, gap; entries were not believed until the node had proved itself.
        rests: times the channel was turned off because losses came too thick.
        republished: bindings written back to a node that had lost them.
        republish_adopted: those found decided otherwise there.
        republish_failed: those left because the node did not answer.
    """

    owner: bool = False
    elected: int = 0
    lines: int = 0
    invalidations: int = 0
    losses: collections.Counter[str] = field(default_factory=collections.Counter)
    doubts: collections.Counter[str] = field(default_factory=collections.Counter)
    rests: int = 0
    republished: int = 0
    republish_adopted: int = 0
    republish_failed: int = 0


def store_digest(store: Memcached) -> int:
    """64 bits that stand for the store's nodes and copies; 0 for a store without nodes, which cannot be watched.

    The same for as long as the object lives, though a change of the list of nodes ends: views that are made afterwards
    belong to the channel that is there.
    """
    if not getattr(store, "nodes", ()):
        return 0
    found = _digests.get(store)
    if found is None:
        names = sorted(node.name for node in store.nodes)
        found = _digests[store] = xxh64("\n".join([str(store.copies), *names])) or 1
    return found


_digests: weakref.WeakKeyDictionary[Memcached, int] = weakref.WeakKeyDictionary()


class PushChannel:
    """One process's part in the push channel of a zone; see the head of this file.

    Args:
        affinity: the first of those that share it.
        store: their store.
        digest: store_digest(store).
    """

    def __init__(self, affinity: Affinity, store: Memcached, digest: int) -> None:
        token = secrets.randbits(32) or 1
        self.board = PushBoard(affinity.table, digest, token)
        self.statistics = PushStatistics()
        self.members: list[Affinity] = [affinity]
        self._store = store
        self._nodes: list[NodeWatch] = []
        self._beat_key = b"%b:w:%08x:" % (affinity.fleet.encode(), token)
        self._task: asyncio.Task[None] | None = None
        self._mending: dict[str, tuple[NodeLife, asyncio.Task[None]]] = {}
        self._seen_to: dict[str, NodeLife] = {}
        self._losses: collections.deque[float] = collections.deque(maxlen=LOSSES_MAX)
        self._rest_until_s = 0.0
        self._rest_s = REST_S_MIN
        self._counted_lines = 0

    def mode(self) -> NearMode:
        """Are the zone's entries believed because of the channel ("push"), or for near_ttl ("poll")?"""
        return "push" if self.board.live else "poll"

    def start(self) -> None:
        """Begin to take part, in the running event loop; nothing happens when it has begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Take no part any more; another process takes over at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- the owner -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            if self.board.lease():
                try:
                    await self._own()
                except Exception:  # whatever it is: entries are believed for near_ttl, and the next attempt follows
                    _log.exception("store: the push channel ended; it begins again in %.0f s", AGAIN_S)
                    self.board.release()  # another process may fare better
                    await asyncio.sleep(AGAIN_S)
                finally:
                    self.statistics.owner = False
                    self.board.release()
            await asyncio.sleep(LOOK_S * (1 - 0.2 * random.random()))  # noqa: S311

    async def _own(self) -> None:
        """Run the channel until somebody else has taken it."""
        self.statistics.elected += 1
        self.statistics.owner = True
        self.board.serve()
        self.board.lose()  # what the owner before this one saw last is not known
        while self.board.lease():
            nodes = self._store.nodes
            watch = self._store.watch and time.monotonic() >= self._rest_until_s
            self._nodes = [
                NodeWatch(node.connection, node.name, beat_key=self._beat_key, events=self, watch=watch)
                for node in nodes
            ]
            self._counted_lines = 0
            tasks = [asyncio.get_running_loop().create_task(node.run()) for node in self._nodes]
            try:
                while self.board.lease():
                    for task in tasks:
                        if task.done():
                            task.result()
                    await asyncio.sleep(BEAT_S)
                    # A process that was stopped on its way to serve another store may have put that one's name there.
                    if self.board.owns:
                        self.board.serve()
                    self._count_lines()
                    if watch != (self._store.watch and time.monotonic() >= self._rest_until_s):
                        break
                    if self._store.nodes is not nodes:  # a change of the list has ended
                        break
            finally:
                self._count_lines()
                self.board.suspend()
                if not self.board.owns:
                    self.statistics.owner = False
                mending = [task for _, task in self._mending.values()]
                for task in (*tasks, *mending):
                    task.cancel()
                await asyncio.gather(*tasks, *mending, return_exceptions=True)
                self._mending.clear()
                self._nodes = []
                self.board.lose()

    def _count_lines(self) -> None:
        lines = sum(node.lines for node in self._nodes)
        self.statistics.lines += lines - self._counted_lines
        self._counted_lines = lines

    # -- what the nodes say (WatchEvents) ------------------------------------------------------------------------------

    def announced(self, key: bytes, evicted: bool) -> None:
        """A key was written or evicted: its entry becomes a hint, unless this machine wrote it."""
        fingerprint = fingerprint_of(key)
        if fingerprint is not None and self.board.invalidate(fingerprint, all=evicted) == 1:
            self.statistics.invalidations += 1

    def alive(self, node: NodeWatch) -> None:
        """The least lively node decides how long entries are believed."""
        least_s = min(one.alive_s for one in self._nodes)
        if least_s:
            self.board.extend(round((least_s + LIVE_S) * 1000))

    def doubted(self, node: NodeWatch, cause: str) -> None:
        """Nothing is believed until the node has proved that nothing was missed."""
        self.statistics.doubts[cause] += 1
        self.board.suspend()

    def lost(self, node: NodeWatch, cause: str) -> None:
        """Nothing that was guarded until now is believed any more."""
        self.statistics.losses[cause] += 1
        if not self.board.owns:
            return
        self.board.lose()
        for one in self._nodes:
            one.distrust()
        now_s = time.monotonic()
        self._losses.append(now_s)
        if cause == "refused":
            _log.warning(
                "store %s: refuses to be watched (%s); near entries live for near_ttl", node.name, node.refused
            )
        elif len(self._losses) == LOSSES_MAX and now_s - self._losses[0] < LOSSES_WINDOW_S:
            self._losses.clear()
            self._rest_s = REST_S_MIN if now_s - self._rest_until_s > REST_S_MAX else min(2 * self._rest_s, REST_S_MAX)
            self._rest_until_s = now_s + self._rest_s
            self.statistics.rests += 1
            _log.warning("store: the push channel loses too much (last: %s); off for %.0f s", cause, self._rest_s)

    def facts(self, node: NodeWatch, facts: NodeFacts, first: bool) -> None:
        """A node that shows another life than the zone remembers has lost its records: they are written again. One that
        was away, or is new to the zone, gets what was decided without it."""
        life = NodeLife(facts.pid, facts.start_s, facts.flushes)
        known = self.board.life_of(_node_digest(node.name))
        same = known is not None and (known.pid, known.flushes) == (life.pid, life.flushes)
        same = same and known is not None and abs(known.start_s - life.start_s) <= 1
        same = same or self._seen_to.get(node.name) == life  # the zone has no room for it
        running = self._mending.get(node.name)
        if running is not None and running[0] == life and not running[1].done():
            return
        if same and not first:
            return
        if running is not None:
            running[1].cancel()
        task = asyncio.get_running_loop().create_task(self._mend(node.name, life, known is None or same))
        self._mending[node.name] = (life, task)

    async def _mend(self, node: str, life: NodeLife, only_provisional: bool) -> None:
        try:
            await Republisher(
                tuple(self.members), self.board, self._store, node, self.statistics, only_provisional=only_provisional
            ).run()
        except Exception:  # a background errand; keys are restored as they are seen
            _log.exception("store %s: bindings could not be written again", node)
        if self.board.owns and not self.board.remember(_node_digest(node), life):
            self._seen_to[node] = life


def _node_digest(name: str) -> int:
    return xxh64(name) or 1


# -- one channel per zone and store in a process -----------------------------------------------------------------------

_channels: weakref.WeakValueDictionary[tuple[int, int], PushChannel] = weakref.WeakValueDictionary()
"""By the identities of store and zone, both of which a channel keeps alive; its members and its tasks keep it."""


def join(affinity: Affinity, store: Memcached) -> PushChannel:
    """The channel of this affinity's zone and store; the caller leaves it again."""
    which = (id(store), id(affinity.zone))
    channel = _channels.get(which)
    if channel is None:
        channel = _channels[which] = PushChannel(affinity, store, store_digest(store))
    elif affinity not in channel.members:
        channel.members.append(affinity)
    return channel


async def leave(affinity: Affinity, store: Memcached, channel: PushChannel) -> None:
    """This affinity is done with the channel; the last one closes it."""
    with contextlib.suppress(ValueError):
        channel.members.remove(affinity)
    if not channel.members:
        _channels.pop((id(store), id(affinity.zone)), None)
        await channel.aclose()


TAKEOVER_S_MAX = LEASE_S + 0.064 + LOOK_S
"""After so long without its owner the channel has another one, which begins to make its connections."""
