/* script_read.h: both sides' bytes as messages: what clients said and what servers said, by the strict scanner; what the relay
 * wrote, by a parser of its own way to write, which takes nothing else.
 *
 * Not here: how they belong together (script_judge.c). Rules: CHECK leaves by longjmp, into script_judge(); what is decoded lies
 * in one arena, forgotten by the next call.
 */
#ifndef FR_SCRIPT_READ_H
#define FR_SCRIPT_READ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <ctype.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fr_http.h"
#include "fr_scan.h"
#include "fr_chunked.h"
#include "fr_hash_crc32.h"
#include "script_judge.h"

#define ASKED_MAX 512
#define MESSAGES_MAX 512
#define MARK_NONE 0u
#define MARK_SPOILED 1u /* there is one, and nobody wrote it so */
#define MARK_BYTES 13u

typedef struct {
    const uint8_t *data;
    size_t size;
} slice;

typedef struct {
    uint64_t mark;
    slice method, body;
    int client, complete, upgrade, minor, is_head;
    size_t end;
} script_asked;

typedef struct {
    uint64_t mark;
    slice start, method, body;
    size_t at, end;
    int complete, until_close, status, upgrade, close, any_host, host_empty;
} script_message;

typedef struct {
    uint64_t mark;
    slice body;
    size_t at, head_end, end;
    int there, status, complete, until_close;
} script_answer;

typedef struct {
    script_message requests[MESSAGES_MAX];
    script_answer answers[MESSAGES_MAX];
    int request_count, answer_count;
} script_server;

static struct {
    script_peer *clients, *servers;
    int client_count, server_count, went_away;
    script_asked asked[ASKED_MAX];
    int asked_count, first[PEERS_MAX + 1], refused[PEERS_MAX];
    script_server server[PEERS_MAX];
    uint8_t *arena;
    size_t arena_used;
    jmp_buf out;
    char text[1200];
} judged;

#define ARENA_BYTES (24u << 20)

static void judge_fails(int line, const char *claim, const uint8_t *about, size_t size)
{
    int n = snprintf(judged.text, sizeof judged.text, "line %d: %s: ", line, claim);
    for (size_t i = 0; i < size && n + 8 < (int)sizeof judged.text; i++)
        n += snprintf(judged.text + n, 8, about[i] >= ' ' && about[i] < 0x7F && about[i] != '\\' ? "%c" : "\\x%02x", about[i]);
    longjmp(judged.out, 1);
}

#define CHECK(claim, what, about, size) \
    do { \
        if (!(claim)) \
            judge_fails(__LINE__, what, (const uint8_t *)(about), (size)); \
    } while (0)

static int hex_of(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t crc(const uint8_t bytes[4])
{
    if (fr_crc32_table[0][1] == 0)
        fr_crc32_prepare();
    return fr_crc32(bytes, 4);
}

static uint64_t mark_of(const uint8_t *data, size_t size)
{
    uint64_t value = 0;
    uint8_t number[4];
    if (size != MARK_BYTES || data[0] != 'm')
        return MARK_SPOILED;
    for (int i = 1; i < 13; i++) {
        if (hex_of(data[i]) < 0)
            return MARK_SPOILED;
        value = value << 4 | (uint64_t)hex_of(data[i]);
    }
    for (int i = 0; i < 4; i++)
        number[i] = (uint8_t)(value >> (40 - 8 * i));
    return (crc(number) & 0xFFFF) == (value & 0xFFFF) ? value | 1ull << 63 : MARK_SPOILED;
}

void script_mark(uint32_t number, uint8_t *to)
{
    uint8_t bytes[4] = {(uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number};
    char text[MARK_BYTES + 1];
    snprintf(text, sizeof text, "m%08x%04x", number, crc(bytes) & 0xFFFF);
    memcpy(to, text, MARK_BYTES);
}

static int is_same(slice a, slice b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static int is_text(slice a, const char *text)
{
    return a.size == strlen(text) && memcmp(a.data, text, a.size) == 0;
}

static int begins_with(slice whole, slice part)
{
    return part.size <= whole.size && memcmp(whole.data, part.data, part.size) == 0;
}

static uint8_t *arena(size_t size)
{
    uint8_t *found = judged.arena + judged.arena_used;
    CHECK(size <= ARENA_BYTES - judged.arena_used, "the judge has too little room", "", 0);
    judged.arena_used += size;
    return found;
}

/* 1 whole, 0 not yet, -1 refused; *used: where it ended. */
static int decode_chunked(const uint8_t *data, size_t size, slice *body, size_t *used)
{
    fr_chunked state;
    size_t at = 0, run_at = 0, run_size = 0, total = 0;
    uint8_t *to = arena(size);
    int step;
    memset(&state, 0, sizeof state);
    while ((step = fr_chunked_run(&state, data, size, &at, &run_at, &run_size)) == 1) {
        memcpy(to + total, data + run_at, run_size);
        total += run_size;
    }
    body->data = to;
    body->size = total;
    *used = at;
    return step == 2 ? 1 : step == 0 ? 0 : -1;
}

static uint64_t mark_in(const uint8_t *data, const fr_head *head)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];
        if (field->name_size == 6 && !strncasecmp((const char *)data + field->name_at, "x-mark", 6))
            return mark_of(data + field->value_at, field->value_size);
    }
    return MARK_NONE;
}

