/* engine.c: a small coverage-guided fuzzer, for compilers without libFuzzer.
 *
 *     fuzz_TARGET [-seconds N] [-runs N] [-seed N] [-keep DIRECTORY] [file or directory of seeds ...]
 *     fuzz_TARGET -one FILE            run one input, such as the one a finding left behind
 *
 * Theory of operation. The target is compiled with -fsanitize-coverage=trace-pc: the compiler calls
 * __sanitizer_cov_trace_pc at each branch, which counts edges in a map of 16 Ki, as AFL does. An input that hits an edge, or a
 * power of two of hits, that none did before joins the corpus; inputs are made by one to eight mutations of one of the
 * corpus, sometimes joined with another. On a finding the input is written to "finding-TARGET" and the process ends with
 * the sanitizer's or the check's message.
 *
 * Rules: this file is not instrumented; one process, one thread; the same seed makes the same inputs.
 */
#pragma GCC optimize("O2") /* also in a build that is not optimised otherwise */
#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#ifdef FUZZ_EMBEDDED
#define MAP_SIZE 65536u
#else
#define MAP_SIZE 16384u
#endif
#define INPUT_BYTES_MAX 6000u   /* over the longest limit that the targets test (lines of 2048 and 4096 bytes) */
#define SHORT_BYTES 300u
#define CORPUS_MAX 20000u

__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));
#ifndef FUZZ_EMBEDDED
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:detect_stack_use_after_return=1"; }
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "print_stacktrace=1:halt_on_error=1"; }
#endif

static uint8_t hits[MAP_SIZE], seen[MAP_SIZE];
static uint32_t touched[MAP_SIZE], touched_count;
static uintptr_t previous;

int fuzz_paused;

