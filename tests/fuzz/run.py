#!/usr/bin/env python3
"""Builds and runs the fuzzers.   python tests/fuzz/run.py [--seconds 60] [--runs N] [--seed N] [target ...]

Targets: meta, head, chunked (C, under AddressSanitizer and UndefinedBehaviorSanitizer, guided by coverage) and codec
(Python over the built extension). Seeds are in the targets; the catalogues of odd messages are added where they are.
Exit status 1 on a finding; the input is left in build/fuzz/finding-TARGET.
"""

from __future__ import annotations

import argparse
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
C_TARGETS = ("meta", "head", "chunked")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
WARNINGS = ["-std=gnu11", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
CATALOGUES = {
    "meta": [("memcached_replies.jsonl", "reply")],
    "head": [("requests.jsonl", "raw"), ("responses.jsonl", "raw")],
    "chunked": [("requests.jsonl", "raw"), ("responses.jsonl", "raw")],
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=0, help="inputs per target, instead of seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("targets", nargs="*", default=[*C_TARGETS, "codec"])
    options = parser.parse_args()
    failed = False
    for target in options.targets:
        if target == "codec":
            sys.path.insert(0, str(ROOT))
            from tests.fuzz import codec

            began_s = time.monotonic()
            count = codec.run(options.seconds, options.runs, options.seed)
            print(f"fuzz codec: {count} inputs in {time.monotonic() - began_s:.0f} s, no finding; seed {options.seed}")
            continue
        much = ["-runs", str(options.runs)] if options.runs else ["-seconds", str(options.seconds)]
        found = seeds(target)
        arguments = [str(build(target)), *much, "-seed", str(options.seed), *([str(found)] if found else [])]
        failed |= subprocess.run(arguments, cwd=BUILD).returncode != 0
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
