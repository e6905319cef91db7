/* Target: what is read out of an accepted message, and the small parsers beside the scanner: forwarded addresses
 * (fr_forwarded.h, fr_address.h), routes and paths (fr_route.h), the cache's key (fr_cache_key.h), affinity keys
 * (fr_request_key.h, fr_json_key.h), cookies that end (fr_set_cookie.h), lines of the access log (fr_log.h), frames of a
 * WebSocket (fr_frames.h).
 *
 * Every input is a path, a body, a field's value, a stream of frames and, where it scans, a request head. Judged by second
 * implementations, written another way, and by what must hold of every answer.
 */
#include <string.h>

#include "fr_http.h"
#include "fr_scan.h"
#include "fr_cache_key.h"
#include "fr_forwarded.h"
#include "fr_frames.h"
#include "fr_json_key.h"
#include "fr_log.h"
#include "fr_request_key.h"
#include "fr_route.h"
#include "fr_set_cookie.h"
#include "fuzz.h"

/* ---- frames ---- */

/* Where the frame at `at` ends; SIZE_MAX: beyond all data. */
static size_t frame_end(const uint8_t *data, size_t size, size_t at)
{
    uint64_t length;
    size_t header = 2;
    if (size - at < 2)
        return SIZE_MAX;
    length = data[at + 1] & 0x7f;
    if (length >= 126) {
        int bytes = length == 126 ? 2 : 8;
        length = 0;
        header += (size_t)bytes;
        if (size - at < header)
            return SIZE_MAX;
        for (int i = 0; i < bytes; i++)
            length = length * 256 + data[at + 2 + (size_t)i];
    }
    header += data[at + 1] >> 7 ? 4 : 0;
    return header > size - at || length > size - at - header ? SIZE_MAX : at + header + (size_t)length;
}

static void frames(const uint8_t *data, size_t size, uint64_t random)
{
    fr_frames whole, pieces, stops;
    size_t at = 0, next = 0, closed_at = SIZE_MAX;

    memset(&whole, 0, sizeof whole);
    pieces = stops = whole;
    FUZZ_CHECK(fr_frames_pass(&whole, data, size, 0) == size);
    while (at < size) {
        size_t part = 1 + fuzz_below(&random, 9);
        if (part > size - at)
            part = size - at;
        FUZZ_CHECK(fr_frames_pass(&pieces, fuzz_piece(data + at, part), part, 0) == part);
        at += part;
    }
    FUZZ_CHECK(whole.left == pieces.left && whole.have == pieces.have && whole.closed == pieces.closed);
    FUZZ_CHECK(whole.have == 0 || whole.need == pieces.need || whole.have == 1);
    for (at = 0; at < size; at = next) { /* frame by frame, told to stop in the middle of each */
        size_t middle;
        if ((data[at] & 15) == FR_FRAME_CLOSE && closed_at == SIZE_MAX)
            closed_at = at;
        next = frame_end(data, size, at);
        FUZZ_CHECK(fr_frames_between(&stops) && fr_frames_pass(&stops, data + at, size - at, 1) == 0);
        middle = at + 1 + fuzz_below(&random, (next < size ? next : size) - at);
        FUZZ_CHECK(fr_frames_pass(&stops, data + at, middle - at, 0) == middle - at);
        FUZZ_CHECK(fr_frames_between(&stops) == (middle == next));
        FUZZ_CHECK(stops.closed == (closed_at != SIZE_MAX));
        FUZZ_CHECK(middle + fr_frames_pass(&stops, data + middle, size - middle, 1) == (next < size ? next : size));
        if (next == SIZE_MAX)
            break;
    }
    FUZZ_CHECK(fr_frames_between(&whole) == (size == 0 || next == size));
}

/* ---- paths and routes ---- */

static int decodes(const uint8_t *path, size_t size, size_t at)
{
    return path[at] == '%' && at + 2 < size && fr_hex_of(path[at + 1]) >= 0 && fr_hex_of(path[at + 2]) >= 0 &&
           fr_is_unreserved(fr_hex_of(path[at + 1]) * 16 + fr_hex_of(path[at + 2]));
}

