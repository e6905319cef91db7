/* fr_board.h: what the workers of one replica write for others to read, and what the replica tells its workers.
 *
 * One anonymous shared mapping, made by the supervisor before it forks:
 *
 *      header     counts of what there is, version of the orders, outcome of reloads                     4096 bytes
 *      orders     one word per server: the state and weight that an operator gave it                       16 bytes each
 *      health     what checks say of a server, written by the keeper: the one worker that asks            256 bytes each
 *      row 0      one worker's counters and gauges: head, engine, listeners, pools, store nodes, servers
 *      row 1 ...
 *
 * Why not in the zone: a zone may be shared by replicas with different configurations, outlives them, and is not there
 * when nothing is sticky; counters belong to one replica and live as long as it does.
 *
 * Rules: a row has one writer, the process whose pid is in its head, so counting is a plain store that readers see whole;
 * no locks. Counters only grow: a row whose process died keeps its counts, and the next worker to get the row goes on
 * from them, so no sum ever falls. Gauges count while the row has a pid and are cleared when it gets a new one.
 * Pages of rows that nobody took are never touched, so room to spare costs address space alone.
 */
#ifndef FR_BOARD_H
#define FR_BOARD_H

#include "fr_base.h"

#define FR_BOARD_CLASSES 6u             /* of status codes: 0 = outside 100..599 */
#define FR_BOARD_REASONS 8u             /* the last one: a reason that has no place of its own */
#define FR_BOARD_STATES 5u
#define FR_BOARD_BOUNDS 17u
#define FR_BOARD_ENGINE_BYTES 1024u     /* fr_counts of http_wire */
#define FR_BOARD_HEADER_BYTES 4096u
#define FR_BOARD_CACHE_RESULTS 7u       /* fastroute.metrics.layout.CACHE_RESULTS has the words */
#define FR_BOARD_POOL_GAUGES 13u
#define FR_BOARD_NODE_GAUGES 16u
#define FR_BOARD_NOTE_BYTES 2048u
#define FR_BOARD_TELLS_BYTES 184u
#define FR_BOARD_NAME_BYTES 64u

enum { FR_RETRY_OK = 0, FR_RETRY_FAILED = 1 };

/* Why a server was selected; fastroute._core.board.REASONS has the words. */
enum {
    FR_WHY_NEAR = 0, FR_WHY_STORE = 1, FR_WHY_COOKIE = 2, FR_WHY_POLICY = 3, FR_WHY_MOVED = 4, FR_WHY_FALLBACK = 5,
    FR_WHY_PANIC = 6, FR_WHY_OTHER = 7
};

/* Upper bounds in ns, three to a decade: from what loopback takes to what the longest time limits allow. */
static const uint64_t fr_board_bounds_ns[FR_BOARD_BOUNDS] = {
    100000u, 250000u, 500000u, 1000000u, 2500000u, 5000000u, 10000000u, 25000000u, 50000000u, 100000000u, 250000000u,
    500000000u, 1000000000u, 2500000000u, 5000000000u, 10000000000u, 30000000000u,
};

typedef struct {
    uint64_t counts[FR_BOARD_BOUNDS + 1];
    uint64_t sum_ns;
} fr_histogram;

/* One server. What only grows, then gauges. */
typedef struct {
    uint64_t responses[FR_BOARD_CLASSES];
    uint64_t requests;          /* attempts begun */
    uint64_t failures;          /* of these, failed by the server */
    int64_t in_flight;          /* gauges from here on */
    uint64_t latency_ns;
    double weight_effective;
    uint32_t weight;
    uint32_t state;             /* 1 + FR_READY ...; 0: not said yet */
    uint32_t flips[FR_BOARD_STATES]; /* counters again: changes to a state, by health */
    uint32_t spare;
    uint64_t spare_word;
} fr_board_server;

/* One pool. `counted` and `gauges` are written by the control plane; fastroute.metrics.layout names their words. */
typedef struct {
    uint64_t selections[FR_BOARD_REASONS];
    uint64_t responses[FR_BOARD_CLASSES]; /* answers that no server gave */
    uint64_t retries[2];        /* requests tried again, by outcome */
    fr_histogram duration;
    uint64_t counted[17];
    uint64_t cache[FR_BOARD_CACHE_RESULTS]; /* requests on routes with a cache, by result */
    uint64_t gauges[FR_BOARD_POOL_GAUGES];
} fr_board_pool;

typedef struct {
    uint64_t open;              /* a gauge */
    uint64_t spare[7];
} fr_board_listener;

typedef struct {
    uint64_t counted[48];
    uint64_t gauges[FR_BOARD_NODE_GAUGES];
} fr_board_node;

typedef struct {
    uint32_t pid;               /* 0: nobody's; what gauges say counts no more */
    uint32_t accepting;
    uint64_t applied;           /* version of the orders that this worker follows */
    uint64_t spare[6];
} fr_board_row;

typedef struct {
    uint64_t word;              /* state | 1 << 8 if a weight was given | weight << 16 | 1 << 63 if anything was given */
    uint64_t given_ms;          /* when, wall clock */
} fr_board_order;

/* What checks say of a server. One writer at a time, the keeper; `sequence` is odd while it writes `tells`. */
typedef struct {
    uint64_t word;              /* what holds: fastroute.health.verdict; 0: nothing is said */
    uint64_t checked_ms;        /* the last check, wall clock; 0: never */
    uint64_t latency_ns;        /* of it */
    uint64_t checks, failed;    /* by this replica */
    uint64_t flips;             /* changes of what holds */
    uint64_t sequence;
    uint64_t tells_size;
    char tells[FR_BOARD_TELLS_BYTES]; /* what the check came to */
    uint64_t spare;
} fr_board_health;

typedef struct {
    uint64_t version;           /* of the orders and of what health says */
    uint32_t rows_used;         /* rows that were ever taken */
    uint32_t servers_used;      /* columns that were ever given out */
    uint32_t stopping;
    uint32_t spare;
    uint64_t reloads;           /* attempts that are over */
    uint64_t reloads_ok, reloads_refused;
    uint64_t note_size;
    char note[FR_BOARD_NOTE_BYTES]; /* what the last reload came to */
    uint64_t keeper;            /* pid of the worker that keeps the replica << 32 | low half of when it last said so, ms */
    char name[FR_BOARD_NAME_BYTES]; /* of the replica, among the fleet's */
} fr_board_header;

_Static_assert(sizeof(fr_board_server) == 128, "two cache lines: servers never share one");
_Static_assert(sizeof(fr_board_pool) % 64 == 0 && sizeof(fr_board_node) == 512, "layout");
_Static_assert(sizeof(fr_board_health) == 256, "layout");
_Static_assert(sizeof(fr_board_listener) == 64 && sizeof(fr_board_row) == 64, "layout");
_Static_assert(sizeof(fr_board_header) <= FR_BOARD_HEADER_BYTES, "layout");

static inline void fr_observe(fr_histogram *histogram, uint64_t ns)
{
    uint32_t i = 0;
    while (i < FR_BOARD_BOUNDS && ns > fr_board_bounds_ns[i])
        i++;
    histogram->counts[i] += 1;
    histogram->sum_ns += ns;
}

#endif