/* The requests of one client up to the one that ends the connection; and how the rest is refused, 0: it is not. */
static int read_requests(int client, const uint8_t *data, size_t size)
{
    static const fr_head_limits limits = {8192, 32768, 100, 64};
    static fr_head head;
    size_t at = 0;
    while (at < size) {
        size_t searched = 0, used;
        script_asked *one = &judged.asked[judged.asked_count];
        int verdict = fr_scan_request_head(data + at, size - at, &searched, &limits, &head), step;
        if (verdict < 0)
            return -verdict;
        if (verdict == FR_SCAN_MORE)
            return 0;
        CHECK(judged.asked_count < ASKED_MAX, "the judge has too little room", "", 0);
        judged.asked_count++;
        memset(one, 0, sizeof *one);
        one->client = client;
        one->mark = mark_in(data + at, &head);
        one->method.data = data + at + head.method_at;
        one->method.size = head.method_size;
        one->is_head = is_text(one->method, "HEAD");
        one->upgrade = head.upgrade;
        one->minor = head.minor;
        one->complete = 1;
        one->body.data = data;
        at += head.head_size;
        one->end = at;
        if (head.body == FR_BODY_LENGTH) {
            one->body.data = data + at;
            one->body.size = head.content_length < size - at ? (size_t)head.content_length : size - at;
            one->complete = one->body.size == head.content_length;
            at += one->body.size;
        } else if (head.body == FR_BODY_CHUNKED) {
            step = decode_chunked(data + at, size - at, &one->body, &used);
            one->complete = step == 1;
            if (step < 0) {
                one->body.data = data + at; /* some of it may have gone on before the fault was seen */
                one->body.size = size - at;
                return 400;
            }
            at += used;
        }
        one->end = at;
        if (!head.keep_alive)
            return 0;
    }
    return 0;
}

/* What a server says to one request, in data[at:]; there: 0 if it is no answer, or not whole. */
static void read_answer(script_answer *one, const uint8_t *data, size_t size, size_t at, int is_head)
{
    static const fr_head_limits limits = {32768, 32768, 256, 64};
    static fr_head head;
    size_t used;
    memset(one, 0, sizeof *one);
    one->at = one->head_end = one->end = at;
    one->body.data = data;
    for (;;) {
        size_t searched = 0;
        if (fr_scan_response_head(data + at, size - at, &searched, &limits, &head) != FR_SCAN_DONE)
            return;
        if (head.status >= 200 || head.status == 101)
            break;
        at += head.head_size;
    }
    one->mark = mark_in(data + at, &head);
    at += head.head_size;
    one->head_end = one->end = at;
    one->status = head.status;
    one->there = one->complete = 1;
    if (is_head || head.body == FR_BODY_NONE || head.status == 204 || head.status == 304 || head.status == 101)
        return;
    one->body.data = data + at;
    one->body.size = size - at;
    if (head.body == FR_BODY_LENGTH) {
        one->complete = size - at >= head.content_length;
        if (one->complete)
            one->body.size = (size_t)head.content_length;
        one->end = at + one->body.size;
    } else if (head.body == FR_BODY_CHUNKED) {
        int step = decode_chunked(data + at, size - at, &one->body, &used);
        one->complete = step == 1;
        one->end = at + used;
    } else {
        one->until_close = 1;
        one->end = size;
    }
}

