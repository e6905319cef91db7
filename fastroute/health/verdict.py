"""A verdict: what checks say of a server, as the replica's keeper tells its workers in one 64-bit word. Pure.

bit 0 down   1 ejected   2 keep_bound   3 joining   4 odd   16..47 restarts, modulo 2^32   63 something is said
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verdict"]

_SAID = 1 << 63
_RESTARTS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds for one server.

    Attributes:
        down: checks fail.
        ejected: taken out by what it did: failures, latency, other contents.
        keep_bound: only those who are bound to it may stay: its contents differ.
        joining: not yet ready: its hook has not succeeded.
        odd: its contents differ from the pool's, whatever follows from that.
        restarts: grows whenever the server is seen to have restarted.
    """

    down: bool = False
    ejected: bool = False
    keep_bound: bool = False
    joining: bool = False
    odd: bool = False
    restarts: int = 0

    def word(self) -> int:
        """As the board has it."""
        marks = self.down | self.ejected << 1 | self.keep_bound << 2 | self.joining << 3 | self.odd << 4
        return _SAID | marks | (self.restarts & _RESTARTS) << 16

    @staticmethod
    def of(word: int) -> Verdict | None:
        """Of a word of the board; None where nothing is said."""
        if not word & _SAID:
            return None
        return Verdict(
            bool(word & 1), bool(word & 2), bool(word & 4), bool(word & 8), bool(word & 16), word >> 16 & _RESTARTS
        )
