from typing_extensions import disjoint_base

from fastroute._core.http_attempt import Attempt

@disjoint_base
class Tunnel(Attempt): ...
