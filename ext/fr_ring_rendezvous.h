/* fr_ring_rendezvous.h: the score of weighted rendezvous hashing, in integers.
 *
 * A server's score for a key is -log2(u) / weight, u uniform from the key's and the server's hash: the smallest of
 * independent exponential times, one per server, so that each wins in exact proportion to its weight (Wang et al.,
 * "Weighted distributed hash tables", 2005; the same as -w / ln(u) largest). Scores are compared as fractions by
 * cross-multiplication in 128 bits: no division, no floating point, the same winner on every platform.
 *
 * -log2(u) for u = m x 2^-(shift+1), 1 <= m < 2: the knot k = (i + 1) / 1024 at or above m, d = 1 - m / k < 2^-10, and
 * -log2(m / k) = (d + d^2/2 + d^3/3) / ln 2, whose relative error is below d^3/4 < 2^-32; near u = 1, where winners are,
 * the knot is 2 exactly and the score keeps that relative precision down to its last bit. 58 bits behind the point.
 */
#ifndef FR_RING_RENDEZVOUS_H
#define FR_RING_RENDEZVOUS_H

#include "fr_base.h"

#define FR_SCORE_BITS 58
#define FR_SCORE_KNOTS 1024
#define FR_SCORE_INVERSE_LN2 0x171547652B82FE17ull /* 2^60 / ln 2 */

static uint64_t fr_score_log[FR_SCORE_KNOTS + 1];     /* 1 - log2(1 + i/1024), FR_SCORE_BITS behind the point */
static uint64_t fr_score_inverse[FR_SCORE_KNOTS + 1]; /* 2^63 / (1 + i/1024) */

static inline void fr_score_prepare(void)
{
    for (uint32_t i = 0; i <= FR_SCORE_KNOTS; i++) {
        uint64_t x = (1ull << 62) + ((uint64_t)i << 52), bits = 0;
        fr_score_inverse[i] = (uint64_t)(((unsigned __int128)1 << 73) / (FR_SCORE_KNOTS + i));
        if (i == FR_SCORE_KNOTS) {
            fr_score_log[i] = 0;
            continue;
        }
        for (int bit = 0; bit < FR_SCORE_BITS; bit++) { /* log2 by repeated squaring */
            x = (uint64_t)(((unsigned __int128)x * x) >> 62);
            bits <<= 1;
            if (x >> 63) {
                x >>= 1;
                bits |= 1;
            }
        }
        fr_score_log[i] = (1ull << FR_SCORE_BITS) - bits;
    }
}

/* -log2((z + 1) / 2^64), FR_SCORE_BITS behind the point, below 64. */
static inline uint64_t fr_score_exponential(uint64_t z)
{
    uint64_t x, m, rest, d, d2, d3, sum;
    uint32_t shift, i;
    if (z == UINT64_MAX)
        return 0;
    if (z == 0)
        return UINT64_MAX; /* 64 would not fit */
    x = z + 1;
    shift = (uint32_t)__builtin_clzll(x);
    m = x << shift;                                    /* 1.63 fixed point: 1 <= m < 2 */
    i = (uint32_t)((m >> 53) & (FR_SCORE_KNOTS - 1)) + 1;
    rest = ((uint64_t)(FR_SCORE_KNOTS + i) << 53) - m; /* k - m; for k = 2 this wraps to -m, which is right mod 2^64 */
    d = (uint64_t)(((unsigned __int128)rest * fr_score_inverse[i]) >> 62); /* d x 2^64, < 2^54 */
    d2 = (uint64_t)(((unsigned __int128)d * d) >> 64);
    d3 = (uint64_t)(((unsigned __int128)d2 * d) >> 64);
    sum = d + d2 / 2 + d3 / 3;
    /* sum x 2^-64 / ln 2 with 58 bits: x 2^60/ln2 gives 124 bits behind the point. */
    sum = (uint64_t)(((unsigned __int128)sum * FR_SCORE_INVERSE_LN2) >> 66);
    return ((uint64_t)shift << FR_SCORE_BITS) + fr_score_log[i] + sum;
}

/* The draw of a server for a key: splitmix64's finish over both hashes. */
static inline uint64_t fr_score_draw(uint64_t hash, uint64_t server)
{
    uint64_t z = (hash ^ server) + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

typedef struct {
    uint64_t seed;
    uint32_t weight;
    uint16_t slot;
} fr_rival;

/* Does a stand before b for this hash? A total order: by score; of equal scores the lighter one first; among equal weights
 * by the draw itself (the score falls with it, so no logarithm is needed), then by position. */
static inline int fr_rival_before(const fr_rival *rival, uint32_t a, uint32_t b, uint64_t hash)
{
    uint64_t draw_a = fr_score_draw(hash, rival[a].seed), draw_b = fr_score_draw(hash, rival[b].seed);
    unsigned __int128 left, right;
    if (rival[a].weight == rival[b].weight)
        return draw_a != draw_b ? draw_a > draw_b : a < b;
    left = (unsigned __int128)fr_score_exponential(draw_a) * rival[b].weight;
    right = (unsigned __int128)fr_score_exponential(draw_b) * rival[a].weight;
    return left != right ? left < right : rival[a].weight < rival[b].weight;
}

/* Position of the first of `count` >= 1 rivals, which are sorted by weight: the largest draw of each weight, then one
 * score per weight. */
static inline uint32_t fr_rival_first(const fr_rival *rival, uint32_t count, uint64_t hash)
{
    uint32_t best = 0, at = 0;
    while (at < count) {
        uint32_t weight = rival[at].weight, first = at;
        uint64_t most = fr_score_draw(hash, rival[at].seed);
        for (at++; at < count && rival[at].weight == weight; at++) {
            uint64_t draw = fr_score_draw(hash, rival[at].seed);
            if (draw > most) {
                most = draw;
                first = at;
            }
        }
        if (first != best && fr_rival_before(rival, first, best, hash))
            best = first;
    }
    return best;
}

/* Position of the first allowed rival behind `last` (-1: of all); -1: none. */
static inline int fr_rival_after(const fr_rival *rival, uint32_t count, uint64_t hash, int last, const uint8_t *allowed)
{
    int best = -1;
    for (uint32_t i = 0; i < count; i++) {
        if ((int)i == last || (allowed && !allowed[rival[i].slot]))
            continue;
        if (last >= 0 && !fr_rival_before(rival, (uint32_t)last, i, hash))
            continue;
        if (best < 0 || fr_rival_before(rival, i, (uint32_t)best, hash))
            best = (int)i;
    }
    return best;
}

#endif
