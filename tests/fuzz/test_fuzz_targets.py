"""The fuzzers themselves: they build, find nothing in a short run, and do find what is broken on purpose."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from tests.fuzz import codec
from tests.fuzz.run import C_TARGETS, ROOT, build

BUGS = {
    # target: (header, text, what it becomes)
    "meta": ("fr_meta_read.h", "if (n > r->value_left)", "if (n > r->value_left + 1)"),
    "chunked": ("fr_chunked.h", "s->left = s->left << 4 |", "s->left = s->left << 3 |"),
    "head": ("fr_scan_lines.h", "if (FR_UNLIKELY(at + 1 >= size))", "if (FR_UNLIKELY(at + 1 > size))"),
}


@pytest.fixture(scope="module", autouse=True)
def gcc() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("the fuzzers are built by gcc")


def fuzz(program: pathlib.Path, runs: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), "-runs", str(runs), "-seed", "7"],
        cwd=program.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("target", C_TARGETS)
def test_a_short_run_has_no_finding(target: str, tmp_path: pathlib.Path) -> None:
    result = fuzz(build(target, into=tmp_path), 20_000)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "no finding" in result.stdout


@pytest.mark.parametrize("target", BUGS)
def test_a_bug_put_into_the_header_is_found_and_its_input_kept(target: str, tmp_path: pathlib.Path) -> None:
    name, text, instead = BUGS[target]
    source = (ROOT / "ext" / name).read_text()
    assert text in source, "the bug no longer fits the header: choose another one"
    include = tmp_path / "include"
    shutil.copytree(ROOT / "ext", include, ignore=shutil.ignore_patterns("*.pyx"))
    (include / name).write_text(source.replace(text, instead))
    program = build(target, include=include, into=tmp_path)
    result = fuzz(program, 400_000)
    assert result.returncode != 0, "not found"
    finding = tmp_path / f"finding-{target}"
    assert finding.exists(), result.stderr[-2000:]
    again = subprocess.run([str(program), "-one", str(finding)], cwd=tmp_path, capture_output=True, timeout=60)
    assert again.returncode != 0, "the kept input alone shows it"


def test_the_codec_takes_2000_spoiled_streams() -> None:
    assert codec.run(0, runs=2000) == 2000
