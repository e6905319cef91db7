"""The command line: output, exit statuses, errors of one line on standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

import fastroute
from fastroute.cli import main

GOOD = (
    '[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n[[pools.app.servers]]\naddress = "10.0.0.11:8080"\n'
    "[pools.app.sticky]\non = 'client-ip'\n"
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fr.toml"
    path.write_text(GOOD)
    return path


def test_check_of_a_good_file_is_status_0_with_warnings_on_standard_error(file):
    result = run("check", "-c", str(file))
    assert result.exit_code == 0
    assert result.stdout == f"{file}: ok: web on 127.0.0.1:8080 to pool app (1 server)\n"
    assert result.stderr.startswith(f"{file}: warning: identity_secret is not set")
    assert result.stderr.count("\n") == 1


def test_check_of_a_bad_file_is_status_1_and_one_line_with_the_place(file):
    file.write_text(GOOD.replace("8080", "808080", 1))
    result = run("check", "-c", str(file))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f'{file}:2: listeners.web: bind: found "127.0.0.1:808080"; accepted: ')
    assert result.stderr.count("\n") == 1


def test_check_as_json(file):
    good = json.loads(run("check", "--json", "-c", str(file)).stdout)
    assert (good["ok"], good["errors"], len(good["warnings"])) == (True, [], 1)
    file.write_text(GOOD + "x = 1\n")
    result = run("check", "--json", "-c", str(file))
    bad = json.loads(result.stdout)
    assert (result.exit_code, bad["ok"]) == (1, False)
    assert (bad["errors"][0]["file"], bad["errors"][0]["line"]) == (str(file), 8)
    assert bad["errors"][0]["message"].startswith('pools.app.sticky: unknown key "x"')


def test_check_of_a_file_that_is_not_there_is_status_1():
    result = run("check", "-c", "/no/such/file")
    assert (result.exit_code, result.stderr) == (1, "/no/such/file: cannot be read: No such file or directory\n")


def test_version():
    assert run("version").stdout == f"fastroute {fastroute.__version__}\n"
    assert run("--version").stdout == f"fastroute {fastroute.__version__}\n"
    assert json.loads(run("version", "--json").stdout)["version"] == fastroute.__version__


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Usage:"),
        (["nonsense"], "No such command 'nonsense'"),
        (["check"], "Missing option '-c'"),
        (["serve"], "Missing option '-c'"),
        (["demo", "--requests", "0"], "--requests"),
        (["demo", "--requests", "x"], "--requests"),
        (["demo", "--ports", "1"], "two different ports"),
        (["demo", "--ports", "99999,1"], "two different ports"),
    ],
)
def test_wrong_usage_is_status_2(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


def test_every_command_is_listed():
    listed = run("--help").stdout
    names = ("serve", "check", "demo", "explain", "preview", "bench", "ctl", "version")
    assert all(f"\n  {name} " in listed for name in names)


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastroute", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_serve_of_a_bad_file_is_one_line_and_status_1(file):
    file.write_text(GOOD.replace("pool =", "pol ="))
    result = serve("-c", str(file))
    assert result.returncode == 1
    assert result.stderr == f'{file}:3: listeners.web: unknown key "pol"; did you mean "pool"?\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bind", "web"], "accepted is LISTENER=ADDR"),
        (["--bind", "wbe=127.0.0.1:80"], "configured are: web"),
        (["--bind", "web=80"], "host:port"),
        (["--admin", "127.0.0.1"], "accepted: "),
    ],
)
def test_serve_with_wrong_arguments_is_one_line_and_status_2(file, arguments, says):
    result = serve("-c", str(file), *arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_bench_prints_every_figure_beside_the_yardstick_as_json(monkeypatch):
    from fastroute.cli import speed

    monkeypatch.setattr(speed, "SERVER_COUNTS", (2, 10))
    monkeypatch.setattr(speed, "BUILDS", ((10, 1024),))
    monkeypatch.setattr(speed.run_bench, "__defaults__", (0.0,))
    plain = json.loads(run("bench", "--json").stdout)
    names = [figure["name"] for figure in plain["figures"]]
    assert names[0] == "len(str), the yardstick"
    assert {figure["group"] for figure in plain["figures"]} == {"select", "policies", "batch", "peers", "build"}
    assert all(figure["ns"] > 0 for figure in plain["figures"] if figure["ns"] is not None)


def test_bench_says_which_peer_is_not_installed(monkeypatch):
    from fastroute.cli import speed

    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(speed.importlib, "import_module", absent)
    found = list(speed._peers(lambda *_: pytest.fail("nothing to measure")))
    assert [figure.ns for figure in found] == [None] * 4
    assert all("not installed" in figure.name for figure in found)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastroute", "version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "fastroute: the output cannot be written: No space left on device\n")