/* The same by a stack of segments. */
static size_t normal_form(const uint8_t *path, size_t size, uint8_t *out)
{
    static uint8_t plain[FUZZ_PIECE_BYTES];
    static size_t begins[FUZZ_PIECE_BYTES + 1], ends[FUZZ_PIECE_BYTES + 1];
    size_t n = 0, count = 0, total = 0;

    for (size_t at = 0; at < size; at++) {
        int does = decodes(path, size, at);
        plain[n++] = does ? (uint8_t)(fr_hex_of(path[at + 1]) * 16 + fr_hex_of(path[at + 2])) : path[at];
        at += does ? 2 : 0;
    }
    for (size_t at = 0; at < n;) { /* plain[at] is '/' */
        size_t begin = ++at, end, name;
        int last;
        while (at < n && plain[at] != '/')
            at++;
        end = at;
        last = at == n;
        for (name = begin; name < end && plain[name] != ';'; name++)
            ;
        if (name - begin == 1 && plain[begin] == '.') {
            end = begin;
        } else if (name - begin == 2 && plain[begin] == '.' && plain[begin + 1] == '.') {
            count -= count != 0;
            end = begin;
        } else {
            last = 1;
        }
        if (last) {
            begins[count] = begin;
            ends[count++] = end;
        }
    }
    for (size_t i = 0; i < count; i++) {
        out[total++] = '/';
        memcpy(out + total, plain + begins[i], ends[i] - begins[i]);
        total += ends[i] - begins[i];
    }
    return total;
}

static void path(const uint8_t *data, size_t size)
{
    static uint8_t expected[FUZZ_PIECE_BYTES + 1];
    uint8_t *block;
    size_t n, wanted;
    int again = 0;

    if (size == 0 || data[0] != '/')
        return;
    wanted = normal_form(data, size, expected);
    block = fuzz_piece(data, size);
    n = fr_path_normalise(block, size);
    FUZZ_CHECK(n >= 1 && n <= size && block[0] == '/');
    FUZZ_CHECK(n == wanted && !memcmp(block, expected, n));
    for (size_t i = 0; i < n; i++)
        again |= decodes(block, n, i); /* "%%361" has become "%61": read once, by us as by a server */
    if (!again)
        FUZZ_CHECK(fr_path_normalise(block, n) == n && !memcmp(block, expected, n));
}

/* Any host: "/" 1, "/api" 2; "a.test": "/x" 3 (of 10/8); "*.b.test": all 4. */
static fr_network ten = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 0}}, 104};
static fr_route routes[] = {
    {(const uint8_t *)"/api", 4, NULL, 0, 2}, {(const uint8_t *)"/", 1, NULL, 0, 1},
    {(const uint8_t *)"/x", 2, &ten, 1, 3}, {(const uint8_t *)"", 0, NULL, 0, 4},
};
static fr_route_host hosts[] = {{(const uint8_t *)"", 0, 0, 0, 2}, {(const uint8_t *)"a.test", 6, 0, 2, 1}, {(const uint8_t *)".b.test", 7, 0, 3, 1}};
static uint32_t buckets[8];
static fr_routes table = {routes, hosts, buckets, 7, 3, 1};

static void make_table(void)
{
    if (hosts[1].hash)
        return;
    for (uint32_t i = 1; i < 3; i++) {
        uint32_t at;
        hosts[i].hash = fr_host_hash(hosts[i].host, hosts[i].host_size);
        for (at = (uint32_t)hosts[i].hash & 7; buckets[at]; at = (at + 1) & 7)
            ;
        buckets[at] = i;
    }
}