__attribute__((visibility("default"), no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    uintptr_t place = (pc ^ pc >> 16) * 0x9E3779B1u;
    uint8_t *hit = &hits[(place ^ previous) % MAP_SIZE];
    if (fuzz_paused)
        return;
    if (*hit == 0)
        touched[touched_count++] = (uint32_t)(hit - hits);
    if (*hit != 255)
        ++*hit;
    previous = place >> 1;
}

typedef struct {
    uint8_t *data;
    size_t size;
} input;

static input corpus[CORPUS_MAX];
static size_t corpus_count;
static uint64_t runs, seed = 1, rng;
static const uint8_t *now_data;
static size_t now_size;
static const char *keep;

static void dump(void)
{
    char name[256];
    FILE *file;
    snprintf(name, sizeof name, "finding-%s", fuzz_the_target.name);
    file = fopen(name, "wb");
    if (file != NULL) {
        fwrite(now_data, 1, now_size, file);
        fclose(file);
    }
    fprintf(stderr, "fuzz %s: finding after %llu inputs, seed %llu; the input is in %s\n", fuzz_the_target.name,
            (unsigned long long)runs, (unsigned long long)seed, name);
}

static void on_signal(int number)
{
    dump();
    signal(number, SIG_DFL);
    raise(number);
}

/* Looks at the hits of the input just run, and forgets them. */
static int is_new(void)
{
    int found = 0;
    for (uint32_t i = 0; i < touched_count; i++) {
        uint8_t n = hits[touched[i]], *known = &seen[touched[i]];
        uint8_t bucket = n >= 128 ? 128 : n >= 32 ? 64 : n >= 16 ? 32 : n >= 8 ? 16 : n >= 4 ? 8 : n == 3 ? 4 : n;
        hits[touched[i]] = 0;
        found |= bucket & ~*known;
        *known |= bucket;
    }
    touched_count = 0;
    return found;
}

static void learn(const uint8_t *data, size_t size)
{
    input *one;
    if (corpus_count == CORPUS_MAX)
        return;
    one = &corpus[corpus_count++];
    one->data = malloc(size ? size : 1);
    memcpy(one->data, data, size);
    one->size = size;
    if (keep != NULL) {
        char name[4096];
        FILE *file;
        snprintf(name, sizeof name, "%s/%06zu", keep, corpus_count);
        if ((file = fopen(name, "wb")) != NULL) {
            fwrite(data, 1, size, file);
            fclose(file);
        }
    }
    if (fuzz_the_target.learned != NULL)
        fuzz_the_target.learned();
}

static int run_one(const uint8_t *data, size_t size)
{
    uint8_t *block = malloc(size ? size : 1); /* exact: a byte beyond it is a finding */
    uint64_t random = 0x9E3779B97F4A7C15u + size;
    for (size_t i = 0; i < size; i++) /* of the input alone, so that -one does the same */
        random = (random ^ data[i]) * 0x100000001B3u;
    memcpy(block, data, size);
    now_data = data;
    now_size = size;
    previous = 0;
    fuzz_the_target.run(size ? block : block + 1, size, random | 1);
    free(block);
    runs++;
    return is_new();
}

static void read_seeds(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return;
    if (S_ISDIR(status.st_mode)) {
        DIR *directory = opendir(path);
        struct dirent *entry;
        while (directory != NULL && (entry = readdir(directory)) != NULL) {
            char name[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
            read_seeds(name);
        }
        if (directory != NULL)
            closedir(directory);
    } else {
        static uint8_t buffer[INPUT_BYTES_MAX];
        FILE *file = fopen(path, "rb");
        size_t size = file ? fread(buffer, 1, sizeof buffer, file) : 0;
        if (file)
            fclose(file);
        if (run_one(buffer, size))
            learn(buffer, size);
    }
}

static size_t put_in(uint8_t *buffer, size_t size, size_t at, const uint8_t *piece, size_t piece_size)
{
    if (size + piece_size > INPUT_BYTES_MAX)
        piece_size = INPUT_BYTES_MAX - size;
    memmove(buffer + at + piece_size, buffer + at, size - at);
    memcpy(buffer + at, piece, piece_size);
    return size + piece_size;
}

static size_t mutate(uint8_t *buffer, size_t size)
{
    static const uint8_t odd[] = {0, 1, 9, 10, 13, 32, 34, 37, 44, 45, 48, 57, 58, 59, 61, 92, 127, 128, 255};
    static uint8_t piece[INPUT_BYTES_MAX];
    size_t at = fuzz_below(&rng, size + 1), n, words = 0;
    switch (fuzz_below(&rng, 12)) {
    case 0:
        if (size)
            buffer[at % size] ^= (uint8_t)(1u << fuzz_below(&rng, 8));
        break;
    case 1:
        if (size)
            buffer[at % size] = odd[fuzz_below(&rng, sizeof odd)];
        break;
    case 2:
        if (size)
            buffer[at % size] = (uint8_t)fuzz_next(&rng);
        break;
    case 3: /* take a run out */
        n = 1 + fuzz_below(&rng, fuzz_below(&rng, 4) ? 4 : size + 1);
        if (at < size) {
            if (n > size - at)
                n = size - at;
            memmove(buffer + at, buffer + at + n, size - at - n);
            size -= n;
        }
        break;
    case 4: /* double a run */
        n = fuzz_below(&rng, size - at + 1);
        if (n > 64 && fuzz_below(&rng, 4))
            n = 64;
        memcpy(piece, buffer + at, n);
        size = put_in(buffer, size, at, piece, n);
        break;
    case 5: /* a byte many times: limits */
        n = fuzz_below(&rng, 3) ? 1 + fuzz_below(&rng, 20) : fuzz_below(&rng, 4200);
        memset(piece, size ? buffer[fuzz_below(&rng, size)] : 'x', n);
        size = put_in(buffer, size, at, piece, n);
        break;
    case 6: { /* another input's run */
        const input *other = &corpus[fuzz_below(&rng, corpus_count)];
        size_t from = fuzz_below(&rng, other->size + 1);
        n = fuzz_below(&rng, other->size - from + 1);
        size = put_in(buffer, size, at, other->data + from, n);
        break;
    }
    case 7: { /* cross over */
        const input *other = &corpus[fuzz_below(&rng, corpus_count)];
        size_t from = fuzz_below(&rng, other->size + 1);
        size = put_in(buffer, at, at, other->data + from, other->size - from);
        break;
    }
    case 8: { /* a number */
        static const char *const numbers[] = {"0", "00", "1", "-1", "+1", "250", "251", "255", "256", "2047", "2048", "4294967295", "4294967296",
                                              "9223372036854775807", "18446744073709551615", "18446744073709551616", "99999999999999999999", "ffffffffffffffff", "0x10", "1e3"};
        const char *number = numbers[fuzz_below(&rng, sizeof numbers / sizeof *numbers)];
        size_t stop = at;
        while (stop < size && buffer[stop] >= '0' && buffer[stop] <= '9')
            stop++;
        memmove(buffer + at, buffer + stop, size - stop);
        size -= stop - at;
        size = put_in(buffer, size, at, (const uint8_t *)number, strlen(number));
        break;
    }
    default: /* a word of the dictionary */
        while (fuzz_the_target.dictionary[words])
            words++;
        if (words) {
            const char *word = fuzz_the_target.dictionary[fuzz_below(&rng, words)];
            size = put_in(buffer, size, at, (const uint8_t *)word, strlen(word));
        }
    }
    return size;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double seconds, began_s;
static uint64_t runs_max;

void fuzz_begin(int count, char **arguments)
{
    began_s = now_s();
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(dump);
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "-seconds") && i + 1 < count)
            seconds = atof(arguments[++i]);
        else if (!strcmp(arguments[i], "-runs") && i + 1 < count)
            runs_max = strtoull(arguments[++i], NULL, 10);
        else if (!strcmp(arguments[i], "-seed") && i + 1 < count)
            seed = strtoull(arguments[++i], NULL, 10);
        else if (!strcmp(arguments[i], "-keep") && i + 1 < count)
            keep = strdup(arguments[++i]);
        else if (!strcmp(arguments[i], "-one") && i + 1 < count) {
            read_seeds(arguments[++i]);
            printf("fuzz %s: no finding in %s\n", fuzz_the_target.name, arguments[i]);
            exit(0);
        }
    }
    rng = seed * 0x9E3779B97F4A7C15u | 1;
    for (size_t i = 0; fuzz_the_target.seeds[i]; i++) {
        run_one((const uint8_t *)fuzz_the_target.seeds[i], strlen(fuzz_the_target.seeds[i]));
        learn((const uint8_t *)fuzz_the_target.seeds[i], strlen(fuzz_the_target.seeds[i]));
    }
    for (int i = 1; i < count; i++) {
        if (arguments[i][0] == '-')
            i++;
        else
            read_seeds(arguments[i]);
    }
    if (seconds <= 0 && runs_max == 0)
        seconds = 10;
}

