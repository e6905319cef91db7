/* fr_policy_prequal.h: Prequal (Wydrowski et al., "Load is not what you should balance: introducing Prequal", NSDI 2024).
 *
 * A pool of at most 16 probes, each what one server said lately: requests in flight (RIF) and a latency. A pick calls a
 * probe hot when its RIF is above the quantile FR_PREQUAL_QUANTILE of the RIFs seen lately; among the cold the fastest
 * wins, among hot ones the one with the least RIF. Fewer than two usable probes: a random server.
 *
 * Where probes come from. Each response is one: the RIF is read from the loads, which know all processes of the zone, and
 * the latency is the median of the server's recent responses at a similar RIF. Servers that get no request send no
 * response: for them the caller sends active probes (pool.probes_wanted, pool.probe_result), three per pick as in the
 * paper. And with each pick one random server is looked at: its RIF as the loads have it, the latency of its last
 * responses, or, when those are older than FR_PREQUAL_LATENCY_MS, none, which has it tried. Each replaces the server's
 * older probe; a look does not replace what the server said itself.
 *
 * Where they go. Older than 1 s; the oldest when a seventeenth comes; used up (a budget of b uses, the paper's formula with
 * delta 1, three probes per query, one removed); and one for every three that came, by turns the oldest and the worst. The
 * RIF of a probe that was used grows by one, so that a crowd does not follow one good answer.
 *
 * Sinkhole guard: a server that fails fast looks idle. Its failure drops its probe, and until it has answered well as often
 * as it failed in a row (at most FR_PREQUAL_STRIKES_MAX; a good active probe counts as an answer), nothing it says is a
 * probe, and for a second per strike the random pick passes it over where it can.
 *
 * Rules: this process's own; no Python, no allocation. `samples` is by slot.
 */
#ifndef FR_POLICY_PREQUAL_H
#define FR_POLICY_PREQUAL_H

#include "fr_policy_random.h"

#define FR_PREQUAL_POOL 16u
#define FR_PREQUAL_AGE_MS 1000u
#define FR_PREQUAL_QUANTILE 0.84     /* 2^-0.25, the paper's */
#define FR_PREQUAL_PROBES 3u         /* active ones per pick; and one removed for three that came */
#define FR_PREQUAL_USES_MAX 16.0     /* where the formula has no bound: fewer servers than some 24 */
#define FR_PREQUAL_RIFS 128u         /* how many RIFs "lately" is */
#define FR_PREQUAL_RIF_MAX 255u
#define FR_PREQUAL_SAMPLES 8u
#define FR_PREQUAL_STRIKES_MAX 8u
#define FR_PREQUAL_STRIKE_MS 1000u
#define FR_PREQUAL_LATENCY_MS 5000u

typedef struct {
    uint32_t latency_us[FR_PREQUAL_SAMPLES];
    uint16_t rif[FR_PREQUAL_SAMPLES];
    uint8_t count, next, strikes;
    uint64_t at_ms;     /* last response, or last strike */
} fr_samples;

typedef struct {
    uint64_t at_ms;
    uint32_t uses_left;
    uint32_t rif, latency_us;
    uint16_t slot;
} fr_probe;

typedef struct {
    fr_probe probes[FR_PREQUAL_POOL];
    uint32_t count, came, wanted, rif_next, rif_count;
    int worst_next;                          /* which end is removed next */
    double uses_carried;                     /* fractions of uses that earlier probes did not get */
    uint8_t rifs[FR_PREQUAL_RIFS];
    uint16_t histogram[FR_PREQUAL_RIF_MAX + 1];
    fr_samples *samples;
} fr_prequal;

static inline double fr_prequal_uses(uint32_t servers)
{
    double left = (1.0 - (double)FR_PREQUAL_POOL / servers) * FR_PREQUAL_PROBES - 1.0;
    if (servers <= FR_PREQUAL_POOL || left <= 2.0 / FR_PREQUAL_USES_MAX)
        return FR_PREQUAL_USES_MAX;
    return 2.0 / left < 1.0 ? 1.0 : 2.0 / left;
}

static inline void fr_prequal_remove(fr_prequal *p, uint32_t i)
{
    p->probes[i] = p->probes[--p->count];
}