static void route(const uint8_t *host, size_t host_size, const uint8_t *at, size_t size, uint64_t random)
{
    static uint8_t plain[FUZZ_PIECE_BYTES + 1];
    static uint8_t upper[600];
    fr_address client = ten.base;
    fr_out scratch;
    long found;
    size_t kept = random & 3;

    make_table();
    client.bytes[12] = random & 4 ? 10 : 11;
    memset(&scratch, 0, sizeof scratch);
    fr_out_put(&scratch, "abc", kept);
    found = fr_route_find(&table, host, host_size, at, size, random & 8 ? &client : NULL, &scratch);
    FUZZ_CHECK(found >= 1 && found <= 4 && scratch.size == kept && !memcmp(scratch.data ? scratch.data : (uint8_t *)"", "abc", kept));
    FUZZ_CHECK(found != 3 || ((random & 12) == 12 && host_size >= 6));
    if (host_size < sizeof upper) { /* a host's case is nothing */
        for (size_t i = 0; i < host_size; i++)
            upper[i] = host[i] >= 'a' && host[i] <= 'z' ? host[i] & 0xDF : host[i];
        FUZZ_CHECK(fr_route_find(&table, upper, host_size, at, size, random & 8 ? &client : NULL, &scratch) == found);
    }
    if (size && at[0] == '/') { /* nor is the way a path is written */
        const uint8_t *query = (const uint8_t *)memchr(at, '?', size);
        size_t n = normal_form(at, query ? (size_t)(query - at) : size, plain);
        int again = 0;
        for (size_t i = 0; i < n; i++)
            again |= decodes(plain, n, i);
        if (!again)
            FUZZ_CHECK(fr_route_find(&table, host, host_size, plain, n, random & 8 ? &client : NULL, &scratch) == found);
    }
    free(scratch.data);
}

/* ---- the access log ---- */

static void log_lines(const uint8_t *data, size_t size, uint64_t random)
{
    static uint8_t text[6 * FUZZ_PIECE_BYTES];
    fr_text all = {data, size < 1024 ? size : 1024}, address = {(const uint8_t *)"192.0.2.1", 9}, none = {NULL, 0};
    int tcp = random & 2 ? 1 : 0;
    fr_log_record one = {address, tcp ? none : all, all, all, all, all, none, all, none, all, all, (int)(random & 1), 200, 1, random, random >> 3, "22/Nov/2026:09:00:00 +0000", 7, tcp};
    static fr_out out;
    size_t quotes = 0, n, at = 0;
    int escaped = 0;

    out.size = 0;
    fr_log_combined(&out, &one);
    FUZZ_CHECK(out.size > 2 && out.data[out.size - 1] == '\n');
    for (size_t i = 0; i + 1 < out.size; i++) {
        FUZZ_CHECK(out.data[i] >= ' ' && out.data[i] < 0x7F);
        FUZZ_CHECK(!escaped || out.data[i] == 'x');
        quotes += out.data[i] == '"';
        escaped = out.data[i] == '\\';
    }
    FUZZ_CHECK(quotes == 6 && !escaped);
    out.size = 0;
    fr_log_json(&out, &one);
    FUZZ_CHECK(out.data[out.size - 1] == '\n' && memchr(out.data, '\n', out.size) == out.data + out.size - 1);
    FUZZ_CHECK(fr_json_value(out.data, out.data + out.size - 1, 1) == out.data + out.size - 1);
    n = fr_json_key(out.data, out.size, (const uint8_t *)"user_agent", 10, text, sizeof text);
    for (size_t i = 0; i < all.size; i++) { /* what is read back is the text, a byte of 0x80 on as that character */
        FUZZ_CHECK(at < n);
        if (data[i] < 0x80) {
            FUZZ_CHECK(text[at++] == data[i]);
        } else {
            FUZZ_CHECK(at + 1 < n && text[at] == (0xC0 | data[i] >> 6) && text[at + 1] == (0x80 | (data[i] & 63)));
            at += 2;
        }
    }
    FUZZ_CHECK(at == n);
}

/* ---- JSON bodies ---- */

