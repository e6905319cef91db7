/* fr_ring_change.h: a `table` ring after a change of few servers, without the race of all.
 *
 * Not here: the race itself (fr_ring_table.h), and the decision when a whole build is cheaper (ring_table.pyx).
 *
 * Records. Per cell the first FR_TABLE_KEPT entries, time << 16 | slot, ascending, FR_ENTRY_NONE behind the last; per block
 * a horizon not earlier than any of its entries. Invariant: a cell's record holds EVERY server that is earlier than its last
 * entry. So a server that joins emits its own arrivals up to the horizon and enters the lists whose last entry is later; a
 * server that leaves emits the same arrivals and is taken out of the lists that hold it; another weight is both. If the
 * one taken out was last, an entry without a server (slot FR_NO_SLOT) stays in its place as the mark up to which the
 * record is complete: a heavier weight, or the return of one that left before it, fits in front of it.
 * A cell with fewer than three servers left is raced again, alone, at the cost of a short race of its block; where many of a
 * block are, the block is raced whole. That is the result of a whole build, to the bit.
 *
 * Cost of one server of N: 15 x cells / N arrivals, in the order of the blocks. Five are kept and three are needed, so that
 * cells are raced again only after servers that share cells have left: with r of N servers gone one by one and none
 * joined, some 30 x cells x r^2 / N^3 of them per leave. Memory: 40 bytes per cell, which a pick never touches.
 *
 * Equal times: the smaller key is first, by rank[slot]; in front of a mark at the same time nobody enters, since who
 * stood there is forgotten.
 *
 * Rules: no Python, no GIL needed. The records are changed in place: after any other status than FR_TABLE_OK they are
 * worthless. The columns are the caller's copy.
 */
#ifndef FR_RING_CHANGE_H
#define FR_RING_CHANGE_H

#include <string.h>

#include "fr_ring_table.h"

#define FR_REFILL_WHOLE 8 /* a block of which more than 1/8 of the cells are short is raced whole */

typedef struct {
    uint64_t weight_sum; /* when they were built */
    uint64_t *horizon;   /* per block */
    uint64_t *list;      /* FR_TABLE_KEPT per cell */
} fr_table_records;

/* One server's change; inverse 0: it was not there, or is there no longer. */
typedef struct {
    uint64_t seed, inverse_before, inverse_after;
    uint16_t slot_before, slot_after;
} fr_table_change;

/* The servers after the change, and room for a block's race. */
typedef struct {
    const fr_table_server *server;
    uint32_t n;
    uint64_t weight_sum;
    const uint16_t *rank; /* by slot: position in the order of the keys */
    fr_runner *runner;    /* n */
    uint64_t *lists;      /* FR_BLOCK_CELLS x FR_TABLE_KEPT */
    uint64_t raced_again; /* counts cells */
} fr_table_after;

static inline uint32_t fr_block_count(uint32_t cells)
{
    return (cells + FR_BLOCK_CELLS - 1) >> FR_BLOCK_BITS;
}

static inline void fr_records_free(fr_table_records *records)
{
    if (records) {
        free(records->horizon);
        free(records->list);
        free(records);
    }
}

static inline fr_table_records *fr_records_new(uint32_t cells)
{
    fr_table_records *records = (fr_table_records *)calloc(1, sizeof *records);
    if (!records)
        return NULL;
    records->horizon = (uint64_t *)malloc(fr_block_count(cells) * sizeof(uint64_t));
    records->list = (uint64_t *)malloc((size_t)cells * FR_TABLE_KEPT * sizeof(uint64_t));
    if (!records->horizon || !records->list) {
        fr_records_free(records);
        return NULL;
    }
    return records;
}

/* Take the records out of a ring; NULL when somebody else has. */
static inline fr_table_records *fr_records_take(fr_table_records **place)
{
    return __atomic_exchange_n(place, NULL, __ATOMIC_ACQ_REL);
}

/* From positions to slots: `count` lists of a race of more than FR_TABLE_KEPT servers. */
static inline void fr_lists_label(uint64_t *lists, const fr_table_server *server, uint32_t count)
{
    for (uint32_t i = 0; i < count * FR_TABLE_KEPT; i++)
        lists[i] = (lists[i] & ~0xFFFFull) | server[(uint16_t)lists[i]].slot;
}

static inline uint32_t fr_list_length(const uint64_t *list)
{
    uint32_t count = 0;
    while (count < FR_TABLE_KEPT && list[count] != FR_ENTRY_NONE)
        count++;
    return count;
}

static inline int fr_list_remove(uint64_t *list, uint16_t slot)
{
    uint32_t count = fr_list_length(list), at = 0;
    while (at < count && (uint16_t)list[at] != slot)
        at++;
    if (at == count)
        return 0;
    if (at == count - 1) {
        list[at] |= FR_NO_SLOT;
        return 1;
    }
    for (; at < count - 1; at++)
        list[at] = list[at + 1];
    list[at] = FR_ENTRY_NONE;
    return 1;
}

static inline int fr_entry_is_before(uint64_t a, uint64_t b, const uint16_t *rank)
{
    uint64_t time_a = a >> FR_TIME_SHIFT, time_b = b >> FR_TIME_SHIFT;
    if (FR_UNLIKELY(time_a == time_b))
        return (uint16_t)b != FR_NO_SLOT && rank[(uint16_t)a] < rank[(uint16_t)b];
    return time_a < time_b;
}

