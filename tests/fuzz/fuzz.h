/* fuzz.h: what a fuzz target gives to the engine (engine.c).
 *
 * A target is one C file over the header it tests: its seeds, its dictionary, and a function that runs one input. The
 * function judges with FUZZ_CHECK; AddressSanitizer and UndefinedBehaviorSanitizer judge the rest. The input lies in a block
 * of its exact size, so that one byte read too far is seen.
 */
#ifndef FR_FUZZ_H
#define FR_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    const char *const *seeds;      /* C strings, NULL at the end; more come from files */
    const char *const *dictionary; /* pieces of text that mutations put in, NULL at the end */
    void (*run)(const uint8_t *data, size_t size, uint64_t random);
    /* What not every target has: 0 and NULL. */
    size_t short_bytes;            /* most inputs are cut to so many */
    void (*learned)(void);         /* the input just run joins the corpus */
    /* One change that keeps the input's structure; `other` is one of the corpus. -> the size then, `most` at most. */
    size_t (*mutate)(uint8_t *data, size_t size, size_t most, uint64_t *state, const uint8_t *other, size_t other_size);
} fuzz_target;

extern const fuzz_target fuzz_the_target;

/* Where the engine is part of another program (compiled with FUZZ_EMBEDDED): read the arguments and run the seeds; run so many
 * more, 1: there are more to run; say how it was. */
void fuzz_begin(int count, char **arguments);
int fuzz_more(uint64_t most);
void fuzz_end(void);
uint64_t fuzz_count(void);
/* While it is not 0, branches are not counted. */
extern int fuzz_paused;

#define FUZZ_CHECK(claim) \
    do { \
        if (!(claim)) { \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #claim); \
            abort(); \
        } \
    } while (0)

/* A copy of data[0:size) that ends where a block ends: a byte behind it is a finding. Good until the next call; sizes up to
 * FUZZ_PIECE_BYTES. One block for all, since a new one per piece costs more than what is tested. */
#define FUZZ_PIECE_BYTES 6000u
static inline uint8_t *fuzz_piece(const uint8_t *data, size_t size)
{
    static uint8_t *block;
    if (block == NULL)
        block = (uint8_t *)malloc(FUZZ_PIECE_BYTES);
    memcpy(block + FUZZ_PIECE_BYTES - size, data, size);
    return block + FUZZ_PIECE_BYTES - size;
}

/* xorshift64*: good enough to choose mutations and splits */
static inline uint64_t fuzz_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Du;
}

static inline size_t fuzz_below(uint64_t *state, size_t n)
{
    return n ? (size_t)(fuzz_next(state) >> 11) % n : 0;
}

#endif
