"""The house rules that a program can check: layers, file sizes, where third-party packages may be imported."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastroute"

# A lower layer never imports a higher one (design, section 3).
LAYERS = [
    {"errors", "model", "clock"},
    {"_core"},
    {"routing", "config", "metrics"},
    {"memcache", "health", "sources"},
    {"affinity", "cache", "http_cache", "session", "fleet"},
    {"proxy"},
    {"admin", "cli", "plugins", "demo", "sync", "__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ASIDE = {"integrations", "testing"}
LINES_MAX = 700  # the house rule: past 600 a file holds two concepts; the rest is room for one that is being split
LONGER: dict[str, int] = {}
ALLOWED_THIRD_PARTY = {"click", "dns", "msgpack", "msgspec", "pymemcache", "rich", "uvloop", "zstandard"}


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> list[tuple[int, str]]:
    """Every module that the file imports, wherever in it; names under TYPE_CHECKING count too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or ""))
            if node.module == "fastroute":
                found += [(node.lineno, f"fastroute.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_a_higher_layer(path):
    layer = layer_of(path)
    assert layer in RANK or layer in ASIDE, f"{layer} has no place among the layers"
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "fastroute" or len(parts) == 1:
            continue
        assert parts[1] not in ASIDE or layer in ASIDE, f"{path}:{line} imports {name}, which stands aside"
        if layer in RANK and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[layer], f"{path}:{line}: {layer} imports the higher {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_party_packages_are_the_declared_ones(path):
    import sys

    for line, name in imported(path):
        top = name.split(".")[0]
        if top and top != "fastroute" and top not in sys.stdlib_module_names and layer_of(path) not in ASIDE:
            assert top in ALLOWED_THIRD_PARTY, f"{path}:{line} imports {top}"


def test_compiled_files_have_an_interface_and_a_stub():
    for source in sorted((ROOT / "ext").glob("*.pyx")):
        for suffix in (".pxd", ".pyi"):
            assert (PACKAGE / "_core" / (source.stem + suffix)).exists(), f"{source.name} has no {suffix}"


def test_no_pyx_includes_another_and_none_star_imports():
    for source in sorted((ROOT / "ext").glob("*.pyx")):
        text = source.read_text()
        assert not re.search(r"^\s*include\s", text, re.M), source
        assert not re.search(r"^\s*(from\s+\S+\s+)?cimport\s+\*|import\s+\*", text, re.M), source


def test_headers_know_nothing_of_python():
    for header in sorted((ROOT / "ext").glob("*.h")):
        if header.name != "fr_key.h":  # the bytes of a key that comes as a Python object: its one concept
            assert "Python.h" not in header.read_text(), header


def test_no_file_of_code_holds_two_concepts_by_its_length():
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.pyx", "*.h"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        if (ROOT / name).exists():
            lines = len((ROOT / name).read_text().splitlines())
            assert lines <= LONGER.get(name, LINES_MAX), f"{name} has {lines} lines: it holds two concepts"


def test_files_listed_as_longer_still_are():
    for name in LONGER:
        assert len((ROOT / name).read_text().splitlines()) > LINES_MAX, f"{name} no longer needs its exception"
