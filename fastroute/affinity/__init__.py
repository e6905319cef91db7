"""Affinity: bindings of keys to servers, on which several balancers agree.

record      the 32 bytes that lie in the store
agreement   claim, renew, move as state machines over values
binding     what happens to one key, over near table and store
base        identity, zone, views: what every driver has
table       `Affinity`: the asyncio driver that Router uses
blocking    the same for threads, behind fastroute.sync
"""

from fastroute.affinity.table import Affinity

__all__ = ["Affinity"]
