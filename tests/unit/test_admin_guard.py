"""Who may do what at the admin listener, and which configurations of it are refused."""

from __future__ import annotations

import pathlib
import re

import pytest

from fastroute.admin import guard
from fastroute.admin.http import Request
from fastroute.admin.page import dashboard
from fastroute.config.load import loads
from fastroute.config.schema import AdminConfig, Secret
from fastroute.errors import ConfigError

OPERATOR, READER = "operator-token-0123456789", "reader-token-0123456789"
LOCAL = AdminConfig(token=Secret(OPERATOR.encode()))
FAR = AdminConfig(bind="0.0.0.0:9900", token=Secret(OPERATOR.encode()), read_token=Secret(READER.encode()))
FILE = '[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[[pools.app.servers]]\naddress = "127.0.0.1:2"\n'


def request(token: str | None = None, *repeated: str, **fields: str) -> Request:
    if token is not None:
        fields["authorization"] = f"Bearer {token}"
    return Request("GET", ("metrics",), {}, fields, frozenset(repeated))


def verdict(refusal) -> int:
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("config", "token", "read", "change"),
    [
        (AdminConfig(), None, 200, 403),
        (AdminConfig(), "anything", 200, 403),
        (LOCAL, None, 200, 401),
        (LOCAL, OPERATOR, 200, 200),
        (LOCAL, "wrong", 401, 401),
        (LOCAL, "", 401, 401),
        (FAR, None, 401, 401),
        (FAR, READER, 200, 403),
        (FAR, OPERATOR, 200, 200),
        (FAR, OPERATOR + "x", 401, 401),
        (FAR, OPERATOR[:-1], 401, 401),
        (AdminConfig(read_token=Secret(READER.encode())), None, 401, 403),
        (AdminConfig(read_token=Secret(READER.encode())), READER, 200, 403),
        (AdminConfig(bind="unix:/run/a.sock"), None, 200, 403),
        (AdminConfig(bind="[::1]:9900", token=Secret(OPERATOR.encode())), None, 200, 401),
    ],
)
def test_reading_and_changing(config, token, read, change):
    assert verdict(guard.may_read(config, request(token))) == read
    assert verdict(guard.may_change(config, request(token))) == change


def test_two_authorizations_are_none():
    assert verdict(guard.may_change(LOCAL, request(OPERATOR, "authorization"))) == 401
    assert verdict(guard.may_read(FAR, request(OPERATOR, "authorization"))) == 401


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("localhost:9900", True),
        ("127.0.0.1:9900", True),
        ("[::1]:9900", True),
        ("LOCALHOST", True),
        ("evil.example:9900", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_a_host_that_is_no_name_of_the_loopback_is_refused_there(host, accepted):
    assert (guard.refuse_host(LOCAL, request(host=host)) is None) == accepted
    assert guard.refuse_host(FAR, request(host=host)) is None


def checked(section: str, **keys):
    return loads(f"{FILE}[admin]\n{section}", environment={"T": OPERATOR, "R": READER, "S": "short"}, **keys)


@pytest.mark.parametrize("bind", ["0.0.0.0:9900", "[::]:9900", "10.0.0.1:9900", "admin.example:9900"])
def test_another_address_than_the_loopback_needs_a_token(bind):
    with pytest.raises(ConfigError, match="no token is configured"):
        checked(f'bind = "{bind}"')
    assert checked(f'bind = "{bind}"\ntoken = "env:T"').config.admin.token == OPERATOR.encode()


@pytest.mark.parametrize(
    ("admin", "says"),
    [
        ('token = "a-literal-token-that-is-long-enough"', "found a literal"),
        ('token = "env:NONE"', "is not set"),
        ('token = "file:/nowhere/token"', "cannot be read"),
        ('token = "env:T"\nread_token = "env:T"', "are the same"),
        ('bind = "127.0.0.1:1"', "is that of listener"),
        ('bind = "127.0.0.1"', "host:port"),
        ('tokens = "env:T"', "unknown key"),
    ],
)
def test_a_wrong_section_is_one_error_with_a_line(admin, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        checked(admin)
    assert caught.value.line is not None
    assert OPERATOR not in str(caught.value)


def test_a_token_in_a_file_that_others_can_read_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "token"
    path.write_text(OPERATOR + "\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others could read it"):
        checked(f'token = "file:{path}"')
    path.chmod(0o600)
    assert checked(f'token = "file:{path}"').config.admin.token == OPERATOR.encode()


def test_a_short_token_draws_a_warning():
    assert any("can be guessed" in message for _, message in checked('token = "env:S"').warnings)


def test_the_command_line_binds_elsewhere_and_is_checked_alike():
    assert checked("", admin="127.0.0.1:7").config.admin.bind == "127.0.0.1:7"
    assert loads(FILE, admin="127.0.0.1:7").config.admin.bind == "127.0.0.1:7"
    with pytest.raises(ConfigError, match="no token is configured"):
        loads(FILE, admin="0.0.0.0:7")


def test_the_dashboard_asks_nobody_else_and_runs_nothing_else():
    page = dashboard()
    text = page.body.decode()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text
    assert not re.search(r"\son\w+=|\sstyle=", text), "no inline handler or style: the policy forbids them"
    policy = page.fields["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
