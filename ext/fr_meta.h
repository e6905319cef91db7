/* fr_meta.h: the bytes of memcached's meta protocol: checking keys, writing commands, reading reply lines.
 *
 * Not here: the order of replies, values, futures (mc_queue.pyx); sockets (fastroute/memcache/connection.py).
 * Rules: pure functions over pointers; nothing allocates; a writer writes where the caller has reserved room.
 * Source: memcached 1.6 protocol.txt, and what 1.6.18 was seen to answer.
 */
#ifndef FR_META_H
#define FR_META_H

#include "fr_base.h"

/* memcached's KEY_MAX_LENGTH. A longer key in `ms` makes the server run the value as commands, so it never leaves. */
#define FR_META_KEY_BYTES_MAX 250u
/* memcached gives up on a line of 2048 bytes without an end; so do we. */
#define FR_META_LINE_BYTES_MAX 2048u
/* Longest thing written beside the key and the value: verb, size, every flag with a 20-digit number, line ends. */
#define FR_META_COMMAND_BYTES_MAX 192u
/* memcached's REALTIME_MAXDELTA: above 30 days a time to live is read as a date, and the item is gone at once. */
#define FR_META_TTL_S_MAX 2592000u

/* First word of a reply line. */
enum {
    FR_META_BAD = 0, FR_META_VA, FR_META_HD, FR_META_EN, FR_META_NS, FR_META_EX, FR_META_NF, FR_META_MN,
    FR_META_ERROR, FR_META_CLIENT_ERROR, FR_META_SERVER_ERROR, FR_META_STORED
};

/* What was asked. */
enum { FR_ASK_GET = 0, FR_ASK_TOUCH, FR_ASK_STORE, FR_ASK_DELETE, FR_ASK_ARITHMETIC, FR_ASK_NOOP };

/* What came of it. The last two are never in a reply. */
enum {
    FR_MC_HIT = 0,              /* a value, or "done" for touch and noop */
    FR_MC_MISS = 1,             /* the node says: no such key */
    FR_MC_STORED = 2,
    FR_MC_EXISTS = 3,           /* the CAS token is not the current one; or, not sent, of another connection */
    FR_MC_NOT_STORED = 4,       /* add found a value */
    FR_MC_NOT_FOUND = 5,        /* a compare-and-set, delete or increment found nothing */
    FR_MC_DELETED = 6,
    FR_MC_SERVER_ERROR = 7,     /* refused (memory, size); what was stored before under the key may be gone */
    FR_MC_CLIENT_ERROR = 8,     /* increment of a value that is not a number */
    FR_MC_UNKNOWN = 9,          /* sent, the answer did not come: may or may not have happened */
    FR_MC_DOWN = 10,            /* not sent: the node is away, or too much is waiting for it */
};

typedef struct {
    uint64_t value_size;        /* VA only */
    uint64_t cas;               /* 0: not in the line */
    int64_t ttl_s;              /* -1: does not expire; -2: not in the line */
    uint32_t client_flags;
    uint8_t code;
    uint8_t won, stale, sent;   /* W, X, Z */
    uint8_t key_size, opaque_size; /* 0: not in the line */
    const uint8_t *key, *opaque;
} fr_meta_line;

/* 1 when the bytes can be a key: 1..250 bytes, none of them a control, a space or DEL. */
static inline int fr_meta_key_ok(const uint8_t *key, size_t size)
{
    unsigned bad = 0;
    if (size - 1u >= FR_META_KEY_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < size; i++)
        bad |= (unsigned)(key[i] <= 0x20) | (unsigned)(key[i] == 0x7f);
    return !bad;
}

static inline uint8_t *fr_meta_put(uint8_t *p, const void *bytes, size_t size)
{
    memcpy(p, bytes, size);
    return p + size;
}

static inline uint8_t *fr_meta_put_number(uint8_t *p, uint64_t number)
{
    uint8_t digits[20];
    size_t n = 0;
    do {
        digits[n++] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number);
    while (n)
        *p++ = digits[--n];
    return p;
}

/* " <letter><number>" */
static inline uint8_t *fr_meta_put_flag(uint8_t *p, char letter, uint64_t number)
{
    *p++ = ' ';
    *p++ = (uint8_t)letter;
    return fr_meta_put_number(p, number);
}

/* Three characters that name a request: they come back in its reply. 18 bits, far more than can be in flight. */
#define FR_META_OPAQUE_BYTES 3u
static inline uint8_t *fr_meta_put_opaque(uint8_t *p, uint64_t sequence)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    *p++ = (uint8_t)alphabet[sequence >> 12 & 63];
    *p++ = (uint8_t)alphabet[sequence >> 6 & 63];
    *p++ = (uint8_t)alphabet[sequence & 63];
    return p;
}

/* Digits only, no sign, no leading blank, at most `max`. Returns 1 when the whole of p[0:size] is such a number. */
static inline int fr_meta_number(const uint8_t *p, size_t size, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    if (size - 1u >= 20u)
        return 0;
    for (size_t i = 0; i < size; i++) {
        unsigned digit = (unsigned)p[i] - '0';
        if (digit > 9 || value > (max - digit) / 10 || value * 10 > max - digit)
            return 0;
        value = value * 10 + digit;
    }
    *out = value;
    return 1;
}

