"""Scripts against the relay, compiled: what clients and servers say and do, byte for byte, as an input tells.

The relay is the product, built as `fastroute serve` builds it (relay_world.py); its loop and transports are in
script_wire; here is what runs a script (script_words.h) and has it judged (script_judge.c). The engine (engine.c) changes the
scripts and learns from the branches of the relay's extensions.

Rules of this file: time stands still until a script moves it; a script begins with nothing open and must leave nothing behind.
"""

import gc
import sys
import traceback
from random import Random

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc

from fastroute._core.http_relay cimport Relay
from fastroute._core.http_upstream cimport Lines, ServerLine, Upstream
from fastroute._core.http_wire cimport Engine, fr_out, fr_out_put
from tests.fuzz.script_wire cimport Loop, Transport, script_judge, script_mark, script_peer, script_said_at, script_said_count

from tests.fuzz.relay_world import Finding

cdef extern from *:
    """
    #include "script_judge.h"
    #include "script_words.h"

    static void (*script_runs)(const uint8_t *data, size_t size, uint64_t random);
    static void (*script_learns)(void);
    static void script_run(const uint8_t *data, size_t size, uint64_t random) { script_runs(data, size, random); }
    static void script_learned(void) { script_learns(); }
    const fuzz_target fuzz_the_target = {"script", script_seeds, script_dictionary, script_run, 400, script_learned, script_mutate};

    static script_peer *script_peers(void) { return (script_peer *)calloc(PEERS_MAX, sizeof(script_peer)); }
    """
    void (*script_runs)(const uint8_t *data, size_t size, uint64_t more) noexcept
    void (*script_learns)() noexcept
    script_peer *script_peers()
    void fuzz_begin(int count, char **arguments)
    int fuzz_more(uint64_t most)
    void fuzz_end()
    uint64_t fuzz_count()
    int fuzz_paused

cdef int SERVERS_MAX = 24
cdef size_t SAID_BYTES_MAX = 400_000
cdef size_t[8] PIECES = [1 << 20, 1, 0, 3, 17, 100, 1000, 16000]
PASSES_S = (0.01, 0.3, 1.0, 2.1, 5.0, 11.0, 31.0, 61.0)
END_PASSES_S = (0.3, 2.1, 5.0, 5.0, 31.0) + (61.0,) * 8
# One of so many inputs is judged by the Python oracle with h11 as well, and every one that joins the corpus.
JUDGED_TWICE = 128


cdef class Place:
    """One listener before one pool of two servers: a relay_world.World with its compiled parts at hand."""

    cdef object world, waiting, clock
    cdef list asked
    cdef Loop loop
    cdef Relay relay
    cdef Engine engine
    cdef Lines lines

    def __init__(self, world):
        self.world, self.relay, self.engine, self.asked = world, world.relay, world.engine, world.slow.asked
        self.loop, self.clock = world.loop, world.clock
        self.lines, self.waiting = world.pool.lines, world.pool.waiting


