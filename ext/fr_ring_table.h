/* fr_ring_table.h: the `table` ring's race: which servers a cell lists, and in what order.
 *
 * Idea. Weighted rendezvous gives a cell to the server with the smallest of independent Exp(weight) times. Seen from the
 * server, its times over a block of cells are the first hits of one Poisson process whose arrivals fall on uniform cells.
 * So every server emits its own arrivals in time order from a stream seeded by its key and the block, and a cell lists
 * the first distinct servers that hit it. The result depends on the set of (key, weight) alone: no history, no list
 * order; a server that joins or leaves moves its own cells and no other; a higher weight scales a server's times down, so
 * that it only gains. Cost: about 15 draws per cell, however many servers.
 *
 * Blocks. 2048 cells (the last one fewer) are raced alone, in their own unit of time: times are compared within a cell
 * only. A block's lists lie in the second cache while it runs, the horizon is that of 2048 cells and not of the
 * table, and a few cells can be raced again at the cost of their blocks (fr_ring_change.h).
 *
 * One draw z of 64 bits: the high half gives the cell, the low half the gap, -log2((low + 1) / 2^32).
 * Accumulated gaps A are fixed point, 31 bits behind the point, in units of log2; time t = floor(A / weight), computed as
 * the high word of A x floor((2^64 - 1) / weight): integers only, so that every platform builds the same table. A time
 * has at most 47 bits; an entry of a list is time << 16 | server, so that one comparison orders a list.
 * Logarithm: 1024 steps, linear between them; its error (1.2e-7 of 1.44) is the same for every server.
 * Equal times: the smaller key in byte order is first.
 *
 * Work goes in slices of time; it ends with the slice at whose end every cell lists enough servers. A heavy server stops
 * when every open cell lists it. With few servers (n <= kept) the last place is the server that is left, and nobody waits
 * for its arrival.
 *
 * Measured: docs/design/table-ring.md.
 *
 * Rules: no Python, no GIL needed, no global but the logarithm's table (filled once by fr_table_prepare under the GIL).
 */
#ifndef FR_RING_TABLE_H
#define FR_RING_TABLE_H

#include <stdlib.h>

#include "fr_base.h"
#include "fr_hash.h"
#include "fr_rand.h"

#define FR_TABLE_VERSION 2u           /* seed of the servers' streams: another value is another table */
#define FR_TABLE_CHOICES 3            /* that a pick reads */
#define FR_TABLE_KEPT 5               /* that a cell's record holds, so that a server can leave (fr_ring_change.h) */
#define FR_TABLE_CELLS_MIN 16u
#define FR_TABLE_CELLS_MAX (1u << 24)
#define FR_BLOCK_BITS 11              /* 80 KiB of lists; half as many cells cost 15 % more at 1,000 servers */
#define FR_BLOCK_CELLS (1u << FR_BLOCK_BITS)
#define FR_LOG_BITS 10
#define FR_LOG_ONE (1ull << 31)
#define FR_GAP_MEAN 3098164010ull     /* 2^31 / ln 2: the mean of -log2(u) in fixed point */
#define FR_TIME_SHIFT 16
#define FR_HORIZON_MAX (1ull << 47)   /* two servers of weight 1 need 2^46 */
#define FR_SLICES 2                   /* of the time in which most cells fill (measured: 1 costs 20 % more, 4 nothing less) */
#define FR_HEAVY_ARRIVALS 8           /* per cell: from here on a server is asked whether it may stop */
#define FR_ENTRY_NONE UINT64_MAX      /* an empty place of a list: later than any entry */

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

/* A server of weight > 0 as the race sees it. Arrays of them are in the order of the keys. */
typedef struct {
    uint64_t seed;    /* of its streams */
    uint64_t inverse; /* floor((2^64 - 1) / weight) */
    uint16_t slot;    /* its label in the answers */
} fr_table_server;

static inline void fr_table_server_set(fr_table_server *server, const void *key, size_t size, uint32_t weight, uint16_t slot)
{
    server->seed = fr_xxh64(key, size, FR_TABLE_VERSION);
    server->inverse = UINT64_MAX / weight;
    server->slot = slot;
}

/* One runner of a block's race, and its pending arrival. */
typedef struct {
    uint64_t state; /* of its stream, behind the pending arrival */
    uint64_t sum;   /* accumulated gaps of the pending arrival */
    uint32_t cell;  /* of the pending arrival, counted from the block's first */
    uint32_t stopped;
} fr_runner;

static inline void fr_runner_step(fr_runner *r, uint32_t size)
{
    uint64_t z = fr_splitmix64(&r->state);
    r->sum += fr_gap((uint32_t)z);
    r->cell = (uint32_t)(((z >> 32) * size) >> 32);
}

static inline void fr_runner_start(fr_runner *r, uint64_t seed, uint32_t block, uint32_t size)
{
    uint64_t state = seed ^ ((uint64_t)(block + 1) * 0xA24BAED4963EE407ull);
    r->state = fr_splitmix64(&state);
    r->sum = 0;
    r->stopped = 0;
    fr_runner_step(r, size);
}

static inline uint32_t fr_block_size(uint32_t block, uint32_t cells)
{
    uint32_t rest = cells - (block << FR_BLOCK_BITS);
    return rest < FR_BLOCK_CELLS ? rest : FR_BLOCK_CELLS;
}

