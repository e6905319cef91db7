"""uhashring.HashRing, compiled: the same constructor, methods and placements, some 50 times as fast for keys that come
again and 9 times for keys never seen.

    from fastroute.integrations.uhashring import HashRing      # instead of: from uhashring import HashRing

Every key goes to the node that uhashring 2.5 sends it to, with the default hash and with hash_fn="ketama", through
additions, removals and changes of weight; a hash function of one's own works too, at the speed of Python. Nodes,
configurations and positions are those of uhashring; uhashring itself is not needed.

Where it differs: more than 65,535 nodes, more than 16,777,216 points, or replicas outside 0..4 are refused with
UsageError (a ValueError); two nodes whose names are the same as text ("1" and 1) are not supported.

Not here: the points and the lookup (ext/hash_ring.pyx), uhashring.monkey.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, KeysView
from typing import Any

from fastroute._core.hash_ring import REPLICAS_MAX, HashRingCore
from fastroute.errors import UsageError

__all__ = ["HashRing"]

VNODES, VNODES_KETAMA = 160, 40
"""uhashring's default vnodes per unit of weight."""

Nodes = str | list[Any] | dict[Any, Any]
Conf = dict[str, Any]


class HashRing(HashRingCore):
    """A consistent hash ring.

    Args:
        nodes: a name, a list of names, or a dict of name -> weight (int) or configuration (dict with any of "hostname",
            "instance", "nodename", "port", "vnodes", "weight").
        hash_fn: None (MD5), "ketama", or a callable key -> number.
        vnodes: points per unit of weight; None: 160, with ketama 40 (of four points each).
        weight_fn: called with a node's configuration as keywords, gives its weight.
        replicas: with ketama, points per digest, 0..4.
        ignored: other keywords are ignored, as uhashring does.

    Raises:
        TypeError: hash_fn or weight_fn is no callable. ValueError: nodes of another kind.

    Notes: get_node() holds the GIL; a key that was asked for lately costs about twice len(str), another one an MD5.
        The ring keeps up to 4,096 recent keys of up to 47 bytes, 256 KiB.
    """

    def __init__(
        self,
        nodes: Nodes = [],  # noqa: B006 - never changed; the signature is uhashring's
        hash_fn: str | Callable[[Any], Any] | None = None,
        vnodes: int | None = None,
        weight_fn: Callable[..., int] | None = None,
        replicas: int = REPLICAS_MAX,
        **ignored: Any,
    ) -> None:
        self._is_ketama = hash_fn == "ketama"
        if not self._is_ketama and hash_fn and not callable(hash_fn):
            raise TypeError("hash_fn should be a callable function")
        if weight_fn and not callable(weight_fn):
            raise TypeError("weight_fn should be a callable function")
        if self._is_ketama and not 0 <= replicas <= REPLICAS_MAX:
            raise UsageError(f"replicas {replicas!r}: accepted are 0 to {REPLICAS_MAX}, what one MD5 digest gives")
        self._replicas = replicas
        self._hash_fn = hash_fn if callable(hash_fn) else None
        self._weight_fn = weight_fn
        self._default_vnodes = (VNODES_KETAMA if self._is_ketama else VNODES) if vnodes is None else vnodes
        self._digests: dict[Any, int] = {}
        self._own_keys: list[Any] = []
        self._own_ring: dict[Any, Any] = {}
        self._listed: tuple[list[Any], dict[Any, Any]] | None = None
        self._begin(self._is_ketama, self._hash_fn is not None)
        if self._configure(nodes):
            self._create(list(self._nodes))

    # ---- nodes

    def _configure(self, nodes: Nodes) -> bool:
        """Take over nodes and their configurations; whether that changes the ring."""
        if isinstance(nodes, str):
            nodes = [nodes]
        elif not isinstance(nodes, (dict, list)):
            raise ValueError(f"nodes configuration should be a list or a dict, got {type(nodes)}")
        changed = False
        for name in nodes:
            present = self._nodes.get(name, {})
            conf: Conf = {
                "hostname": name,
                "instance": None,
                "nodename": name,
                "port": None,
                "vnodes": self._default_vnodes,
                "weight": 1,
            }
            given = nodes[name] if isinstance(nodes, dict) else {}
            if isinstance(given, int):
                conf["weight"] = given
            elif isinstance(given, dict):
                known = {what: value for what, value in given.items() if what in conf}
                conf.update(known)
                changed |= any(present.get(what) != known[what] for what in ("nodename", "vnodes") if what in known)
            else:
                raise ValueError(f"node configuration should be a dict or an int, got {type(given)}")
            if self._weight_fn:
                conf["weight"] = self._weight_fn(**conf)
            changed |= not present or present.get("weight") != conf["weight"]
            if isinstance(given, dict) and "weight" in given:
                changed |= present.get("weight") != given["weight"]
            self._nodes[name] = conf
        return changed

    def _create(self, names: list[Any]) -> None:
        """Make the points of these nodes anew (ketama: of all nodes, since each count depends on all weights)."""
        if self._is_ketama:
            total = sum(conf["weight"] for conf in self._nodes.values())
            size = len(self._nodes)
            self._digests = {
                name: len(range(conf["vnodes"] * size * conf["weight"] // total)) for name, conf in self._nodes.items()
            }
        else:
            for name in names:
                conf = self._nodes[name]
                self._digests.pop(name, None)
                self._digests[name] = len(range(conf["vnodes"] * conf["weight"]))
        self._place_points()

    def _place_points(self) -> None:
        self._listed = None
        if self._hash_fn is None:
            rows = [(name, str(name).encode(), count) for name, count in self._digests.items()]
            self._build(rows, self._replicas)
            return
        self._own_ring = {
            self._hash_fn(f"{name}-{number}"): name for name, count in self._digests.items() for number in range(count)
        }
        self._own_keys = sorted(self._own_ring)

    def add_node(self, nodename: Any, conf: int | Conf = {"weight": 1}) -> None:  # noqa: B006 - as in __init__
        """Add a node, or give one that is there another configuration."""
        if self._configure({nodename: conf}):
            self._create([nodename])

    __setitem__ = add_node

    def remove_node(self, nodename: Any) -> None:
        """Remove a node.

        Raises:
            KeyError: there is none of this name.
        """
        if nodename not in self._nodes:
            raise KeyError(f"node '{nodename}' not found, available nodes: {self._nodes.keys()}")
        del self._nodes[nodename]
        self._digests.pop(nodename, None)
        if self._is_ketama:
            self._create([])
        else:
            self._place_points()

    __delitem__ = remove_node

    def regenerate(self) -> None:
        """Ask weight_fn again for every node, and make all points anew."""
        self._configure(dict(self._nodes))
        self._create(list(self._nodes))

    # ---- keys

    def hashi(self, key: Any, replica: int = 0) -> Any:
        """The hash of a key; with ketama, the word of its digest that `replica` names."""
        if self._hash_fn is not None:
            return self._hash_fn(key)
        digest = hashlib.md5(str(key).encode(), usedforsecurity=False).digest()
        if self._is_ketama:
            return int.from_bytes(digest[4 * replica : 4 * replica + 4], "little")
        return int.from_bytes(digest, "big")

    get_key = hashi

    def get_node_pos(self, key: Any) -> int | None:
        """Position in the sorted list of points of the one that takes the key; None in a ring without points."""
        return self._get_pos(key) if self._has_points() else None

    def _has_points(self) -> bool:
        return bool(self._own_keys) if self._hash_fn is not None else self.point_count > 0

    def _get_pos(self, key: Any) -> int:
        if self._hash_fn is None:
            return self._compiled_place(key)
        place = bisect.bisect(self._own_keys, self._hash_fn(key))
        return 0 if place == len(self._own_keys) else place

    def _own_node(self, key: Any) -> Any:
        """get_node() with a hash function of one's own."""
        return self._own_ring[self._own_keys[self._get_pos(key)]] if self._own_keys else None

    def _of(self, key: Any, what: str) -> Any:
        conf = self.get(key)
        return None if conf is None else conf[what]

    def get_node_hostname(self, key: Any) -> Any:
        """Hostname of the key's node."""
        return self._of(key, "hostname")

    def get_node_instance(self, key: Any) -> Any:
        """Instance of the key's node."""
        return self._of(key, "instance")

    __getitem__ = get_node_instance

    def get_node_port(self, key: Any) -> Any:
        """Port of the key's node."""
        return self._of(key, "port")

    def get_node_weight(self, key: Any) -> Any:
        """Weight of the key's node."""
        return self._of(key, "weight")

    def get_server(self, key: Any) -> tuple[Any, Any] | None:
        """(hash of the point, name of the node) that takes the key."""
        place = self.get_node_pos(key)
        return None if place is None else (self._keys[place], self._ring[self._keys[place]])

    def range(self, key: Any, size: int | None = None, unique: bool = True) -> Iterator[Conf]:
        """Configurations of the nodes from the key on, once round the ring.

        Args:
            key: where to begin.
            size: at most so many; None: all.
            unique: each node once.
        """
        names = self._from(key)
        if unique:
            names = _distinct(names)
            size = size or len(self._nodes)
        for count, name in enumerate(names, 1):
            yield self._nodes[name]
            if count == size:
                return

    def _from(self, key: Any) -> Iterator[Any]:
        count = self.point_count if self._hash_fn is None else len(self._own_keys)
        first = self._get_pos(key) if count else 0
        for place in (*range(first, count), *range(first)):
            yield self._name_at(place) if self._hash_fn is None else self._own_ring[self._own_keys[place]]

    def iterate_nodes(self, key: Any, distinct: bool = True) -> Iterator[Any]:
        """Names of the nodes from the key on; one None in a ring without points."""
        if not self._has_points():
            yield None
            return
        for conf in self.range(key, unique=distinct):
            yield conf["nodename"]

    # ---- the whole ring

    def _list(self) -> tuple[list[Any], dict[Any, Any]]:
        """(points in order, point -> name), made when somebody asks."""
        if self._hash_fn is not None:
            return self._own_keys, self._own_ring
        if self._listed is None:
            if self._is_ketama:
                keys = self._hashes()
            else:
                keys = sorted(
                    {self.hashi(f"{name}-{number}") for name, count in self._digests.items() for number in range(count)}
                )
            self._listed = keys, {point: self._name_at(place) for place, point in enumerate(keys)}
        return self._listed

    def get_instances(self) -> list[Any]:
        """Instances of all nodes that have one."""
        return [conf.get("instance") for conf in self._nodes.values() if conf.get("instance")]

    def get_nodes(self) -> KeysView[Any]:
        """Names of all nodes."""
        return self._nodes.keys()

    def get_points(self) -> list[tuple[Any, Any]]:
        """(hash of the point, name of the node) of all points, in order."""
        keys, ring = self._list()
        return [(point, ring[point]) for point in keys]

    def print_continuum(self) -> None:
        """Print all points."""
        points = self.get_points()
        print(f"Numpoints in continuum: {len(points)}" if points else "Continuum empty")
        for point, name in points:
            print(f"{name} ({point})")

    @property
    def conf(self) -> dict[Any, Conf]:
        """Name -> configuration of all nodes; `nodes` is the same."""
        return self._nodes

    nodes = conf

    @property
    def distribution(self) -> Counter[Any]:
        """Name -> number of its points."""
        each = self._replicas if self._is_ketama else 1
        return Counter({name: count * each for name, count in self._digests.items() if count * each})

    @property
    def ring(self) -> dict[Any, Any]:
        """Hash of a point -> name of its node; `continuum` is the same."""
        return self._list()[1]

    continuum = _ring = ring

    @property
    def _keys(self) -> list[Any]:
        return self._list()[0]

    @property
    def size(self) -> int:
        """Number of different points."""
        return len(self.ring)

    @property
    def runtime(self) -> HashRing:
        """uhashring keeps the ring in an object apart; here it is this one."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self._is_ketama, self._hash_fn, self._default_vnodes, self._weight_fn, self._replicas)
        return _restored, (type(self), options, self._nodes, self._digests)


def _distinct(names: Iterator[Any]) -> Iterator[Any]:
    met: set[Any] = set()
    for name in names:
        if name not in met:
            met.add(name)
            yield name


def _restored(
    kind: type[HashRing],
    options: tuple[bool, Callable[[Any], Any] | None, int, Callable[..., int] | None, int],
    nodes: dict[Any, Conf],
    digests: dict[Any, int],
) -> HashRing:
    """A copy: what pickle and copy make of a ring."""
    ketama, hash_fn, vnodes, weight_fn, replicas = options
    made = kind([], "ketama" if ketama else hash_fn, vnodes, weight_fn, replicas)
    made._nodes.update(nodes)
    made._digests.update(digests)
    made._place_points()
    return made