int fuzz_more(uint64_t most)
{
    static uint8_t buffer[INPUT_BYTES_MAX];
    size_t short_bytes = fuzz_the_target.short_bytes ? fuzz_the_target.short_bytes : SHORT_BYTES;
    for (uint64_t n = 0; n < most; n++) {
        const input *from, *other;
        size_t size, steps;
        if ((runs_max && runs >= runs_max) || (seconds > 0 && n % 512 == 0 && now_s() - began_s >= seconds))
            return 0;
        /* younger inputs know more: half of the choices are among the last quarter */
        from = &corpus[fuzz_below(&rng, 2) ? corpus_count - 1 - fuzz_below(&rng, corpus_count / 4 + 1)
                                          : fuzz_below(&rng, corpus_count)];
        memcpy(buffer, from->data, from->size);
        size = from->size;
        for (steps = 1 + fuzz_below(&rng, fuzz_below(&rng, 2) ? 2 : 8); steps; steps--) {
            if (fuzz_the_target.mutate != NULL && fuzz_below(&rng, 2)) {
                other = &corpus[fuzz_below(&rng, corpus_count)];
                size = fuzz_the_target.mutate(buffer, size, INPUT_BYTES_MAX, &rng, other->data, other->size);
            } else {
                size = mutate(buffer, size);
            }
        }
        if (size > short_bytes && fuzz_below(&rng, 16)) /* long inputs test the limits, short ones everything else, faster */
            size = short_bytes / 2 + fuzz_below(&rng, short_bytes / 2);
        if (run_one(buffer, size))
            learn(buffer, size);
    }
    return 1;
}

void fuzz_end(void)
{
    int edges = 0;
    for (size_t i = 0; i < MAP_SIZE; i++)
        edges += seen[i] != 0;
    printf("fuzz %s: %llu inputs in %.0f s, no finding; %zu kept, %d edges; seed %llu\n", fuzz_the_target.name,
           (unsigned long long)runs, now_s() - began_s, corpus_count, edges, (unsigned long long)seed);
    fflush(stdout);
}

uint64_t fuzz_count(void)
{
    return runs;
}

#ifndef FUZZ_EMBEDDED
int main(int count, char **arguments)
{
    fuzz_begin(count, arguments);
    while (fuzz_more(1u << 20))
        ;
    fuzz_end();
    return 0;
}
#endif
