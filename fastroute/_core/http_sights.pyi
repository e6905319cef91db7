from typing import final

@final
class Sights:
    def take(self) -> tuple[int, list[bytes], int, list[bytes]]: ...
