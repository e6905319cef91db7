# forks: how often this process was forked off. Read from Python only.
