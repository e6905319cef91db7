"""The proxy inside your own program, with hooks: API tokens become tenants, each tenant has one server.

    python examples/hooks.py 127.0.0.1:8000 127.0.0.1:9001 127.0.0.1:9002 127.0.0.1:9003

A request without a known token is answered with 401 and reaches no server. The others go to their tenant's server,
which sees `X-Tenant` and no token; the answer says which server it was.
"""

import asyncio
import contextlib
import sys

from fastroute.config.load import loads
from fastroute.proxy.hooks import HookRequest, HookResponse
from fastroute.proxy.server import Proxy

TENANTS = {"Bearer t-1": "acme", "Bearer t-2": "globex", "Bearer t-3": "initech"}


def on_request(request: HookRequest) -> None:
    """Who is it? Runs in the event loop for each request: look things up, do not wait."""
    tenant = TENANTS.get(request.header("authorization") or "")
    if tenant is None:
        request.respond(401, b"a token, please\n", "text/plain", [("WWW-Authenticate", "Bearer")])
        return
    request.key = tenant.encode()  # one tenant, one server, over all balancers and through failover
    request.set_header("X-Tenant", tenant)
    request.remove_header("Authorization")


def on_response(request: HookRequest, response: HookResponse) -> None:
    """What the client may know."""
    response.set_header("X-Served-By", response.server.name)
    response.remove_header("Server")


async def main(listen: str, *addresses: str) -> None:
    servers = "".join(f'[[pools.app.servers]]\naddress = "{address}"\n' for address in addresses)
    config = loads(
        f'zone = {{ name = "hooks", size = "4MiB" }}\n[listeners.web]\nbind = "{listen}"\npool = "app"\n{servers}'
        '[pools.app.sticky]\non = "header:X-Tenant"\n'
    ).config
    async with Proxy(config, on_request=on_request, on_response=on_response) as proxy:
        print("ready on", *(f"{host}:{port}" for host, port in proxy.addresses()["web"]), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(*sys.argv[1:]))
