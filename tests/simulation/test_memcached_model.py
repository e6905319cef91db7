"""The simulator's memcached beside the real one: the same bytes in, the same bytes out."""

from __future__ import annotations

import random
import re
import time

import pytest

from tests.simulation.agreement.memcached import MemcachedModel, Session
from tests.support.memcached import Memcached

COMMANDS = 3_000
KEYS = [b"a", b"b", b"fr:a:app:AAECAwQFBgcICQoLDA0ODw", b"caf\xc3\xa9"]


def ask(connection, command):
    """The answers to a batch, read up to the MN that ends it."""
    connection.sendall(command + b"mn\r\n")
    answer = b""
    while not answer.endswith(b"MN\r\n"):
        more = connection.recv(65536)
        assert more, "memcached closed the connection"
        answer += more
    return answer


def command_of(seeded, seen):
    """A random command of those that the product sends, and near relatives of them."""
    key = seeded.choice(KEYS)
    number = seeded.choice(sorted(seen)[-6:]) if seen and seeded.random() < 0.7 else seeded.randrange(1, 50)
    opaque = b" O%d" % seeded.randrange(1000) if seeded.random() < 0.5 else b""
    kind = seeded.randrange(12)
    if kind < 4:
        flags = [flag for flag in (b"v", b"c", b"t", b"f", b"s", b"k", b"q") if seeded.random() < 0.5]
        seeded.shuffle(flags)
        if seeded.random() < 0.4:
            flags.insert(seeded.randrange(len(flags) + 1), seeded.choice((b"T0", b"T60", b"T100000", b"T-1")))
        return b"mg %b %b%b\r\n" % (key, b" ".join(flags) or b"v", opaque)
    if kind < 9:
        value = seeded.randbytes(seeded.choice((0, 1, 32, 100)))
        mode = seeded.choice((b"", b"", b" ME", b" ME", b" MS", b" MR"))
        ttl = seeded.choice((b"", b" T0", b" T60", b" T2592000", b" T3000000", b" T-1"))
        token = b" C%d" % number if seeded.random() < 0.4 and mode in (b"", b" MS") else b""
        rest = b"".join(flag for flag in (b" c", b" k", b" q", b" F7") if seeded.random() < 0.3)
        line = b"ms %b %d%b%b%b%b%b\r\n" % (key, len(value), mode, ttl, token, rest, opaque)
        return line + value + b"\r\n"
    if kind < 11:
        token = b" C%d" % number if seeded.random() < 0.5 else b""
        return b"md %b%b%b%b\r\n" % (key, token, b" q" if seeded.random() < 0.3 else b"", opaque)
    return seeded.choice((b"flush_all\r\n", b"nonsense\r\n", b"mg %b v Z9\r\n" % key))


def without_seconds(answer):
    """The remaining time to live is compared by class: two clocks of one second tick at different instants."""
    return re.sub(rb" t(\d+)", lambda found: b" t" + (b"short" if int(found[1]) < 100 else b"long"), answer)


@pytest.mark.parametrize("seed", range(4))
def test_model_answers_as_memcached_does(seed):
    seeded = random.Random(seed)
    with Memcached("-t", "1") as store, store.connect() as connection:
        began_s = time.monotonic()
        model, session = MemcachedModel(time.monotonic, began_s), Session(1)
        seen: set[int] = set()
        for number in range(COMMANDS):
            command = command_of(seeded, seen)
            real = ask(connection, command)
            modelled = model.feed(session, command + b"mn\r\n")
            assert without_seconds(modelled) == without_seconds(real), (number, command)
            seen |= {int(found) for found in re.findall(rb" c(\d+)", real)}


def test_model_takes_commands_cut_anywhere():
    whole = b"ms a 5 ME T60 c O1\r\nhel\r\n\r\nmg a v c t f O2\r\nmd a C9 O3\r\nmn\r\n"
    expected = MemcachedModel(lambda: 0.0, 0.0).feed(Session(1), whole)
    for cut in range(1, len(whole)):
        model, session = MemcachedModel(lambda: 0.0, 0.0), Session(1)
        assert model.feed(session, whole[:cut]) + model.feed(session, whole[cut:]) == expected


def test_refused_store_removes_what_stood_as_memcached_does():
    with Memcached("-t", "1", "-I", "1m") as store, store.connect() as connection:
        assert ask(connection, b"ms a 1 T60\r\nx\r\n") == b"HD\r\nMN\r\n"
        size = 3 * 1024 * 1024
        assert b"SERVER_ERROR" in ask(connection, b"ms a %d ME\r\n%b\r\n" % (size, bytes(size)))
        assert ask(connection, b"mg a v\r\n") == b"EN\r\nMN\r\n"
    model, session = MemcachedModel(lambda: 0.0, 0.0), Session(1)
    model.feed(session, b"ms a 1 T60\r\nx\r\n")
    model.refuse = True
    assert model.feed(session, b"ms a 1 ME\r\ny\r\nmg a v\r\n").endswith(b"EN\r\n")


def test_model_lets_a_lifetime_of_n_seconds_last_more_than_n_minus_1_and_at_most_n():
    now = [0.0]

    def time_s():
        return now[0]

    for phase in range(10):
        now[0] = 100.0 + phase / 10
        model, session = MemcachedModel(time_s, 100.0), Session(1)
        stored_s = now[0]
        model.feed(session, b"ms a 1 T3\r\nx\r\n")
        while model.feed(session, b"mg a v\r\n") != b"EN\r\n":
            now[0] += 0.01
        assert 2.0 < now[0] - stored_s <= 3.011


def test_numbers_begin_anew_with_the_process_and_a_page_move_changes_them():
    model, session = MemcachedModel(lambda: 0.0, 0.0), Session(1)
    assert model.feed(session, b"ms a 1 c\r\nx\r\n") == b"HD c1\r\n"
    model.move_page(b"a")
    assert model.feed(session, b"ms a 1 C1 c\r\ny\r\nmg a v c\r\n") == b"EX c0\r\nVA 1 c2\r\nx\r\n"


def test_watchers_hear_of_stores_and_evictions_only():
    lines: list[bytes] = []
    model, session = MemcachedModel(lambda: 0.0, 0.0, None, lambda stream, line: lines.append(line)), Session(1)
    model.feed(session, b"ms a:b 1 ME\r\nx\r\nms a:b 1 ME\r\ny\r\nmg a:b v T9\r\nms a:b 1 C1\r\nz\r\n")
    model.evict(b"a:b")
    model.feed(session, b"ms c 1\r\nx\r\nmd c\r\nflush_all\r\n")
    assert [re.search(rb"status=(\w+) cmd=(\w+)|type=eviction key=(\S+)", line).groups() for line in lines] == [
        (b"stored", b"add", None),
        (b"not_stored", b"add", None),
        (b"stored", b"cas", None),
        (None, None, b"a%3Ab"),
        (b"stored", b"set", None),
    ]
