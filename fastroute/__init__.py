"""fastroute: sticky routing and shared cache for fleets of stateless balancers."""

from fastroute import errors
from fastroute.model import Server

__all__ = ["Server", "errors"]
__version__ = "0.1.0"