/* ---- the relay's own way to write ---- */

static uint8_t tokens[256], values[256];

static void make_tables(void)
{
    for (int c = 1; c < 256; c++) {
        tokens[c] = (c < 0x80 && isalnum(c)) || strchr("!#$%&'*+.^_`|~-", c) != NULL;
        values[c] = c == '\t' || (c >= ' ' && c != 0x7F);
    }
}

static void read_body(script_message *m, const uint8_t *data, size_t size, size_t at, int lengths, slice length, int codings, int is_request, int is_head)
{
    CHECK(lengths + codings <= 1, "two framings", m->start.data, m->start.size);
    m->body.data = data + at;
    if (!is_request && (is_head || m->status < 200 || m->status == 204 || m->status == 304)) {
        CHECK(m->status >= 200 || !(lengths || codings), "an interim answer with a framing", m->start.data, m->start.size);
        m->complete = 1;
        m->end = at;
    } else if (codings) {
        uint8_t *to = arena(size - at);
        m->body.data = to;
        for (;;) {
            const uint8_t *line = (const uint8_t *)memmem(data + at, size - at, "\r\n", 2);
            uint64_t bytes = 0;
            size_t digits = 0, there;
            for (; at + digits < size && hex_of(data[at + digits]) >= 0; digits++)
                bytes = bytes << 4 | (uint64_t)hex_of(data[at + digits]);
            CHECK(digits < 16, "a chunk's size", data + at, size - at);
            if (line == NULL) {
                CHECK(at + digits == size || (at + digits + 1 == size && data[size - 1] == '\r'), "a chunk's size", data + at, size - at);
                m->end = size;
                return;
            }
            CHECK(digits && data + at + digits == line && (data[at] != '0' || digits == 1), "a chunk's size", data + at, 40 < size - at ? 40 : size - at);
            at += digits + 2;
            there = bytes < size - at ? (size_t)bytes : size - at;
            memcpy(to + m->body.size, data + at, there);
            m->body.size += there;
            at += there;
            CHECK(at >= size || data[at] == '\r', "a chunk's end", data + at, 1);
            if (there < bytes || at + 2 > size) {
                m->end = size;
                return;
            }
            CHECK(data[at + 1] == '\n', "a chunk's end", data + at, 2);
            at += 2;
            if (bytes == 0) {
                m->complete = 1;
                m->end = at;
                return;
            }
        }
    } else if (lengths) {
        uint64_t bytes = 0;
        CHECK(length.size && length.size < 20, "a length", length.data, length.size);
        for (size_t i = 0; i < length.size; i++) {
            CHECK(isdigit(length.data[i]), "a length", length.data, length.size);
            bytes = bytes * 10 + (uint64_t)(length.data[i] - '0');
        }
        m->body.size = bytes < size - at ? (size_t)bytes : size - at;
        m->complete = m->body.size == bytes;
        m->end = at + m->body.size;
    } else if (!is_request) {
        m->body.size = size - at;
        m->until_close = 1;
        m->end = size;
    } else {
        m->complete = 1;
        m->end = at;
    }
}

static int has_close(slice value)
{
    for (size_t i = 0; i + 5 <= value.size; i++)
        if (!strncasecmp((const char *)value.data + i, "close", 5))
            return 1;
    return 0;
}

