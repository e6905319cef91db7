"""The meta codec without sockets: what it writes, what it takes for an answer, and what ends a connection."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core import mc_meta, mc_queue, mc_reply
from fastroute.errors import UsageError


class Waiter:
    """A future without a loop."""

    def __init__(self) -> None:
        self.result: Any = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or self.result is not None

    def set_result(self, result: object) -> None:
        assert not self.done(), "completed twice"
        self.result = result


class Rig:
    """A codec with what its connection would hear from it."""

    def __init__(self, *, up: bool = True, **options: Any) -> None:
        self.codec = mc_meta.MetaCodec(**options)
        self.codec.set_clock_ms(1_000_000)
        self.notified = self.ups = 0
        self.failures: list[str] = []
        self.codec.attach(Waiter, self._notify, self.codec.opening, self._up, self.failures.append)
        if up:
            self.connect()

    def _notify(self) -> None:
        self.notified += 1

    def _up(self) -> None:
        self.ups += 1

    def connect(self) -> None:
        assert self.codec.hello() == b"mn\r\n"
        self.codec.feed(b"MN\r\n")
        assert self.codec.up


def statuses(*waiters: Any) -> list[str]:
    return [waiter.result.status_name if waiter.result is not None else "waiting" for waiter in waiters]


# -- what is written -------------------------------------------------------------------------------------------------


def token_of(rig: Rig, cas: int) -> Any:
    return mc_reply.make_reply(mc_reply.HIT, cas=cas, generation=rig.codec.generation).token


REQUESTS = {
    "get": (lambda r: r.codec.get("k1"), b"mg k1 v c t f\r\n"),
    "get touch": (lambda r: r.codec.get(b"k1", 60), b"mg k1 v c t f T60\r\n"),
    "lease": (lambda r: r.codec.get_or_lease("k1", 30), b"mg k1 v c f N30 t\r\n"),
    "touch": (lambda r: r.codec.touch("k1", 7), b"mg k1 T7 c t\r\n"),
    "set": (lambda r: r.codec.set("k1", b"hello"), b"ms k1 5 T0 c\r\nhello\r\n"),
    "set flags": (lambda r: r.codec.set("k1", b"", 9, 4294967295), b"ms k1 0 T9 F4294967295 c\r\n\r\n"),
    "add": (lambda r: r.codec.add("k1", b"\r\nx", 60), b"ms k1 3 ME T60 c\r\n\r\nx\r\n"),
    "cas": (
        lambda r: r.codec.cas_set("k1", b"v", token_of(r, 2**64 - 1), 60),
        b"ms k1 1 C18446744073709551615 T60 c\r\nv\r\n",
    ),
    "add then get": (lambda r: r.codec.add_then_get("k1", b"v", 60), b"ms k1 1 ME T60 c\r\nv\r\nmg k1 v c t f\r\n"),
    "cas then get": (
        lambda r: r.codec.cas_then_get("k1", b"v", token_of(r, 5), 60),
        b"ms k1 1 C5 T60 c\r\nv\r\nmg k1 v c t f\r\n",
    ),
    "delete": (lambda r: r.codec.delete("k1"), b"md k1\r\n"),
    "delete cas": (lambda r: r.codec.delete("k1", token_of(r, 5)), b"md k1 C5\r\n"),
    "expire": (lambda r: r.codec.expire_key("k1"), b"ms k1 0 T-1\r\n\r\n"),
    "expire cas": (lambda r: r.codec.expire_key("k1", token_of(r, 5)), b"ms k1 0 T-1 C5\r\n\r\n"),
    "increment": (lambda r: r.codec.increment("k1"), b"ma k1 v c D1\r\n"),
    "increment initial": (lambda r: r.codec.increment("k1", 3, 10, 60), b"ma k1 v c D3 N60 J10\r\n"),
    "decrement": (lambda r: r.codec.increment("k1", -2), b"ma k1 v c D2 MD\r\n"),
    "noop": (lambda r: r.codec.noop(), b"mn\r\n"),
    "str key is utf-8": (lambda r: r.codec.get("schlüssel"), "mg schlüssel v c t f\r\n".encode()),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_written_as_the_protocol_text_says(name: str) -> None:
    rig = Rig(check=mc_queue.CHECK_NOTHING)
    ask, expected = REQUESTS[name]
    ask(rig)
    assert rig.codec.take() == expected


def test_every_request_but_noop_carries_a_mark_of_its_own() -> None:
    rig = Rig()
    for ask, _ in REQUESTS.values():
        ask(rig)
    commands = [line for line in rig.codec.take().split(b"\r\n") if line[:3] in (b"mg ", b"ms ", b"md ", b"ma ")]
    marks = [word for line in commands for word in line.split()[2:] if word.startswith(b"O")]
    assert len(set(marks)) == len(marks) == len(commands)


@pytest.mark.parametrize("key", ["", "x" * 251, "a b", "a\r\nflush_all", "a\tb", "\x7f", b"a\0b", "ü" * 126, b"\x1f"])
def test_a_key_the_server_would_not_take_is_refused_before_a_byte_is_written(key: str | bytes) -> None:
    rig = Rig()
    for ask in (
        rig.codec.get,
        rig.codec.delete,
        rig.codec.increment,
        rig.codec.expire_key,
        lambda k: rig.codec.set(k, b"v"),
        lambda k: rig.codec.add_then_get(k, b"v"),
        lambda k: rig.codec.touch(k, 1),
        lambda k: rig.codec.get_or_lease(k, 1),
        mc_meta.check_key,
    ):
        with pytest.raises(UsageError, match="key"):
            ask(key)
    assert rig.codec.take() == b""
    assert rig.codec.in_flight == rig.notified == 0


@pytest.mark.parametrize("key", ["x" * 250, b"x" * 250, "ü" * 125, "!", b"\xff\x80"])
def test_a_key_of_1_to_250_printable_bytes_is_taken(key: str | bytes) -> None:
    rig = Rig()
    rig.codec.get(key)
    assert rig.codec.in_flight == 1


@pytest.mark.parametrize("key", [None, 1, bytearray(b"k"), memoryview(b"k")])
def test_a_key_of_another_type_is_a_usage_error(key: Any) -> None:
    with pytest.raises(UsageError, match="str and bytes"):
        Rig().codec.get(key)


@pytest.mark.parametrize("ttl_s", [-1, 2592001, 10**12, float("inf"), float("nan"), None])
def test_a_time_to_live_over_30_days_or_negative_is_refused(ttl_s: Any) -> None:
    rig = Rig()
    for ask in (lambda: rig.codec.set("k", b"v", ttl_s), lambda: rig.codec.touch("k", ttl_s)):
        with pytest.raises(UsageError, match="ttl_s"):
            ask()
    assert rig.codec.take() == b""


def test_a_time_to_live_between_two_seconds_is_rounded_up() -> None:
    rig = Rig(check=mc_queue.CHECK_NOTHING)
    rig.codec.set("k", b"v", 0.2)
    rig.codec.touch("k", 2592000)
    assert rig.codec.take() == b"ms k 1 T1 c\r\nv\r\nmg k T2592000 c t\r\n"


def test_a_value_over_the_limit_is_refused_before_a_byte_is_written() -> None:
    rig = Rig(value_bytes_max=10)
    with pytest.raises(UsageError, match="at most 10"):
        rig.codec.set("k", b"x" * 11)
    for value in ("text", None, 5):
        with pytest.raises(UsageError, match="bytes"):
            rig.codec.set("k", value)  # type: ignore[arg-type]
    assert rig.codec.take() == b""
    rig.codec.set("k", b"x" * 10)
    assert rig.codec.in_flight == 1


@pytest.mark.parametrize(("delta", "initial"), [(2**64, None), (1.5, None), ("1", None), (1, -1), (1, 2**64)])
def test_increment_takes_64_bit_whole_numbers_only(delta: Any, initial: Any) -> None:
    with pytest.raises(UsageError, match="64 bits"):
        Rig().codec.increment("k", delta, initial)


def test_a_lease_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match="lease_s"):
        Rig().codec.get_or_lease("k", 0)


def test_one_notification_covers_everything_asked_before_it_is_taken() -> None:
    rig = Rig()
    for _ in range(5):
        rig.codec.get("k")
    assert rig.notified == 1
    rig.codec.take()
    rig.codec.get("k")
    assert rig.notified == 2


# -- what is taken for an answer -------------------------------------------------------------------------------------

TRANSCRIPT = (
    b"VA 5 c13 t60 f7 OAAA W X\r\nhello\r\nEN\r\nHD c14 OAAC\r\nNS c0\r\nVA 2 c9 t-1 f0 OAAE Z\r\n\r\n\r\n"
    b"EX c0 OAAF\r\nHD OAAG\r\nNF\r\nVA 20 c3 OAAI\r\n18446744073709551615\r\nSERVER_ERROR out of memory\r\n"
    b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\nMN\r\nHD t9 c1 OAAM\r\nVA 0 OAAN ~x s5\r\n\r\n"
)


def ask_transcript(rig: Rig) -> list[Any]:
    codec = rig.codec
    waiters: list[Any] = [
        codec.get("a"),
        codec.get("b"),
        codec.set("c", b"1"),
        codec.add_then_get("d", b"2", 60),
        codec.delete("e", token_of(rig, 4)),
        codec.delete("f"),
        codec.delete("g"),
        codec.increment("h"),
        codec.set("i", b"3"),
        codec.increment("j"),
        codec.noop(),
        codec.touch("k", 9),
        codec.get("l"),
    ]
    codec.take()
    return waiters


def seen(waiters: list[Any]) -> list[Any]:
    def one(r: Any) -> Any:
        return (r.status_name, r.value, r.cas, r.ttl_s, r.client_flags, r.won, r.stale, r.sent)

    return [tuple(map(one, w.result)) if isinstance(w.result, tuple) else one(w.result) for w in waiters]


def test_answers_complete_what_was_asked_in_order() -> None:
    rig = Rig()
    waiters = ask_transcript(rig)
    rig.codec.feed(TRANSCRIPT)
    none = (0, False, False, False)
    assert seen(waiters) == [
        ("hit", b"hello", 13, 60, 7, True, True, False),
        ("miss", None, 0, -2, *none),
        ("stored", None, 14, -2, *none),
        (("not-stored", None, 0, -2, *none), ("hit", b"\r\n", 9, -1, 0, False, False, True)),
        ("exists", None, 0, -2, *none),
        ("deleted", None, 0, -2, *none),
        ("not-found", None, 0, -2, *none),
        ("hit", b"18446744073709551615", 3, -2, *none),
        ("server-error", None, 0, -2, *none),
        ("client-error", None, 0, -2, *none),
        ("hit", None, 0, -2, *none),
        ("hit", None, 1, 9, *none),
        ("hit", b"", 0, -2, *none),
    ]
    assert not rig.failures
    assert rig.codec.in_flight == 0
    assert rig.codec.server_errors == 1


def test_every_split_of_the_answers_gives_the_same() -> None:
    rig = Rig()
    whole = ask_transcript(rig)
    rig.codec.feed(TRANSCRIPT)
    for at in range(len(TRANSCRIPT) + 1):
        rig = Rig()
        waiters = ask_transcript(rig)
        rig.codec.feed(TRANSCRIPT[:at])
        rig.codec.feed(TRANSCRIPT[at:])
        assert seen(waiters) == seen(whole), at
    for size in (1, 2, 3, 7):
        rig = Rig()
        waiters = ask_transcript(rig)
        for at in range(0, len(TRANSCRIPT), size):
            rig.codec.feed(TRANSCRIPT[at : at + size])
        assert seen(waiters) == seen(whole)


def test_a_caller_that_gave_up_keeps_its_place() -> None:
    rig = Rig()
    first, second = rig.codec.get("a"), rig.codec.get("b")
    first.cancelled = True  # type: ignore[assignment,method-assign]
    rig.codec.take()
    rig.codec.feed(b"VA 1 OAAA\r\na\r\nVA 1 OAAB\r\nb\r\n")
    assert first.result is None
    assert second.result.value == b"b"


@pytest.mark.parametrize("size", [0, 1, 65536, mc_queue.VALUE_BYTES_MAX])
def test_a_value_is_counted_not_searched_for_its_end(size: int) -> None:
    value = (b"\r\nEN\r\nMN\r\n" * (size // 8 + 1))[:size]
    rig = Rig()
    waiter = rig.codec.get("k")
    rig.codec.take()
    answer = b"VA %d OAAA\r\n%b\r\n" % (size, value)
    for at in range(0, len(answer), 65_536):
        rig.codec.feed(answer[at : at + 65_536])
    assert waiter.result.value == value


# -- what ends the connection ----------------------------------------------------------------------------------------

BROKEN = {
    "unknown code": b"QQ 5 OAAA\r\nhello\r\n",
    "lower case": b"va 5 OAAA\r\nhello\r\n",
    "text protocol": b"VALUE k 0 5\r\nhello\r\nEND\r\n",
    "binary protocol": b"\x81\0\0\0\r\n",
    "empty line": b"\r\n",
    "length is no number": b"VA five OAAA\r\nhello\r\n",
    "length with sign": b"VA +5 OAAA\r\nhello\r\n",
    "length with underscore": b"VA 0_5 OAAA\r\nhello\r\n",
    "negative length": b"VA -5 OAAA\r\nhello\r\n",
    "length of 2**64 + 5": b"VA 18446744073709551621 OAAA\r\nhello\r\n",
    "no length": b"VA\r\n",
    "length over the limit": b"VA 4294967295 OAAA\r\n",
    "value shorter than its length": b"VA 6 OAAA\r\nhello\r\nEN\r\n",
    "value longer than its length": b"VA 4 OAAA\r\nhello\r\n",
    "no value where one was asked": b"HD OAAA\r\n",
    "answer to a store": b"NS\r\n",
    "answer to a noop": b"MN\r\n",
    "another mark": b"VA 5 OAAB\r\nhello\r\n",
    "a longer mark": b"VA 5 OAAAA\r\nhello\r\n",
    "no mark": b"VA 5\r\nhello\r\n",
    "cas is no number": b"VA 5 cx OAAA\r\nhello\r\n",
    "client flags over 32 bits": b"VA 5 f4294967296 OAAA\r\nhello\r\n",
    "negative client flags": b"VA 5 f-1 OAAA\r\nhello\r\n",
    "time to live is no number": b"VA 5 t-2 OAAA\r\nhello\r\n",
    "line without carriage return": b"EN\n",
    "line without end": b"E" * 2048,
    "line too long": b"EN " + b"x" * 2048 + b"\r\n",
    "ERROR": b"ERROR\r\n",
    "CLIENT_ERROR": b"CLIENT_ERROR bad command line format\r\n",
    "SERVER_ERROR to a read": b"SERVER_ERROR backend timeout\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("step", [1, 10_000])
def test_what_is_not_the_protocol_ends_the_connection_and_everybody_gets_unknown(name: str, step: int) -> None:
    rig = Rig()
    waiters = [rig.codec.get("k"), rig.codec.get("l"), rig.codec.set("m", b"v")]
    rig.codec.take()
    unsent = rig.codec.get("n")
    answer = BROKEN[name]
    for at in range(0, len(answer), step):
        rig.codec.feed(answer[at : at + step])
    assert statuses(*waiters) == ["unknown"] * 3, "sent: may have happened"
    assert statuses(unsent) == ["down"], "not sent: did not happen"
    assert len(rig.failures) == rig.codec.protocol_errors == 1
    assert (rig.codec.unknown, rig.codec.down) == (3, 1)
    assert statuses(rig.codec.get("o")) == ["down"], "answered at once"
    rig.codec.feed(b"VA 1 OAAB\r\nx\r\n")
    assert rig.codec.protocol_errors == 1, "late bytes are not read"


def test_a_line_that_nobody_asked_for_ends_the_connection() -> None:
    rig = Rig()
    rig.codec.feed(b"ERROR Too many open connections\r\n")
    assert rig.codec.protocol_errors == 1
    assert "Too many open connections" in rig.failures[0]
    assert not rig.codec.up


def test_an_answer_to_a_request_that_was_not_yet_sent_ends_the_connection() -> None:
    rig = Rig()
    waiter = rig.codec.get("k")
    rig.codec.feed(b"VA 1 OAAA\r\nx\r\n")
    assert statuses(waiter) == ["down"]
    assert rig.codec.protocol_errors == 1


def test_a_client_error_to_a_store_ends_the_connection() -> None:
    rig = Rig()
    waiter, after = rig.codec.set("k", b"flush_all"), rig.codec.get("l")
    rig.codec.take()
    rig.codec.feed(b"CLIENT_ERROR bad data chunk\r\nERROR\r\n")
    assert statuses(waiter, after) == ["unknown", "unknown"]


def test_a_server_error_to_a_store_is_one_answer_and_the_connection_stays() -> None:
    rig = Rig()
    waiter, after = rig.codec.add_then_get("k", b"v"), rig.codec.get("l")
    rig.codec.take()
    rig.codec.feed(b"SERVER_ERROR out of memory storing object\r\nEN\r\nEN\r\n")
    assert statuses(after) == ["miss"]
    assert [r.status_name for r in waiter.result] == ["server-error", "miss"]  # type: ignore[attr-defined]
    assert rig.codec.up


def test_the_answer_to_another_key_ends_the_connection() -> None:
    rig = Rig(check=mc_queue.CHECK_KEY)
    right, wrong = rig.codec.get("k1"), rig.codec.get("k1")
    assert rig.codec.take() == b"mg k1 v c t f k\r\n" * 2
    rig.codec.feed(b"VA 1 kk1\r\nx\r\nVA 1 kk2\r\nx\r\n")
    assert statuses(right, wrong) == ["hit", "unknown"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from(TRANSCRIPT.split(b"\r\n")).map(lambda x: x + b"\r\n")))
def test_no_bytes_make_the_decoder_raise_or_answer_twice(pieces: list[bytes]) -> None:
    rig = Rig()
    waiters = ask_transcript(rig)
    for piece in pieces:
        rig.codec.feed(piece)
    rig.codec.fail("end")
    assert all(waiter.result is not None for waiter in waiters)
    assert rig.codec.in_flight == 0


# -- connections and time --------------------------------------------------------------------------------------------


def test_requests_wait_for_the_first_connection_and_for_no_later_one() -> None:
    rig = Rig(up=False)
    waiter = rig.codec.get("k")
    assert rig.codec.opening_first
    assert rig.codec.take() == b""
    rig.connect()
    assert rig.notified >= 2
    assert rig.codec.take().startswith(b"mg k ")
    rig.codec.fail("gone")
    assert statuses(waiter, rig.codec.get("k")) == ["unknown", "down"]


def test_who_waits_for_a_first_connection_that_takes_too_long_is_told_down_and_the_attempt_goes_on() -> None:
    rig = Rig(up=False)
    waiter = rig.codec.get("k")
    rig.codec.hello()
    rig.codec.set_clock_ms(1_000_051)
    assert rig.codec.overdue()
    rig.codec.away("slow")
    assert statuses(waiter) == ["down"]
    rig.codec.feed(b"MN\r\n")
    assert rig.codec.up
    assert rig.codec.take() == b"", "what was answered is not sent any more"


@pytest.mark.parametrize(
    "answer", [b"ERROR\r\n", b"EN\r\n", b"MNX\r\n", b"SERVER_ERROR busy\r\n", b"HTTP/1.1 400 Bad\r\n"]
)
def test_a_connection_counts_as_up_only_when_it_answered_the_probe(answer: bytes) -> None:
    rig = Rig(up=False)
    rig.codec.hello()
    rig.codec.feed(answer)
    assert not rig.codec.up
    assert (rig.ups, rig.codec.protocol_errors) == (0, 1)


def test_credentials_go_before_the_probe_and_their_refusal_is_told() -> None:
    rig = Rig(up=False)
    assert rig.codec.hello("alice", "secret") == b"set fastroute 0 0 12\r\nalice secret\r\nmn\r\n"
    rig.codec.feed(b"STORED\r\nMN\r\n")
    assert rig.codec.up
    rig = Rig(up=False)
    rig.codec.hello("alice", "wrong")
    rig.codec.feed(b"CLIENT_ERROR authentication failure\r\n")
    assert "authentication failure" in rig.failures[0]
    for username, password in (("a b", "c"), ("a", "b\r\n"), ("a", "x" * 1100)):
        with pytest.raises(UsageError, match="credentials"):
            rig.codec.hello(username, password)


def test_the_generation_grows_with_every_connection_of_the_process() -> None:
    one, two = Rig(), Rig()
    before = one.codec.generation
    assert two.codec.generation == before + 1
    one.codec.fail("gone")
    assert one.codec.generation == before
    one.connect()
    assert one.codec.generation == before + 2


def test_a_cas_token_of_another_connection_is_never_sent() -> None:
    rig, other = Rig(), Rig()
    token = token_of(rig, 7)
    foreign = token_of(other, 7)
    rig.codec.fail("restart")
    assert statuses(rig.codec.cas_set("k", b"v", token)) == ["down"]
    rig.connect()
    for old in (token, foreign):
        assert (
            statuses(rig.codec.cas_set("k", b"v", old), rig.codec.delete("k", old), rig.codec.expire_key("k", old))
            == ["exists"] * 3
        )
        assert rig.codec.take() == b""
        pair: Any = rig.codec.cas_then_get("k", b"v", old, 60)
        sent = rig.codec.take()
        assert sent.startswith(b"mg k ")
        assert b"C7" not in sent
        rig.codec.feed(b"VA 1 c1" + sent[sent.index(b" O") : -2] + b"\r\nx\r\n")
        assert [r.status_name for r in pair.result] == ["exists", "hit"]
    assert rig.codec.stale_tokens == 8


def test_tokens_and_replies_are_not_made_by_hand() -> None:
    for cls in (mc_reply.Reply, mc_reply.CasToken, mc_queue.Inlet):
        with pytest.raises(UsageError):
            cls()


def test_bytes_of_a_replaced_connection_are_not_read() -> None:
    rig = Rig(up=False)
    rig.codec.hello()
    old = rig.codec.inlet()
    rig.codec.hello()
    new = rig.codec.inlet()
    old.data_received(b"MN\r\n")
    assert not rig.codec.up
    new.data_received(b"MN\r\n")
    assert rig.codec.up
    waiter = rig.codec.get("k")
    rig.codec.take()
    old.data_received(b"VA 4 OAAA\r\nevil\r\n")
    assert waiter.result is None  # type: ignore[attr-defined]


def test_the_oldest_request_is_overdue_after_the_time_limit() -> None:
    rig = Rig(timeout_ms=50)
    assert not rig.codec.overdue()
    waiter = rig.codec.get("k")
    rig.codec.take()
    rig.codec.set_clock_ms(1_000_050)
    assert not rig.codec.overdue()
    rig.codec.set_clock_ms(1_000_051)
    assert rig.codec.overdue()
    rig.codec.expire()
    assert statuses(waiter) == ["unknown"]
    assert (rig.codec.timeouts, rig.codec.protocol_errors, len(rig.failures)) == (1, 0, 1)


def test_more_than_the_limit_in_flight_or_queued_is_answered_down_and_counted() -> None:
    rig = Rig(in_flight_max=4, queued_bytes_max=10_000)
    waiters = [rig.codec.get("k") for _ in range(3)]
    assert statuses(rig.codec.noop()) == ["waiting"]
    assert statuses(rig.codec.get("k")) == ["down"]
    pair: Any = rig.codec.add_then_get("k", b"v")
    assert [r.status_name for r in pair.result] == ["down", "down"]
    assert rig.codec.busy == 3
    rig = Rig(in_flight_max=4, queued_bytes_max=10_000)
    large = [rig.codec.set("k", b"x" * 8000), rig.codec.set("k", b"x" * 8000)]
    assert statuses(*large) == ["waiting", "down"]
    assert statuses(*waiters) == ["waiting"] * 3


def test_a_closed_codec_answers_down() -> None:
    rig = Rig()
    waiter = rig.codec.get("k")
    rig.codec.close()
    assert statuses(waiter, rig.codec.get("k")) == ["down", "down"]
    rig.codec.hello()
    rig.codec.feed(b"MN\r\n")
    assert not rig.codec.up


def test_the_queue_goes_round_many_times_without_loss() -> None:
    rig = Rig(in_flight_max=8, check=mc_queue.CHECK_NOTHING)
    draw = random.Random(7)
    expected: list[tuple[Any, bytes]] = []
    for n in range(3000):
        if len(expected) < 8 and draw.random() < 0.55:
            expected.append((rig.codec.get(f"k{n}"), b"%d" % n))
            rig.codec.take()
        elif expected:
            waiter, value = expected.pop(0)
            rig.codec.feed(b"VA %d\r\n%b\r\n" % (len(value), value))
            assert waiter.result.value == value


# -- who hears of it, and when ----------------------------------------------------------------------------------------


def test_a_lone_request_is_written_at_once_and_company_is_waited_for_again() -> None:
    rig, written = Rig(), []
    rig.codec.on_burst = lambda: written.append(rig.codec.take())
    rig.codec.get("a")  # nothing is known of the load yet: the turn's end
    assert (rig.notified, written) == (1, [])
    rig.codec.take()
    rig.codec.feed(b"EN\r\n")
    rig.codec.get("b")  # alone, as the one before
    assert (rig.notified, len(written)) == (1, 1)
    rig.codec.get("c")  # beside it
    assert (rig.notified, len(written)) == (2, 1)
    rig.codec.take()
    rig.codec.feed(b"EN\r\nEN\r\n")
    rig.codec.get("d")  # not alone the last time
    assert (rig.notified, len(written)) == (3, 1)


def test_a_reply_is_given_to_who_was_named_for_it() -> None:
    rig, named = Rig(), Waiter()
    assert rig.codec.get_or_lease("a", 5, named) is named
    other = rig.codec.get("b")
    rig.codec.take()
    rig.codec.fail("gone")
    assert statuses(named, other) == ["unknown", "unknown"]
    late = Waiter()
    rig.codec.get_or_lease("a", 5, late)
    assert statuses(late) == ["down"]
    with pytest.raises(UsageError):
        rig.codec.get_or_lease("a b", 5, Waiter())
    assert rig.codec.get("a") is not late


# -- who is answered within the reading ------------------------------------------------------------------------------


class Caller(Waiter):
    """Takes its answer at once and goes on from there, as the shared cache's flights do."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.then = then

    def set_result(self, result: object) -> None:
        super().set_result(result)
        self.then()


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
@pytest.mark.parametrize("behind", [b"VA 1 c2\r\nb\r\n", b"EN\r\n"])
def test_who_is_answered_may_close_the_codec_within_the_answer(cut: int, behind: bytes) -> None:
    rig = Rig(check=mc_queue.CHECK_NOTHING)
    first = Caller(rig.codec.close)
    rig.codec.get_or_lease("k1", 5, first)
    rest = [rig.codec.get(f"k{at}") for at in range(5)]
    rig.codec.take()
    rest.append(rig.codec.get("unsent"))
    answers = b"VA 1 c1\r\na\r\n" + behind * 6
    rig.codec.feed(answers[: len(answers) - cut])
    rig.codec.feed(answers[len(answers) - cut :])
    assert statuses(first, *rest) == ["hit", *["unknown"] * 5, "down"]
    assert rig.codec.in_flight == 0


