"""Connections between processes and the store's nodes, and everything that breaks them.

What it is: TCP as its users see it: bytes in order or not at all, after a delay. What it is not: who talks (fleet.py).

Rules of this file
- A stream has no holes: when bytes of one direction are lost, nothing of that direction arrives any more. The client
  sees only silence, gives up after its time limit and connects anew.
- What a client sent before it gave up may still arrive, at any later time: a timed-out write is unknown.
- A killed node's connections are reset; a stopped node's kernel goes on accepting connections and bytes.
- A partition holds back what is under way; when it heals, held bytes arrive or are lost.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tests.simulation.agreement.loop import Process, Scheduler
from tests.simulation.agreement.memcached import Changed, MemcachedModel, Session

LOGGER_AWAKE_S = 0.15
"""A logger thread that had something to do so recently writes at once; one that slept takes up to a second."""


class Node:
    """One node of the store: its address, its process of the moment, and what is wrong with it."""

    def __init__(self, network: Network, host: str, number: int) -> None:
        self.network, self.host, self.number = network, host, number
        self.stopped = False
        self.incarnation = 0
        self.model: MemcachedModel | None = None
        self.connections: dict[int, Connection] = {}
        self.inbox: list[tuple[Connection, bytes, float]] = []
        self.sent_s = 0.0  # when the bytes that are being worked on were sent
        self.logged_s = 0.0
        self.lose_lines = 0  # that many lines for watchers go missing without a trace
        self.changed: Changed | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:11211"

    def start(self) -> None:
        """A new process: empty, CAS numbers from 1, a clock of its own phase."""
        self.incarnation += 1
        scheduler = self.network.scheduler
        phase = self.network.random.random()
        self.model = MemcachedModel(lambda: scheduler.now_s, scheduler.now_s - phase, self._on_change, self._on_line)

    def kill(self) -> None:
        """kill -9: everything it knew is gone, connections are reset, bytes it had not read are lost."""
        model, self.model = self.model, None
        self.stopped = False
        self.inbox.clear()
        if model is None:
            return
        for key, item in model.items.items():
            if self.changed is not None:
                self.changed(key, item.value, None, "restart", None)
        for connection in list(self.connections.values()):
            connection.reset_by_node()

    def resume(self) -> None:
        """SIGCONT: it reads what came meanwhile."""
        self.stopped = False
        inbox, self.inbox = self.inbox, []
        for connection, data, sent_s in inbox:
            self.receive(connection, data, sent_s)

    def receive(self, connection: Connection, data: bytes, sent_s: float) -> None:
        """Bytes reach the node's machine."""
        model = self.model
        if model is None or connection.incarnation != self.incarnation:
            return
        if self.stopped:
            self.inbox.append((connection, data, sent_s))
            return
        self.sent_s = sent_s
        answer = model.feed(connection.session, data)
        if answer:
            connection.to_client(answer)
        if connection.session.closed:
            connection.reset_by_node()

    def _on_change(self, key: bytes, before: bytes | None, after: bytes | None, cause: str, session: Any) -> None:
        if self.changed is not None:
            self.changed(key, before, after, cause, session)

    def _on_line(self, stream: bytes, line: bytes) -> None:
        watchers = [one for one in self.connections.values() if stream in one.session.watching]
        if not watchers:
            return
        model, network = self.model, self.network
        assert model is not None
        now_s = network.scheduler.now_s
        asleep = now_s - self.logged_s > LOGGER_AWAKE_S
        self.logged_s = now_s
        if self.lose_lines > 0:
            self.lose_lines -= 1
            model.counters["log_worker_dropped"] += 1
            return
        model.gid += 1
        micros = int((now_s % 1) * 1_000_000)
        data = b"ts=%d.%d gid=%d %b\n" % (int(now_s) + 1_795_000_000, micros, model.gid, line)
        late_s = network.random.uniform(0.05, 1.0) if asleep else network.random.uniform(0.0002, 0.003)
        for connection in watchers:
            connection.to_client(data, late_s)


