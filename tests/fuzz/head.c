/* Target: heads of requests and responses: fr_scan.h, the cookies in them (fr_cookie.h), and what goes on (fr_forward.h).
 *
 * An input is scanned as a request and as a response, whole and in pieces: the verdicts must be the same. What is accepted
 * is written anew as the relay does, and that must be accepted again with the same framing: what a server sees is what
 * was judged, or requests can be smuggled.
 */
#include <string.h>

#include "fr_http.h"
#include "fr_scan.h"
#include "fr_cookie.h"
#include "fr_forward.h"
#include "fuzz.h"

typedef int (*scanner)(const uint8_t *, size_t, size_t *, const fr_head_limits *, fr_head *);

static const fr_head_limits limits = {1024, 4096, 20, 20};
static const fr_head_limits wide = {0, 0, 0, 0};

/* Scans growing copies of data, each in a block of its exact size. */
static int scan(scanner one, const uint8_t *data, size_t size, size_t step, uint64_t random, fr_head *head)
{
    size_t searched = 0, known = 0;
    int verdict = FR_SCAN_MORE;
    memset(head, 0xA5, sizeof *head); /* nothing may be expected of it */
    do {
        uint8_t *block;
        known = step ? known + 1 + fuzz_below(&random, step) : size;
        if (known > size)
            known = size;
        block = fuzz_piece(data, known);
        verdict = one(block, known, &searched, &limits, head);
    } while (verdict == FR_SCAN_MORE && known < size);
    return verdict;
}

static void inside(uint32_t at, uint32_t size, const fr_head *head)
{
    FUZZ_CHECK(size == 0 || (uint64_t)at + size <= head->head_size);
}

static void check_head(const uint8_t *data, size_t size, const fr_head *head)
{
    size_t at = 0;
    FUZZ_CHECK(head->head_size >= 4 && head->head_size <= size && !memcmp(data + head->head_size - 4, "\r\n\r\n", 4));
    FUZZ_CHECK(head->field_count <= limits.fields && head->minor <= 9 && head->body <= FR_BODY_UNTIL_CLOSE);
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];
        FUZZ_CHECK(field->name_size > 0);
        inside(field->name_at, field->name_size, head);
        inside(field->value_at, field->value_size, head);
        for (uint32_t j = 0; j < field->value_size; j++) {
            uint8_t c = data[field->value_at + j];
            FUZZ_CHECK((c >= 0x20 && c != 0x7F) || c == '\t');
        }
    }
    {
        ptrdiff_t length = fr_cookie_find(data, head, (const uint8_t *)"sid", 3, &at);
        FUZZ_CHECK(length >= -1 && (length < 0 || at + (size_t)length <= head->head_size));
    }
}

static void request(const uint8_t *data, size_t size, size_t step, uint64_t random)
{
    static fr_head head, pieces, second;
    int verdict = scan(fr_scan_request_head, data, size, 0, random, &head);
    int in_pieces = scan(fr_scan_request_head, data, size, step, random, &pieces);
    fr_forward_request how = {(const uint8_t *)"fastroute", 9, (const uint8_t *)"192.0.2.1", 9, (int)(random >> 8 & 1), (int)(random >> 9 & 1), 0, NULL};
    fr_out out;
    size_t searched = 0;

    FUZZ_CHECK(verdict == in_pieces);
    if (verdict != FR_SCAN_DONE) {
        FUZZ_CHECK(verdict == FR_SCAN_MORE || verdict == -400 || verdict == -413 || verdict == -414 || verdict == -417 ||
                   verdict == -421 || verdict == -431 || verdict == -501 || verdict == -505);
        return;
    }
    FUZZ_CHECK(!memcmp(&head, &pieces, offsetof(fr_head, fields)));
    FUZZ_CHECK(!memcmp(head.fields, pieces.fields, head.field_count * sizeof(fr_field)));
    check_head(data, size, &head);
    inside(head.method_at, head.method_size, &head);
    inside(head.target_at, head.target_size, &head);
    inside(head.path_at, head.path_size, &head);
    inside(head.authority_at, head.authority_size, &head);
    FUZZ_CHECK(head.method_size >= 1 && head.target_size >= 1);
    FUZZ_CHECK(head.body == FR_BODY_NONE || head.body == FR_BODY_LENGTH || head.body == FR_BODY_CHUNKED);
    (void)fr_max_forwards(data, &head);

    how.upgrade = head.upgrade && (random >> 10 & 1);
    memset(&out, 0, sizeof out);
    fr_write_request(&out, data, &head, &how);
    memset(&second, 0xA5, sizeof second);
    verdict = fr_scan_request_head(out.data, out.size, &searched, &wide, &second);
    if (head.minor > 0 || head.authority_size) { /* an HTTP/1.0 request without Host goes on without one */
        FUZZ_CHECK(verdict == FR_SCAN_DONE || head.field_count > 15);
        if (verdict == FR_SCAN_DONE) {
            size_t at = 0;
            FUZZ_CHECK(second.head_size == out.size);
            FUZZ_CHECK(second.body == head.body || (head.body == FR_BODY_LENGTH && head.content_length == 0));
            FUZZ_CHECK(head.body != FR_BODY_LENGTH || head.content_length == 0 || second.content_length == head.content_length);
            FUZZ_CHECK(second.method == head.method && second.method_size == head.method_size);
            FUZZ_CHECK(fr_cookie_find(out.data, &second, (const uint8_t *)"fastroute", 9, &at) < 0);
        }
    }
    free(out.data);
}

