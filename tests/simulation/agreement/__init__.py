"""Simulator of the agreement: whole workers, a modelled network and modelled memcached in virtual time, from one seed.

Reading order: loop (time and processes), memcached (the model of the store), network (connections and what breaks
them), fleet (machines, workers and users: the product's own code), faults (what happens to them), invariants (what must
hold all the same), simulation (one run), bugs (deliberate ones, which must be caught), __main__ (many runs).

What is real here: Router, Pool, Affinity with its near table and zone, Memcached with its codec and connections. They
run unchanged on an event loop whose time is an argument. What is modelled: sockets, memcached, servers, people.
"""
