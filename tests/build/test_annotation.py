"""No line of a nogil function touches Python: read from Cython's own annotation (score 0 when clean)."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support.shared import ROOT

SOURCES = sorted(ROOT.glob("ext/*.pyx"))
LINE = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>(?:\+|&#xA0;|\s)*<span class="">0*(\d+)</span>')


def nogil_lines(source: pathlib.Path) -> list[int]:
    """Numbers of the lines that belong to bodies of functions declared `noexcept nogil`."""
    found, inside, opened = [], None, False
    for number, line in enumerate(source.read_text().splitlines(), 1):
        indent = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and indent <= inside and not opened:
            inside = None
        if inside is None and re.match(r"\s*cdef\s+(inline\s+)?[^=:#]*\(", line):
            inside, opened, signature = indent, True, ""
        if inside is not None and opened:
            signature += line
            if line.rstrip().endswith(":"):
                opened = False
                if "noexcept nogil" not in signature:
                    inside = None
            continue
        if inside is not None:
            found.append(number)
    return found


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> pathlib.Path:
    """Annotation of every source that has nogil functions, made aside."""
    out = tmp_path_factory.mktemp("annotation")
    wanted = [str(path.relative_to(ROOT)) for path in SOURCES if nogil_lines(path)]
    # Cython finds a pxd by the module's dotted name, so each source gets its full name through an Extension.
    program = (
        "import sys, os; from Cython.Build import cythonize; from setuptools import Extension; "
        "ext = [Extension('fastroute._core.' + os.path.basename(p)[:-4], [p]) for p in sys.argv[2:]]; "
        "cythonize(ext, build_dir=sys.argv[1], annotate=True, force=True, quiet=True, include_path=['.'], "
        "compiler_directives=dict(language_level=3, binding=False, boundscheck=False, wraparound=False, "
        "initializedcheck=False, cdivision=True))"
    )
    subprocess.run([sys.executable, "-c", program, str(out), *wanted], cwd=ROOT, check=True, env={**os.environ})
    return out


@pytest.mark.parametrize("source", [path for path in SOURCES if nogil_lines(path)], ids=lambda path: path.name)
def test_no_line_of_a_nogil_function_touches_python(annotated, source):
    scores = {int(n): int(s) for s, n in LINE.findall((annotated / "ext" / (source.stem + ".html")).read_text())}
    assert scores, "the annotation was not understood"
    touching = {number: scores[number] for number in nogil_lines(source) if scores.get(number, 0) > 0}
    text = source.read_text().splitlines()
    assert not touching, [f"{source.name}:{n} score {s}: {text[n - 1].strip()}" for n, s in touching.items()]


def test_the_check_can_fail(annotated):
    scores = [int(s) for path in annotated.glob("ext/*.html") for s, _ in LINE.findall(path.read_text())]
    assert max(scores) >= 6, "lines that do touch Python have a score, and the reader sees it"