static inline void fr_prequal_forget(fr_prequal *p, uint16_t slot)
{
    for (uint32_t i = p->count; i; i--)
        if (p->probes[i - 1].slot == slot)
            fr_prequal_remove(p, i - 1);
}

/* RIF above which a probe is hot: the quantile of those seen lately. */
static inline uint32_t fr_prequal_hot_above(const fr_prequal *p)
{
    uint32_t left = (uint32_t)(FR_PREQUAL_QUANTILE * p->rif_count), rif = 0;
    if (left >= p->rif_count)
        return FR_PREQUAL_RIF_MAX;
    while (p->histogram[rif] <= left)
        left -= p->histogram[rif++];
    return rif;
}

static inline uint32_t fr_prequal_oldest(const fr_prequal *p)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < p->count; i++)
        if (p->probes[i].at_ms < p->probes[at].at_ms)
            at = i;
    return at;
}

/* The hot one with the most RIF, else the slowest. */
static inline uint32_t fr_prequal_worst(const fr_prequal *p)
{
    uint32_t at = 0, hot_above = fr_prequal_hot_above(p);
    for (uint32_t i = 1; i < p->count; i++) {
        const fr_probe *a = &p->probes[i], *b = &p->probes[at];
        int hot_a = a->rif > hot_above, hot_b = b->rif > hot_above;
        if (hot_a != hot_b ? hot_a : hot_a ? a->rif > b->rif : a->latency_us > b->latency_us)
            at = i;
    }
    return at;
}

static inline void fr_prequal_add(fr_prequal *p, uint16_t slot, uint32_t rif, uint32_t latency_us, uint64_t now_ms,
                                  uint32_t servers)
{
    uint8_t seen = (uint8_t)(rif > FR_PREQUAL_RIF_MAX ? FR_PREQUAL_RIF_MAX : rif);
    double uses = fr_prequal_uses(servers) + p->uses_carried;
    p->uses_carried = uses - (uint32_t)uses;
    fr_prequal_forget(p, slot);
    if (p->count == FR_PREQUAL_POOL)
        fr_prequal_remove(p, fr_prequal_oldest(p));
    p->probes[p->count++] = (fr_probe){now_ms, (uint32_t)uses, rif, latency_us, slot};
    if (p->rif_count == FR_PREQUAL_RIFS)
        p->histogram[p->rifs[p->rif_next]]--;
    else
        p->rif_count++;
    p->histogram[seen]++;
    p->rifs[p->rif_next] = seen;
    p->rif_next = (p->rif_next + 1) % FR_PREQUAL_RIFS;
    p->came++;
}

/* Median of the samples whose RIF is within a quarter (at least 1) of this one; all samples where there is none. */
static inline uint32_t fr_prequal_median(const fr_samples *s, uint32_t rif)
{
    uint32_t found[FR_PREQUAL_SAMPLES], count = 0, reach = rif / 4 + 1;
    for (int all = 0; !count && all < 2; all++)
        for (uint32_t i = 0; i < s->count; i++) {
            uint32_t j = count, away = s->rif[i] > rif ? s->rif[i] - rif : rif - s->rif[i];
            if (!all && away > reach)
                continue;
            for (; j && found[j - 1] > s->latency_us[i]; j--)
                found[j] = found[j - 1];
            found[j] = s->latency_us[i];
            count++;
        }
    return count ? found[(count - 1) / 2] : 0;
}

/* A response came: RIF as it is behind it. latency_ns 0: not measured. */
static inline void fr_prequal_response(fr_prequal *p, uint16_t slot, uint32_t rif, int failed, uint64_t latency_ns,
                                       uint64_t now_ms, uint32_t servers)
{
    fr_samples *s = &p->samples[slot];
    s->at_ms = now_ms;
    if (failed) {
        if (s->strikes < FR_PREQUAL_STRIKES_MAX)
            s->strikes++;
        fr_prequal_forget(p, slot);
        return;
    }
    if (!latency_ns)
        return;
    s->latency_us[s->next] = latency_ns > UINT32_MAX * 1000ull ? UINT32_MAX : (uint32_t)(latency_ns / 1000u);
    s->rif[s->next] = (uint16_t)(rif > 65535 ? 65535 : rif);
    s->next = (uint8_t)((s->next + 1) % FR_PREQUAL_SAMPLES);
    if (s->count < FR_PREQUAL_SAMPLES)
        s->count++;
    if (s->strikes && --s->strikes)
        return;
    fr_prequal_add(p, slot, rif, fr_prequal_median(s, rif), now_ms, servers);
}

