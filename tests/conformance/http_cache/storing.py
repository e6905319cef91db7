"""What is stored, under which key, and what comes back: RFC 9111 sections 3 and 4.1, RFC 9110 section 7.6.1."""

from __future__ import annotations

from tests.conformance.http_cache.wire import At, Case, Reply, ask, case

Field = tuple[str, str]
FRESH = "max-age=3600"
BODY = b"0123456789" * 20

HEURISTIC = (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
"""Status codes that are cacheable by default (RFC 9110 15.1), without 206."""
OTHERS = (302, 303, 307, 400, 403, 451, 500, 502, 503, 504)


def _status(status: int) -> list[Case]:
    plain = Reply(status, [("Cache-Control", FRESH)])
    return [
        case(f"status/{status} with max-age", "9111 3", "gain", ask(reply=plain), ask("hit")),
        case(f"status/{status} alone", "9111 3", "ours", ask(reply=Reply(status)), ask("miss")),
    ]


def _method(method: str) -> Case:
    first = ask(method=method, cc=FRESH, body=b"x" if method != "HEAD" else b"")
    # A cache may ask GET in place of HEAD, and store that.
    return case(
        f"method/{method} is not given to GET", "9111 3", "must", first, ask("any" if method == "HEAD" else "miss")
    )


def _auth(name: str, kind: str, then: str, value: str) -> Case:
    fields = [("Authorization", "Basic eDp5")]
    return case(f"authorization/{name}", "9111 3.5", kind, ask(fields=fields, cc=value), ask(then))


def _vary(
    name: str, kind: str, vary: str, first: list[tuple[str, str]], then: list[tuple[str, str]], sees: str
) -> Case:
    lines = [("Vary", line) for line in vary.split("|")]
    return case(f"vary/{name}", "9111 4.1", kind, ask(cc=FRESH, r=lines, fields=first), ask(sees, fields=then))


_MAX_STALE = ("Cache-Control", "max-stale=900")
_A1, _A2, _B1 = ("Test-A", "1"), ("Test-A", "2"), ("Test-B", "1")

CASES: list[Case] = [
    *(one for status in (*HEURISTIC, *OTHERS) for one in _status(status)),
    case("status/599 with max-age", "9111 3", "gain", ask(reply=Reply(599, [("Cache-Control", FRESH)])), ask("hit")),
    case("status/103 is passed on, the answer is stored", "9110 15.2", "gain",
         ask(reply=Reply(200, [("Cache-Control", FRESH)], interim=[("Link", "</a>")])), ask("hit", lacks=["Link"])),
    # -- methods
    *(_method(method) for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "FOO")),
    case("method/HEAD from a stored GET", "9111 4", "gain",
         ask(cc=FRESH, reply=Reply(body=BODY)),
         ask("hit", method="HEAD", has=[("Content-Length", "200")], content=b"")),
    case("method/GET again after HEAD", "9111 4", "gain",
         ask(cc=FRESH), ask("hit", method="HEAD"), ask("hit")),
    case("method/POST goes to the origin", "9111 4", "must", ask(cc=FRESH), ask("miss", method="POST", body=b"x")),
    case("method/an unknown one goes to the origin", "9111 4", "must", ask(cc=FRESH), ask("miss", method="FOO")),
    case("method/a GET with a body is not stored", "9110 9.3.1", "ours", ask(cc=FRESH, body=b"a=1"), ask("miss")),
    case("method/a GET with a body is not answered", "9110 9.3.1", "ours", ask(cc=FRESH), ask("miss", body=b"a=1")),
    # -- authorization
    _auth("max-age alone", "must", "miss", FRESH),
    _auth("private", "must", "miss", "private, max-age=3600"),
    _auth("public", "gain", "hit", "public, max-age=3600"),
    _auth("s-maxage", "gain", "hit", "s-maxage=3600"),
    _auth("must-revalidate", "gain", "hit", "must-revalidate, max-age=3600"),
    case("authorization/what is stored is given", "9111 3.5", "gain",
         ask(cc=FRESH), ask("hit", fields=[("Authorization", "Basic eDp5")])),
    # -- cookies
    case("cookies/set-cookie is not stored", "6265 3", "ours", ask(cc=FRESH, r=[("Set-Cookie", "a=1")]), ask("miss")),
    case("cookies/a request's cookie is no obstacle", "9111 3", "gain",
         ask(cc=FRESH), ask("hit", fields=[("Cookie", "a=1")])),
    # -- incomplete
    case("incomplete/a length that is not reached", "9111 3.3", "must",
         ask("cut", reply=Reply(200, [("Cache-Control", FRESH)], cut=True)), ask("miss")),
    case("incomplete/chunks without their end", "9111 3.3", "must",
         ask("cut", reply=Reply(200, [("Cache-Control", FRESH)], cut=True, chunked=True)), ask("miss")),
    # -- what comes back
    case("fields/come back", "9111 3.1", "must",
         ask(cc=FRESH, r=[("Content-Type", "text/x"), ("X-Test", "a b"), ("ETag", '"a"')]),
         ask("hit", has=[("Content-Type", "text/x"), ("X-Test", "a b"), ("ETag", '"a"'), ("Cache-Control", FRESH)])),
    case("fields/come back as often as they came", "9111 3.1", "must",
         ask(cc=FRESH, r=[("X-Test", "a"), ("X-Test", "b")]), ask("hit", has=[("X-Test", "a, b")])),
    case("fields/the date is the origin's", "9111 4.2.3", "must",
         ask(cc=FRESH, r=[("Date", "Sun, 06 Nov 2044 08:49:37 GMT")]),
         ask("hit", has=[("Date", "Sun, 06 Nov 2044 08:49:37 GMT")])),
    case("fields/those that connection names are not kept", "9111 3.1", "must",
         ask(cc=FRESH, r=[("Connection", "X-Hop"), ("X-Hop", "1"), ("X-Test", "1")]),
         ask("hit", lacks=["X-Hop"], has=[("X-Test", "1")])),
    *(case(f"fields/{name.lower()} is not kept", "9111 3.1", "must",
           ask(cc=FRESH, r=[(name, value)]), ask("hit", lacks=[name]))
      for name, value in (("Keep-Alive", "timeout=9"), ("Proxy-Connection", "keep-alive"), ("Upgrade", "x"),
                          ("Proxy-Authentication-Info", "a=b"))),
    case("fields/no-cache names one that is not given unasked", "9111 5.2.2.4", "must",
         ask(cc='max-age=3600, no-cache="X-Test"', r=[("X-Test", "1")]), ask("any", lacks=["X-Test"])),
    case("content/chunked", "9112 7.1", "gain",
         ask(cc=FRESH, reply=Reply(body=BODY, chunked=True)), ask("hit", content=BODY)),
    case("content/chunked, then for an older client", "9112 6.1", "must",
         ask(cc=FRESH, reply=Reply(body=BODY, chunked=True)),
         ask("hit", version="HTTP/1.0", lacks=["Transfer-Encoding"], content=BODY)),
    case("content/empty", "9111 3", "gain", ask(cc=FRESH, reply=Reply(body=b"")), ask("hit", content=b"")),
    case("content/of 300 kilobytes", "9111 3", "gain",
         ask(cc=FRESH, reply=Reply(body=BODY * 1500)), ask("hit", content=BODY * 1500)),
    # -- the key
    case("key/the query counts", "9111 2", "must", ask(cc=FRESH, path="?a=1"), ask("miss", path="?a=2")),
    case("key/an empty query is another one", "9111 2", "ours", ask(cc=FRESH), ask("miss", path="?")),
    case("key/the path's case counts", "9111 2", "must", ask(cc=FRESH, path="/a"), ask("miss", path="/A")),
    case("key/the host counts", "9111 2", "must", ask(cc=FRESH), ask("miss", host="other.test")),
    case("key/the host's case does not", "9110 4.2.3", "gain", ask(cc=FRESH), ask("hit", host="CACHE.test")),
    case("key/other fields do not", "9111 4.1", "gain", ask(cc=FRESH), ask("hit", fields=[("X-Test", "1")])),
    case("key/the same query again", "9111 4", "gain", ask(cc=FRESH, path="?a=1"), ask("hit", path="?a=1")),
    # -- vary
    _vary("the same value", "gain", "Test-A", [_A1], [_A1], "hit"),
    _vary("another value", "must", "Test-A", [_A1], [_A2], "miss"),
    _vary("a value, then none", "must", "Test-A", [_A1], [], "miss"),
    _vary("none, then a value", "must", "Test-A", [], [_A1], "miss"),
    _vary("none both times", "gain", "Test-A", [], [], "hit"),
    _vary("the name in capitals", "must", "TEST-A", [_A1], [_A2], "miss"),
    _vary("two names, both the same", "gain", "Test-A, Test-B", [_A1, _B1], [_A1, _B1], "hit"),
    _vary("two names, one differs", "must", "Test-A, Test-B", [_A1, _B1], [_A2, _B1], "miss"),
    _vary("two names, one missing", "must", "Test-A, Test-B", [_A1, _B1], [_A1], "miss"),
    _vary("two lines, the second differs", "must", "Test-B|Test-A", [_A1, _B1], [_A2, _B1], "miss"),
    _vary("empty members", "must", ", Test-A ,", [_A1], [_A2], "miss"),
    _vary("a field in two lines, the same", "gain", "Test-A", [_A1, _A2], [_A1, _A2], "hit"),
    _vary("a field in two lines, another order", "must", "Test-A", [_A1, _A2], [_A2, _A1], "miss"),
    _vary("a field in two lines, one missing", "must", "Test-A", [_A1, _A2], [_A1], "miss"),
    _vary("star", "must", "*", [], [], "miss"),
    _vary("star among others", "must", "Test-A, *", [_A1], [_A1], "miss"),
    _vary("star on a line of its own", "must", "Test-A|*", [_A1], [_A1], "miss"),
    _vary("accept-encoding differs", "must", "Accept-Encoding",
          [("Accept-Encoding", "gzip")], [("Accept-Encoding", "br")], "miss"),
    case("vary/a second variant leaves the first", "9111 4.1", "gain",
         ask(cc=FRESH, r=[("Vary", "Test-A")], fields=[_A1]),
         ask("miss", cc=FRESH, r=[("Vary", "Test-A")], fields=[_A2]),
         ask("hit", fields=[_A1]), ask("hit", fields=[_A2])),
    case("vary/which variant is right", "9111 4.1", "must",
         ask(cc=FRESH, r=[("Vary", "Test-A")], fields=[_A1]),
         ask("miss", cc=FRESH, r=[("Vary", "Test-A")], fields=[_A2]),
         ask("hit", fields=[_A2], content=b"vary/which variant is right 1"),
         ask("hit", fields=[_A1], content=b"vary/which variant is right 0")),
    case("vary/new names replace the old ones", "9111 4.1", "must",
         ask(cc=FRESH, r=[("Vary", "Test-A")], fields=[_A1]),
         ask("miss", cc=FRESH, r=[("Vary", "Test-B")], fields=[_A2, _B1]),
         ask("miss", cc=FRESH, fields=[_A2, ("Test-B", "2")])),
    case("vary/HEAD is given the right variant", "9111 4.1", "must",
         ask(cc=FRESH, r=[("Vary", "Test-A")], fields=[_A1]), ask("miss", method="HEAD", fields=[_A2], cc=FRESH)),
    case("request/no-store is not stored", "9111 5.2.1.5", "must",
         ask(cc=FRESH, fields=[("Cache-Control", "no-store")]), ask("miss")),
    case("request/only-if-cached with nothing", "9111 5.2.1.7", "must",
         ask("unasked", fields=[("Cache-Control", "only-if-cached")], status=504)),
    case("request/only-if-cached with something", "9111 5.2.1.7", "gain",
         ask(cc=FRESH), ask("hit", fields=[("Cache-Control", "only-if-cached")])),
    case("request/max-stale does not override must-revalidate", "9111 5.2.2.2", "must",
         ask(cc="max-age=1, must-revalidate", pause_s=2.2), ask("not-hit", fields=[_MAX_STALE])),
    case("request/max-stale does not override s-maxage", "9111 5.2.2.10", "must",
         ask(cc="s-maxage=1", pause_s=2.2), ask("not-hit", fields=[_MAX_STALE])),
    case("request/a date in the future is no obstacle", "9111 4.2.3", "gain",
         ask(cc=FRESH, r=[("Date", At(600))]), ask("hit")),
]  # fmt: skip
