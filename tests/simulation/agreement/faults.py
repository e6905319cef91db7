"""What goes wrong: each fault is a function of the world that breaks something and arranges its end.

Rules of this file
- Each run draws a handful of the kinds (swarm testing): runs with few kinds reach deep into those, others mix them.
- `calm` ends everything that is still going on; the run then checks that all agree again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Fault = Callable[[Any, random.Random], None]


def slow_network(world: Any, seeded: random.Random) -> None:
    """Some messages take longer than a request may wait."""
    world.network.slow, world.network.slow_s = seeded.uniform(0.02, 0.4), seeded.choice((0.04, 0.12, 0.5))
    world.later(seeded.uniform(0.2, 3.0), lambda: setattr(world.network, "slow", 0.0))


def loss(world: Any, seeded: random.Random) -> None:
    """Connections go silent in one direction: unanswered writes, half of which have landed."""
    world.network.loss = seeded.uniform(0.02, 0.3)
    world.later(seeded.uniform(0.2, 2.0), lambda: setattr(world.network, "loss", 0.0))


def partition(world: Any, seeded: random.Random) -> None:
    """A machine and a node do not reach each other."""
    machine, node = seeded.choice(world.machines), seeded.choice(world.nodes)
    world.network.part(machine.name, node.host)
    world.later(seeded.uniform(0.1, 8.0), lambda: world.network.heal(machine.name, node.host))


def reset_connections(world: Any, seeded: random.Random) -> None:
    """A node's connections break; the node keeps what it has, clients connect anew and may do so at once."""
    node = seeded.choice(world.nodes)
    for connection in world.network.connections_of(node):
        if seeded.random() < 0.7:
            connection.reset_by_node()


def node_stop(world: Any, seeded: random.Random) -> None:
    """SIGSTOP a node; what was sent meanwhile lands when it goes on."""
    node = seeded.choice(world.nodes)
    if node.model is not None and not node.stopped:
        node.stopped = True
        length_s = seeded.choice((0.03, 0.2, 1.0, 5.0)) * seeded.uniform(0.5, 1.5)
        world.later(length_s, lambda: node.resume() if node.stopped else None)


def node_kill(world: Any, seeded: random.Random) -> None:
    """kill -9 a node; another process takes its place, at once or after a while."""
    node = seeded.choice(world.nodes)
    node.kill()
    world.later(seeded.choice((0.0, 0.01, 0.5, 4.0)) * seeded.uniform(0.5, 1.5), lambda: world.start_node(node))


def node_flush(world: Any, seeded: random.Random) -> None:
    """flush_all, and with a delay."""
    node = seeded.choice(world.nodes)
    if node.model is not None:
        node.model.flush(seeded.choice((0, 0, 2)))


def node_evict(world: Any, seeded: random.Random) -> None:
    """Records fall out for memory."""
    node = seeded.choice(world.nodes)
    if node.model is not None:
        for name in list(node.model.items):
            if seeded.random() < 0.4:
                node.model.evict(name)


def node_move_pages(world: Any, seeded: random.Random) -> None:
    """Slab pages move: CAS numbers change under their holders."""
    node = seeded.choice(world.nodes)
    if node.model is not None:
        for name in list(node.model.items):
            node.model.move_page(name)


def node_out_of_memory(world: Any, seeded: random.Random) -> None:
    """Stores are refused, and remove what stood (as with -M, which the table's node must not have)."""
    node = seeded.choice(world.nodes)
    if node.model is not None:
        model = node.model
        world.checker.refusals_allowed = True
        model.refuse = True
        world.later(seeded.uniform(0.1, 1.0), lambda: setattr(model, "refuse", False))


def lose_lines(world: Any, seeded: random.Random) -> None:
    """A node's logger overflows: announcements are missing, without a word and without a number."""
    seeded.choice(world.nodes).lose_lines += seeded.randint(1, 30)


def worker_stop(world: Any, seeded: random.Random) -> None:
    """SIGSTOP a worker."""
    worker = seeded.choice(world.workers)
    if worker.process.alive and not worker.process.stopped:
        worker.stop()
        world.later(seeded.choice((0.02, 0.3, 3.0)) * seeded.uniform(0.5, 1.5), worker.resume)


