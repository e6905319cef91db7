"""A process that holds requests in flight in a shared zone: argv: zone name, size, then its orders on standard input.

Orders, one per line: "hold NAME COUNT", "pick N" (answers the names), "exit". Each is answered with one line.
"""

import sys

from fastroute import Pool, Server, Zone


def servers(count: int = 4) -> list[Server]:
    return [Server(f"10.0.0.{i + 1}:80", name=f"s{i}") for i in range(count)]


def main() -> None:
    held = []
    with Zone(sys.argv[1], sys.argv[2]) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        print("ready", flush=True)
        for line in sys.stdin:
            order, *rest = line.split()
            if order == "hold":
                held += [pool.request_to(rest[0]).__enter__() for _ in range(int(rest[1]))]
                print("held", flush=True)
            elif order == "pick":
                made = [pool.request().__enter__() for _ in range(int(rest[0]))]
                print(*(request.server.name for request in made), flush=True)
                held += made
            else:
                break
        for request in held:
            request.__exit__(None, None, None)
        del pool


if __name__ == "__main__":
    main()