/* The message at data[at:] as the relay writes it; 0: its head is not whole. */
static int read_written(script_message *m, const uint8_t *data, size_t size, size_t at, int is_request, int is_head)
{
    const uint8_t *stop = size > at ? (const uint8_t *)memmem(data + at, size - at, "\r\n\r\n", 4) : NULL, *line, *end;
    slice length = {NULL, 0}, via = {NULL, 0};
    int lengths = 0, codings = 0, hosts = 0;

    memset(m, 0, sizeof *m);
    m->at = at;
    if (stop == NULL)
        return 0;
    line = data + at;
    end = (const uint8_t *)memmem(line, (size_t)(stop + 2 - line), "\r\n", 2);
    m->start.data = line;
    m->start.size = (size_t)(end - line);
    if (is_request) {
        const uint8_t *p = line;
        while (p < end && tokens[*p])
            p++;
        m->method.data = line;
        m->method.size = (size_t)(p - line);
        CHECK(p > line && p < end && *p++ == ' ' && p < end && *p > ' ', "a request line", line, m->start.size);
        while (p < end && *p > ' ' && *p != 0x7F)
            p++;
        CHECK(end - p == 9 && !memcmp(p, " HTTP/1.1", 9), "a request line", line, m->start.size);
    } else {
        CHECK(end - line >= 13 && !memcmp(line, "HTTP/1.1 ", 9) && line[12] == ' ', "a status line", line, m->start.size);
        CHECK(line[9] >= '1' && line[9] <= '5' && isdigit(line[10]) && isdigit(line[11]), "a status", line, m->start.size);
        m->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + line[11] - '0';
        for (const uint8_t *p = line + 13; p < end; p++)
            CHECK(values[*p], "a status line", line, m->start.size);
    }
    while (end < stop) {
        slice name, value;
        const uint8_t *p;
        line = end + 2;
        end = (const uint8_t *)memmem(line, (size_t)(stop + 2 - line), "\r\n", 2);
        for (p = line; p < end && tokens[*p]; p++)
            ;
        name.data = line;
        name.size = (size_t)(p - line);
        CHECK(name.size && p < end && *p == ':' && (p + 1 == end || p[1] == ' '), "a field", line, (size_t)(end - line));
        value.data = ++p < end ? ++p : p;
        for (; p < end; p++)
            CHECK(values[*p], "a field's value", line, (size_t)(end - line));
        while (value.data < end && (*value.data == ' ' || *value.data == '\t'))
            value.data++;
        while (p > value.data && (p[-1] == ' ' || p[-1] == '\t'))
            p--;
        value.size = (size_t)(p - value.data);
#define named(text) (name.size == sizeof(text) - 1 && !strncasecmp((const char *)name.data, text, sizeof(text) - 1))
        if (named("content-length")) {
            lengths++;
            length = value;
        } else if (named("transfer-encoding")) {
            codings++;
            CHECK(is_text(value, "chunked"), "a coding", value.data, value.size);
        } else if (named("host")) {
            hosts++;
            m->host_empty = value.size == 0;
        } else if (named("via")) {
            via = value;
        } else if (named("x-mark")) {
            if (m->mark == MARK_NONE)
                m->mark = mark_of(value.data, value.size);
        } else if (named("upgrade")) {
            m->upgrade = 1;
        } else if (named("connection")) {
            m->close |= has_close(value);
        } else if (is_request) {
            CHECK(!named("x-fastroute"), "X-Fastroute goes on", line, (size_t)(end - line));
        }
#undef named
    }
    if (m->mark == MARK_SPOILED)
        m->mark = MARK_NONE;
    if (is_request) {
        CHECK(hosts == 1, "hosts", m->start.data, (size_t)(stop - m->start.data));
        CHECK(is_text(via, "1.1 fastroute") || is_text(via, "1.0 fastroute"), "Via", m->start.data, (size_t)(stop - m->start.data));
    }
    read_body(m, data, size, (size_t)(stop + 4 - data), lengths, length, codings, is_request, is_head);
    return 1;
}

#endif
