"""Every row of the catalogue that a head or its framing decides, in process, whole and cut at every position."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.http_rows import refusal, request_stream, response_stream, rows, splits_of

BEYOND = {
    "rl-empty-connection": "nothing was sent; the listener closes",
    "n-ssh": "the head never ends; the listener answers at end of input or deadline",
    "n-memcached": "the head never ends; the listener answers at end of input or deadline",
    "lim-body-declared-too-big": "limit on the body",
    "lim-body-chunked-too-big": "limit on the body",
    "lim-early-eof-chunked": "end of input within the body",
    "cl-2^32+5": "limit on the body",
    "ch-size-2^32+5": "limit on the body",
    "r-partial-status": "end of input within the head",
    "r-drip-headers": "deadline of the head",
    "r-100-then-close": "end of input before a final response",
    "r-101-unrequested": "the relay knows whether an upgrade was asked for",
    "r-1xx-flood": "the relay counts interim responses",
}
"""Rows that the relay or the listener decides, with what decides them; the proxy's own test plays them."""

OTHERWISE = {
    "r-sl-reason-ctl": "a control byte in a status line is refused like one in a field, not repaired",
    "r-hs-lf": "bare LF ends no line on either side: parsers that differ about it have let responses be split",
}
"""Rows where both outcomes are legal and ours is not the preferred one, with the reason."""


def catalogue(name: str) -> list[Any]:
    try:
        found = rows(name)
    except pytest.skip.Exception as skipped:
        return [pytest.param({}, marks=pytest.mark.skip(reason=str(skipped)))]
    return [pytest.param(row, id=row["id"]) for row in found if row["group"] != "proxy-protocol"]


REQUESTS, RESPONSES = catalogue("requests.jsonl"), catalogue("responses.jsonl")


def refused_by_preference(row: dict[str, Any]) -> bool:
    return row["expect"] == "reject" or (row["expect"].startswith("either") and row["prefer"] == "reject")


def headers(head: dict[str, Any]) -> dict[str, str]:
    """What would be forwarded of the client's fields, hop-by-hop ones left out."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value, _, hop in head["fields"] if not hop
    }


@pytest.mark.parametrize("row", REQUESTS)
def test_request_row_has_its_outcome(row: dict[str, Any]) -> None:
    outcome = request_stream(row["raw"].encode("latin-1"))
    status = refusal(outcome)
    complete = sum(1 for n, entry in enumerate(outcome) if entry[0] == "request" and not unfinished(outcome, n))
    if row["id"] in BEYOND:
        assert status is None
        return
    if refused_by_preference(row):
        assert status in row["status"]
        assert complete == 0
        return
    assert status is None, outcome
    assert complete == row["upstream_complete"] or row.get("end") == "hold" or row["id"] == "hh-close-pipelined"
    forwarded, head = row.get("fwd", {}), outcome[0][1]
    if "body" in forwarded:
        assert outcome[1][1].decode("latin-1") == forwarded["body"]
    if "target" in forwarded:
        assert head["path"].decode("latin-1") == forwarded["target"]
    if "method" in forwarded:
        assert head["method"].decode("latin-1") == forwarded["method"]
        assert head["method_known"] == ""
    if "host" in forwarded:
        assert head["authority"].decode("latin-1") == forwarded["host"]
    for name, value in forwarded.get("headers", {}).items():
        if not name.startswith("x-forwarded-") and name != "max-forwards":  # those the relay writes
            assert headers(head)[name] == value
    for name in forwarded.get("absent", ()):
        known = next((entry for entry in head["fields"] if entry[0].decode("latin-1").lower() == name), None)
        assert name not in headers(head) or (known is not None and known[2] == "x-real-ip")


def unfinished(outcome: list[tuple[Any, ...]], at: int) -> bool:
    """Whether the request at this entry lacks the end of its body."""
    if outcome[at][1]["body"] == "none":
        return False
    return at + 1 >= len(outcome) or outcome[at + 1][0] != "body" or not outcome[at + 1][2]


@pytest.mark.parametrize("row", REQUESTS)
def test_request_row_does_not_depend_on_where_it_is_cut(row: dict[str, Any]) -> None:
    raw = row["raw"].encode("latin-1")
    whole = request_stream(raw)
    for at in splits_of(len(raw)):
        assert request_stream(raw, at) == whole, at


@pytest.mark.parametrize("row", RESPONSES)
def test_response_row_has_its_outcome(row: dict[str, Any]) -> None:
    method = "HEAD" if row["request"] == "HEAD" else "GET"
    outcome = response_stream(row["raw"].encode("latin-1"), method=method)
    status = refusal(outcome)
    if row["id"] in BEYOND:
        return
    if row["id"] in OTHERWISE:
        assert row["prefer"] == "accept"
        assert status in row["status"]
        return
    if refused_by_preference(row):
        assert status in row["status"] or (status == 502 and row["status"] == [502, 504])
        return
    assert status is None, outcome
    heads = [entry[1] for entry in outcome if entry[0] == "response"]
    body = next(entry for entry in outcome if entry[0] == "body")
    left = next(entry for entry in outcome if entry[0] == "left")[1]
    assert heads[-1]["status"] in row["status"]
    complete_at_close = row["end"] == "close" and heads[-1]["body"] == "until-close"
    assert (body[2] or complete_at_close) == row["body_complete"]
    forwarded = row.get("fwd", {})
    if "body" in forwarded:
        assert body[1].decode("latin-1") == forwarded["body"]
    if "count" in forwarded:
        assert sum(1 for entry in heads[-1]["fields"] if entry[2] == "set-cookie") == forwarded["count"]["set-cookie"]
    for name, value in forwarded.get("headers", {}).items():
        assert headers(heads[-1])[name] == value
    for name in forwarded.get("absent", ()):
        assert name not in headers(heads[-1])
    if row["upstream_reuse"]:
        assert heads[-1]["keep_alive"]
        assert left == 0
    elif row["id"] not in {"r-ch-trailer-forbidden", "r-hs-nominate-cl", "r-head-chunked"}:
        # a framed response with nothing behind it leaves a clean connection, whatever the row expects at least
        assert not all(head["keep_alive"] for head in heads) or left > 0 or row["end"] == "close"


@pytest.mark.parametrize("row", RESPONSES)
def test_response_row_does_not_depend_on_where_it_is_cut(row: dict[str, Any]) -> None:
    raw = row["raw"].encode("latin-1")
    whole = response_stream(raw)
    for at in splits_of(len(raw)):
        assert response_stream(raw, at) == whole, at


def test_every_row_left_to_the_relay_is_in_the_catalogue() -> None:
    known = {row["id"] for name in ("requests.jsonl", "responses.jsonl") for row in rows(name)}
    assert set(BEYOND) | set(OTHERWISE) <= known
