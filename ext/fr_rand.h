/* fr_rand.h: random numbers for picks and for deterministic streams. Not for secrets: those come from the system.
 *
 *   fr_splitmix64   counter generator: one 64-bit state, one draw per step; the streams of the `table` ring
 *                   (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)
 *   fr_xoshiro      xoshiro256++: the random policy (Blackman and Vigna, "Scrambled linear pseudorandom number
 *                   generators", 2021)
 *
 * Rules: integers only, the same numbers on every platform; the state belongs to the caller.
 */
#ifndef FR_RAND_H
#define FR_RAND_H

#include "fr_base.h"

#define FR_SPLITMIX_STEP 0x9E3779B97F4A7C15ull

static inline uint64_t fr_splitmix64(uint64_t *state)
{
    uint64_t z = (*state += FR_SPLITMIX_STEP);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

typedef struct {
    uint64_t s[4];
} fr_xoshiro;

static inline void fr_xoshiro_seed(fr_xoshiro *state, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        state->s[i] = fr_splitmix64(&seed);
}

static inline uint64_t fr_xoshiro_next(fr_xoshiro *state)
{
    uint64_t *s = state->s, sum = s[0] + s[3], t = s[1] << 17;
    uint64_t result = ((sum << 23) | (sum >> 41)) + s[0];
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

#endif