cdef class Driver:
    """Runs scripts.

    Args:
        worlds: relay_world.Worlds, whose loop is a Loop of this module.
        judge_too: called with what last() says, for a share of the inputs.
        on_log: called with lines of the access log.
    """

    cdef list places, clients, servers
    cdef Place place
    cdef script_peer *client_peers
    cdef script_peer *server_peers
    cdef object judge_too, on_log, choice
    cdef public list unraisable
    cdef uint64_t count
    cdef uint32_t marks
    cdef size_t said
    cdef bint slow_clients, slow_servers, manual, went_away

    def __init__(self, worlds, judge_too, on_log):
        self.places = [Place(world) for world in worlds]
        self.judge_too, self.on_log = judge_too, on_log
        self.client_peers, self.server_peers = script_peers(), script_peers()
        self.clients, self.servers, self.unraisable = [], [], []
        self.choice = Random(1)

    # ---- one input

    cdef int live(self, const uint8_t *data, size_t size) except -1:
        cdef uint8_t flags = data[0] if size else 0
        cdef size_t at = 1, begin
        cdef int act, number
        self.count += 1
        self.place = <Place>self.places[(flags & 3) % len(self.places)]
        self.slow_clients, self.slow_servers, self.manual = flags >> 4 & 1, flags >> 5 & 1, flags >> 6 & 1
        self.marks, self.said, self.went_away = <uint32_t>(self.count << 10), 0, False
        self.clients.clear()
        self.servers.clear()
        while at < size:
            act = data[at]
            at += 1
            if act < 0xF0:
                continue
            number = 0
            if at < size and data[at] < 0xF0:
                number = (data[at] ^ 0x40) & 63
                at += 1
            begin = at
            while at < size and data[at] < 0xF0:
                at += 1
            self.act(act & 15, number, data + begin, at - begin)
            self.settle(True)
        self.finish(flags >> 2 & 3, flags >> 7)
        self.judge()
        return 0

    cdef int act(self, int what, int number, const uint8_t *text, size_t size) except -1:
        cdef Transport one
        if what < 2:
            one = self.client(number & 3)
            self.say(one.p, number >> 2, text, size)
        elif what < 4:
            one = self.server(number & 7)
            if one is not None:
                one.p.asked_at = one.p.written.size
                self.say(one.p, number >> 3, text, size)
        elif what == 4:
            self.connect(number & 3, number >> 2 & 7)
        elif what == 5:
            self.pass_time(PASSES_S[number & 7])
        elif what == 6:
            if (number & 3) < len(self.clients):
                self.mishap(<Transport>self.clients[number & 3], number >> 2 & 3)
        elif what == 7:
            one = self.server(number & 7)
            if one is not None:
                self.mishap(one, number >> 3 & 3)
        elif what == 8:
            if number & 1:
                self.went_away = True
                self.place.relay.go_away(100)
            else:
                self.place.relay.close_idle()
        elif what == 9:
            self.slow_clients = self.slow_servers = number & 1
            self.manual = number >> 1 & 1
        return 0

    cdef Transport client(self, int number):
        """The client of this number; the next one, if there is none."""
        if number < len(self.clients):
            return <Transport>self.clients[number]
        number = len(self.clients)
        cdef Transport one = self.transport(&self.client_peers[number], self.slow_clients)
        one.peername = ("192.0.2.9", 40000) if number < 3 else ("198.51.100.9", 40000)
        self.clients.append(one)
        one.protocol = self.place.relay.make()
        one.protocol.connection_made(one)
        return one

    cdef Transport server(self, int number):
        """The connection of this number; 0: the last one that was asked something since it last spoke; None: there is none."""
        cdef Transport one
        if number:
            return <Transport>self.servers[number - 1] if number <= len(self.servers) else None
        for one in reversed(self.servers):
            if one.p.written.size > one.p.asked_at:
                return one
        return <Transport>self.servers[len(self.servers) - 1] if self.servers else None

    cdef Transport transport(self, script_peer *p, bint slow):
        cdef Transport one = Transport.__new__(Transport)
        one.open(p, self.place.loop, slow)
        return one

    cdef int say(self, script_peer *p, int pieces, const uint8_t *text, size_t size) except -1:
        """Put a text into what the peer says."""
        cdef size_t at, run = 0, before = p.outbox.size
        cdef uint8_t mark[13]
        cdef bytes more
        for at in range(size):
            if text[at] < 0xEC:
                continue
            fr_out_put(&p.outbox, text + run, at - run)
            run = at + 1
            if text[at] == 0xEF:
                self.marks += 1
                script_mark(self.marks, mark)
                fr_out_put(&p.outbox, mark, 13)
                continue
            more = self.place.world.token(self.choice) if text[at] == 0xEC else b"x" * (1000 if text[at] == 0xEE else 50_000)
            self.said += len(more)
            if self.said < SAID_BYTES_MAX:
                fr_out_put(&p.outbox, <const uint8_t *>more, len(more))
        fr_out_put(&p.outbox, text + run, size - run)
        size = p.outbox.size - p.given
        p.piece = PIECES[pieces & 7] or (size + 1) // 2 or 1
        if size > 400 * p.piece:
            p.piece = size // 400
        return 0

    cdef int connect(self, int which, int how) except -1:
        """Decide a connection that was asked for, if one was."""
        cdef Transport one
        cdef list asked = self.place.asked
        if not asked:
            return 0
        request, epoch, line = asked.pop(which % len(asked))
        if len(self.servers) >= SERVERS_MAX:
            how = 5
        if how < 5:
            one = self.transport(&self.server_peers[len(self.servers)], self.slow_servers)
            up = Upstream(line)
            one.protocol = up
            self.servers.append(one)
            up.connection_made(one)
            if not request.connected(epoch, up):
                line.adopt(up)
            return 0
        self.place.lines.count_connect_failure(how == 6)
        if how == 7:
            request.unconnected(epoch, 503)
        else:
            request.connect_failed(epoch, how == 6)
        return 0

    cdef int mishap(self, Transport one, int how) except -1:
        if how == 0:
            one.give_eof()
        elif how == 1:
            one.reset()
        else:
            one.take(1000 if how == 2 else 1 << 30)
        return 0

    cdef int pass_time(self, double seconds) except -1:
        self.place.clock.advance(seconds)
        self.place.engine.tick()
        self.place.loop.passed()
        return 0

    cdef int settle(self, bint open_them) except -1:
        """Until nothing is left to do at this moment."""
        cdef Loop loop = self.place.loop
        cdef list asked = self.place.asked
        cdef Transport one
        cdef bint more = True
        cdef int rounds = 0
        while more:
            rounds += 1
            if rounds > 20_000:
                raise Finding("it does not come to rest")
            more = loop.turn()
            if asked and open_them and not self.manual:
                self.connect(0, 0)
                more = True
            for one in self.clients:
                more |= one.give()
            for one in self.servers:
                more |= one.give()
        return 0

    cdef bint all_lost(self):
        cdef Transport one
        for one in self.clients:
            if not one.p.lost:
                return False
        for one in self.servers:
            if not one.p.lost:
                return False
        return True

    cdef int finish(self, int how, bint unread) except -1:
        """All goes on to its end, or nobody does more than read; then time passes until everything has ended."""
        cdef Transport one
        cdef bint more = not unread
        self.manual = False
        while more:
            more = False
            for one in self.clients:
                more |= one.take(1 << 30)
            for one in self.servers:
                more |= one.take(1 << 30)
            self.settle(True)
        if how == 3:
            for one in self.servers:
                one.give_eof()
        for one in self.clients if how else ():
            if how == 2:
                one.reset()
            else:
                one.give_eof()
        self.settle(not unread)
        for one in self.servers if how else ():
            one.give_eof()
        self.settle(not unread)
        for seconds in END_PASSES_S:
            for one in self.clients:
                one.take(1 << 30)
            for one in self.servers:
                one.take(1 << 30)
            while self.place.asked:  # one request after the other, where a client has sent many
                self.connect(0, 5)
                self.settle(False)
            self.settle(False)
            if self.all_lost() and not self.place.lines.active:
                break
            self.pass_time(seconds)
            self.settle(False)
        while self.place.asked:
            self.connect(0, 5)
        self.pass_time(61.0)  # what one script has done to a server is over for the next
        self.settle(False)
        return 0

    # ---- what must hold now that it is over

    cdef int judge(self) except -1:
        cdef Place place = self.place
        cdef Loop loop = place.loop
        cdef ServerLine line
        cdef const char *fault
        if loop.errors:
            raise Finding(f"raised or logged: {loop.errors}")
        if self.unraisable:
            raise Finding(f"raised where nobody hears it: {self.unraisable}")
        if not self.all_lost():
            raise Finding("a connection has not ended")
        if place.engine.counts.downstream_connections or place.engine.counts.upstream_open or place.engine.counts.tunnels:
            raise Finding("connections or tunnels are counted that are over")
        if place.lines.pending or place.lines.active or place.lines.retrying or place.waiting.count:
            raise Finding(f"pending {place.lines.pending}, active {place.lines.active}, retrying {place.lines.retrying}, waiting {place.waiting.count}")
        for line in place.lines.by_slot:
            if line is not None and (line.counted.in_flight or line.idle or line.connecting):
                raise Finding(f"in flight {line.counted.in_flight}, idle {line.idle}, connecting {line.connecting}")
        if place.relay.connections or place.relay.clients:
            raise Finding("connections are kept")
        fault = script_judge(self.client_peers, len(self.clients), self.server_peers, len(self.servers), self.went_away)
        if fault is not NULL:
            raise Finding((<bytes>fault).decode("latin-1"))
        if self.count % JUDGED_TWICE == 0:
            self.twice()
            self.look_around()
        return 0

    cdef int twice(self) except -1:
        """Let the Python oracle judge the input just run."""
        global fuzz_paused
        fuzz_paused += 1
        if not self.went_away:
            self.judge_too(self.last())
        fuzz_paused -= 1
        return 0

    cdef int look_around(self) except -1:
        """What is judged of many inputs at once."""
        global fuzz_paused
        cdef Place place
        fuzz_paused += 1
        for place in self.places:
            for one in place.world.pool.pool.statistics().servers:
                if one.in_flight:
                    raise Finding(f"in_flight: {one}")
            if place.world.log is not None:
                self.on_log(place.world.log.take())
        if self.count % (64 * JUDGED_TWICE) == 0:
            gc.collect()
        fuzz_paused -= 1
        return 0

    def last(self):
        """What was said and heard: per client (said, seen, whether it was cut off); per connection to a server (got, what it
        said to each request)."""
        cdef script_peer *p
        cdef int i, n, count
        clients, servers = [], []
        for i in range(len(self.clients)):
            p = &self.client_peers[i]
            clients.append((text_of(&p.outbox, 0, p.heard), text_of(&p.written, 0, p.written.size - p.unsent), bool(p.aborted or p.unsent)))
        for i in range(len(self.servers)):
            p, count = &self.server_peers[i], script_said_count(i)
            ends = [script_said_at(i, n) for n in range(1, count)] + [p.given]
            said = [text_of(&p.outbox, script_said_at(i, n), ends[n]) for n in range(count)]
            servers.append((text_of(&p.written, 0, p.written.size), said))
        return clients, servers


