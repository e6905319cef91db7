"""Servers that appear and disappear in DNS and in a file, seen by users of a real replica."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

from tests.support.admin import CLIENT, TOKEN, Admin, until
from tests.support.fleet import Process, free_ports, running, start_upstreams, unlink_zone
from tests.support.name_server import NameServer

ZONE = f"discovery{os.getpid()}"
SERVICE = "_http._tcp.app.test"


def visit(port: int, *users: str) -> list[str]:
    asked = [CLIENT.get(f"http://127.0.0.1:{port}/", headers={"Cookie": f"sid={user}"}) for user in users]
    return [one.headers.get("x-served-by", str(one.status_code)) for one in asked]


def test_servers_follow_dns_and_a_file(tmp_path: pathlib.Path) -> None:
    *ports, web, files, admin = free_ports(6)
    listed = tmp_path / "servers.json"
    listed.write_text("[]")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with NameServer() as names, running(*start_upstreams(tmp_path, ports)):
        served = [f"up-{port}" for port in ports]
        names.set(SERVICE, "SRV", f"0 1 {ports[0]} a.test.", f"0 1 {ports[1]} a.test.")
        names.set("a.test", "A", "127.0.0.1")
        config = tmp_path / "fr.toml"
        config.write_text(
            'secret = "a secret for tests of at least 32 bytes"\n'
            f'workers = 2\nzone = {{ name = "{ZONE}", size = "8MiB" }}\n'
            f'[listeners.web]\nbind = "127.0.0.1:{web}"\npool = "app"\n'
            f'[listeners.files]\nbind = "127.0.0.1:{files}"\npool = "filed"\n'
            f'[pools.app.discover]\nsrv = "{SERVICE}"\nresolvers = ["{names.address}"]\n'
            '[pools.app.sticky]\non = "cookie:sid"\n'
            f'[pools.filed.discover]\nfile = "{listed}"\n'
            f'[admin]\nbind = "127.0.0.1:{admin}"\ntoken = "file:{token}"\n'
        )
        replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(config)], tmp_path / "fr.log")
        with running(replica):
            replica.wait_for_line("ready")
            desk = Admin(admin)
            users = [f"user-{n}" for n in range(12)]
            before = visit(web, *users)
            assert len(set(before)) == 2
            assert visit(files, "somebody") == ["503"]

            # one joins, one leaves: nobody moves but the users of the one that left
            names.set(SERVICE, "SRV", f"0 1 {ports[1]} a.test.", f"0 1 {ports[2]} a.test.")
            addresses = sorted(f"127.0.0.1:{port}" for port in ports[1:])

            def now() -> list[str]:
                return sorted(one["name"] for one in desk.get("/api/v1/pools/app")["servers"])

            until(lambda: now() == addresses, "the new list is followed")
            gone = served[0]
            assert gone in before
            until(lambda: gone not in visit(web, *users), "workers follow")
            after = visit(web, *users)
            assert [b for a, b in zip(before, after, strict=True) if a != gone] == [a for a in before if a != gone]
            assert len(set(visit(web, *(f"fresh-{n}" for n in range(8))))) == 2

            # what is broken changes nothing and is told
            names.broken = True
            until(lambda: desk.get("/api/v1/pools/app")["found_note"], "what is wrong is told")
            assert now() == addresses
            assert visit(web, *users) == after
            names.broken = False
            until(lambda: not desk.get("/api/v1/pools/app")["found_note"], "it is well again")

            # the file
            aside = tmp_path / "aside"
            aside.write_text(json.dumps([{"name": "filed-1", "address": f"127.0.0.1:{ports[0]}"}]))
            aside.rename(listed)
            until(lambda: visit(files, "somebody") == [served[0]], "the file is followed")
            listed.write_text("[ broken")
            until(lambda: "servers.json" in desk.get("/api/v1/pools/filed")["found_note"], "it is broken")
            assert visit(files, "somebody") == [served[0]]

            # a reload keeps what was found
            config.write_text(config.read_text().replace("workers = 2", "workers = 1"))
            os.kill(replica.pid, signal.SIGHUP)
            until(lambda: "reload done" in replica.output(), "it is reloaded")
            assert visit(web, *users) == after
            assert replica.output().count("found before stay") >= 2
    unlink_zone(ZONE)
