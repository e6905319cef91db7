/* Target: the decoder of chunked bodies, fr_chunked.h.
 *
 * An input is a chunked body and what follows it. It is decoded whole and in pieces; both must give the same data, end at
 * the same byte, or refuse with the same status; and what was decoded, framed anew, must decode to itself.
 */
#include <string.h>

#include "fr_http.h"
#include "fr_chunked.h"
#include "fr_out.h"
#include "fuzz.h"

typedef struct {
    uint64_t sum;
    uint64_t bytes;
    size_t end; /* where the body ended */
    int verdict;
} found;

static found decode(const uint8_t *data, size_t size, size_t step, uint64_t random, fr_out *again)
{
    fr_chunked state;
    found f = {0, 0, 0, 0};
    size_t from = 0;

    memset(&state, 0, sizeof state);
    while (from < size) {
        size_t n = step ? 1 + fuzz_below(&random, step) : size, at = 0, run_at = 0, run_size = 0;
        uint8_t *piece;
        if (n > size - from)
            n = size - from;
        piece = fuzz_piece(data + from, n);
        for (;;) {
            size_t before = at;
            f.verdict = fr_chunked_run(&state, piece, n, &at, &run_at, &run_size);
            FUZZ_CHECK(at >= before && at <= n);
            if (f.verdict != 1)
                break;
            FUZZ_CHECK(run_size > 0 && run_at + run_size <= n && run_at + run_size == at);
            for (size_t i = 0; i < run_size; i++)
                f.sum = (f.sum ^ piece[run_at + i]) * 0x100000001B3u + 1;
            f.bytes += run_size;
            if (again != NULL) {
                char head[24];
                int length = snprintf(head, sizeof head, "%zx\r\n", run_size);
                fr_out_put(again, head, (size_t)length);
                fr_out_put(again, piece + run_at, run_size);
                fr_out_lit(again, "\r\n");
            }
        }
        if (f.verdict != 0) {
            FUZZ_CHECK(f.verdict == 2 || f.verdict == -400 || f.verdict == -431);
            f.end = from + at;
            { /* final, whatever comes */
                uint8_t more[1] = {'0'};
                size_t zero = 0;
                FUZZ_CHECK(fr_chunked_run(&state, more, 1, &zero, &run_at, &run_size) == (f.verdict == 2 ? 2 : -400));
            }
            return f;
        }
        FUZZ_CHECK(at == n);
        from += n;
    }
    f.end = size;
    return f;
}

/* The plain form, "HEX CRLF data CRLF ... 0 CRLF CRLF", read by other means: 1 when the input begins with such a body. */
static int plain(const uint8_t *data, size_t size, found *f)
{
    size_t at = 0;
    memset(f, 0, sizeof *f);
    for (;;) {
        char digits[17] = "";
        unsigned n = 0;
        unsigned long long length;
        while (at < size && n < 16 && strchr("0123456789abcdefABCDEF", data[at]) && data[at])
            digits[n++] = (char)data[at++];
        if (n == 0 || n == 16 || size - at < 2 || memcmp(data + at, "\r\n", 2))
            return 0;
        at += 2;
        length = strtoull(digits, NULL, 16);
        if (length > size - at)
            return 0;
        for (size_t i = 0; i < length; i++)
            f->sum = (f->sum ^ data[at + i]) * 0x100000001B3u + 1;
        f->bytes += length;
        at += length;
        if (size - at < 2 || memcmp(data + at, "\r\n", 2))
            return 0;
        at += 2;
        if (length == 0) {
            f->end = at;
            return 1;
        }
    }
}

static void run(const uint8_t *data, size_t size, uint64_t random)
{
    static const size_t steps[] = {1, 2, 5, 33, 3000};
    fr_out again;
    found whole, pieces;

    memset(&again, 0, sizeof again);
    whole = decode(data, size, 0, random, &again);
    pieces = decode(data, size, steps[random % 5], random, NULL);
    FUZZ_CHECK(whole.verdict == pieces.verdict && whole.end == pieces.end);
    FUZZ_CHECK(whole.sum == pieces.sum && whole.bytes == pieces.bytes);
    if (plain(data, size, &pieces))
        FUZZ_CHECK(whole.verdict == 2 && whole.end == pieces.end && whole.sum == pieces.sum && whole.bytes == pieces.bytes);
    if (whole.verdict == 2) {
        found twice;
        fr_out_lit(&again, "0\r\n\r\n");
        twice = decode(again.data, again.size, 0, random, NULL);
        FUZZ_CHECK(twice.verdict == 2 && twice.end == again.size && twice.sum == whole.sum && twice.bytes == whole.bytes);
    }
    free(again.data);
}

static const char *const seeds[] = {
    "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n", "1;a=b\r\nx\r\n0\r\nTrailer: v\r\n\r\n", "a;x=\"q\\\"q\";y\r\n0123456789\r\n0\r\n\r\nGET /",
    "FFFFFFFFFFFFFFFF\r\n", "7FFFFFFFFFFFFFFF\r\nx", "5\nhello\n0\n\n", "05\r\nhello\r\n000\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n",
    "-1\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX0\r\n\r\n", "0\r\nA: b\r\nC : d\r\n\r\n", NULL,
};

static const char *const dictionary[] = {
    "\r\n", "0\r\n\r\n", "\r\n0\r\n", ";", "=", "\"", "\\", "5\r\nhello\r\n", "a", "A", "f", ": ", "\r", "\n", " ", "\t", "X: y\r\n", NULL,
};

const fuzz_target fuzz_the_target = {"chunked", seeds, dictionary, run};
