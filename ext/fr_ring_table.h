/* fr_ring_table.h: the `table` ring's race: which three servers a cell lists, and in what order.
 *
 * Idea. Weighted rendezvous gives a cell to the server with the smallest of independent Exp(weight) times. Seen from the
 * server, its times over all cells are the first hits of one Poisson process whose arrivals fall on uniform cells. So
 * every server emits its own arrivals in time order from a stream seeded by its key, and a cell lists the first
 * distinct servers that hit it. The result depends on the set of (key, weight) alone: no history, no list order; a
 * server that joins or leaves moves its own cells and no other; a higher weight scales a server's times down, so that
 * it only gains. Cost: about 18 draws per cell, however many servers.
 *
 * One draw z of 64 bits: the high half gives the cell, the low half the gap, -log2((low + 1) / 2^32).
 * Accumulated gaps A are fixed point, 31 bits behind the point, in units of log2; time t = floor(A / weight), computed as
 * the high word of A x floor((2^64 - 1) / weight): integers only, so that every platform builds the same table.
 * Logarithm: 1024 steps, linear between them; its error (1.2e-7 of 1.44) is the same for every server.
 * Equal times: the smaller key in byte order is first.
 *
 * Work goes in slices of time. At a slice's end the cells that list enough servers are final (whatever follows is later)
 * and drop out with one bit; after some 8 of 18 arrivals per cell nearly every draw ends at that bit. A heavy server stops
 * when every open cell lists it, so that weights of 1000:1:1:1 cost 36 ms where equal ones cost 18. With n <= 3 servers the last place is
 * the server that is left, and nobody waits for its arrival.
 *
 * Measured on one core of a 2-core machine (benchmarks/micro/test_selection.py): 100 servers in 131,072 cells 18-21 ms,
 * 1,000 in 1,048,576 cells 370-410 ms; largest share over the average 1.06 and 1.11 (chance: sqrt(servers / cells) is the
 * standard deviation). 32 bytes per cell while it runs, 6 stay.
 *
 * Rules: no Python, no GIL needed, no global but the logarithm's table (filled once by fr_table_prepare under the GIL).
 */
#ifndef FR_RING_TABLE_H
#define FR_RING_TABLE_H

#include <stdlib.h>

#include "fr_base.h"
#include "fr_hash.h"
#include "fr_rand.h"

#define FR_TABLE_VERSION 1u           /* seed of the servers' streams: another value is another table */
#define FR_TABLE_CHOICES 3
#define FR_TABLE_CELLS_MIN 16u
#define FR_TABLE_CELLS_MAX (1u << 24) /* a draw maps 32 bits to a cell: at 2^24 cells they differ by 2^-8 at most */
#define FR_LOG_BITS 10
#define FR_LOG_ONE (1ull << 31)
#define FR_GAP_MEAN 3098164010ull     /* 2^31 / ln 2: the mean of -log2(u) in fixed point */
#define FR_SLICE_DIVISOR 2            /* slices of half an arrival per cell, */
#define FR_SLICES_LINEAR 48           /* up to 24 arrivals; from there on each slice is a sixteenth of the time passed */
#define FR_HEAVY_ARRIVALS 8           /* per cell: from here on a server is asked whether it may stop */

enum { FR_TABLE_OK = 0, FR_TABLE_NO_MEMORY = -1, FR_TABLE_ENDLESS = -2 };

static uint32_t fr_log_table[(1 << FR_LOG_BITS) + 1];

/* log2(1 + i/1024) by repeated squaring: 31 bits, each exact as far as 62-bit fractions carry. */
static inline void fr_table_prepare(void)
{
    for (uint32_t i = 0; i < 1u << FR_LOG_BITS; i++) {
        uint64_t x = (1ull << 62) + ((uint64_t)i << (62 - FR_LOG_BITS)), bits = 0;
        for (int bit = 0; bit < 31; bit++) {
            x = (uint64_t)(((unsigned __int128)x * x) >> 62);
            bits <<= 1;
            if (x >> 63) {
                x >>= 1;
                bits |= 1;
            }
        }
        fr_log_table[i] = (uint32_t)bits;
    }
    fr_log_table[1 << FR_LOG_BITS] = (uint32_t)FR_LOG_ONE;
}

/* -log2((low + 1) / 2^32), 31 bits behind the point. */
static inline uint64_t fr_gap(uint32_t low)
{
    uint64_t x = (uint64_t)low + 1;
    int shift = __builtin_clzll(x);
    uint64_t fraction = x << shift; /* top bit set */
    uint32_t i = (uint32_t)(fraction >> (63 - FR_LOG_BITS)) & ((1u << FR_LOG_BITS) - 1);
    uint64_t rest = (fraction >> (31 - FR_LOG_BITS)) & 0xFFFFFFFFull;
    uint64_t log = fr_log_table[i] + (((uint64_t)(fr_log_table[i + 1] - fr_log_table[i]) * rest) >> 32);
    return ((uint64_t)(shift - 31) << 31) - log;
}

/* One runner of the race, in the order of the keys. */
typedef struct {
    uint64_t state;   /* of its stream, behind the pending arrival */
    uint64_t sum;     /* accumulated gaps of the pending arrival */
    uint64_t inverse; /* floor((2^64 - 1) / weight) */
    uint64_t emitted; /* arrivals behind it */
    uint32_t cell;    /* of the pending arrival */
    uint32_t stopped;
} fr_runner;

