"""The files for containers and service managers: linted, verified by systemd, their configuration run as it stands."""

from __future__ import annotations

import http.client
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.fleet import Process, free_ports, running, unlink_zone
from tests.support.memcached import Memcached
from tests.support.shared import ROOT

DEPLOY = ROOT / "examples" / "deploy"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_image_is_built_in_two_stages_and_runs_without_rights() -> None:
    found = instructions()
    froms = [at for at, (word, _) in enumerate(found) if word == "FROM"]
    assert len(froms) == 2
    final = found[froms[1] :]
    assert [rest for word, rest in final if word == "USER"] == ["10001"]
    assert not any(word == "RUN" and "apt-get" in rest for word, rest in final), "no compiler in what runs"
    assert any(word == "HEALTHCHECK" for word, _ in final)
    known = "ARG FROM RUN WORKDIR COPY ENV USER EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    assert {word for word, _ in found} <= set(known.split())
    for word, rest in found:
        assert (
            word != "RUN" or "apt-get install" not in rest or ("--no-install-recommends" in rest and "rm -rf" in rest)
        )
        assert word not in ("ENTRYPOINT", "CMD") or rest.startswith("["), "signals reach the program, not a shell"
        assert word != "FROM" or ":" in rest, "a version, not whatever is latest"


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not here")
    command = ["hadolint", "--failure-threshold", "warning", "--ignore", "DL3008", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout  # DL3008: versions of Debian's packages are Debian's


def test_docker_takes_the_compose_file() -> None:
    command = ["docker", "compose"]
    if (
        shutil.which("docker") is None
        or subprocess.run([*command, "version"], capture_output=True, timeout=60).returncode
    ):
        pytest.skip("docker compose is not here")
    secrets = dict.fromkeys(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.M), "0123456789abcdef" * 2)
    command += ["-f", str(DEPLOY / "compose.yaml"), "config", "--services"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **secrets})
    assert done.returncode == 0, done.stderr
    assert {"web-1", "web-2", "web-3", "memcached"} < set(done.stdout.split())


def test_the_compose_file_has_two_replicas_a_store_and_three_servers() -> None:
    yaml = pytest.importorskip("yaml")
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = told["services"]
    replicas = [one for one in services.values() if "build" in one]
    assert len(replicas) == 2
    assert sorted(name for name in services if name.startswith("web-")) == ["web-1", "web-2", "web-3"]
    assert services["memcached"]["image"].startswith("memcached:1.")
    for one in replicas:
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        assert set(one["depends_on"]) <= set(services)
        assert (DEPLOY / one["build"] / "Dockerfile").exists()
        assert all((DEPLOY / volume.split(":")[0]).exists() for volume in one["volumes"])
    wanted = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert wanted == set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.M))


def test_the_composed_services_agree_when_run_without_containers(tmp_path: pathlib.Path) -> None:
    *servers, web_1, web_2, admin_1, admin_2 = free_ports(7)
    zones = [f"deploy{os.getpid()}-{n}" for n in range(2)]
    text = (DEPLOY / "fastroute.toml").read_text()
    with Memcached() as store:
        text = text.replace("memcached:11211", store.address).replace('workers = "auto"', "workers = 1")
        for number, port in enumerate(servers, 1):
            text = text.replace(f"web-{number}:9000", f"127.0.0.1:{port}")
        secrets = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "env.example").read_text(), re.M))
        environment = {key: f"{'0123456789abcdef' * 2}{key}" for key in secrets}
        started = [
            Process(
                [sys.executable, str(DEPLOY / "server.py")],
                tmp_path / f"web-{n}.log",
                {"NAME": f"web-{n}", "PORT": str(port), "BIND": "127.0.0.1"},
            )
            for n, port in enumerate(servers, 1)
        ]
        with running(*started):
            replicas = []
            for number, (web, admin) in enumerate(((web_1, admin_1), (web_2, admin_2))):
                config = tmp_path / f"fr{number}.toml"
                config.write_text(f'zone = {{ name = "{zones[number]}", size = "8MiB" }}\n{text}')
                command = [sys.executable, "-m", "fastroute", "serve", "-c", str(config)]
                command += ["--bind", f"web=127.0.0.1:{web}", "--admin", f"127.0.0.1:{admin}"]
                replicas.append(Process(command, tmp_path / f"fr{number}.log", environment))
            with running(*replicas):
                for replica in replicas:
                    replica.wait_for_line("ready")
                served = set()
                for _ in range(6):
                    name, cookie = visit(web_1)
                    assert cookie
                    assert visit(web_2, cookie)[0] == name
                    served.add(name)
                assert served <= {"web-1", "web-2", "web-3"}
    unlink_zone(*zones)


def visit(port: int, cookie: str = "") -> tuple[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
    return answer.headers["X-Served-By"], (answer.headers["Set-Cookie"] or "").partition(";")[0]


def test_systemd_takes_the_units_and_finds_them_hardened(tmp_path: pathlib.Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    for name in ("fastroute.service", "fastroute.socket"):
        text = (DEPLOY / name).read_text().replace("/opt/fastroute/bin/fastroute", sys.executable)
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("fastroute.service", "fastroute.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "fastroute." in line]
    if not complaints and done.returncode:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr[:200]}")
    assert complaints == []
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Unknown option" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no files")
    assert done.returncode == 0, done.stdout[-2000:]