def test_who_hears_of_the_end_may_close_the_codec_within_that() -> None:
    rig = Rig()
    first = Caller(rig.codec.close)
    rig.codec.get_or_lease("k1", 5, first)
    rest = [rig.codec.get(f"k{at}") for at in range(5)]
    rig.codec.take()
    rig.codec.fail("closed by the node")
    assert statuses(first, *rest) == ["unknown"] * 6
    assert rig.codec.in_flight == 0


def test_one_may_ask_again_and_the_next_close_the_codec_when_they_hear_of_the_end() -> None:
    rig = Rig()
    again: list[Any] = []
    rig.codec.get_or_lease("k1", 5, Caller(lambda: again.append(rig.codec.get("k1"))))
    rig.codec.get_or_lease("k2", 5, Caller(rig.codec.close))
    rig.codec.take()
    rig.codec.reopen("closed by the node")
    assert statuses(*again) == ["down"]
    assert rig.codec.in_flight == 0


def test_who_hears_of_the_end_and_asks_again_waits_for_the_next_connection() -> None:
    rig = Rig()
    again: list[Any] = []
    first = Caller(lambda: again.append(rig.codec.get("k1")))
    rig.codec.get_or_lease("k1", 5, first)
    rest = rig.codec.get("k2")
    rig.codec.take()
    rig.codec.reopen("closed by the node")
    assert statuses(first, rest, *again) == ["unknown", "unknown", "waiting"]
    rig.connect()
    assert rig.codec.take().count(b"\r\n") == 1


