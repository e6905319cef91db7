"""Examples on the pages beside docs/configuration.md: files that are accepted, Python whose names are there."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import tomllib

import pytest

from fastroute.config.load import loads
from tests.support.certificates import Certificates, make_certificates
from tests.support.shared import ROOT

PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "configuration.md")
SECRETS = {
    "FASTROUTE_SECRET": "0123456789abcdef" * 2,
    "FASTROUTE_IDENTITY": "fedcba9876543210" * 2,
    "FASTROUTE_TOKEN": "token-of-an-operator-for-tests",
}
CHECKED = '[pools.app.health]\ncheck = "http"'
CONTEXT = {"rebalance": "[pools.app.sticky]", "content": CHECKED, "on_join": CHECKED}
"""What a section of a pool needs beside it."""


def blocks(language: str) -> list[object]:
    return [
        pytest.param(text, id=f"{path.stem}-{n}")
        for path in PAGES
        for n, text in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S), 1)
    ]


def completed(text: str, files: Certificates, directory: pathlib.Path) -> str:
    """With what the page leaves to its reader: addresses, servers, files."""
    text = re.sub(
        r'"/etc/fastroute/[^"]*(ca|pem)"', lambda m: f'"{files.ca if m[1] == "ca" else files.certificate}"', text
    )
    text = re.sub(r'"/etc/fastroute/[^"]*\.key"', f'"{files.key}"', text)
    text = text.replace('"/var/log/fastroute/', f'"{directory}/')
    for name in re.findall(r'"file:/etc/fastroute/([^"]*)"', text):
        (directory / name).write_text("a page")
    text = text.replace('"file:/etc/fastroute/', f'"file:{directory}/')
    found = tomllib.loads(text)
    listeners = found.get("listeners", {})
    for name, listener in listeners.items():
        if "bind" not in listener:
            text = text.replace(f"[listeners.{name}]\n", f'[listeners.{name}]\nbind = "127.0.0.1:8080"\n', 1)
        if "pool" not in listener and "routes" not in listener:
            text = text.replace(f"[listeners.{name}]\n", f'[listeners.{name}]\npool = "app"\n', 1)
    if not listeners:
        text += '\n[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n'
    pools = found.get("pools", {})
    named = {"app", *pools} | {one["pool"] for one in listeners.values() if "pool" in one}
    named |= {route["pool"] for one in listeners.values() for route in one.get("routes", ())}
    for name in sorted(named):
        if not {"servers", "discover"} & set(pools.get(name, ())):
            text += f'\n[[pools.{name}.servers]]\naddress = "10.0.0.1:80"\n'
    wanted = {CONTEXT[key] for key in pools.get("app", ()) if key in CONTEXT}
    text += "".join(f"\n{section}\n" for section in sorted(wanted) if section.split("\n")[0] not in text)
    return text if "secret" in found else f'secret = "{SECRETS["FASTROUTE_SECRET"]}"\n{text}'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("files"), days=100)


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_configuration_on_a_page_is_accepted(text, files, tmp_path):
    loads(completed(text, files, tmp_path), environment=SECRETS)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_on_a_page_can_be_read_and_what_it_imports_is_there(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
        elif isinstance(node, ast.Import):
            for one in node.names:
                importlib.import_module(one.name)


def test_there_are_such_examples():
    assert len(blocks("toml")) > 10
    assert len(blocks("python")) > 1