static void json(const uint8_t *data, size_t size)
{
    static uint8_t text[FUZZ_PIECE_BYTES], wrapped[FUZZ_PIECE_BYTES + 64], *tight;
    const uint8_t *end = data + size, *at = fr_json_space(data, end), *stop;
    size_t n = fr_json_key(data, size, (const uint8_t *)"user", 4, text, sizeof text), m = 9;
    int is_value;

    stop = fr_json_value(at, end, 1);
    is_value = stop != NULL && fr_json_space(stop, end) == end;
    FUZZ_CHECK(n <= size && (n == 0 || (is_value && *at == '{')));
    if (n) { /* room for it and the four bytes of the longest character: the same, and not a byte behind it */
        tight = (uint8_t *)malloc(n + 4);
        FUZZ_CHECK(fr_json_key(data, size, (const uint8_t *)"user", 4, tight, n + 4) == n && !memcmp(tight, text, n));
        free(tight);
    }
    {
        uint8_t small[3];
        FUZZ_CHECK(fr_json_key(data, size, (const uint8_t *)"user", 4, small, 3) <= 3);
    }
    memcpy(wrapped, "{\"user\": ", 9);
    memcpy(wrapped + m, data, size);
    m += size;
    memcpy(wrapped + m, ",\"x\":[1]}", 9);
    n = fr_json_key(wrapped, m + 9, (const uint8_t *)"user", 4, text, sizeof text);
    if (is_value && *at != '{' && *at != '[' && *at != '"' && *at != 'n')
        FUZZ_CHECK(n == (size_t)(stop - at) && !memcmp(text, at, n));
    else if (is_value && *at != '"')
        FUZZ_CHECK(n == 0);
    else if (is_value && memchr(at, '\\', (size_t)(stop - at)) == NULL)
        FUZZ_CHECK(n == (size_t)(stop - at) - 2 && !memcmp(text, at + 1, n));
}

/* ---- cookies that end ---- */

static void set_cookie(const uint8_t *data, size_t size)
{
    static uint8_t longer[FUZZ_PIECE_BYTES + 32];
    const uint8_t *stop = (const uint8_t *)memchr(data, ';', size), *equals;
    size_t pair = stop ? (size_t)(stop - data) : size;
    int64_t seconds = 0;
    int ends = fr_ends_cookie(data, size, 1000000000);

    equals = (const uint8_t *)memchr(data, '=', pair);
    FUZZ_CHECK(ends == 0 || ends == 1);
    if (equals == NULL) {
        FUZZ_CHECK(ends == 0);
    } else {
        int empty = 1;
        for (const uint8_t *at = equals + 1; at < data + pair; at++)
            empty &= *at == ' ' || *at == '\t';
        memcpy(longer, data, size);
        memcpy(longer + size, "; max-AGE = -0", 14);
        FUZZ_CHECK(fr_ends_cookie(longer, size + 14, 0) == 1);
        memcpy(longer + size, "; Max-Age=0010", 14);
        FUZZ_CHECK(fr_ends_cookie(longer, size + 14, 1000000000) == empty);
        FUZZ_CHECK(!empty || ends);
    }
    if (fr_cookie_date(data, size, &seconds)) /* of the years 1601 to 9999 */
        FUZZ_CHECK(seconds >= -11644473600 && seconds < 253402300800 + 86400 * 4);
}

/* ---- addresses, and what an accepted head says ---- */

static void address(const uint8_t *data, size_t size)
{
    char text[INET6_ADDRSTRLEN];
    fr_address first, second;
    if (!fr_address_parse(data, size, &first))
        return;
    inet_ntop(AF_INET6, first.bytes, text, sizeof text);
    FUZZ_CHECK(fr_address_parse((const uint8_t *)text, strlen(text), &second) && !memcmp(&first, &second, 16));
    FUZZ_CHECK(fr_network_holds(&(fr_network){first, 128}, &second) && fr_network_holds(&(fr_network){ten.base, 0}, &first));
}