static void response(const uint8_t *data, size_t size, size_t step, uint64_t random)
{
    static fr_head head, pieces, second;
    int verdict = scan(fr_scan_response_head, data, size, 0, random, &head);
    int in_pieces = scan(fr_scan_response_head, data, size, step, random, &pieces);
    fr_forward_response how = {(const uint8_t *)"fastroute", 9, (const uint8_t *)"Sun, 06 Nov 1994 08:49:37 GMT", 29, 0, 0, NULL, NULL, NULL};
    fr_out out;
    size_t searched = 0, at = 0, length = 0;

    FUZZ_CHECK(verdict == in_pieces);
    if (verdict != FR_SCAN_DONE) {
        FUZZ_CHECK(verdict == FR_SCAN_MORE || verdict == -502);
        return;
    }
    FUZZ_CHECK(!memcmp(&head, &pieces, offsetof(fr_head, fields)));
    check_head(data, size, &head);
    inside(head.reason_at, head.reason_size, &head);
    FUZZ_CHECK(head.status >= 100 && head.status <= 599);
    for (unsigned i = 0; i < head.field_count; i++)
        if (fr_sets_cookie(data, &head.fields[i], (const uint8_t *)"sid", 3, &at, &length))
            FUZZ_CHECK(at + length <= head.head_size);

    how.body = head.body == FR_BODY_UNTIL_CLOSE ? FR_BODY_CHUNKED : head.body;
    memset(&out, 0, sizeof out);
    fr_write_response(&out, data, &head, &how);
    fr_out_lit(&out, "\r\n");
    memset(&second, 0xA5, sizeof second);
    verdict = fr_scan_response_head(out.data, out.size, &searched, &wide, &second);
    if (head.status != 101) { /* tunnels go another way */
        FUZZ_CHECK(verdict == FR_SCAN_DONE);
        FUZZ_CHECK(second.status == head.status && second.head_size == out.size);
        if (head.status >= 200 && head.body != FR_BODY_NONE) {
            FUZZ_CHECK(second.body == how.body);
            FUZZ_CHECK(how.body != FR_BODY_LENGTH || second.content_length == head.content_length);
        }
        for (unsigned i = 0; i < second.field_count; i++)
            FUZZ_CHECK(!fr_sets_cookie(out.data, &second.fields[i], (const uint8_t *)"fastroute", 9, &at, &length));
    }
    free(out.data);
}

static void run(const uint8_t *data, size_t size, uint64_t random)
{
    static const size_t steps[] = {1, 3, 16, 100, 3000};
    size_t step = steps[random % 5];
    if (step < 16 && size > 400) /* each piece copies what came before it */
        step = 100;
    request(data, size, step, random);
    response(data, size, step, random);
}

static const char *const seeds[] = {
    "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "POST /p?q HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 5\r\nCookie: a=b; sid=1; fastroute=x\r\n\r\nhello",
    "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\nConnection: close, x-y\r\nX-Y: 1\r\nTE: trailers\r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1\r\nVia: 1.1 x\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: sid=abc; Path=/\r\nSet-Cookie: fastroute = z\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n", "HTTP/1.0 404\r\nDate: x\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n", NULL,
};

static const char *const dictionary[] = {
    "\r\n", "\r\n\r\n", "Host: a\r\n", "Content-Length: 5\r\n", "Content-Length: 5, 5\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: ", "close", "keep-alive", "upgrade", "Upgrade: ", "websocket", "h2c", "Cookie: ", "sid=1", "fastroute=x", "; ", "Set-Cookie: ", "Expect: 100-continue\r\n",
    " HTTP/1.1", " HTTP/1.0", "HTTP/1.1 200 OK", "GET ", "http://a", "[::1]", ":80", "\t", " ", ",", ":", "\r", "\n", "chunked", "Via: ", "X-Fastroute: ", "X-Forwarded-For: ", NULL,
};

const fuzz_target fuzz_the_target = {"head", seeds, dictionary, run};
