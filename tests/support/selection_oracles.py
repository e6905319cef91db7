"""Small Python references for the compiled selection core: slow, obvious, independent of it."""

import struct
from fractions import Fraction

import xxhash

MASK = (1 << 64) - 1


def rotl(x: int, r: int) -> int:
    return ((x << r) | (x >> (64 - r))) & MASK


def siphash128(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 with 128-bit output, after the paper's description."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return struct.pack("<QQ", low, v[0] ^ v[1] ^ v[2] ^ v[3])


def _log2_steps() -> list[int]:
    steps = []
    for i in range(1025):
        x, bits = Fraction(1024 + i, 1024), 0
        for _ in range(31):
            x = Fraction(int(x * x * (1 << 62)), 1 << 62)  # as many digits as matter; cut off, never rounded
            bits <<= 1
            if x >= 2:
                x, bits = x / 2, bits | 1
        steps.append(bits if i < 1024 else 1 << 31)
    return steps


LOG2_STEPS = _log2_steps()


def gap(low: int) -> int:
    """-log2((low + 1) / 2**32) with 31 binary digits, linear between 1024 steps per octave."""
    octave = (low + 1).bit_length() - 1
    fraction = (low + 1) << (63 - octave)  # 1.xxx with 63 digits
    step, rest = (fraction >> 53) & 1023, (fraction >> 21) & 0xFFFFFFFF
    log = LOG2_STEPS[step] + (((LOG2_STEPS[step + 1] - LOG2_STEPS[step]) * rest) >> 32)
    return ((32 - octave) << 31) - log


def _mixed(state: int) -> int:
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def race(weights: dict[str, int], cells: int, block_cells: int = 2048) -> list[tuple[str, ...]]:
    """The `table` ring by its definition: per cell the (at most three) servers whose first hits are earliest."""
    step = 0x9E3779B97F4A7C15
    first_hits: list[list[tuple[int, str]]] = [[] for _ in range(cells)]
    for name in sorted(name for name in weights if weights[name]):
        seed = xxhash.xxh64_intdigest(name.encode(), 2)
        for begin in range(0, cells, block_cells):
            size = min(block_cells, cells - begin)
            stream = (seed ^ ((begin // block_cells + 1) * 0xA24BAED4963EE407)) & MASK
            state, total, left = _mixed((stream + step) & MASK), 0, set(range(size))
            while left:
                state = (state + step) & MASK
                z = _mixed(state)
                total += gap(z & 0xFFFFFFFF)
                cell = ((z >> 32) * size) >> 32
                if cell in left:
                    left.remove(cell)
                    first_hits[begin + cell].append(((total * (MASK // weights[name])) >> 64, name))
    return [tuple(name for _, name in sorted(hits)[:3]) for hits in first_hits]


def smooth_sequence(weights: dict[str, int], picks: int) -> list[str]:
    """nginx's smooth weighted round robin over the names in order."""
    names = sorted(name for name in weights if weights[name])
    current = dict.fromkeys(names, 0)
    made = []
    for _ in range(picks):
        for name in names:
            current[name] += weights[name]
        best = max(names, key=lambda name: current[name])  # the first of equals
        current[best] -= sum(weights.values())
        made.append(best)
    return made
