/* Target: what memcached answers: fr_meta_read.h (lines and values in pieces) and fr_meta.h (what a line says).
 *
 * An input is a stream of replies. It is read whole and in pieces drawn from it; both readings must find the same. What was
 * asked is drawn too, so that each reply meets each kind of request.
 */
#include <string.h>

#include "fr_meta_read.h"
#include "fuzz.h"

#define VALUE_BYTES_MAX 5000u

typedef struct {
    uint64_t sum;            /* of everything found, in order */
    const char *refused;
    unsigned lines, values;
} found;

static void mix(found *f, uint64_t value)
{
    f->sum = (f->sum ^ value) * 0x100000001B3u + 1;
}

static int line_of(found *f, fr_meta_reader *reader, const uint8_t *line, size_t size)
{
    fr_meta_line parsed;
    const char *wrong;
    int status;
    unsigned ask = f->lines++ % (FR_ASK_NOOP + 1);
    static uint8_t *block;
    uint8_t *exact; /* a line may end anywhere in its buffer: not one byte behind it is read */

    FUZZ_CHECK(size < FR_META_LINE_BYTES_MAX);
    FUZZ_CHECK(memchr(line, '\n', size) == NULL);
    if (block == NULL)
        block = malloc(FR_META_LINE_BYTES_MAX);
    exact = block + FR_META_LINE_BYTES_MAX - size;
    memcpy(exact, line, size);
    wrong = fr_meta_parse(exact, size, VALUE_BYTES_MAX, &parsed);
    if (wrong != NULL) {
        f->refused = wrong;
        return 0;
    }
    FUZZ_CHECK(parsed.code > FR_META_BAD && parsed.code <= FR_META_STORED);
    FUZZ_CHECK(parsed.value_size <= VALUE_BYTES_MAX);
    FUZZ_CHECK(parsed.value_size == 0 || parsed.code == FR_META_VA);
    FUZZ_CHECK(parsed.ttl_s >= -2 && parsed.ttl_s <= (int64_t)UINT32_MAX);
    FUZZ_CHECK(parsed.key_size <= FR_META_KEY_BYTES_MAX && parsed.opaque_size <= 32);
    if (parsed.key_size) {
        FUZZ_CHECK(parsed.key >= exact && parsed.key + parsed.key_size <= exact + size);
        for (unsigned i = 0; i < parsed.key_size; i++)
            mix(f, parsed.key[i]);
    }
    if (parsed.opaque_size) {
        FUZZ_CHECK(parsed.opaque >= exact && parsed.opaque + parsed.opaque_size <= exact + size);
        for (unsigned i = 0; i < parsed.opaque_size; i++)
            mix(f, parsed.opaque[i]);
    }
    for (ask = 0; ask <= FR_ASK_NOOP; ask++) {
        status = fr_meta_status(ask, parsed.code);
        FUZZ_CHECK(status >= -1 && status < FR_MC_UNKNOWN);
        mix(f, (uint64_t)(status + 1));
    }
    mix(f, parsed.code);
    mix(f, parsed.cas);
    mix(f, (uint64_t)parsed.ttl_s);
    mix(f, parsed.client_flags);
    mix(f, (uint64_t)parsed.won << 2 | (uint64_t)parsed.stale << 1 | parsed.sent);
    if (parsed.code == FR_META_VA)
        fr_meta_expect_value(reader, parsed.value_size);
    return 1;
}