cdef bytes text_of(const fr_out *out, size_t begin, size_t end):
    return PyBytes_FromStringAndSize(<const char *>out.data + begin, end - begin) if end > begin else b""


cdef Driver the_driver = None


cdef void on_run(const uint8_t *data, size_t size, uint64_t more) noexcept:
    global fuzz_paused
    try:
        the_driver.live(data, size)
    except BaseException:
        fuzz_paused = 1
        fault()


cdef void on_learned() noexcept:
    try:
        the_driver.twice()
    except BaseException:
        fault()


cdef void fault() noexcept:
    try:
        traceback.print_exc()
        clients, servers = the_driver.last()
        for said, seen, _ in clients:
            print("client said", said[:3000], "and saw", seen[:3000], sep="\n  ", file=sys.stderr)
        for got, said in servers:
            print("server got", got[:3000], "and said", said, sep="\n  ", file=sys.stderr)
        sys.stderr.flush()
    except BaseException:
        pass
    abort()


def begin(Driver driver not None, arguments):
    """Read the engine's arguments and run the seeds. Once per process; a finding ends it, by abort()."""
    global the_driver
    cdef char **texts = <char **>malloc(sizeof(char *) * (len(arguments) + 1))
    cdef list kept = [b"script", *(one.encode() for one in arguments)]
    the_driver = driver
    set_calls()
    for at in range(len(kept)):
        texts[at] = <char *>(<bytes>kept[at])
    gc.disable()
    try:
        fuzz_begin(len(kept), texts)
    finally:
        free(texts)


def more(uint64_t most):
    """Run so many inputs; False: all have been run."""
    return bool(fuzz_more(most))


def end():
    """Say how it was; -> how many inputs."""
    gc.enable()
    fuzz_end()
    return fuzz_count()


cdef void set_calls():
    global script_runs, script_learns
    script_runs, script_learns = on_run, on_learned
