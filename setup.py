"""The list of extensions and the build switches; everything else about the package stands in pyproject.toml.

One extension per ext/*.pyx, named fastroute._core.<stem>; its .pxd and .pyi live in fastroute/_core/.
Switches (environment, "1" turns one on), each with a build directory of its own, since objects must not mix:
  FASTROUTE_DEBUG     bounds and initialisation checks, FR_DEBUG assertions, kill points
  FASTROUTE_ANNOTATE  Cython's annotation HTML beside the generated C
  FASTROUTE_SANITIZE  AddressSanitizer and UndefinedBehaviorSanitizer (see Makefile for how to run it), and TRACE
  FASTROUTE_TRACE     what relays tells its branches to the fuzzer tests/fuzz/script_drive.pyx, which is built too
"""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG, ANNOTATE, SANITIZE, TRACE = (
    os.environ.get(f"FASTROUTE_{name}") == "1" for name in ("DEBUG", "ANNOTATE", "SANITIZE", "TRACE")
)
TRACE = TRACE or SANITIZE

compile_args = ["-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden", "-Wno-unreachable-code", "-Wno-unused-function"]
link_args: list[str] = []
if DEBUG or SANITIZE:
    compile_args += ["-O1", "-g", "-UNDEBUG", "-DFR_DEBUG=1"]
else:
    compile_args += ["-O3", "-fstack-protector-strong"]
    link_args += ["-Wl,-z,relro,-z,now"] if os.uname().sysname == "Linux" else []
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-fno-wrapv"]
    compile_args += flags
    link_args += flags[:1]

trace_args = ["-fsanitize-coverage=trace-pc", "-include", "tests/fuzz/trace.h"] if TRACE else []
HEADERS = sorted(glob.glob("ext/*.h"))
EXTENSIONS = [
    Extension(
        "fastroute._core." + os.path.splitext(os.path.basename(source))[0],
        [source],
        depends=[source, *HEADERS],
        include_dirs=["ext"],
        extra_compile_args=compile_args + (trace_args if source.startswith("ext/http_") else []),
        extra_link_args=link_args,
    )
    for source in sorted(glob.glob("ext/*.pyx"))
]
if TRACE:  # never in a wheel
    EXTENSIONS += [
        Extension(
            f"tests.fuzz.{name}",
            [f"tests/fuzz/{name}.pyx", *sources],
            depends=[f"tests/fuzz/{name}.pyx", *sorted(glob.glob("tests/fuzz/*.[ch]")), *HEADERS],
            include_dirs=["ext", "tests/fuzz"],
            extra_compile_args=[*compile_args, "-DFUZZ_EMBEDDED"],
            extra_link_args=link_args,
        )
        for name, sources in (
            ("script_drive", ["tests/fuzz/script_judge.c", "tests/fuzz/engine.c"]),
            ("script_wire", []),
        )
    ]
CHECKED = DEBUG or SANITIZE
BUILD_DIR = "build/cython" + "".join(
    suffix
    for on, suffix in (
        (DEBUG, "-debug"),
        (SANITIZE, "-sanitize"),
        (ANNOTATE, "-annotate"),
        (TRACE and not SANITIZE, "-trace"),
    )
    if on
)

setup(
    ext_modules=cythonize(
        EXTENSIONS,
        build_dir=BUILD_DIR,
        nthreads=os.cpu_count() or 1,
        annotate=ANNOTATE,
        include_path=["."],
        compiler_directives={
            "language_level": 3,
            "binding": False,
            "boundscheck": CHECKED,
            "wraparound": False,
            "initializedcheck": CHECKED,
            "cdivision": True,
            "embedsignature": True,
            "autotestdict": False,
        },
    ),
    options={
        "build": {"build_base": BUILD_DIR.replace("cython", "objects", 1)},
        "build_ext": {"parallel": os.cpu_count() or 1},
    },
)
