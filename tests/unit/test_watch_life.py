"""What the signs of life of a node prove, and what they do not: NodeWatch without sockets, the time in hand."""

from __future__ import annotations

from fastroute.memcache.watch import BEAT_S, LIVE_S, NodeFacts, NodeWatch
from fastroute.memcache.watch_lines import GAP_S, Announced

PREFIX = b"fr:w:00000001:"
FACTS = {b"pid": b"7", b"uptime": b"10", b"time": b"1010", b"cmd_flush": b"3"}


class Ask:
    """Keeps what is sent."""

    waiting = False

    def __init__(self) -> None:
        self.beats: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.beats.append(data.split()[1])


class Events:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def announced(self, key: bytes, evicted: bool) -> None:
        self.told.append("announced")

    def lost(self, node: NodeWatch, cause: str) -> None:
        self.told.append(f"lost {cause}")

    def doubted(self, node: NodeWatch, cause: str) -> None:
        self.told.append(f"doubted {cause}")

    def alive(self, node: NodeWatch) -> None:
        self.told.append("alive")

    def facts(self, node: NodeWatch, facts: NodeFacts, first: bool) -> None:
        pass


class Watched:
    """A node that is watched, whose lines come when the test says so."""

    def __init__(self) -> None:
        self.now_s, self.gid = 1000.0, 0
        self.events, self.ask = Events(), Ask()
        self.node = NodeWatch(None, "n", beat_key=PREFIX, events=self.events, monotonic_s=lambda: self.now_s)  # type: ignore[arg-type]
        self.node._ask = self.ask  # type: ignore[assignment]
        self.node._listen = object()  # type: ignore[assignment]
        self.node._whole = True
        self.node._floor_s = self.now_s
        self.prove()

    def prove(self) -> None:
        """`stats` says that nothing was dropped."""
        self.node._heard_s = self.now_s
        self.node._answered(FACTS, self.now_s)

    def beat(self) -> tuple[bytes, float]:
        """The key of the next beat and when it was sent."""
        self.now_s += BEAT_S
        self.node._tick(self.now_s)
        return self.ask.beats[-1], self.now_s

    def hear(self, key: bytes, skip: int = 0) -> None:
        self.gid += 1 + skip
        self.node._heard([Announced(self.gid, "stored", key)])


def test_line_that_is_late_proves_no_more_than_when_its_beat_was_sent():
    watched = Watched()
    key, sent_s = watched.beat()
    for _ in range(100):  # 5 s
        watched.beat()
    watched.prove()
    watched.node._floor_s = 0.0
    watched.hear(key)
    assert watched.node.alive_s == sent_s


def test_beats_outlive_the_time_in_which_their_lines_may_come():
    watched = Watched()
    keys = {watched.beat()[0] for _ in range(200)}
    assert len(keys) == 200
    assert all(key.startswith(PREFIX) for key in keys)


def test_other_keys_with_the_prefix_of_the_beat_prove_nothing():
    watched = Watched()
    watched.beat()
    for number in (b"", b"x", b"256", b"0000", b"-1", b"1_0", "\u0661".encode()):
        watched.hear(PREFIX + number)
    assert watched.node.alive_s == 0.0


def test_node_in_doubt_is_not_vouched_for_by_what_it_had_proved_before():
    watched = Watched()
    watched.hear(watched.beat()[0])
    assert watched.node.alive_s > 0
    watched.hear(watched.beat()[0], skip=1)
    watched.now_s += GAP_S
    watched.hear(watched.beat()[0])
    assert watched.events.told[-1] == "doubted gap"
    assert watched.node.alive_s == 0.0, "another node's sign of life would extend by it"
    watched.hear(watched.beat()[0])
    assert watched.node.alive_s == 0.0
    watched.prove()
    watched.hear(watched.beat()[0])
    assert watched.node.alive_s == watched.now_s
    assert watched.events.told[-1] == "alive"


def test_doubt_that_was_cleared_does_not_come_back_before_a_sign_of_life_can_come():
    watched = Watched()
    watched.hear(watched.beat()[0])
    for _ in range(20):
        watched.beat()
    assert watched.events.told[-1] == "doubted silence"
    watched.prove()
    watched.beat()
    key, sent_s = watched.beat()
    watched.hear(key)
    assert watched.events.told.count("doubted silence") == 1
    assert watched.node.alive_s == sent_s


def test_silence_is_a_doubt():
    watched = Watched()
    watched.hear(watched.beat()[0])
    while watched.now_s < watched.node._heard_s + LIVE_S + BEAT_S:
        watched.beat()
    assert watched.events.told[-1] == "doubted silence"
