# forks: how often this process was forked off.
from typing import final

@final
class Forks:
    @property
    def count(self) -> int: ...

forks: Forks
