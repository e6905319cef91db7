"""Routes and networks as the relay looks them up: hosts, paths on segment boundaries, clients, order."""

from __future__ import annotations

import random

import pytest

from fastroute._core.http_routes import Networks, RouteTable

OFFICE = Networks(["10.0.0.0/8", "fd00::/8"])
TABLE = RouteTable(
    [
        ("", "/", None, 0),
        ("", "/api", None, 1),
        ("a.example", "/", None, 2),
        ("a.example", "/api", None, 3),
        ("a.example", "/api/v2", None, 4),
        ("*.example", "/", None, 5),
        ("*.b.example", "/", None, 6),
        ("only.test", "/in/", None, 7),
        ("2001:db8::1", "/", None, 8),
        ("a.example", "/admin", OFFICE, 9),
        ("a.example", "/admin", None, 10),
    ]
)


@pytest.mark.parametrize(
    ("host", "path", "target"),
    [
        ("x.test", "/", 0),
        ("x.test", "/api", 1),
        ("x.test", "/api/x", 1),
        ("x.test", "/api?x=/y", 1),
        ("x.test", "/api;v=1", 1),
        ("x.test", "/apix", 0),
        ("x.test", "/API", 0),
        ("x.test", "", 0),
        ("x.test", "*", 0),
        ("x.test", "?/api", 0),
        ("a.example", "/", 2),
        ("A.Example:8080", "/", 2),
        ("a.example.", "/api", 3),
        ("a.example", "/api/v2/x", 4),
        ("a.example", "/api/v20", 3),
        ("c.example", "/api", 5),
        ("c.d.example", "/", 5),
        ("x.b.example", "/", 6),
        ("b.example", "/", 5),
        ("example", "/", 0),
        (".example", "/", 0),
        ("only.test", "/in/x", 7),
        ("only.test", "/in", 0),
        ("only.test", "/api", 1),
        ("[2001:db8::1]:80", "/", 8),
        ("[2001:db8::1]", "/", 8),
        ("", "/", 0),
        ("x" * 300, "/api", 1),
        # Read as a server reads it: RFC 3986, 6.2.2.
        ("a.example", "/%61pi", 3),
        ("a.example", "/x/../api", 3),
        ("a.example", "/x/%2e%2E/api/./v2", 4),
        ("a.example", "/api/../x", 2),
        ("a.example", "/api/..;x/y", 2),
        ("a.example", "/api/..", 2),
        ("a.example", "/../../api", 3),
        ("a.example", "/api%2Fv2", 2),
        ("a.example", "/api%", 2),
    ],
)
def test_the_most_exact_host_and_then_the_longest_path_win(host, path, target):
    assert TABLE.find(host, path) == target


@pytest.mark.parametrize(
    ("client", "target"),
    [
        ("10.1.2.3", 9),
        ("::ffff:10.1.2.3", 9),
        ("fd12::1", 9),
        ("11.0.0.1", 10),
        ("2001:db8::1", 10),
        ("unix:", 10),
        ("", 10),
    ],
)
def test_a_route_for_some_clients_comes_before_the_same_one_for_all(client, target):
    assert TABLE.find("a.example", "/admin/x", client) == target


def test_without_a_route_for_the_rest_nothing_is_found():
    assert RouteTable([("a.example", "/api", None, 0)]).find("a.example", "/") is None
    assert RouteTable([]).find("a.example", "/") is None


def reference(routes, host, path):
    def rank(route):
        name = route[0]
        return (not name, name.startswith("*."), -len(name), -len(route[1].rstrip("/")), route[3])

    for name, prefix, _, target in sorted(routes, key=rank):
        of_host = not name or host == name or (name.startswith("*.") and host.endswith(name[1:]) and host != name[1:])
        under = prefix == "/" or path == prefix or path.startswith(prefix.rstrip("/") + "/")
        if of_host and under:
            return target
    return None


def test_a_thousand_routes_agree_with_a_plain_search(request):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    labels = ["a", "b", "c", "dd", "example"]
    hosts = ["", *{".".join(draw.choices(labels, k=draw.randint(1, 4))) for _ in range(200)}]
    hosts += [f"*.{host}" for host in hosts if host][:80]
    places = [(host, "/" + "/".join(draw.choices(labels, k=draw.randint(0, 3)))) for host in hosts for _ in range(4)]
    routes = [(host, path, None, at) for at, (host, path) in enumerate(dict.fromkeys(places))]
    table = RouteTable(routes)
    for _ in range(3000):
        host = ".".join(draw.choices(labels, k=draw.randint(1, 4)))
        path = "/" + "/".join(draw.choices(labels, k=draw.randint(0, 4)))
        assert table.find(host, path) == reference(routes, host, path), (host, path)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("10.255.0.1", True),
        ("9.255.255.255", False),
        ("11.0.0.0", False),
        ("fdff::", True),
        ("fe00::", False),
        ("x", False),
    ],
)
def test_networks_hold_their_addresses(text, holds):
    assert OFFICE(text) is holds
    assert not Networks([])(text)


def test_a_network_may_be_of_any_length():
    for bits in range(33):
        inside = Networks([f"170.85.170.85/{bits}"])
        assert inside("170.85.170.85")
        if bits:
            flipped = 0xAA55AA55 ^ (1 << (32 - bits))
            assert not inside(".".join(str(flipped >> at & 255) for at in (24, 16, 8, 0)))
