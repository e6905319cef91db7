"""Which nodes hold a key: its homes, in the order in which they decide. Pure; both clients (cluster, sync) use it.

The order of a key's nodes is that of weighted rendezvous with equal weights: by XXH64(key, seed = XXH64(node's name)),
over the CONFIGURED nodes, whether they answer or not. The homes are the first `copies` of it. A node that is away keeps
its keys: the next in the order stands in for it (fastroute.affinity.copies), and it gets them back.

A change of the list of nodes. Replicas are configured one after the other, so for a while some know the old list and
some the new one; where the first home of a key differs, both would decide. So who is given the old list beside the new
one goes by the OLD order first for a grace window: a key's homes are then its homes by the old list followed by those
by the new one, and everything that is read, claimed or moved is settled on the new homes too. After the window the new
homes decide, and hold every binding that was used meanwhile.

The default window is twice the default ttl (30 min): within one ttl each live binding is touched, or has expired; the
other ttl is for bringing the new list to all replicas. The windows of replicas end at different times, each counted
from its own start: a key that is bound for the first time within that skew, through two replicas in the same
millisecond, can be claimed twice, and the copies then settle on one.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastroute._core.mc_meta import HOMES_MAX, homes_of, seed_of
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.model import parse_address, parse_duration_s

__all__ = ["COPIES_MAX", "GRACE_S", "NODES_MAX", "Placement", "check_copies", "node_names", "node_seeds"]

NODES_MAX = 64
"""Nodes of one store; the home of a key costs some 10 ns for each."""

COPIES_MAX = 3
"""Copies of a binding: each costs a new binding two round trips; three outlive two nodes that are away at once."""

GRACE_S = 3600.0
"""Twice the default ttl of a binding; see above."""

GRACE_S_MAX = 5_184_000.0
"""Twice the longest ttl."""

assert COPIES_MAX * 2 <= HOMES_MAX


def node_names(nodes: str | Iterable[str]) -> tuple[str, ...]:
    """The nodes' names, checked, in the order of their spelling.

    Raises:
        UsageError: none, too many, one twice, or something that is not an address.
    """
    names = [nodes] if isinstance(nodes, str) else list(nodes)
    if not 1 <= len(names) <= NODES_MAX:
        raise UsageError(f"{len(names)} nodes of the store: accepted are 1 to {NODES_MAX}")
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"node {name!r}: accepted are strings such as '10.0.0.5:11211'")
        parse_address(name)
        if names.count(name) > 1:
            raise UsageError(f"node {name!r} stands twice in the list")
    return tuple(sorted(names))


def node_seeds(names: tuple[str, ...]) -> tuple[int, ...]:
    """What home_of wants to know of the nodes."""
    return tuple(seed_of(name) for name in names)


def check_copies(copies: int, names: tuple[str, ...]) -> None:
    """Refuse a number of copies that these nodes cannot hold.

    Raises:
        UsageError: not 1..COPIES_MAX, or more than there are nodes.
    """
    most = min(COPIES_MAX, len(names))
    if not isinstance(copies, int) or isinstance(copies, bool) or not 1 <= copies <= most:
        raise UsageError(f"copies {copies!r} on {len(names)} nodes: accepted are 1 to {most}")


class Placement:
    """Homes of keys over a list of nodes, and for a while over the one before it.

    Args:
        nodes: the nodes' addresses.
        copies: homes of each key.
        previous_nodes: the list before; empty: there was no change.
        grace: how long the previous list decides, from now on: seconds or "1h".
        clock: monotonic seconds.

    Raises:
        UsageError: an argument that is not accepted.

    Attributes:
        names: the configured nodes in the order of their spelling, then those that leave.
        count: how many of them are configured.
        seeds: of the configured ones, for home_of.
    """

    def __init__(
        self,
        nodes: str | Iterable[str],
        *,
        copies: int = 1,
        previous_nodes: str | Iterable[str] = (),
        grace: float | str = GRACE_S,
        clock: Clock = SYSTEM,
    ) -> None:
        configured = node_names(nodes)
        check_copies(copies, configured)
        listed = [previous_nodes] if isinstance(previous_nodes, str) else list(previous_nodes)
        previous = node_names(listed) if listed else ()
        grace_s = parse_duration_s(grace, name="grace")
        if not 0 <= grace_s <= GRACE_S_MAX:
            raise UsageError(f"grace {grace!r}: accepted are 0 to 60 days")
        self.copies, self.count = copies, len(configured)
        self.seeds = node_seeds(configured)
        self.names = configured
        self._clock, self._grace_ends_s = clock, 0.0
        if previous and previous != configured and grace_s > 0:
            self.names += tuple(name for name in previous if name not in configured)
            self._previous = tuple(self.names.index(name) for name in previous)
            self._previous_seeds = node_seeds(previous)
            self._grace_ends_s = clock.monotonic_s() + grace_s

    @property
    def in_grace(self) -> bool:
        """Does the previous list decide now? False for good once it is."""
        if self._grace_ends_s and self._clock.monotonic_s() >= self._grace_ends_s:
            self._grace_ends_s = 0.0
        return self._grace_ends_s > 0

    def homes_of(self, key: str | bytes) -> tuple[int, ...]:
        """Numbers (in `names`) of the nodes that hold the key, in the order in which they decide."""
        homes = homes_of(key, self.seeds, self.copies)
        if not self._grace_ends_s or not self.in_grace:
            return homes
        old = homes_of(key, self._previous_seeds, self.copies)
        first = tuple([self._previous[index] for index in old])
        return first + tuple([index for index in homes if index not in first])