static inline int fr_meta_code(const uint8_t *word, size_t size)
{
#define FR_META_IS(text) (size == sizeof(text) - 1 && !memcmp(word, text, sizeof(text) - 1))
    if (size == 2) {
        switch (word[0] << 8 | word[1]) {
        case 'V' << 8 | 'A': return FR_META_VA;
        case 'H' << 8 | 'D': return FR_META_HD;
        case 'E' << 8 | 'N': return FR_META_EN;
        case 'N' << 8 | 'S': return FR_META_NS;
        case 'E' << 8 | 'X': return FR_META_EX;
        case 'N' << 8 | 'F': return FR_META_NF;
        case 'M' << 8 | 'N': return FR_META_MN;
        default: return FR_META_BAD;
        }
    }
    if (FR_META_IS("STORED"))
        return FR_META_STORED;
    if (FR_META_IS("ERROR"))
        return FR_META_ERROR;
    if (FR_META_IS("CLIENT_ERROR"))
        return FR_META_CLIENT_ERROR;
    if (FR_META_IS("SERVER_ERROR"))
        return FR_META_SERVER_ERROR;
    return FR_META_BAD;
#undef FR_META_IS
}

/* Read one line without its end. Flags that are not known are skipped: newer servers may add some.
 * Returns NULL, or what is wrong with the line. out->key and out->opaque point into the line. */
static inline const char *fr_meta_parse(const uint8_t *line, size_t size, uint64_t value_bytes_max, fr_meta_line *out)
{
    const uint8_t *end = line + size, *p = line, *word;
    uint64_t number;

    memset(out, 0, sizeof *out);
    out->ttl_s = -2;
    for (word = p; p < end && *p != ' '; p++)
        ;
    out->code = (uint8_t)fr_meta_code(word, (size_t)(p - word));
    if (out->code == FR_META_BAD)
        return "unknown reply";
    if (out->code >= FR_META_ERROR)
        return NULL;
    if (out->code == FR_META_VA) {
        if (p == end)
            return "value without a length";
        for (word = ++p; p < end && *p != ' '; p++)
            ;
        if (!fr_meta_number(word, (size_t)(p - word), UINT64_MAX, &out->value_size))
            return "length of a value is not a number";
        if (out->value_size > value_bytes_max)
            return "value longer than the limit";
    }
    while (p < end) {
        size_t rest;
        for (word = ++p; p < end && *p != ' '; p++)
            ;
        if (p == word)
            continue;
        rest = (size_t)(p - word) - 1;
        switch (*word++) {
        case 'W': out->won = 1; break;
        case 'X': out->stale = 1; break;
        case 'Z': out->sent = 1; break;
        case 'c':
            if (!fr_meta_number(word, rest, UINT64_MAX, &out->cas))
                return "CAS is not a number";
            break;
        case 'f':
            if (!fr_meta_number(word, rest, UINT32_MAX, &number))
                return "client flags are not a 32-bit number";
            out->client_flags = (uint32_t)number;
            break;
        case 't':
            if (rest == 2 && word[0] == '-' && word[1] == '1')
                out->ttl_s = -1;
            else if (fr_meta_number(word, rest, UINT32_MAX, &number))
                out->ttl_s = (int64_t)number;
            else
                return "time to live is not a number";
            break;
        case 'k':
            if (rest - 1u >= FR_META_KEY_BYTES_MAX)
                return "key of an impossible length";
            out->key = word;
            out->key_size = (uint8_t)rest;
            break;
        case 'O':
            if (rest - 1u >= 32u)
                return "opaque of an impossible length";
            out->opaque = word;
            out->opaque_size = (uint8_t)rest;
            break;
        default:
            break;
        }
    }
    return NULL;
}

/* What a reply of this code means for what was asked; -1: it is no answer to that. */
static inline int fr_meta_status(unsigned ask, unsigned code)
{
    /* 1 + status, so that 0 is "no answer" */
    static const int8_t status[FR_ASK_NOOP + 1][FR_META_STORED + 1] = {
        [FR_ASK_GET] = {[FR_META_VA] = 1 + FR_MC_HIT, [FR_META_EN] = 1 + FR_MC_MISS},
        [FR_ASK_TOUCH] = {[FR_META_HD] = 1 + FR_MC_HIT, [FR_META_EN] = 1 + FR_MC_MISS},
        [FR_ASK_STORE] = {[FR_META_HD] = 1 + FR_MC_STORED, [FR_META_NS] = 1 + FR_MC_NOT_STORED,
                          [FR_META_EX] = 1 + FR_MC_EXISTS, [FR_META_NF] = 1 + FR_MC_NOT_FOUND,
                          [FR_META_SERVER_ERROR] = 1 + FR_MC_SERVER_ERROR},
        [FR_ASK_DELETE] = {[FR_META_HD] = 1 + FR_MC_DELETED, [FR_META_EX] = 1 + FR_MC_EXISTS,
                           [FR_META_NF] = 1 + FR_MC_NOT_FOUND},
        [FR_ASK_ARITHMETIC] = {[FR_META_VA] = 1 + FR_MC_HIT, [FR_META_NS] = 1 + FR_MC_NOT_STORED,
                               [FR_META_EX] = 1 + FR_MC_EXISTS, [FR_META_NF] = 1 + FR_MC_NOT_FOUND,
                               [FR_META_CLIENT_ERROR] = 1 + FR_MC_CLIENT_ERROR,
                               [FR_META_SERVER_ERROR] = 1 + FR_MC_SERVER_ERROR},
        [FR_ASK_NOOP] = {[FR_META_MN] = 1 + FR_MC_HIT},
    };
    return ask <= FR_ASK_NOOP && code <= FR_META_STORED ? status[ask][code] - 1 : -1;
}

#endif
