"""A replica whose certificate ends soon says so at its start and to Prometheus, until a reload with a new one."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sys

from fastroute.config.certificates import validity
from tests.support.admin import Admin, until
from tests.support.certificates import make_certificates
from tests.support.fleet import Process, free_ports, running, unlink_zone

FAMILY = "fastroute_certificate_expiry_timestamp_seconds"
OWN = (("listener", "web"), ("name", ""))
NAMED = (("listener", "web"), ("name", "a.example"))

FILE = """\
zone = {{ name = "{zone}", size = "1MiB" }}
[admin]
bind = "127.0.0.1:{admin}"
[listeners.web]
bind = "127.0.0.1:{web}"
pool = "app"
tls = {{ certificate = "own.pem", key = "own.key", sni = {{ "a.example" = {{ certificate = "other.pem", key = "other.key" }} }} }}
[[pools.app.servers]]
address = "127.0.0.1:{server}"
"""  # noqa: E501


def test_the_end_of_certificates_is_told_at_the_start_and_after_each_reload(tmp_path: pathlib.Path) -> None:
    for name, days in (("own", 3), ("other", 400)):
        (tmp_path / name).mkdir()
        pair = make_certificates(tmp_path / name, days=days)
        shutil.copy(pair.certificate, tmp_path / f"{name}.pem")
        shutil.copy(pair.key, tmp_path / f"{name}.key")
    ends_s = {name: validity((tmp_path / f"{name}.pem").read_bytes()).ends_s for name in ("own", "other")}
    web, admin, server = free_ports(3)
    zone = f"t-ends-{web}"
    text = FILE.format(zone=zone, web=web, admin=admin, server=server)
    for file in ("own.pem", "own.key", "other.pem", "other.key"):
        text = text.replace(f'"{file}"', f'"{tmp_path / file}"')
    (tmp_path / "fr.toml").write_text(text)
    replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(tmp_path / "fr.toml")], tmp_path / "log")
    with running(replica):
        replica.wait_for_line("ready")
        assert 'own.pem", or one of its chain, ends on ' in replica.output()
        assert "other.pem" not in replica.output()
        asked = Admin(admin, None)
        assert asked.metrics()[FAMILY] == {OWN: ends_s["own"], NAMED: ends_s["other"]}

        for kind in ("pem", "key"):
            shutil.copy(tmp_path / f"other.{kind}", tmp_path / f"own.{kind}")
        assert asked.metrics()[FAMILY][OWN] == ends_s["own"]  # what nobody reloaded is not in force
        os.kill(replica.pid, signal.SIGHUP)
        until(lambda: "reload done" in replica.output(), "the reload")
        until(lambda: asked.metrics().get(FAMILY) == {OWN: ends_s["other"], NAMED: ends_s["other"]}, "the new end")
        assert replica.output().count("ends on") == 1
    unlink_zone(zone)