static inline int fr_list_add(uint64_t *list, uint64_t entry, const uint16_t *rank)
{
    uint32_t count, at;
    if (FR_LIKELY(list[FR_TABLE_KEPT - 1] >> FR_TIME_SHIFT < entry >> FR_TIME_SHIFT))
        return 0;
    count = fr_list_length(list);
    for (at = 0; at < count; at++)
        if ((uint16_t)list[at] == (uint16_t)entry)
            return 0; /* its earlier arrival stands */
    if (!fr_entry_is_before(entry, list[count - 1], rank))
        return 0;
    at = count < FR_TABLE_KEPT ? count : FR_TABLE_KEPT - 1;
    for (; at && fr_entry_is_before(entry, list[at - 1], rank); at--)
        list[at] = list[at - 1];
    list[at] = entry;
    return 1;
}

/* Race the cells of a block again whose bit in `wanted` is set, and put the answers into the records. */
static inline int fr_block_refill(fr_table_after *after, fr_table_records *records, uint32_t block, uint32_t size,
                                  const uint64_t *wanted)
{
    uint64_t *lists = records->list + ((size_t)block << FR_BLOCK_BITS) * FR_TABLE_KEPT, horizon;
    uint32_t count = 0;
    int status;
    for (uint32_t cell = 0; cell < size; cell++) {
        int is_wanted = wanted[cell >> 6] >> (cell & 63) & 1;
        memset(after->lists + cell * FR_TABLE_KEPT, is_wanted ? 0xFF : 0, FR_TABLE_KEPT * sizeof(uint64_t));
        count += (uint32_t)is_wanted;
    }
    status = fr_block_race(after->server, after->n, after->weight_sum, block, size, after->lists, count, after->runner,
                           &horizon);
    if (status != FR_TABLE_OK)
        return status;
    after->raced_again += count;
    if (horizon > records->horizon[block])
        records->horizon[block] = horizon;
    for (uint32_t cell = 0; cell < size; cell++)
        if (wanted[cell >> 6] >> (cell & 63) & 1) {
            fr_lists_label(after->lists + cell * FR_TABLE_KEPT, after->server, 1);
            memcpy(lists + cell * FR_TABLE_KEPT, after->lists + cell * FR_TABLE_KEPT, FR_TABLE_KEPT * sizeof(uint64_t));
        }
    return FR_TABLE_OK;
}

/* Apply the changes to one block of the records and to the columns (pointers to the block's first cell). */
static inline int fr_block_change(fr_table_after *after, fr_table_records *records, const fr_table_change *change,
                                  uint32_t changes, uint32_t block, uint32_t size, uint16_t *first, uint16_t *second,
                                  uint16_t *third)
{
    uint64_t *lists = records->list + ((size_t)block << FR_BLOCK_BITS) * FR_TABLE_KEPT, horizon = records->horizon[block];
    uint64_t touched[FR_BLOCK_CELLS / 64] = {0}, wanted[FR_BLOCK_CELLS / 64] = {0}, time;
    uint32_t wanted_count = 0;
    fr_runner r;

    for (uint32_t i = 0; i < changes; i++) {
        if (!change[i].inverse_before)
            continue;
        fr_runner_start(&r, change[i].seed, block, size);
        for (; fr_mulhi64(r.sum, change[i].inverse_before) <= horizon; fr_runner_step(&r, size))
            if (fr_list_remove(lists + r.cell * FR_TABLE_KEPT, change[i].slot_before))
                touched[r.cell >> 6] |= 1ull << (r.cell & 63);
    }
    for (uint32_t i = 0; i < changes; i++) {
        if (!change[i].inverse_after)
            continue;
        fr_runner_start(&r, change[i].seed, block, size);
        for (; (time = fr_mulhi64(r.sum, change[i].inverse_after)) <= horizon; fr_runner_step(&r, size))
            if (fr_list_add(lists + r.cell * FR_TABLE_KEPT, time << FR_TIME_SHIFT | change[i].slot_after, after->rank))
                touched[r.cell >> 6] |= 1ull << (r.cell & 63);
    }
    for (uint32_t word = 0; word < FR_BLOCK_CELLS / 64; word++)
        for (uint64_t rest = touched[word]; rest; rest &= rest - 1) {
            uint32_t cell = word * 64 + (uint32_t)__builtin_ctzll(rest);
            /* An empty place and the mark both carry FR_NO_SLOT. */
            if ((uint16_t)lists[cell * FR_TABLE_KEPT + FR_TABLE_CHOICES - 1] == FR_NO_SLOT) {
                wanted[word] |= rest & -rest;
                wanted_count++;
            }
        }
    if (wanted_count) {
        int status;
        if (wanted_count > size / FR_REFILL_WHOLE) {
            memset(wanted, 0xFF, sizeof wanted);
            memset(touched, 0xFF, sizeof touched);
        }
        status = fr_block_refill(after, records, block, size, wanted);
        if (status != FR_TABLE_OK)
            return status;
    }
    for (uint32_t cell = 0; cell < size; cell++)
        if (touched[cell >> 6] >> (cell & 63) & 1) {
            const uint64_t *list = lists + cell * FR_TABLE_KEPT;
            first[cell] = (uint16_t)list[0];
            second[cell] = (uint16_t)list[1];
            third[cell] = (uint16_t)list[2];
        }
    return FR_TABLE_OK;
}

#endif
