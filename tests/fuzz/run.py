#!/usr/bin/env python3
"""Builds and runs the fuzzers. python tests/fuzz/run.py [--seconds 60] [--runs N] [--seed N] [target ...]

Targets: meta, head, chunked, fields (C, under AddressSanitizer and UndefinedBehaviorSanitizer, guided by coverage);
script (scripts against the relay, guided by coverage: over the build of `make test-sanitize` alone); relay, codec,
openings (Python over the built extensions: that build's when it is there and of these very sources). Seeds are in the
targets; the catalogues of odd messages are added where they are. Exit status 1 on a finding; the input is left in
build/fuzz/finding-TARGET, or named by its seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
C_TARGETS = ("meta", "head", "chunked", "fields")
PYTHON_TARGETS = {"script": 1.0, "relay": 0.5, "codec": 0.5, "openings": 0.5}
"""Share of the seconds: all targets together take CI six and a half minutes."""
SANITIZE_TREE = ROOT / "build" / "sanitize-tree"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
WARNINGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
            "-Wno-missing-field-initializers"]  # fmt: skip
CATALOGUES = {
    "meta": [("memcached_replies.jsonl", "reply")],
    "head": [("requests.jsonl", "raw"), ("responses.jsonl", "raw")],
    "chunked": [("requests.jsonl", "raw"), ("responses.jsonl", "raw")],
    "fields": [("requests.jsonl", "raw")],
}


def compiler() -> list[str]:
    """gcc, which has trace-pc; clang has it under another name."""
    found = shlex.split(os.environ.get("CC", ""))
    return found if found and "gcc" in found[-1] else ["gcc"]


def build(target: str, *, include: pathlib.Path | None = None, into: pathlib.Path = BUILD) -> pathlib.Path:
    """Compile one target; `include` is searched before ext/."""
    into.mkdir(parents=True, exist_ok=True)
    first = [] if include is None else ["-I", str(include)]
    run = [*compiler(), *WARNINGS]
    target_object, engine_object, program = into / f"{target}.o", into / "engine.o", into / target
    subprocess.run(
        [*run, *SANITIZE, "-fsanitize-coverage=trace-pc", *first, "-I", str(ROOT / "ext"),
         "-c", str(HERE / f"{target}.c"), "-o", str(target_object)], check=True)  # fmt: skip
    subprocess.run([*run, "-c", str(HERE / "engine.c"), "-o", str(engine_object)], check=True)
    subprocess.run([*run, *SANITIZE, str(target_object), str(engine_object), "-o", str(program)], check=True)
    return program


def seeds(target: str) -> pathlib.Path | None:
    """A directory of seeds from the catalogues; None where there are none."""
    shared = pathlib.Path(os.environ.get("FASTROUTE_SHARED", ROOT.parent / "shared"))
    into = BUILD / f"seeds-{target}"
    shutil.rmtree(into, ignore_errors=True)
    for name, key in CATALOGUES[target]:
        path = shared / "http" / name
        if not path.exists():
            continue
        into.mkdir(parents=True, exist_ok=True)
        for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            data = json.loads(line).get(key, "").encode("latin-1", "replace")
            if target == "chunked":
                head, _, data = data.partition(b"\r\n\r\n")
                if b"chunked" not in head.lower():
                    continue
            (into / f"{path.stem}-{index}").write_bytes(data)
    return into if into.exists() else None


def same_sources(tree: pathlib.Path) -> bool:
    """Was this tree built of the sources that stand here?"""
    names = [*(ROOT / "ext").iterdir(), *(ROOT / "fastroute").rglob("*.p*"), *HERE.iterdir()]
    for path in names:
        if path.suffix in (".py", ".pyx", ".pxd", ".h", ".c"):
            other = tree / path.relative_to(ROOT)
            if not other.exists() or other.read_bytes() != path.read_bytes():
                return False
    return any(tree.glob("fastroute/_core/http_relay*.so"))


def run_sanitized(arguments: list[str]) -> int:
    """The Python targets over the build under the sanitizers; as `make test-sanitize` runs its tests."""
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",  # Python's own would hide overreads behind its arenas
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "FASTROUTE_SHARED": os.environ.get("FASTROUTE_SHARED", str(ROOT.parent / "shared")),
    }
    program = [sys.executable, str(SANITIZE_TREE / "tests" / "fuzz" / "run.py"), *arguments, "--here"]
    return subprocess.run(program, cwd=SANITIZE_TREE, env=environment).returncode


def run_python(target: str, seconds: float, runs: int, seed: int) -> None:
    """One Python target in this process; raises on a finding."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    module = importlib.import_module(f"tests.fuzz.{target}")
    began_s = time.monotonic()
    count = module.run(seconds, runs, seed)
    print(f"fuzz {target}: {count} inputs in {time.monotonic() - began_s:.0f} s, no finding; seed {seed}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=0, help="inputs per target, instead of seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--here", action="store_true", help="with the build of this tree, sanitized or not")
    parser.add_argument("targets", nargs="*", default=[*C_TARGETS, *PYTHON_TARGETS])
    options = parser.parse_args()
    failed = False
    tree = not options.here and same_sources(SANITIZE_TREE)
    for target in options.targets:
        if target in PYTHON_TARGETS:
            seconds = options.seconds * PYTHON_TARGETS[target]
            if target == "script" and not tree and not any(HERE.glob("script_drive.*.so")):
                print("fuzz script: left out, it needs the build of make test-sanitize", flush=True)
            elif tree:
                much = ["--runs", str(options.runs)] if options.runs else ["--seconds", str(options.seconds)]
                failed |= run_sanitized([*much, "--seed", str(options.seed), target]) != 0
            else:
                run_python(target, seconds, options.runs, options.seed)
            continue
        much = ["-runs", str(options.runs)] if options.runs else ["-seconds", str(options.seconds)]
        found = seeds(target)
        arguments = [str(build(target)), *much, "-seed", str(options.seed), *([str(found)] if found else [])]
        failed |= subprocess.run(arguments, cwd=BUILD).returncode != 0
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