/* Enter an arrival that is earlier than the list's last place. */
static inline void fr_list_enter(uint64_t *list, uint64_t entry, uint32_t need)
{
    uint32_t at = 0, last = need - 1;
    for (; list[at] <= entry; at++)
        if ((uint16_t)list[at] == (uint16_t)entry)
            return; /* its earlier arrival stands: a runner's arrivals come in the order of time */
    for (; last > at; last--)
        list[last] = list[last - 1];
    list[at] = entry;
}

/* Does every cell with a free place list this runner? Then its further arrivals change nothing. */
static inline int fr_runner_is_everywhere(uint16_t runner, const uint64_t *list, uint32_t need, uint32_t size)
{
    for (uint32_t cell = 0; cell < size; cell++, list += FR_TABLE_KEPT) {
        int listed = list[need - 1] != FR_ENTRY_NONE;
        for (uint32_t i = 0; i < need && !listed; i++)
            listed = (uint16_t)list[i] == runner;
        if (!listed)
            return 0;
    }
    return 1;
}

static inline uint32_t fr_table_need(uint32_t n)
{
    return n - 1 < FR_TABLE_KEPT ? n - 1 : FR_TABLE_KEPT;
}

/* Race n >= 2 servers over one block. `lists`: FR_TABLE_KEPT entries per cell, all FR_ENTRY_NONE where an answer is wanted
 * (`wanted` cells), all 0 where none is. On return each wanted list holds fr_table_need(n) entries, ascending, whose low
 * 16 bits are positions in `server`; *horizon is at least the latest of them. `runner` is room for n. */
static inline int fr_block_race(const fr_table_server *server, uint32_t n, uint64_t weight_sum, uint32_t block,
                                uint32_t size, uint64_t *lists, uint32_t wanted, fr_runner *runner, uint64_t *horizon)
{
    uint32_t need = fr_table_need(n), open = wanted;
    uint64_t mean = (uint64_t)size * FR_GAP_MEAN, until, latest, step;
    /* Of w cells the last waits some need + 1.1 ln w arrivals: a bit less in a few slices of time, so that most arrivals
     * enter a list near its end, then steps of an eighth. */
    step = mean * (need + (32 - (uint32_t)__builtin_clz(wanted | 1)) * 3 / 4) / (FR_SLICES * weight_sum) + 1;
    until = step;

    for (uint32_t i = 0; i < n; i++)
        fr_runner_start(&runner[i], server[i].seed, block, size);
    for (uint32_t slice = 1;; until += slice++ < FR_SLICES ? step : until / 8) {
        if (until >= FR_HORIZON_MAX)
            return FR_TABLE_ENDLESS;
        for (uint32_t i = 0; i < n; i++) {
            fr_runner r = runner[i];
            uint64_t inverse = server[i].inverse, time;
            if (r.stopped)
                continue;
            for (; (time = fr_mulhi64(r.sum, inverse)) <= until; fr_runner_step(&r, size)) {
                uint64_t entry = time << FR_TIME_SHIFT | i, *list = lists + r.cell * FR_TABLE_KEPT;
                if (entry < list[need - 1])
                    fr_list_enter(list, entry, need);
            }
            runner[i] = r;
        }
        if (slice < FR_SLICES)
            continue;
        open = 0;
        latest = 0;
        for (uint32_t cell = 0; cell < size; cell++) {
            uint64_t last = lists[cell * FR_TABLE_KEPT + need - 1];
            open += last == FR_ENTRY_NONE;
            latest = last > latest ? last : latest;
        }
        if (!open) {
            *horizon = latest >> FR_TIME_SHIFT;
            return FR_TABLE_OK;
        }
        for (uint32_t i = 0; i < n; i++)
            if (!runner[i].stopped && runner[i].sum >= FR_HEAVY_ARRIVALS * mean)
                runner[i].stopped = (uint32_t)fr_runner_is_everywhere((uint16_t)i, lists, need, size);
    }
}

/* What a pick reads: the first three slots of each cell of a block, from lists of positions. Lists of 0 (not wanted)
 * give FR_NO_SLOT. */
static inline void fr_block_columns(const fr_table_server *server, uint32_t n, const uint64_t *lists, uint32_t size,
                                    uint16_t *first, uint16_t *second, uint16_t *third)
{
    uint32_t listed = fr_table_need(n) < FR_TABLE_CHOICES ? fr_table_need(n) : FR_TABLE_CHOICES;
    for (uint32_t cell = 0; cell < size; cell++, lists += FR_TABLE_KEPT) {
        uint16_t slot[FR_TABLE_CHOICES] = {FR_NO_SLOT, FR_NO_SLOT, FR_NO_SLOT};
        if (n == 1) {
            slot[0] = server[0].slot;
        } else if (lists[0] | lists[1]) {
            uint32_t rest = n * (n - 1) / 2; /* with n <= 3 the server left: the sum of all positions less those listed */
            for (uint32_t k = 0; k < listed; k++) {
                slot[k] = server[(uint16_t)lists[k]].slot;
                rest -= (uint16_t)lists[k];
            }
            if (n <= FR_TABLE_CHOICES)
                slot[listed] = server[rest].slot;
        }
        first[cell] = slot[0];
        second[cell] = slot[1];
        third[cell] = slot[2];
    }
}

/* Order of a server for a cell beyond the listed choices: one Exp(weight) draw of its own per (server, cell). */
static inline uint64_t fr_table_score(uint64_t seed, uint64_t inverse, uint64_t cell)
{
    uint64_t state = seed ^ (cell * 0xD6E8FEB86659FD93ull);
    return fr_mulhi64(fr_gap((uint32_t)(fr_splitmix64(&state) >> 16)) << 27, inverse);
}

#endif
