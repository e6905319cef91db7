"""Policies by name: the rule that picks a slot for a request that is not bound.

round-robin  nginx's smooth weighted sequence; the default
random       weighted; for completeness, its spread is worse
hash         the pool's ring by the key; without a key, round robin
A planned name is refused with a message that says so.
"""

from fastroute._core.pool_arguments import POLICIES, POLICIES_PLANNED

DEFAULT = "round-robin"

__all__ = ["DEFAULT", "POLICIES", "POLICIES_PLANNED"]