typedef struct {
    uint64_t time[FR_TABLE_CHOICES];
    uint16_t runner[FR_TABLE_CHOICES];
    uint16_t count;
} fr_table_cell;

static inline void fr_runner_step(fr_runner *r, uint64_t cells)
{
    uint64_t z = fr_splitmix64(&r->state);
    r->sum += fr_gap((uint32_t)z);
    r->cell = (uint32_t)(((z >> 32) * cells) >> 32);
}

static inline void fr_runner_start(fr_runner *r, const void *key, size_t size, uint32_t weight, uint64_t cells)
{
    r->state = fr_xxh64(key, size, FR_TABLE_VERSION);
    r->sum = r->emitted = 0;
    r->inverse = UINT64_MAX / weight;
    r->stopped = 0;
    fr_runner_step(r, cells);
}

/* Enter one arrival; 1 when the cell lists `need` servers for the first time. */
static inline int fr_cell_enter(fr_table_cell *cell, uint64_t time, uint16_t runner, uint32_t need)
{
    uint32_t count = cell->count, at;
    if (count == need && time > cell->time[need - 1])
        return 0;
    for (at = 0; at < count; at++)
        if (cell->runner[at] == runner)
            return 0; /* its earlier arrival stands: a runner's arrivals come in the order of time */
    at = count;
    if (count == need) {
        if (time == cell->time[need - 1] && runner > cell->runner[need - 1])
            return 0;
        at = need - 1;
    } else {
        cell->count = (uint16_t)(count + 1);
    }
    for (; at && (cell->time[at - 1] > time || (cell->time[at - 1] == time && cell->runner[at - 1] > runner)); at--) {
        cell->time[at] = cell->time[at - 1];
        cell->runner[at] = cell->runner[at - 1];
    }
    cell->time[at] = time;
    cell->runner[at] = runner;
    return count + 1 == need;
}

/* Does every cell that is not final list this runner? Then its further arrivals change nothing. */
static inline int fr_runner_is_everywhere(uint16_t runner, const fr_table_cell *cell, const uint64_t *final, uint32_t cells)
{
    for (uint32_t word = 0; word < (cells + 63) / 64; word++) {
        uint64_t open = ~final[word];
        for (; open; open &= open - 1) {
            const fr_table_cell *c = cell + (word * 64 + (uint32_t)__builtin_ctzll(open));
            int listed = 0;
            for (uint32_t i = 0; i < c->count; i++)
                listed |= c->runner[i] == runner;
            if (!listed)
                return 0;
        }
    }
    return 1;
}

/* Run the race of n >= 2 runners. `final` holds a bit per cell, set where no answer is wanted (bits behind the last
 * cell set); `cell` is zeroed by the caller. On return every other cell lists min(3, n) runners. */
static inline int fr_table_race(fr_runner *runners, uint32_t n, uint64_t weight_sum, fr_table_cell *cell, uint64_t *final,
                                uint32_t cells)
{
    uint32_t need = n - 1 < FR_TABLE_CHOICES ? n - 1 : FR_TABLE_CHOICES, fresh_count, left = 0;
    uint64_t slice = (uint64_t)cells * FR_GAP_MEAN / (FR_SLICE_DIVISOR * weight_sum), horizon = 0;
    uint32_t *fresh;

    for (uint32_t word = 0; word < (cells + 63) / 64; word++)
        left += (uint32_t)__builtin_popcountll(~final[word]);
    fresh = (uint32_t *)malloc(((size_t)left + 1) * sizeof *fresh);
    if (!fresh)
        return FR_TABLE_NO_MEMORY;
    slice += !slice;
    for (uint32_t step = 0; left; step++) {
        horizon += step < FR_SLICES_LINEAR ? slice : horizon / 16 + 1;
        if (horizon >> 62) {
            free(fresh);
            return FR_TABLE_ENDLESS;
        }
        fresh_count = 0;
        for (uint32_t i = 0; i < n; i++) {
            fr_runner r = runners[i];
            uint64_t time;
            if (r.stopped)
                continue;
            for (; (time = fr_mulhi64(r.sum, r.inverse)) <= horizon; fr_runner_step(&r, cells)) {
                r.emitted++;
                if (final[r.cell >> 6] >> (r.cell & 63) & 1)
                    continue;
                if (fr_cell_enter(cell + r.cell, time, (uint16_t)i, need))
                    fresh[fresh_count++] = r.cell;
            }
            runners[i] = r;
        }
        for (uint32_t i = 0; i < fresh_count; i++)
            final[fresh[i] >> 6] |= 1ull << (fresh[i] & 63);
        left -= fresh_count;
        for (uint32_t i = 0; i < n && left; i++)
            if (!runners[i].stopped && runners[i].emitted >= (uint64_t)FR_HEAVY_ARRIVALS * cells)
                runners[i].stopped = (uint32_t)fr_runner_is_everywhere((uint16_t)i, cell, final, cells);
    }
    free(fresh);
    return FR_TABLE_OK;
}

/* Order of a server for a cell beyond the listed choices: one Exp(weight) draw of its own per (server, cell). */
static inline uint64_t fr_table_score(uint64_t seed, uint64_t inverse, uint64_t cell)
{
    uint64_t state = seed ^ (cell * 0xD6E8FEB86659FD93ull);
    return fr_mulhi64(fr_gap((uint32_t)(fr_splitmix64(&state) >> 16)) << 27, inverse);
}

#endif