/* Who the one X-Forwarded-For speaks of, from the right; 0: nobody. */
static size_t said_client(const uint8_t *data, size_t size, char *text)
{
    fr_address found, one;
    int any = 0, looked = 0;
    size_t to = size;
    for (;;) {
        size_t from = to, a, b;
        while (from && data[from - 1] != ',')
            from--;
        for (a = from; a < to && (data[a] == ' ' || data[a] == '\t'); a++)
            ;
        for (b = to; b > a && (data[b - 1] == ' ' || data[b - 1] == '\t'); b--)
            ;
        if (b - a >= 2 && data[a] == '"' && data[b - 1] == '"')
            a++, b--;
        if (from < to) { /* ",," holds no hop */
            if (looked++ == FR_HOPS_MAX || !fr_address_parse(data + a, b - a, &one))
                break;
            found = one;
            any = 1;
            if (!fr_network_holds(&ten, &one))
                break;
        }
        if (from == 0)
            break;
        to = from - 1;
    }
    if (!any)
        return 0;
    if (!memcmp(found.bytes, ten.base.bytes, 12))
        inet_ntop(AF_INET, found.bytes + 12, text, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, found.bytes, text, INET6_ADDRSTRLEN);
    return strlen(text);
}

static void key(const uint8_t *data, const fr_head *head)
{
    static const fr_key_rule rules[] = {
        {(const uint8_t *)"sid", 3, FR_FROM_COOKIE, 0, 0}, {(const uint8_t *)"x-user", 6, FR_FROM_HEADER, 0, 0},
        {(const uint8_t *)"", 0, FR_FROM_CLIENT_IP, 24, 64}, {(const uint8_t *)"q", 1, FR_FROM_QUERY, 0, 0},
        {(const uint8_t *)"s", 1, FR_FROM_PATH_PARAM, 0, 0}, {(const uint8_t *)"", 0, FR_FROM_PATH, 0, 0}, {(const uint8_t *)"", 0, FR_FROM_URL, 0, 0},
    };
    char room[64];
    fr_span client = {(const uint8_t *)"2001:db8:1:2:3::4", 17}, found;

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        int got = fr_key_by_rule(&rules[i], data, head, client, room, &found);
        if (!got)
            continue;
        FUZZ_CHECK(found.size >= 1 && found.size <= FR_KEY_BYTES_MAX);
        if (rules[i].kind == FR_FROM_CLIENT_IP) {
            FUZZ_CHECK(found.size == 17 && !memcmp(found.data, "2001:db8:1:2::/64", 17));
            continue;
        }
        if (rules[i].kind < FR_FROM_PATH || found.size > 1 || *found.data != '/')
            FUZZ_CHECK((found.data >= data && found.data + found.size <= data + head->head_size) || *found.data == '/');
        if (rules[i].kind == FR_FROM_QUERY)
            FUZZ_CHECK(memchr(found.data, '&', found.size) == NULL);
        if (rules[i].kind == FR_FROM_PATH_PARAM)
            FUZZ_CHECK(memchr(found.data, ';', found.size) == NULL && memchr(found.data, '/', found.size) == NULL && memchr(found.data, '?', found.size) == NULL);
        if (rules[i].kind == FR_FROM_PATH)
            FUZZ_CHECK(memchr(found.data, '?', found.size) == NULL);
    }
    (void)fr_has_json(data, head);
}

static void request(const uint8_t *data, size_t size, uint64_t random)
{
    static const fr_head_limits limits = {4096, 6000, 100, 20};
    static fr_head head;
    char text[INET6_ADDRSTRLEN], said[INET6_ADDRSTRLEN];
    fr_address parsed;
    fr_out out;
    size_t searched = 0, n, xff = 0, which = 0;
    int tls = (int)(random & 1), trusted = (int)(random >> 1 & 1), asks;

    if (fr_scan_request_head(data, size, &searched, &limits, &head) != FR_SCAN_DONE)
        return;
    route(data + head.authority_at, head.authority_size, data + head.path_at, head.path_size, random >> 8);
    key(data, &head);

    memset(&out, 0, sizeof out);
    asks = fr_cache_key(&out, data, &head, tls, trusted);
    FUZZ_CHECK(asks >= FR_CACHE_PLAIN && asks <= FR_CACHE_BYPASS);
    if (asks != FR_CACHE_BYPASS) {
        size_t host = 7 + (out.data[4] == 's');
        FUZZ_CHECK(out.size > host && !memcmp(out.data, "http", 4) && !memcmp(out.data + host - 3, "://", 3));
        for (size_t i = 0; i < out.size; i++) {
            FUZZ_CHECK(out.data[i] < 0x80 && out.data[i] != '\r' && out.data[i] != 0);
            FUZZ_CHECK(trusted || (out.data[i] > ' ' && out.data[i] != 0x7F));
        }
        if (head.method != FR_METHOD_GET) /* nothing else has a key that counts; "OPTIONS *" has no path */
            host = out.size;
        for (; host < out.size && out.data[host] != '/'; host++)
            FUZZ_CHECK(host < out.size - 1 && (out.data[host] < 'A' || out.data[host] > 'Z'));
    }
    free(out.data);

    n = fr_forwarded_client(data, &head, &ten, 1, (int)(random >> 2 & 1), text);
    FUZZ_CHECK(n < sizeof text && (n == 0 || fr_address_parse((const uint8_t *)text, n, &parsed)));
    for (unsigned i = 0; i < head.field_count; i++)
        if (head.fields[i].id == FR_FIELD_X_FORWARDED_FOR) {
            xff++;
            which = i;
        }
    if (xff == 1) {
        size_t m = said_client(data + head.fields[which].value_at, head.fields[which].value_size, said);
        n = fr_forwarded_client(data, &head, &ten, 1, 0, text);
        FUZZ_CHECK(m == n && (n == 0 || !memcmp(said, text, n)));
    }
}

