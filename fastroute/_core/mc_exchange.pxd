# mc_exchange: one key read over a connected socket, for threads. Called from Python only.
