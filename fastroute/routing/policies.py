"""Policies by name: the rule that picks a slot for a request that is not bound.

round-robin        nginx's smooth weighted sequence, one for all workers of a zone; the default
random             weighted; for completeness, its spread is worse
hash               the pool's ring by the key; without a key, round robin; `max_load` bounds a server's load
least-connections  the least in_flight / weight over all processes of the zone, exact; equals take turns
two-choices        the less busy of two random servers
peak-ewma          the better of two by latency x (in_flight + 1) / weight, latency as Finagle's peak EWMA
prequal            by probes of requests in flight and latency, hot-cold rule; fed by responses and active probes

What each does to the bit stands at the head of its file, ext/fr_policy_*.h.
"""

from fastroute._core.pool_arguments import POLICIES

DEFAULT = "round-robin"

__all__ = ["DEFAULT", "POLICIES"]