static void run(const uint8_t *data, size_t size, uint64_t random)
{
    if (size > 3000) /* of one field */
        size = 3000;
    frames(data, size, random);
    path(data, size);
    if (random >> 20 & 1)
        log_lines(data, size, random);
    json(data, size);
    set_cookie(data, size);
    address(data, size);
    request(data, size, random);
}

static const char *const seeds[] = {
    "GET /api/x?q=1&r=2 HTTP/1.1\r\nHost: a.test:80\r\nX-Forwarded-For: 192.0.2.7, 10.1.2.3\r\nX-User: u1\r\n\r\n",
    "GET http://x.b.test/a;s=1/b HTTP/1.1\r\nHost: A.test\r\nForwarded: for=\"[2001:db8::1]:80\";proto=https, for=10.0.0.1\r\nCookie: sid=\"abc\"\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a.test.\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 443\r\nRange: bytes=0-1\r\n\r\n",
    "GET ?q= HTTP/1.1\r\nHost: [::1]:443\r\nContent-Type: application/x+json; charset=utf-8\r\nX-Original-URL: /\r\n\r\n",
    "/a/./b/../c", "/../..;x/%2e%2E/a%62;y/.", "//..//%2e", "/api;v=1/%%361",
    "\x81\x05hello\x89\x01x\x88\x02\x03\xe9", "\x82\x7e\x01\x02" "ab", "\x01\x85\x01\x02\x03\x04hello\x80\x81zzzzz", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    "{\"user\": \"a\\u00e9\\ud83d\\ude00\\n\", \"x\": [1, {\"y\": null}], \"user\": 2}", "{\"user\":-1.5e+3}", " true ", "\"\\ud800\"",
    "sid=; Path=/", "sid=a; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "sid=a; Max-Age=0; Expires=Tue, 5-Nov-2030 08:09:10 GMT", "a=b; max-age=\"0\"",
    "192.0.2.1:80", "[fe80::1%eth0]:1", "::ffff:10.0.0.1", NULL,
};

static const char *const dictionary[] = {
    "/", "/.", "/..", ";", "%2e", "%2F", "?", "&", "q=", "s=", ",", "\"", "\\", "\\u", "d83d", "{", "}", "[", "]", ":", "\"user\"", "null", "true",
    "for=", "10.0.0.1", "192.0.2.1", "[::1]", "unknown", "X-Forwarded-For: ", "Forwarded: ", "X-Forwarded-Proto: https\r\n", "Host: ", ".b.test", "a.test", ":443", ":80",
    "\r\n", " HTTP/1.1\r\n", "GET ", "Cookie: sid=", "; Max-Age=", "; Expires=", "Jan", "1970", "23:59:60", "31", "\x88\x02\x03\xe9", "\x7e", "\x7f", "\xff", "\x80", NULL,
};

const fuzz_target fuzz_the_target = {"fields", seeds, dictionary, run};
