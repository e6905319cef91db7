# pool_rings: control plane only; other extensions call nothing of it.