def worker_kill(world: Any, seeded: random.Random) -> None:
    """kill -9 a worker; another takes its place, with the machine's zone and today's configuration."""
    index = seeded.randrange(len(world.workers))
    world.workers[index].kill()
    world.later(seeded.uniform(0.0, 1.0), lambda: world.start_worker(index))


def machine_reboot(world: Any, seeded: random.Random) -> None:
    """A machine starts anew: all its workers and its zone are new."""
    machine = seeded.choice(world.machines)
    indices = [index for index, worker in enumerate(world.workers) if worker.machine is machine]
    for index in indices:
        world.workers[index].kill()
    world.old_zones.append(machine.zone)
    machine.boot()
    for index in indices:
        world.later(seeded.uniform(0.05, 1.5), lambda index=index: world.start_worker(index))


def clock_step(world: Any, seeded: random.Random) -> None:
    """A machine's wall clock jumps."""
    step_s = seeded.choice((-86_400.0, -3.0, 3.0, 7_200.0))
    seeded.choice(world.machines).clock.step_s += step_s
    world.wall_error_s += abs(step_s) if abs(step_s) < 60.0 else 0.0


def server_down(world: Any, seeded: random.Random) -> None:
    """A server dies; some workers hear of it from their checks, each in its own time, others find out."""
    name = seeded.choice(world.servers.names)
    if sum(world.servers.up.values()) <= 1 or not world.servers.up[name]:
        return
    world.server_turns(name, False)
    world.later(seeded.uniform(0.3, 6.0), lambda: world.server_turns(name, True))


def health_error(world: Any, seeded: random.Random) -> None:
    """One worker's check says that a healthy server is down."""
    worker, name = seeded.choice(world.workers), seeded.choice(world.servers.names)
    worker.see(name, False)
    world.later(seeded.uniform(0.2, 4.0), lambda: worker.see(name, True))


def drain(world: Any, seeded: random.Random) -> None:
    """A server is drained on all workers, one after the other; bound users stay."""
    name = seeded.choice(world.servers.names)
    for worker in world.workers:
        world.later(seeded.uniform(0.0, 1.0), lambda worker=worker: world.drain(worker, name))
        world.later(seeded.uniform(3.0, 5.0), lambda worker=worker: worker.see(name, True))


def reconfigure(world: Any, seeded: random.Random) -> None:
    """Another list of servers and other weights, at another time on each worker."""
    world.change_servers(seeded)


def release(world: Any, seeded: random.Random) -> None:
    """An administrator releases a user."""
    worker = seeded.choice(world.workers)
    if worker.process.alive:
        worker.process.spawn(worker.release, seeded.choice(world.users))


KINDS: tuple[tuple[Fault, int], ...] = (
    (slow_network, 2),
    (loss, 2),
    (partition, 2),
    (reset_connections, 2),
    (node_stop, 2),
    (node_kill, 3),
    (node_flush, 2),
    (node_evict, 2),
    (node_move_pages, 1),
    (node_out_of_memory, 1),
    (lose_lines, 1),
    (worker_stop, 1),
    (worker_kill, 1),
    (machine_reboot, 1),
    (clock_step, 1),
    (server_down, 5),
    (health_error, 2),
    (drain, 1),
    (reconfigure, 1),
    (release, 1),
)
"""The kinds, and how often each comes once a run has drawn it."""


def draw(seeded: random.Random) -> list[tuple[Fault, int]]:
    """The kinds of one run: three to all of them."""
    return seeded.sample(KINDS, seeded.randint(3, len(KINDS)))


def calm(world: Any) -> None:
    """End whatever is still going on."""
    network = world.network
    network.slow = network.loss = 0.0
    for machine, host in list(network.partitions):
        network.heal(machine, host)
    for node in world.nodes:
        if node.model is None:
            node.start()
        node.model.refuse = False
        for connection in network.connections_of(node):
            if connection.lost_up or connection.lost_down:  # else the next request would be the one that finds out
                connection.reset_by_node()
        if node.stopped:
            node.resume()
    for index, worker in enumerate(world.workers):
        worker.resume()
        if not worker.process.alive:
            world.start_worker(index)
    for name in world.servers.names:
        world.servers.up[name] = True
    for worker in world.workers:
        worker.configure(world.configured)
        for name in world.servers.names:
            worker.see(name, True)
