"""Lines of `watch mutations evictions`: parsed however they are cut; what is no line is refused, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.errors import MemcacheProtocolError
from fastroute.memcache.watch_lines import (
    GAP_S,
    GAPS_MAX,
    LINE_BYTES_MAX,
    Announced,
    GidOrder,
    NodeFacts,
    Skipped,
    WatchParser,
    facts_of,
)

STORED = b"ts=1795303124.747445 gid=2 type=item_store key=a status=stored cmd=set ttl=60 clsid=1 cfd=16 size=1\n"
EVICTED = b"ts=1795303388.22003 gid=7 type=eviction key=e%3A0 fetch=no ttl=900 la=0 clsid=29 size=50000\n"
STREAM = (
    STORED
    + EVICTED
    + b"skipped=1914\n"
    + b"ts=1.5 gid=8 type=item_store key=fr%3Aa%3Aapp%3AAAAAAAAAAAAAAAAAAAAAAA status=stored cmd=cas cfd=1 size=32\n"
    + b"ts=1.5 gid=9 type=item_store key=k status=exists cmd=cas ttl=0 clsid=1 cfd=1 size=0\n"
)
MEANING = [
    Announced(2, "stored", b"a"),
    Announced(7, "evicted", b"e:0"),
    Skipped(1914),
    Announced(8, "stored", b"fr:a:app:AAAAAAAAAAAAAAAAAAAAAA"),
    Announced(9, "other", b"k"),
]


def test_lines_as_memcached_writes_them():
    assert WatchParser().feed(STREAM) == MEANING


def test_every_split_gives_the_same_answer():
    for cut in range(len(STREAM) + 1):
        parser = WatchParser()
        assert parser.feed(STREAM[:cut]) + parser.feed(STREAM[cut:]) == MEANING


def test_byte_by_byte_gives_the_same_answer():
    parser = WatchParser()
    assert [event for at in range(len(STREAM)) for event in parser.feed(STREAM[at : at + 1])] == MEANING


@pytest.mark.parametrize("status", ["not_stored", "exists", "not_found"])
def test_writes_that_were_refused_change_nothing(status):
    line = STORED.replace(b"=stored", b"=" + status.encode())
    assert WatchParser().feed(line) == [Announced(2, "other", b"a")]


@pytest.mark.parametrize("status", ["too_large", "no_memory", "something_new"])
def test_refusals_that_may_have_removed_the_record_count_as_evictions(status):
    line = STORED.replace(b"=stored", b"=" + status.encode())
    assert WatchParser().feed(line) == [Announced(2, "evicted", b"a")]


def test_expired_write_that_stands_for_a_delete_is_a_write():
    line = STORED.replace(b"ttl=60", b"ttl=4294967218")
    assert WatchParser().feed(line) == [Announced(2, "stored", b"a")]


@pytest.mark.parametrize("coded", [b"%2C", b"%00", b"%C3%A9", b"%25"])
def test_keys_are_percent_decoded(coded):
    (event,) = WatchParser().feed(STORED.replace(b"key=a", b"key=" + coded))
    assert event.key == bytes.fromhex(coded.replace(b"%", b"").decode())


def test_lines_of_other_streams_carry_their_number_and_nothing_else():
    line = b"ts=1.000001 gid=5 type=item_get key=k status=found clsid=1 cfd=1 size=1\n"
    assert WatchParser().feed(line) == [Announced(5, "other")]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"OK\n",
        b"ERROR Too many open connections\r\n",
        b"skipped=-1\n",
        b"skipped=\n",
        b"skipped=99999999999999999999999\n",
        STORED.replace(b"gid=2", b"gid=18446744073709551616"),
        STORED.replace(b"gid=2", b"gid=-2"),
        STORED.replace(b"gid=2", b"gid="),
        STORED.replace(b"key=a ", b""),
        STORED.replace(b"key=a", b"key="),
        STORED.replace(b"key=a", b"key=" + b"x" * 761),
        STORED.replace(b"key=a", b"key=a\x00"),
        STORED.replace(b"status=stored ", b""),
        STORED.replace(b"ts=1795303124.747445 ", b""),
        STORED.replace(b"ts=1795303124", b"ts=9999999999999999"),
        b"x" * (LINE_BYTES_MAX + 1) + b"\n",
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_such_line_is_refused(line):
    with pytest.raises(MemcacheProtocolError):
        WatchParser().feed(line)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_garbage_is_refused_or_parsed_and_raises_nothing_else(data, cut):
    parser = WatchParser()
    try:
        parser.feed(STREAM[:cut] + data)
        parser.feed(STREAM)
    except MemcacheProtocolError:
        pass


def test_status_inside_a_key_is_not_the_status():
    line = STORED.replace(b"key=a status=stored", b"key=status=stored status=exists")
    assert WatchParser().feed(line) == [Announced(2, "other", b"status=stored")]


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_in_order_leave_no_gap():
    order = GidOrder()
    assert all(order.see(gid, 0.0) for gid in range(10, 2000))
    assert not order.overdue(1e9)


def test_small_inversions_close_their_gap():
    order = GidOrder()
    for gid in (5, 8, 6, 7, 9):
        order.see(gid, 0.0)
    assert not order.overdue(1e9)


def test_gap_that_stays_open_is_overdue_once():
    order = GidOrder()
    order.see(5, 0.0)
    order.see(7, 1.0)
    assert not order.overdue(1.0 + GAP_S / 2)
    assert order.overdue(1.0 + GAP_S)
    assert not order.overdue(1e9)


def test_lines_from_before_the_first_one_seen_are_no_gap():
    order = GidOrder()
    order.see(5, 0.0)
    order.see(3, 0.0)
    order.see(6, 0.0)
    assert not order.overdue(1e9)


def test_gap_too_large_to_keep_is_told_at_once():
    order = GidOrder()
    order.see(5, 0.0)
    assert not order.see(5 + GAPS_MAX + 2, 0.0)
    assert order.see(5 + GAPS_MAX + 3, 0.0)
    assert not order.overdue(1e9)


def test_what_the_node_says_it_skipped_is_no_gap():
    order = GidOrder()
    order.see(5, 0.0)
    order.see(9, 0.0)
    order.forgive()
    assert not order.overdue(1e9)


# -- stats -------------------------------------------------------------------------------------------------------------


def test_facts_of_an_answer_to_stats():
    answer = {b"pid": b"7", b"uptime": b"10", b"time": b"1010", b"cmd_flush": b"3", b"log_worker_dropped": b"2"}
    assert facts_of(answer) == NodeFacts(7, 1000, 3, 2, 0)


def test_flush_that_is_still_to_come_counts_as_another_one_when_it_comes():
    answer = {b"pid": b"7", b"uptime": b"10", b"time": b"1010", b"cmd_flush": b"1", b"oldest": b"72"}
    assert facts_of(answer).flushes != 1
    assert facts_of(answer | {b"uptime": b"12", b"time": b"1012"}).flushes != 1, "it takes what is stored in its second"
    assert facts_of(answer | {b"uptime": b"13", b"time": b"1013"}).flushes == 1
    assert facts_of(answer | {b"oldest": b"69"}).flushes == 1
    assert facts_of(answer | {b"oldest": b"0"}).flushes == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {b"pid": b"x", b"uptime": b"1", b"time": b"1", b"cmd_flush": b"0"},
        {b"pid": b"4294967296", b"uptime": b"1", b"time": b"1", b"cmd_flush": b"0"},
        {b"pid": b"1", b"uptime": b"1", b"time": b"1", b"cmd_flush": b"-1"},
        {b"pid": b"1", b"uptime": b"1", b"time": b"1", b"cmd_flush": b"1", b"oldest": b"x"},
    ],
)
def test_answer_without_the_facts_is_refused(answer):
    with pytest.raises(MemcacheProtocolError):
        facts_of(answer)