/* Reads data, the next `step` bytes at a time: 0 = all at once, 1.. = at most so many, drawn. */
static found read_all(const uint8_t *data, size_t size, size_t step, uint64_t random)
{
    fr_meta_reader reader;
    found f = {0, NULL, 0, 0};
    uint64_t value = 0;
    size_t at = 0, in_value = 0;

    memset(&reader, 0xA5, sizeof reader);
    fr_meta_reader_reset(&reader);
    while (at < size && f.refused == NULL) {
        size_t n = step ? 1 + fuzz_below(&random, step) : size;
        uint8_t *piece;
        const uint8_t *p, *end, *what = NULL;
        size_t what_size = 0;
        if (n > size - at)
            n = size - at;
        piece = fuzz_piece(data + at, n);
        at += n;
        p = piece;
        end = piece + n;
        while (f.refused == NULL) {
            int found_now = fr_meta_read(&reader, &p, end, &what, &what_size);
            FUZZ_CHECK(p >= piece && p <= end);
            if (found_now == FR_META_MORE) {
                FUZZ_CHECK(p == end);
                break;
            }
            if (found_now == FR_META_LINE) {
                if (!line_of(&f, &reader, what, what_size))
                    break;
            } else if (found_now == FR_META_PIECE) {
                FUZZ_CHECK(what_size > 0 && what >= piece && what + what_size <= end);
                for (size_t i = 0; i < what_size; i++)
                    value = (value ^ what[i]) * 0x100000001B3u;
                in_value += what_size;
                FUZZ_CHECK(in_value <= VALUE_BYTES_MAX);
            } else if (found_now == FR_META_VALUE_END) {
                mix(&f, value);
                mix(&f, in_value);
                value = in_value = 0;
                f.values++;
            } else {
                f.refused = (const char *)what;
                FUZZ_CHECK(found_now == FR_META_REFUSED && f.refused != NULL);
                if (p < end) /* a refusal is final */
                    FUZZ_CHECK(fr_meta_read(&reader, &p, end, &what, &what_size) == FR_META_REFUSED);
            }
        }
    }
    return f;
}

static void run(const uint8_t *data, size_t size, uint64_t random)
{
    static const size_t steps[] = {1, 2, 7, 64, 3000};
    found whole = read_all(data, size, 0, random), pieces;
    uint8_t written[FR_META_COMMAND_BYTES_MAX], *p;
    uint64_t number;

    pieces = read_all(data, size, steps[random % 5], random);
    FUZZ_CHECK(whole.sum == pieces.sum && whole.lines == pieces.lines && whole.values == pieces.values);
    FUZZ_CHECK((whole.refused == NULL) == (pieces.refused == NULL));
    FUZZ_CHECK(whole.refused == NULL || !strcmp(whole.refused, pieces.refused));
    FUZZ_CHECK(whole.values <= whole.lines);

    /* what we write: a key is clean or refused, a number reads back */
    if (fr_meta_key_ok(data, size)) {
        FUZZ_CHECK(size >= 1 && size <= FR_META_KEY_BYTES_MAX);
        for (size_t i = 0; i < size; i++)
            FUZZ_CHECK(data[i] > 0x20 && data[i] != 0x7f);
    }
    p = fr_meta_put_flag(written, 'C', random);
    FUZZ_CHECK(p - written <= 22 && fr_meta_number(written + 2, (size_t)(p - written) - 2, UINT64_MAX, &number));
    FUZZ_CHECK(number == random);
}

static const char *const seeds[] = {
    "HD c5\r\nVA 5 c5 t60 f7 OAAB\r\nhello\r\n", "EN\r\n", "NS c0\r\nVA 2 c3 t60\r\nB1\r\n", "HD c3\r\nEX c0\r\nNF\r\nMN\r\n",
    "VA 0 c6 t-1 W\r\n\r\n", "VA 3 c10 t30 X W\r\nabc\r\n", "VA 3 t19 Z kkey\r\na\r\n\r\n", "SERVER_ERROR out of memory storing object\r\n",
    "CLIENT_ERROR bad data chunk\r\nERROR\r\n", "ERROR Too many open connections\r\n", "VERSION 1.6.18\r\n", "STORED\r\nMN\r\n",
    "VA five\r\nhello\r\n", "VA 5\r\nhelloXX\r\n", "VA 18446744073709551615\r\n", "VA  5\r\nhello\r\n", "HD kAAEC/yANCg== b c1\r\n",
    "VALUE k 0 5\r\nhello\r\nEND\r\n", "\r\n", "\n", "HD\n", "HD c99999999999999999999\r\n", "HD t4294967235\r\n", NULL,
};

static const char *const dictionary[] = {
    "\r\n", "VA ", "HD", "EN\r\n", "NS", "EX", "NF", "MN\r\n", "ERROR\r\n", "CLIENT_ERROR ", "SERVER_ERROR ", "STORED\r\n", " W", " X", " Z",
    " c1", " t-1", " t60", " f1", " kkey", " OAAA", " 5", "\r", "\n", " ", "  ", NULL,
};

const fuzz_target fuzz_the_target = {"meta", seeds, dictionary, run};
