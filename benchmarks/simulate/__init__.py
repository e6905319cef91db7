"""A seeded discrete-event simulation, in virtual time, of servers behind real `fastroute.Pool` objects.

    engine      servers that share their processor among their requests; the queue of events
    fleet       replicas: Pools whose clocks are held at the virtual time
    scenarios   what is simulated, and what is measured
    __main__    the study: results, plots (docs/design/policies.md)

Nothing here sleeps or reads a clock; the same seed gives the same numbers. The policies are the product's own code.
"""