/* What an active probe found. */
static inline void fr_prequal_result(fr_prequal *p, uint16_t slot, uint32_t rif, uint64_t latency_ns, uint64_t now_ms,
                                     uint32_t servers)
{
    fr_samples *s = &p->samples[slot];
    if (s->strikes && --s->strikes)
        return;
    fr_prequal_add(p, slot, rif, latency_ns > UINT32_MAX * 1000ull ? UINT32_MAX : (uint32_t)(latency_ns / 1000u), now_ms,
                   servers);
}

static inline int fr_prequal_is_struck(const fr_prequal *p, uint16_t slot, uint64_t now_ms)
{
    const fr_samples *s = &p->samples[slot];
    return s->strikes && now_ms < s->at_ms + s->strikes * (uint64_t)FR_PREQUAL_STRIKE_MS;
}

/* Look at one server: see the head of this file. */
static inline void fr_prequal_look(fr_prequal *p, const fr_eligible *e, const fr_loads *loads, uint32_t place, uint64_t now_ms)
{
    uint16_t slot = e->slots[place];
    const fr_samples *s = &p->samples[slot];
    uint32_t rif;
    for (uint32_t i = 0; i < p->count; i++)
        if (p->probes[i].slot == slot)
            return;
    if (s->strikes)
        return;
    rif = (uint32_t)fr_loads_of(loads, e->columns[place]);
    fr_prequal_add(p, slot, rif, s->at_ms + FR_PREQUAL_LATENCY_MS < now_ms ? 0 : fr_prequal_median(s, rif), now_ms, e->count);
}

/* Place of the pick, or UINT32_MAX: draw at random. place_of: by slot, FR_NO_SLOT when not eligible. */
static inline uint32_t fr_prequal_pick(fr_prequal *p, fr_eligible *e, const fr_loads *loads, const uint16_t *place_of,
                                       uint64_t now_ms)
{
    uint32_t best = UINT32_MAX, hot_above, place, usable = 0;

    p->wanted = p->wanted + FR_PREQUAL_PROBES > 64 ? 64 : p->wanted + FR_PREQUAL_PROBES;
    for (uint32_t i = p->count; i; i--) {
        const fr_probe *probe = &p->probes[i - 1];
        if (probe->at_ms + FR_PREQUAL_AGE_MS < now_ms || place_of[probe->slot] == FR_NO_SLOT)
            fr_prequal_remove(p, i - 1);
    }
    if (p->count < 2 && e->count > 1)
        return UINT32_MAX;
    hot_above = fr_prequal_hot_above(p);
    for (uint32_t i = 0; i < p->count; i++) {
        const fr_probe *a = &p->probes[i], *b = &p->probes[best == UINT32_MAX ? i : best];
        int hot_a = a->rif > hot_above, hot_b = b->rif > hot_above;
        if (!fr_is_open(e, loads, place_of[a->slot]))
            continue;
        usable++;
        if (best == UINT32_MAX || (hot_a != hot_b ? !hot_a : hot_a ? a->rif < b->rif : a->latency_us < b->latency_us))
            best = i;
    }
    if (usable < 2 && e->count > 1)
        return UINT32_MAX;
    if (best == UINT32_MAX)
        return UINT32_MAX;
    place = place_of[p->probes[best].slot];
    p->probes[best].rif++;
    if (--p->probes[best].uses_left == 0)
        fr_prequal_remove(p, best);
    if (p->came >= FR_PREQUAL_PROBES && p->count > 2) {
        p->came -= FR_PREQUAL_PROBES;
        fr_prequal_remove(p, p->worst_next ? fr_prequal_worst(p) : fr_prequal_oldest(p));
        p->worst_next = !p->worst_next;
    }
    return place;
}

#endif
