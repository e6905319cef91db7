/* script_judge.c: what must hold of everything that went through the relay, judged from the bytes on both sides.
 *
 * Not here: what was said, and when (script_drive.pyx). The rules are those of relay_oracle.py, which judges a share of the
 * inputs as well, with h11 beside it; here they are in C, so that every input is judged and a million take minutes.
 *
 * Theory of operation. What a client said, read whole (script_read.h), are the requests that there are. What a server said is
 * read answer after answer: the n-th answers the n-th request that it got. Every message carries a mark (X-Mark: m, eight
 * hexadecimal digits, four of their CRC), by which it is known again on the other side.
 *
 * Rules: script_judge() returns NULL, or the claim that does not hold.
 */
#pragma GCC optimize("O2") /* also in a build that is not optimised otherwise */
#include "script_read.h"

static script_asked *asked_with(uint64_t mark)
{
    for (int i = 0; mark > MARK_SPOILED && i < judged.asked_count; i++)
        if (judged.asked[i].mark == mark)
            return &judged.asked[i];
    return NULL;
}

/* What one server got and said. */
static void judge_server(script_server *all, const script_peer *peer)
{
    const uint8_t *sent = peer->written.data;
    size_t size = peer->written.size, at = 0, said_at = 0;
    all->request_count = all->answer_count = 0;
    while (at < size) {
        script_message *m = &all->requests[all->request_count];
        script_answer *a = &all->answers[all->answer_count];
        const script_asked *known;
        CHECK(all->request_count < MESSAGES_MAX, "the judge has too little room", "", 0);
        if (all->answer_count) { /* RFC 9112, 9.3: no request goes out before the last one was answered whole */
            CHECK(a[-1].there && a[-1].complete && !a[-1].until_close, "a request before the last one's answer", sent + at, size - at < 300 ? size - at : 300);
        }
        CHECK(read_written(m, sent, size, at, 1, 0), "half a head went on", sent + at, size - at);
        all->request_count++;
        known = asked_with(m->mark);
        if (m->mark != MARK_NONE) {
            CHECK(known != NULL, "a request that nobody made", sent + at, 400 < size - at ? 400 : size - at);
            CHECK(is_same(known->method, m->method), "another method", m->start.data, m->start.size);
            if (known->complete) {
                CHECK(begins_with(known->body, m->body), "another body", m->body.data, m->body.size);
                CHECK(!m->complete || m->body.size == known->body.size, "less of a body", m->start.data, m->start.size);
            } else {
                CHECK(!m->complete, "a body that has not come went on whole", m->start.data, m->start.size);
            }
        }
        at = m->end;
        read_answer(a, peer->outbox.data, peer->given, said_at, is_text(m->method, "HEAD"));
        all->answer_count++;
        said_at = a->end;
        if (m->upgrade && a->there && a->status == 101) {
            if (known != NULL) {
                const script_peer *client = &judged.clients[known->client];
                slice rest = {client->outbox.data + known->end, client->heard - known->end}, got = {sent + at, size - at};
                CHECK(known->end <= client->heard && begins_with(rest, got), "a tunnel's bytes", sent + at, size - at);
            }
            break;
        }
        CHECK(m->complete || at == size, "bytes after half a request", sent + at, size - at);
    }
}

static int is_idempotent(slice method)
{
    return is_text(method, "GET") || is_text(method, "HEAD") || is_text(method, "PUT") || is_text(method, "DELETE") || is_text(method, "OPTIONS");
}

/* Requests that may not be done twice went to one server at most (RFC 9110, 9.2.2). */
static void judge_once(void)
{
    for (int i = 0; i < judged.asked_count; i++) {
        const script_asked *one = &judged.asked[i];
        int times = 0;
        if (one->mark <= MARK_SPOILED || is_idempotent(one->method))
            continue;
        for (int s = 0; s < judged.server_count; s++)
            for (int n = 0; n < judged.server[s].request_count; n++)
                times += judged.server[s].requests[n].mark == one->mark;
        CHECK(times <= 1, "sent twice", one->method.data, one->method.size);
    }
}

static int find_answer(uint64_t mark, int *server, int *number)
{
    for (int s = 0; mark > MARK_SPOILED && s < judged.server_count; s++)
        for (int n = 0; n < judged.server[s].answer_count; n++)
            if (judged.server[s].answers[n].mark == mark) {
                *server = s;
                *number = n;
                return 1;
            }
    return 0;
}

