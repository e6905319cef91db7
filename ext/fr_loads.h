/* fr_loads.h: requests in flight per server, counted per process so that a killed process leaves no ghost.
 *
 *      process 0   pid, start   | server 0 | server 1 | ...            | pool 0 | pool 1 | ...
 *      process 1   pid, start   |    2     |    0     |                |   2    |
 *
 * Every process of a zone owns one row and is its only writer; a server's load is the sum of its column over the rows
 * that have a pid. A row whose process is gone is given up by storing 0 in its pid: everything that process had in flight
 * is gone with one store. The price is a read per process and server instead of per server: a row of 1,000 servers is
 * 4 KB, and adding rows up is what vector units do (benchmarks/micro/test_policies.py).
 *
 * Without a zone there is one row, in private memory.
 *
 * Rules: relaxed loads and stores, no locks, no Python. A reader may see one counter newer than another. A column belongs
 * to one server for as long as the memory lives.
 */
#ifndef FR_LOADS_H
#define FR_LOADS_H

#include "fr_base.h"

#define FR_LOAD_ROWS_MAX 128u

/* One process of a zone. pid is stored last, with release: 0 means that the row counts nothing. */
typedef struct {
    uint32_t pid;
    uint32_t spare;
    uint64_t started;       /* start time of the pid in clock ticks since boot (/proc/PID/stat, field 22) */
    uint64_t pid_namespace; /* inode of its /proc/self/ns/pid: pids of another namespace cannot be judged */
    uint64_t seen_ms;       /* when it last said that it lives: what rows of another namespace are judged by */
} fr_load_process;

typedef struct {
    int32_t *own;               /* this process's row */
    const int32_t *rows;        /* row r begins at rows + r * words */
    const fr_load_process *processes; /* NULL: own is the only row */
    uint32_t row_count;
    uint32_t words;             /* of a row: columns of servers, then of pools */
} fr_loads;

static inline void fr_loads_add(int32_t *word, int32_t change)
{
    /* One writer: no locked instruction is needed, only a store that readers see whole. */
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + change, __ATOMIC_RELAXED);
}

/* One more of a server's and of its pool's. */
static inline void fr_loads_begin(const fr_loads *loads, uint32_t column, uint32_t pool_column)
{
    fr_loads_add(&loads->own[column], 1);
    fr_loads_add(&loads->own[pool_column], 1);
}

static inline void fr_loads_end(const fr_loads *loads, uint32_t column, uint32_t pool_column)
{
    fr_loads_add(&loads->own[column], -1);
    fr_loads_add(&loads->own[pool_column], -1);
}

/* Load of one column over all processes; never negative. */
static inline int32_t fr_loads_of(const fr_loads *loads, uint32_t column)
{
    int32_t sum = 0;
    if (!loads->processes)
        return __atomic_load_n(&loads->own[column], __ATOMIC_RELAXED);
    for (uint32_t row = 0; row < loads->row_count; row++)
        if (__atomic_load_n(&loads->processes[row].pid, __ATOMIC_ACQUIRE))
            sum += __atomic_load_n(&loads->rows[(size_t)row * loads->words + column], __ATOMIC_RELAXED);
    return sum < 0 ? 0 : sum;
}

/* Loads of many columns: out[i] for columns[i]. in_line: columns[i] == columns[0] + i, which vector units like. */
static inline void fr_loads_many(const fr_loads *loads, const uint16_t *columns, uint32_t count, int in_line, int32_t *out)
{
    int first = 1;
    for (uint32_t row = 0; row < loads->row_count; row++) {
        const int32_t *from = loads->processes ? loads->rows + (size_t)row * loads->words : loads->own;
        if (loads->processes && !__atomic_load_n(&loads->processes[row].pid, __ATOMIC_ACQUIRE))
            continue;
        if (in_line) {
            from += columns[0];
            if (first)
                memcpy(out, from, count * sizeof *out);
            else
                for (uint32_t i = 0; i < count; i++)
                    out[i] += from[i];
        } else if (first) {
            for (uint32_t i = 0; i < count; i++)
                out[i] = from[columns[i]];
        } else {
            for (uint32_t i = 0; i < count; i++)
                out[i] += from[columns[i]];
        }
        first = 0;
    }
    if (first)
        memset(out, 0, count * sizeof *out);
}

#endif
