from typing_extensions import disjoint_base

from fastroute._core.http_tunnel import Tunnel

@disjoint_base
class Request(Tunnel): ...
