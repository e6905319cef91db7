"""Contents that differ over a pool: which servers are the odd ones, so that nobody flips old-new-old. Pure.

A server's fingerprint is a digest of the pages that are configured, or what a field of its answer to the check says
(a build). The pool's current fingerprint is that of more than half of the servers that have one; until another has more
than half of them it stays what it was, so that a tie, or a deploy that stands still half way, changes nothing. Who
differs from it is odd.

With `keep-bound-only` the odd ones keep their users and get no new ones. In a rolling deploy those are first the new
servers and, once more than half are new, the old ones: a user is on an old server until that one is deployed, and is on
a new one for good after he has been moved there.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Mapping

__all__ = ["current_of", "digest_of", "odd_ones"]


def current_of(fingerprints: Mapping[str, str], before: str) -> str:
    """The pool's current fingerprint.

    Args:
        fingerprints: server -> fingerprint, of those that have one.
        before: what it was; "" for nothing yet.
    """
    if not fingerprints:
        return before
    counts = collections.Counter(fingerprints.values())
    most, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    if 2 * count > len(fingerprints):
        return most
    return before or most


def odd_ones(fingerprints: Mapping[str, str], current: str) -> set[str]:
    """The servers that differ from the current fingerprint."""
    return {server for server, fingerprint in fingerprints.items() if fingerprint != current}


def digest_of(pages: Iterable[tuple[str, int, bytes]]) -> str:
    """The fingerprint of pages: (path, status, body) each, in a fixed order; 22 characters."""
    digest = hashlib.blake2b(digest_size=11)
    for path, status, body in pages:
        digest.update(b"%d:%s %d %d:" % (len(path), path.encode(), status, len(body)))
        digest.update(body)
    return digest.hexdigest()