def test_who_is_answered_and_asks_again_is_answered_in_turn() -> None:
    rig = Rig(in_flight_max=2, check=mc_queue.CHECK_NOTHING)  # the slot of the answered one is used anew
    again: list[Any] = []
    rig.codec.get_or_lease("k1", 5, Caller(lambda: again.append(rig.codec.get("k3"))))
    rest = rig.codec.get("k2")
    rig.codec.take()
    rig.codec.feed(b"VA 1 c1\r\na\r\nVA 1 c2\r\nb\r\n")
    rig.codec.take()
    rig.codec.feed(b"VA 1 c3\r\nc\r\n")
    assert (rest.result.value, again[0].result.value) == (b"b", b"c")


def test_an_exception_within_an_answer_ends_the_connection() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    rig = Rig()
    rig.codec.get_or_lease("k1", 5, Caller(interrupt))
    rest = [rig.codec.get("k2"), rig.codec.get("k3")]
    marks = [line[-3:] for line in rig.codec.take().split(b"\r\n")[:-1]]
    with pytest.raises(KeyboardInterrupt):
        rig.codec.feed(b"VA 1 c1 O%b\r\na\r\nVA 1 c1 O%b\r\na\r\n" % (marks[0], marks[1]))
    rig.codec.feed(b"EN\r\n")
    assert statuses(*rest) == ["unknown", "unknown"]
    assert rig.failures
    assert not rig.codec.up
