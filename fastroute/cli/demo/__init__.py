"""`fastroute demo`: application servers, two replicas and generated users on this machine, in a minute.

Reading order: app (the application server), children (what processes run), users (the load and what it finds),
show (table and summary), run (all of it together).
"""