class Connection:
    """One connection, both ends of it."""

    def __init__(self, network: Network, process: Process, node: Node) -> None:
        self.network, self.process, self.node = network, process, node
        network.connections_made += 1
        self.answered = False
        self.session = Session(network.connections_made, process)
        self.incarnation = node.incarnation
        self.client_gone = False
        self.node_gone = False
        self.lost_up = self.lost_down = False  # a hole in the stream: nothing comes any more
        self.held_up: list[bytes] = []
        self.held_down: list[bytes] = []
        self._up_s = self._down_s = 0.0
        self.protocol: Any = None
        node.connections[self.session.number] = self

    # -- client to node

    def to_node(self, data: bytes) -> None:
        network = self.network
        if self.lost_up:
            return
        if self.node_gone:
            if not network.parted(self.process, self.node):
                network.scheduler.at(network.scheduler.now_s + network.delay_s(), self.process, self._reset_client)
            return
        if network.parted(self.process, self.node):
            self.held_up.append(data)
            return
        if network.loss and network.random.random() < network.loss:
            if network.random.random() < 0.5:
                self.lost_up = True  # neither these bytes nor later ones arrive
                return
            self.lost_down = True  # these arrive, their answers do not
        scheduler = network.scheduler
        self._up_s = max(self._up_s, scheduler.now_s + network.delay_s())
        scheduler.at(self._up_s, None, self.node.receive, self, data, scheduler.now_s)

    # -- node to client

    def to_client(self, data: bytes, late_s: float = 0.0) -> None:
        network = self.network
        if self.client_gone or self.lost_down:
            return
        if network.parted(self.process, self.node):
            self.held_down.append(data)
            return
        scheduler = network.scheduler
        self._down_s = max(self._down_s, scheduler.now_s + late_s + network.delay_s())
        scheduler.at(self._down_s, self.process, self._arrive, data)

    def _arrive(self, data: bytes) -> Any:
        if not self.client_gone:
            if not self.answered:
                self.answered = True
                if not data.startswith(b"MN"):  # a connection of the push channel
                    return self.protocol.data_received(data)
                self.network.connected_s[self.process, self.node] = self.network.scheduler.now_s
            self.protocol.data_received(data)
        return None

    # -- ends

    def close_by_client(self, error: Exception | None = None) -> None:
        if self.client_gone:
            return
        self.client_gone = True
        self.process.call_soon(self.protocol.connection_lost, error)
        self.network.scheduler.after(self.network.delay_s(), self._forget)

    def reset_by_node(self) -> None:
        """The node's end is gone. The client hears of it unless they are parted: then it finds out by silence."""
        if self.node_gone:
            return
        self.node_gone = True
        self._forget()
        if not self.client_gone and not self.network.parted(self.process, self.node):
            scheduler = self.network.scheduler
            self._down_s = max(self._down_s, scheduler.now_s + self.network.delay_s())
            scheduler.at(self._down_s, self.process, self._reset_client)

    def _reset_client(self) -> None:
        if self.client_gone:
            return
        self.client_gone = True
        if self.protocol is None:  # reset before the client's end was made
            self.process.call_soon(self._reset_late)
        else:
            self.protocol.connection_lost(ConnectionResetError("reset"))

    def _reset_late(self) -> None:
        if self.protocol is not None:  # else its maker has given up meanwhile
            self.protocol.connection_lost(ConnectionResetError("reset"))

    def _forget(self) -> None:
        self.node.connections.pop(self.session.number, None)

    def heal(self) -> None:
        """The partition between the two is over."""
        up, down = self.held_up, self.held_down
        self.held_up, self.held_down = [], []
        arrives = self.network.random.random() < 0.6  # else they were given up by the kernels
        if self.node_gone and not self.client_gone:
            self.process.scheduler.at(self.process.scheduler.now_s, self.process, self._reset_client)
            return
        if not arrives and (up or down):
            self.lost_up = self.lost_up or bool(up)
            self.lost_down = self.lost_down or bool(down)
            return
        for data in up:
            self.to_node(data)
        for data in down:
            self.to_client(data)


class Transport(asyncio.Transport):
    """The client's end, as asyncio protocols see it."""

    def __init__(self, connection: Connection, protocol: Any) -> None:
        super().__init__()
        self._connection = connection
        self._protocol = protocol
        connection.protocol = protocol

    def write(self, data: Any) -> None:
        if not self._connection.client_gone:
            self._connection.to_node(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._connection.client_gone

    def close(self) -> None:
        self._connection.close_by_client()

    def abort(self) -> None:
        self._connection.close_by_client()

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = self._connection.protocol = protocol

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None: ...


class Network:
    """All connections of the world."""

    def __init__(self, scheduler: Scheduler, seeded: random.Random) -> None:
        self.scheduler, self.random = scheduler, seeded
        self.nodes: dict[str, Node] = {}
        self.latency_s = 0.0003
        self.slow = 0.0  # share of messages that take long
        self.slow_s = 0.12  # how long: beyond the time limit of a request
        self.loss = 0.0  # share of messages after which a connection is dead in one direction
        self.partitions: dict[tuple[str, str], None] = {}  # (machine, node's host)
        self.connections_made = 0
        self.connected_s: dict[tuple[Process, Node], float] = {}  # first answer on their newest connection for requests

    def add_node(self, host: str) -> Node:
        node = self.nodes[host] = Node(self, host, len(self.nodes))
        node.start()
        return node

    def delay_s(self) -> float:
        seeded = self.random
        if self.slow and seeded.random() < self.slow:
            return self.latency_s + seeded.random() * self.slow_s
        return self.latency_s * (0.5 + seeded.random())

    def parted(self, process: Process, node: Node) -> bool:
        return bool(self.partitions) and (process.name.split("/")[0], node.host) in self.partitions

    def part(self, machine: str, host: str) -> None:
        self.partitions[machine, host] = None

    def heal(self, machine: str, host: str) -> None:
        if self.partitions.pop((machine, host), 0) is None:
            for connection in list(self.nodes[host].connections.values()):
                if connection.process.name.split("/")[0] == machine:
                    connection.heal()

    def connections_of(self, node: Node) -> list[Connection]:
        return list(node.connections.values())

    def connect(self, process: Process, host: str, port: int) -> Any:
        """A future of what makes the transport; refused, or silent for ever, as the node and the network are."""
        future = process.create_future()
        node = self.nodes.get(host)
        if node is not None and self.parted(process, node):
            return future  # the caller has a time limit

        def arrive() -> None:
            if future.done():
                return
            if node is None or node.model is None:
                future.set_exception(ConnectionRefusedError(f"{host}:{port} refused"))
                return
            connection = Connection(self, process, node)
            future.set_result(lambda protocol: Transport(connection, protocol))

        self.scheduler.at(self.scheduler.now_s + 2 * self.delay_s(), process, arrive)
        return future


__all__ = ["Connection", "Network", "Node", "Transport"]
