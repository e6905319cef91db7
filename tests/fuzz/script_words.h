/* script_words.h: scripts, the inputs of the target `script`: their language, seeds, words, and changes that keep their form.
 *
 *     script:  FLAGS act act ...
 *     act:     a byte of 0xF0 on, one byte whose low six bits (less 0x40) are its number K, then text up to the next act
 *
 *     F0 F1    client K&3 says the text, in pieces chosen by K>>2       F2 F3  a server says it: K&7 = 0: the one asked last,
 *     F4       a connection that was asked for: K&3 which,                     else the (K&7)th, in pieces by K>>3
 *              K>>2&7 opened, refused, late, our fault                  F5     time passes: K&7
 *     F6 F7    client K&3 or server K&7: ends, resets, reads a little, reads all (K>>2&3, K>>3&3)
 *     F8       idle connections are closed; K&1: clients of WebSockets are told that this end goes away
 *     F9       who comes now reads slowly (K&1), connections wait for F4 (K&2)
 *
 * FLAGS: two bits which listener, two bits how it ends, slow clients, slow servers, connections wait for F4, nothing is read at
 * the end. In a text EF is a fresh mark, EE and ED are 1,000 and 50,000 times an x, EC is a cookie of the balancer's.
 */
#ifndef FR_SCRIPT_WORDS_H
#define FR_SCRIPT_WORDS_H

#include "fuzz.h"

#define MARK "X-Mark: \xEF" "\r\n"
#define HOST "Host: a.test\r\n"
#define ASK(line) line " HTTP/1.1\r\n" MARK HOST
#define OK(more) "HTTP/1.1 200 OK\r\n" MARK more

