"""How long a stored answer is good for: RFC 9111 sections 4.2 and 5, RFC 9213."""

from __future__ import annotations

from tests.conformance.http_cache.wire import At, Case, Reply, ask, case

FRESH = "max-age=3600"


def reused(name: str, clause: str, *fields: tuple[str, str | At], kind: str = "gain") -> Case:
    """An answer with these fields is given again."""
    return case(f"freshness/{name}", clause, kind, ask(r=list(fields)), ask("hit"))


def not_reused(name: str, clause: str, *fields: tuple[str, str | At], kind: str = "must", pause_s: float = 0) -> Case:
    """An answer with these fields is not given again unasked."""
    return case(f"freshness/{name}", clause, kind, ask(r=list(fields), pause_s=pause_s), ask("not-hit"))


def cc(value: str) -> tuple[str, str]:
    return ("Cache-Control", value)


def cdn(value: str) -> tuple[str, str]:
    return ("CDN-Cache-Control", value)


CASES: list[Case] = [
    # -- lifetime
    reused("max-age", "9111 4.2.1", cc(FRESH)),
    reused("s-maxage", "9111 5.2.2.10", cc("s-maxage=3600")),
    reused("s-maxage over max-age", "9111 4.2.1", cc("max-age=0, s-maxage=3600")),
    reused("expires", "9111 5.3", ("Expires", At(3600))),
    reused("max-age over expires", "9111 5.3", cc(FRESH), ("Expires", At(-3600))),
    reused("max-age over an invalid expires", "9111 5.3", cc(FRESH), ("Expires", "0")),
    reused("max-age beyond 31 bits", "9111 1.2.2", cc("max-age=2147483649")),
    reused("max-age beyond 64 bits", "9111 1.2.2", cc("max-age=99999999999999999999")),
    reused("directives in capitals", "9111 5.2", cc("MAX-AGE=3600")),
    reused("an unknown directive", "9111 5.2.3", cc("foo, max-age=3600")),
    reused("an unknown directive with a quoted no-store", "9111 5.2.3", cc('foo="a, no-store, b", max-age=3600')),
    reused("a quoted max-age", "9111 5.2", cc('max-age="3600"')),
    reused("directives on two lines", "9111 5.2", cc("public"), cc(FRESH)),
    reused("empty list members", "9110 5.6.1", cc(",, max-age=3600 ,")),
    reused("white space around members", "9110 5.6.1", cc("public ,\tmax-age=3600")),
    reused("pragma in an answer means nothing", "9111 5.4", cc(FRESH), ("Pragma", "no-cache")),
    not_reused("no information at all", "9111 4.2.2", kind="ours"),
    not_reused("last-modified alone", "9111 4.2.2", ("Last-Modified", At(-100_000)), kind="ours"),
    not_reused("public alone", "9111 4.2.2", cc("public"), kind="ours"),
    not_reused("max-age=0", "9111 4.2.1", cc("max-age=0")),
    not_reused("s-maxage=0 over max-age", "9111 5.2.2.10", cc("max-age=3600, s-maxage=0")),
    not_reused("max-age=0 over expires", "9111 5.3", cc("max-age=0"), ("Expires", At(3600))),
    not_reused("expires in the past", "9111 5.3", ("Expires", At(-3600))),
    not_reused("expires now", "9111 5.3", ("Expires", At(0))),
    not_reused("expires is 0", "9111 5.3", ("Expires", "0")),
    not_reused("expires is no date", "9111 5.3", ("Expires", "tomorrow")),
    not_reused("two expires, the first past", "9111 4.2.1", ("Expires", At(-9)), ("Expires", At(99)), kind="ours"),
    not_reused("a max-age that has run out", "9111 4.2", cc("max-age=1"), pause_s=2.2),
    not_reused("an expires that has run out", "9111 4.2", ("Expires", At(1)), pause_s=2.2),
    not_reused("max-age is no number", "9111 4.2.1", cc("max-age=abc"), kind="ours"),
    not_reused("max-age is negative", "9111 4.2.1", cc("max-age=-1"), kind="ours"),
    not_reused("max-age with a unit", "9111 4.2.1", cc("max-age=3600s"), kind="ours"),
    not_reused("max-age is empty", "9111 4.2.1", cc("max-age="), kind="ours"),
    not_reused("max-age without a value", "9111 4.2.1", cc("max-age"), kind="ours"),
    not_reused("max-age is a fraction", "9111 4.2.1", cc("max-age=3600.5"), kind="ours"),
    not_reused("two max-age, the first shorter", "9111 4.2.1", cc("max-age=1, max-age=3600"), pause_s=2.2, kind="ours"),
    not_reused("two max-age on two lines", "9111 4.2.1", cc("max-age=1"), cc("max-age=3600"), pause_s=2.2, kind="ours"),
    not_reused("a directive of another name", "9111 5.2", cc("xmax-age=3600"), kind="ours"),
    # -- age
    not_reused("age above max-age", "9111 4.2.3", cc(FRESH), ("Age", "7200")),
    not_reused("age above s-maxage", "9111 4.2.3", cc("s-maxage=3600"), ("Age", "7200")),
    not_reused("age above expires", "9111 4.2.3", ("Expires", At(3600)), ("Age", "7200")),
    not_reused("age and residence together", "9111 4.2.3", cc(FRESH), ("Age", "3599"), pause_s=2.2),
    not_reused("a date older than max-age", "9111 4.2.3", cc(FRESH), ("Date", At(-7200))),
    not_reused("two ages, the first above", "9111 5.1", cc(FRESH), ("Age", "7200"), ("Age", "0")),
    not_reused("an age with two members", "9111 5.1", cc(FRESH), ("Age", "7200, 0")),
    not_reused("an age beyond 31 bits", "9111 1.2.2", cc(FRESH), ("Age", "2147483649")),
    not_reused("an age beyond 64 bits", "9111 1.2.2", cc(FRESH), ("Age", "99999999999999999999")),
    reused("an age below max-age", "9111 4.2.3", cc("max-age=7200"), ("Age", "3600")),
    # RFC 9111 5.1 would rather have these ignored; that an answer's age is unknown is no reason to call it fresh.
    not_reused("an age that is no number", "9111 5.1", cc(FRESH), ("Age", "abc"), kind="ours"),
    not_reused("an age that is negative", "9111 5.1", cc(FRESH), ("Age", "-7200"), kind="ours"),
    not_reused("an age that is a fraction", "9111 5.1", cc(FRESH), ("Age", "7200.0"), kind="ours"),
    not_reused("two ages, the second above", "9111 5.1", cc(FRESH), ("Age", "0"), ("Age", "7200"), kind="ours"),
    case("freshness/a hit says its age", "9111 4", "must", ask(cc=FRESH, pause_s=1.2), ask("hit", has=[("Age", 1)])),
    case(
        "freshness/a hit's age counts the one received", "9111 4.2.3", "must",
        ask(cc=FRESH, age="500"), ask("hit", has=[("Age", 500)]),
    ),
    case(
        "freshness/a hit's age counts an old date", "9111 4.2.3", "must",
        ask(cc=FRESH, r=[("Date", At(-500))]), ask("hit", has=[("Age", 500)]),
    ),
    # -- what must not be stored, or not be given unasked
    not_reused("no-store", "9111 5.2.2.5", cc("no-store")),
    not_reused("no-store beside max-age", "9111 5.2.2.5", cc("max-age=3600, no-store")),
    not_reused("no-store in capitals", "9111 5.2.2.5", cc("No-Store, max-age=3600")),
    not_reused("no-store on a line of its own", "9111 5.2.2.5", cc(FRESH), cc("no-store")),
    not_reused("private", "9111 5.2.2.7", cc("private, max-age=3600")),
    not_reused("private beside s-maxage", "9111 5.2.2.7", cc("private, s-maxage=3600")),
    not_reused("no-cache", "9111 5.2.2.4", cc("no-cache, max-age=3600")),
    not_reused("no-cache beside expires", "9111 5.2.2.4", cc("no-cache"), ("Expires", At(3600))),
    not_reused("no-cache in capitals", "9111 5.2.2.4", cc("No-Cache, max-age=3600")),
    case(
        "freshness/must-understand with an unknown status", "9111 5.2.2.3", "must",
        ask(reply=Reply(599, [cc("max-age=3600, must-understand")])), ask("miss", cc="no-store"),
    ),
    reused("must-understand over no-store", "9111 5.2.2.3", cc("max-age=3600, no-store, must-understand")),
    # -- targeted fields
    reused("cdn: max-age", "9213 3.1", cdn(FRESH)),
    reused("cdn: over a short max-age", "9213 2.2", cc("max-age=0"), cdn(FRESH)),
    reused("cdn: over no-store", "9213 2.2", cc("no-store"), cdn(FRESH)),
    reused("cdn: over expires", "9213 2.2", ("Expires", At(-3600)), cdn(FRESH)),
    reused("cdn: an unknown member", "9213 2.1", cdn("foobar, max-age=3600")),
    reused("cdn: parameters are ignored", "9213 2.1", cdn("max-age=3600;foo=bar")),
    not_reused("cdn: max-age=0", "9213 2.2", cc(FRESH), cdn("max-age=0"), kind="ours"),
    not_reused("cdn: max-age=0 over expires", "9213 2.2", ("Expires", At(3600)), cdn("max-age=0"), kind="ours"),
    not_reused("cdn: a short one over a long one", "9213 2.2", cc(FRESH), cdn("max-age=1"), pause_s=2.2, kind="ours"),
    not_reused("cdn: no-store", "9213 2.2", cc(FRESH), cdn("no-store"), kind="ours"),
    not_reused("cdn: no-cache", "9213 2.2", cc(FRESH), cdn("no-cache"), kind="ours"),
    not_reused("cdn: private", "9213 2.2", cc(FRESH), cdn("private"), kind="ours"),
    not_reused("cdn: age counts", "9213 2.2", cdn(FRESH), ("Age", "7200"), kind="ours"),
    not_reused("cdn: no structured field is none", "9213 2.1", cc("no-store"), cdn("max-age=3600, &&&&"), kind="ours"),
    not_reused("cdn: a string is no number", "9213 2.1", cc("no-store"), cdn('max-age="3600"'), kind="ours"),
    reused("cdn: no structured field, the other one holds", "9213 2.1", cc(FRESH), cdn("no-store, &&&&")),
    reused("cdn: an empty one is as none", "9213 2.1", cc(FRESH), cdn("")),
]  # fmt: skip