static void judge_answer(const script_message *m, const script_asked *one, int whole, int aborted)
{
    const script_answer *a;
    const script_message *request;
    int s = 0, n = 0;
    if (m->mark == MARK_NONE) {
        CHECK(!is_text(m->body, "Internal Server Error\n"), "our own 500", m->start.data, m->start.size);
        return;
    }
    CHECK(find_answer(m->mark, &s, &n), "an answer that no server gave", m->start.data, m->start.size);
    CHECK(one != NULL, "an answer to nothing", m->start.data, m->start.size);
    a = &judged.server[s].answers[n];
    request = &judged.server[s].requests[n];
    if (request->mark != MARK_NONE && one->mark != MARK_NONE)
        CHECK(request->mark == one->mark, "another request's answer", m->start.data, m->start.size);
    CHECK(is_same(request->method, one->method), "an answer to another method", m->start.data, m->start.size);
    CHECK(a->there && a->status == m->status, "another status", m->start.data, m->start.size);
    if (a->complete) {
        CHECK(begins_with(a->body, m->body), "another body", m->body.data, m->body.size);
        CHECK(!whole || a->body.size == m->body.size, "less of a body", m->start.data, m->start.size);
        CHECK(whole || aborted || a->until_close, "an answer that came whole broke off", m->start.data, m->start.size);
    } else if (!m->until_close) {
        CHECK(!whole || one->is_head, "an answer that broke off went on whole", m->start.data, m->start.size);
    }
}

static void judge_tunnel(const script_message *m, const uint8_t *rest, size_t size)
{
    int s = 0, n = 0;
    const script_answer *a;
    slice given, got = {rest, size};
    if (!find_answer(m->mark, &s, &n))
        return;
    a = &judged.server[s].answers[n];
    CHECK(a->there && a->status == 101, "a switch that no server agreed to", m->start.data, m->start.size);
    given.data = judged.servers[s].outbox.data + a->head_end;
    given.size = judged.servers[s].given - a->head_end;
    if (judged.went_away && size >= 4 && !memcmp(rest + size - 4, "\x88\x02\x03\xe9", 4) && !begins_with(given, got))
        got.size -= 4; /* our own Close frame is the last one */
    CHECK(begins_with(given, got), "a tunnel's bytes", rest, size < 300 ? size : 300);
}

/* What one client got. */
static void judge_client(int number)
{
    const script_peer *peer = &judged.clients[number];
    const uint8_t *seen = peer->written.data;
    size_t size = peer->written.size - peer->unsent, at = 0;
    int count = 0, total = judged.first[number + 1] - judged.first[number], aborted = peer->aborted || peer->unsent > 0;
    uint64_t marks[ASKED_MAX + 1];
    while (at < size) {
        const script_asked *one = count < total ? &judged.asked[judged.first[number] + count] : NULL;
        script_message m;
        int whole;
        CHECK(count <= total, "an answer too many", seen + at, size - at < 300 ? size - at : 300);
        if (!read_written(&m, seen, size, at, 0, one != NULL && one->is_head))
            return; /* half a head: the connection has ended */
        at = m.end;
        if (m.status == 101) {
            CHECK(one != NULL && one->upgrade, "a switch that nobody asked for", m.start.data, m.start.size);
            judge_tunnel(&m, seen + at, size - at);
            return;
        }
        if (m.status < 200) {
            CHECK(one != NULL && one->minor > 0, "an interim answer to HTTP/1.0", m.start.data, m.start.size);
            continue;
        }
        marks[count] = m.mark;
        for (int i = 0; m.mark != MARK_NONE && i < count; i++)
            CHECK(marks[i] != m.mark, "one answer twice", m.start.data, m.start.size);
        count++;
        whole = m.complete || (m.until_close && !aborted);
        judge_answer(&m, one, whole, aborted);
        CHECK(m.complete || at == size, "bytes after half an answer", seen + at, size - at);
        CHECK(!m.close || !m.complete || at == size, "bytes after the last answer", seen + at, size - at);
    }
}

const char *script_judge(script_peer *clients, int client_count, script_peer *servers, int server_count, int went_away)
{
    if (judged.arena == NULL) {
        judged.arena = (uint8_t *)malloc(ARENA_BYTES);
        make_tables();
    }
    judged.clients = clients;
    judged.servers = servers;
    judged.client_count = client_count;
    judged.server_count = server_count;
    judged.went_away = went_away;
    judged.asked_count = 0;
    judged.arena_used = 0;
    if (setjmp(judged.out))
        return judged.text;
    for (int i = 0; i < client_count; i++) {
        judged.first[i] = judged.asked_count;
        judged.refused[i] = read_requests(i, clients[i].outbox.data, clients[i].heard);
    }
    judged.first[client_count] = judged.asked_count;
    for (int i = 0; i < server_count; i++)
        judge_server(&judged.server[i], &servers[i]);
    judge_once();
    for (int i = 0; i < client_count; i++)
        judge_client(i);
    return NULL;
}

int script_said_count(int server)
{
    return judged.server[server].answer_count;
}

size_t script_said_at(int server, int number)
{
    return judged.server[server].answers[number].at;
}

static fr_out out_of(const char *text)
{
    fr_out out = {(uint8_t *)text, strlen(text), 0, 0};
    return out;
}

const char *script_judge_texts(const char *said, const char *saw, const char *got, const char *answered)
{
    script_peer client, server;
    memset(&client, 0, sizeof client);
    client.outbox = out_of(said);
    client.written = out_of(saw);
    client.given = client.heard = client.outbox.size;
    memset(&server, 0, sizeof server);
    server.outbox = out_of(answered);
    server.written = out_of(got);
    server.given = server.outbox.size;
    return script_judge(&client, 1, &server, 1, 0);
}
