"""When certificates end: read as openssl reads it, told in a warning, of no harm where it cannot be read."""

from __future__ import annotations

import calendar
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

import pytest

from fastroute.clock import ManualClock
from fastroute.config.certificates import CHAIN_MAX, Validity, validity
from fastroute.config.load import Loaded, load
from fastroute.config.rules_tls import EXPIRES_SOON_S, certificate_warnings
from tests.support.certificates import Certificates, make_certificates

DAY_S = 86400.0

FILE = """\
[listeners.web]
bind = "127.0.0.1:1"
pool = "app"
tls = {{ certificate = "{c}", key = "{k}", sni = {{ "a.example" = {{ certificate = "{c}", key = "{k}" }} }} }}
[[pools.app.servers]]
address = "127.0.0.1:2"
[pools.app.tls]
certificate = "{c}"
key = "{k}"
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"), days=60)


def made(directory: pathlib.Path, days: int) -> bytes:
    """A certificate that begins now."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", str(directory / "key"), "-subj", "/CN=x", "-days", str(days)]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True).stdout


def told(pem: bytes) -> Validity:
    """As openssl reads it."""
    said = subprocess.run(["openssl", "x509", "-noout", "-dates"], input=pem, check=True, capture_output=True).stdout
    times = dict(line.split("=", 1) for line in said.decode().splitlines())
    return Validity(*(float(calendar.timegm(time.strptime(times[key], "%b %d %H:%M:%S %Y %Z"))) for key in times))


def configuration(directory: pathlib.Path, pair: Certificates) -> pathlib.Path:
    path = directory / "fr.toml"
    path.write_text(FILE.format(c=pair.certificate, k=pair.key))
    return path


def loaded(directory: pathlib.Path, pair: Certificates) -> Loaded:
    return load(configuration(directory, pair))


@pytest.mark.parametrize("days", [1, 400, 20_000], ids=["a day", "a year", "beyond 2050, in the other form of time"])
def test_times_are_read_as_openssl_reads_them(tmp_path, days):
    pem = made(tmp_path, days)
    assert validity(pem) == told(pem)
    assert validity(b"Bag Attributes\n  friendlyName: x\n" + pem + b"\ntext behind\n") == told(pem)


def test_of_a_chain_the_first_to_end_counts(tmp_path):
    short, long = made(tmp_path, 5), made(tmp_path, 500)
    assert validity(long + short).ends_s == validity(short + long).ends_s == told(short).ends_s
    assert validity(long * CHAIN_MAX + short).ends_s == told(long).ends_s  # it is bounded


def test_what_is_no_certificate_has_no_times(tmp_path):
    pem = made(tmp_path, 5)
    for text in (
        b"",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA",
    ):
        assert validity(text) == Validity()
    assert validity(pem.replace(b"BEGIN CERTIFICATE", b"BEGIN PRIVATE KEY")) == Validity()
    choice = random.Random(5)
    body = pem.split(b"\n", 1)[1]
    for _ in range(3000):  # whatever is changed: times or none, never an error
        spoiled = bytearray(body)
        for _ in range(choice.choice((1, 1, 3, 20))):
            spoiled[choice.randrange(200)] = choice.choice(b"ABCDwxyz0189+/=\n")
        assert type(validity(b"-----BEGIN CERTIFICATE-----\n" + bytes(spoiled))) is Validity


@pytest.mark.parametrize(
    ("left_s", "said"),
    [
        (EXPIRES_SOON_S + 60, None),
        (EXPIRES_SOON_S - 60, r"ends on \d{4}-\d\d-\d\d \d\d:\d\d UTC \(in 13 days\)"),
        (90, r"ends on .* \(in 1 min\)"),
        (0, r"ended on .* \(0 min ago\)"),
        (-3 * DAY_S, r"ended on .* \(3 days ago\)"),
    ],
)
def test_a_certificate_that_ends_soon_or_has_ended_is_told_wherever_it_stands(pair, tmp_path, left_s, said):
    config = loaded(tmp_path, pair).config
    ends_s = validity(pathlib.Path(pair.certificate).read_bytes()).ends_s
    found = dict(certificate_warnings(config, ManualClock(wall_s=ends_s - left_s)))
    if said is None:
        assert found == {}
        return
    assert set(found) == {("listeners", "web", "tls"), ("listeners", "web", "tls", "sni", "a.example"),
                          ("pools", "app", "tls")}  # fmt: skip
    for message in found.values():
        assert re.search(said, message), message
        assert 'server.pem", or one of its chain, ' in message


def test_the_certificate_that_is_shown_to_the_store_is_told_too(pair, tmp_path):
    shown = shutil.copy(pair.certificate, tmp_path / "shown.pem")
    store = f'[store]\nmemcached = ["m:1"]\ntls = {{ certificate = "{shown}", key = "{pair.key}" }}\n'
    path = configuration(tmp_path, pair)
    path.write_text(store + path.read_text())
    config = load(path).config
    ends_s = validity(pathlib.Path(pair.certificate).read_bytes()).ends_s
    found = dict(certificate_warnings(config, ManualClock(wall_s=ends_s + 60)))
    assert "ended on" in found[("store", "tls")]
    pathlib.Path(shown).unlink()  # since it was checked
    assert ("store", "tls") not in dict(certificate_warnings(config, ManualClock(wall_s=ends_s + 60)))


def test_a_certificate_that_has_not_begun_is_told(pair, tmp_path):
    config = loaded(tmp_path, pair).config
    begins_s = validity(pathlib.Path(pair.certificate).read_bytes()).begins_s
    found = [message for _, message in certificate_warnings(config, ManualClock(wall_s=begins_s - 20 * DAY_S))]
    assert len(found) == 3
    assert all("is not valid before" in one and "in 20 days" in one for one in found)


def test_check_warns_with_the_line_and_accepts_the_file(tmp_path):
    path = configuration(tmp_path, make_certificates(tmp_path, days=3))
    done = subprocess.run(
        [sys.executable, "-m", "fastroute", "check", "-c", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert f"{path}:4: warning: listeners.web: the certificate in " in done.stderr
    assert "ends on" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "fastroute", "check", "--json", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    warnings = json.loads(done.stdout)["warnings"]
    assert [one["line"] for one in warnings if "ends on" in one["message"]][:2] == [4, 4]