static const char *const script_seeds[] = {
    "@\xF0@" ASK("GET /") "\r\n\xF2@" OK("Content-Length: 2\r\n\r\nok"),
    "A\xF0@" ASK("GET /x") "Cookie: fastroute=\xEC; sid=1\r\n\r\n\xF2@" OK("Content-Length: 2\r\n\r\nok") "\xF0@" ASK("GET /y") "\r\n\xF2@" OK("\r\nbody"),
    "B\xF0@" ASK("POST /x?q=1") "Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"user\": \"u1\"}\xF2@" OK("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "C\xF0@" ASK("POST /") "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\xF2@" OK("Content-Length: 2\r\n\r\nok") "\xF0" "A" ASK("GET /") "\r\n\xF2@" OK("Content-Length: 0\r\n\r\n"),
    "D\xF0@" ASK("GET /chat") "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n\xF2@HTTP/1.1 101 Switching\r\n" MARK "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello\xF0@\x81\x85\x01\x02\x03\x04hello\xF2@\x88\x02\x03\xE9\xF6@",
    "H\xF0@" ASK("GET /1") "\r\n" ASK("HEAD /2") "\r\n" ASK("PUT /3") "Content-Length: 3\r\n\r\nabc\xF2@" OK("Content-Length: 2\r\n\r\nok") "\xF2@" OK("Content-Length: 2\r\n\r\n") "\xF2@HTTP/1.1 204 No\r\n" MARK "\r\n",
    "P\xF0@" ASK("GET /big") "\r\n\xF2@" OK("Content-Length: 100000\r\n\r\n\xED\xED") "\xF6H\xF6L",
    "`\xF0@" ASK("POST /big") "Content-Length: 100000\r\n\r\n\xED\xED\xF7P\xF7X\xF2@" OK("Content-Length: 0\r\n\r\n"),
    "\xC4\xF0@" ASK("GET /") "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n\xF4@\xF2@HTTP/1.1 100 Continue\r\n\r\n\xF0@body\xF2@" OK("Content-Length: 2\r\n\r\nok"),
    "D\xF4@\xF9" "B\xF0@" ASK("GET /") "\r\n\xF4T\xF4X\xF4@\xF2@" OK("Content-Length: 2\r\n\r\nok"),
    "D\xF0@" ASK("GET /") "\r\n\xF2@" OK("Content-Length: 2\r\n\r\nok") "\xF7@\xF0@" ASK("GET /") "\r\n\xF7@\xF2@" OK("Content-Length: 2\r\n\r\nok"),
    "@\xF0" "D" ASK("GET /") "\r\n\xF2H" OK("Content-Length: 2\r\n\r\nok"),
    "G\xF0@" ASK("GET /") "\r\n\xF0" "A" ASK("GET /") "\r\n\xF0" "B" ASK("GET /") "\r\n\xF2@" OK("Content-Length: 2\r\n\r\nok") "\xF5@\xF2" "A" OK("Content-Length: 2\r\n\r\nok") "\xF2" "B" OK("Content-Length: 2\r\n\r\nok"),
    NULL,
};

static const char *const script_dictionary[] = {
    "\xF0@" ASK("GET /") "\r\n", "\xF0@" ASK("POST /") "Content-Length: 5\r\n\r\nhello", "\xF0@" ASK("POST /") "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "\xF0" "A" ASK("HEAD /x") "\r\n", "\xF0" "A" ASK("OPTIONS *") "\r\n", ASK("GET http://x.b.test/x") "\r\n", ASK("DELETE /x") "\r\n", "\xF0@" ASK("GET /") "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "\xF2@" OK("Content-Length: 2\r\n\r\nok"), "\xF2@" OK("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "\xF2@" OK("\r\nbody"), "\xF2@HTTP/1.1 204 No\r\n" MARK "\r\n",
    "\xF2@HTTP/1.1 304 Not\r\n" MARK "\r\n", "\xF2@HTTP/1.1 503 No\r\n" MARK "Content-Length: 0\r\n\r\n", "\xF2@HTTP/1.0 200 OK\r\n" MARK "Content-Length: 0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n",
    "\xF2@HTTP/1.1 101 Switching\r\n" MARK "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", "\x81\x05hello", "\x88\x02\x03\xE9", "\x82\x7E\x01\x02",
    "\xF4@", "\xF4T", "\xF4X", "\xF4`", "\xF5@", "\xF5" "A", "\xF5" "D", "\xF5" "F", "\xF6@", "\xF6" "D", "\xF6" "H", "\xF7@", "\xF7H", "\xF7P", "\xF8@", "\xF8" "A", "\xF9" "A", "\xF9" "B",
    "\xEF", "\xEE", "\xED", "\xEC", MARK, HOST, "Cookie: sid=1; fastroute=\xEC\r\n", "X-User: u1\r\n", "X-Forwarded-For: 198.51.100.7, 10.0.0.1\r\n", "Forwarded: for=198.51.100.8\r\n", "TE: trailers\r\n",
    "Connection: x-hop, x-mark\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: upgrade\r\nUpgrade: websocket\r\n", "Max-Forwards: 0\r\n", "Content-Type: application/json\r\n",
    "{\"user\": \"u1\"}", "Set-Cookie: fastroute=forged\r\n", "Set-Cookie: sid=2\r\n", "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "X-Fastroute: forged\r\n", "Via: 1.1 other\r\n", "Trailer: x\r\n", "Keep-Alive: timeout=5\r\n",
    "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Content-Length: 1000\r\n\r\n\xEE", "Content-Length: 50000\r\n\r\n\xED", "3e8\r\n\xEE\r\n", "c350\r\n\xED\r\n", "Content-Length: 5, 5\r\n", "Content-Length: +5\r\n", "Content-Length: 18446744073709551616\r\n",
    "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding : chunked\r\n", "Expect: 100-continue\r\n", "\r\n", "\n", "\r", "\t", " folded\r\n", "\r\n\r\n", "0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "5\r\nhello\r\n", "5;x=\"y\"\r\n",
    "HTTP/1.0", "HTTP/1.1", "HEAD ", "CONNECT ", "BREW ", "POST ", "205 ", "304 ", "?q=u1", "/../%2e", "[::1]", NULL,
};

static size_t script_act_at(const uint8_t *data, size_t size, uint64_t *state, size_t *end)
{
    size_t at = fuzz_below(state, size + 1), stop;
    while (at < size && data[at] < 0xF0)
        at++;
    if (at == size)
        for (at = 1; at < size && data[at] < 0xF0; at++)
            ;
    for (stop = at + 1; stop < size && data[stop] < 0xF0; stop++)
        ;
    *end = stop < size ? stop : size;
    return at < size ? at : size;
}

static size_t script_put(uint8_t *data, size_t size, size_t most, size_t at, const uint8_t *piece, size_t piece_size)
{
    if (size + piece_size > most)
        return size;
    memmove(data + at + piece_size, data + at, size - at);
    memcpy(data + at, piece, piece_size);
    return size + piece_size;
}

static size_t script_mutate(uint8_t *data, size_t size, size_t most, uint64_t *state, const uint8_t *other, size_t other_size)
{
    static uint8_t piece[8192];
    size_t end, at = script_act_at(data, size, state, &end), from, to, n = end - at;
    uint8_t act[2];
    if (size == 0)
        return size;
    switch (fuzz_below(state, 9)) {
    case 0: /* an act goes */
        memmove(data + at, data + end, size - end);
        return size - n;
    case 1: /* comes twice */
        memcpy(piece, data + at, n);
        return script_put(data, size, most, end, piece, n);
    case 2: /* comes elsewhere */
        memcpy(piece, data + at, n);
        memmove(data + at, data + end, size - end);
        at = script_act_at(data, size - n, state, &end);
        return script_put(data, size - n, most, at, piece, n);
    case 3: /* has another number */
        if (at + 1 < size)
            data[at + 1] = (uint8_t)(0x40 + fuzz_below(state, 64));
        return size;
    case 4: /* an act of another script */
    case 5:
        from = script_act_at(other, other_size, state, &to);
        return script_put(data, size, most, end, other + from, to - from);
    case 6: /* a small one */
        act[0] = (uint8_t)(0xF4 + fuzz_below(state, 6));
        act[1] = (uint8_t)(0x40 + fuzz_below(state, 64));
        return script_put(data, size, most, end, act, 2);
    case 7: /* the text is said by somebody else, or in two acts */
        if (fuzz_below(state, 2) && at < size) {
            data[at] = (uint8_t)(0xF0 + fuzz_below(state, 4));
            return size;
        }
        act[0] = at < size ? data[at] : 0xF0;
        act[1] = at + 1 < size ? data[at + 1] : '@';
        return script_put(data, size, most, at + fuzz_below(state, n + 1), act, 2);
    default:
        data[0] = (uint8_t)(fuzz_next(state) >> 32);
        return size;
    }
}

#endif
