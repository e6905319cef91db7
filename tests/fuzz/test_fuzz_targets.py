"""The fuzzers themselves: they build, find nothing in a short run, and do find what is broken on purpose."""

from __future__ import annotations

import ctypes
import pathlib
import shutil
import subprocess
import zlib
from collections.abc import Callable

import pytest

from tests.fuzz import codec, openings, relay, relay_oracle
from tests.fuzz.relay_world import Finding
from tests.fuzz.run import C_TARGETS, HERE, ROOT, WARNINGS, build, compiler

BUGS = {
    # target: (header, text, what it becomes)
    "meta": ("fr_meta_read.h", "if (n > r->value_left)", "if (n > r->value_left + 1)"),
    "chunked": ("fr_chunked.h", "s->left = s->left << 4 |", "s->left = s->left << 3 |"),
    "fields": ("fr_route.h", "while (to > 0 && path[--to] != '/')", "while (to > 1 && path[--to] != '/')"),
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


def test_the_relay_takes_1200_lives() -> None:
    assert relay.run(0, runs=1200, seed=20261122) == 1200


def test_openings_take_2000_spoiled_ones() -> None:
    assert openings.run(0, runs=2000, seed=20261122) == 2000


ASKED = b"POST /%b HTTP/1.1\r\nX-Mark: %b\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
SENT = b"POST /%b HTTP/1.1\r\nHost: a\r\nX-Mark: %b\r\nContent-Length: 5\r\nVia: 1.1 fastroute\r\n\r\nhello"
ANSWER = b"HTTP/1.1 200 OK\r\nX-Mark: %b\r\nContent-Length: 2\r\n\r\n%b"
ONE, TWO, THREE, FOUR = (b"m%08x%04x" % (n, zlib.crc32(n.to_bytes(4)) & 0xFFFF) for n in range(1, 5))


def oracle_says(sent: bytes, seen: bytes) -> None:
    """Two requests to one server that answered each; what it got, and what the client saw."""
    asked, refused = relay_oracle.requests_of(ASKED % (b"1", ONE) + ASKED % (b"2", TWO))
    given = [relay_oracle.Exchange(mark, bytearray(ANSWER % (mark, b"ok"))) for mark in (THREE, FOUR)]
    got = relay_oracle.forwarded(sent, given, asked)
    answers = {one.mark: (one, got[n] if n < len(got) else None) for n, one in enumerate(given)}
    relay_oracle.answered(seen, asked, refused, answers, ended=True, aborted=False)


BOTH_SENT = SENT % (b"1", ONE) + SENT % (b"2", TWO)
BOTH_SEEN = ANSWER % (THREE, b"ok") + ANSWER % (FOUR, b"ok")


def test_the_oracle_lets_what_is_right_pass() -> None:
    oracle_says(BOTH_SENT, BOTH_SEEN)


WRONG = pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (BOTH_SENT, ANSWER % (FOUR, b"ok") + ANSWER % (THREE, b"ok")),
        (BOTH_SENT, BOTH_SEEN + ANSWER % (FOUR, b"ok")),
        (BOTH_SENT, BOTH_SEEN[:-2] + b"no"),
        (BOTH_SENT, BOTH_SEEN[:-1]),
        (BOTH_SENT, BOTH_SEEN.replace(b"200", b"201")),
        (BOTH_SENT, BOTH_SEEN.replace(b"\r\nX-Mark", b"\nX-Mark")),
        (BOTH_SENT + SENT % (b"3", FOUR), BOTH_SEEN),
        (BOTH_SENT.replace(b"hello", b"jello"), BOTH_SEEN),
        (BOTH_SENT.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"), BOTH_SEEN),
        (BOTH_SENT.replace(b"POST", b"PUT"), BOTH_SEEN),
    ],
    ids=["answers-swapped", "answered-twice", "body-changed", "body-cut", "status-changed", "bare-line-feed",
         "request-invented", "request-body-changed", "two-framings", "method-changed"],
)  # fmt: skip


@WRONG
def test_the_oracle_sees_what_is_wrong(sent: bytes, seen: bytes) -> None:
    with pytest.raises(Finding):
        oracle_says(sent, seen)


Verdict = Callable[[bytes, bytes], bytes | None]


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """What the judge of scripts says of the same two requests."""
    program = tmp_path_factory.mktemp("judge") / "judge.so"
    include = ["-I", str(ROOT / "ext"), "-I", str(HERE)]
    source = str(HERE / "script_judge.c")
    subprocess.run([*compiler(), *WARNINGS, "-shared", "-fPIC", *include, source, "-o", str(program)], check=True)
    judge = ctypes.CDLL(str(program)).script_judge_texts
    judge.restype, judge.argtypes = ctypes.c_char_p, [ctypes.c_char_p] * 4
    asked = ASKED % (b"1", ONE) + ASKED % (b"2", TWO)
    return lambda sent, seen: judge(asked, seen, sent, BOTH_SEEN)


def test_the_judge_of_scripts_lets_what_is_right_pass(verdict: Verdict) -> None:
    assert verdict(BOTH_SENT, BOTH_SEEN) is None


@WRONG
def test_the_judge_of_scripts_sees_what_is_wrong(verdict: Verdict, sent: bytes, seen: bytes) -> None:
    assert verdict(sent, seen) is not None


def test_the_judge_of_scripts_wants_an_answer_before_the_next_request(verdict: Verdict) -> None:
    assert verdict(BOTH_SENT + SENT % (b"2", TWO), BOTH_SEEN) is not None
