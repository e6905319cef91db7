"""Build an sdist, from it a wheel per interpreter, install each into a new environment elsewhere and use it there.

Run by `make test-install`. Interpreters: every python3.11 and newer on PATH and in pyenv. Nothing may come from the
clone: the checks run in an empty directory, and without the network once installed.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]

CHECK = """
import importlib, pkgutil, sys
import fastroute, fastroute._core
assert "{root}" not in fastroute.__file__, fastroute.__file__
names = [m.name for m in pkgutil.iter_modules(fastroute._core.__path__)]
assert len(names) >= 10, names
for name in names:
    importlib.import_module("fastroute._core." + name)
from fastroute import Pool, Server
pool = Pool("app", [Server("10.0.0.1:80"), Server("10.0.0.2:80")], policy="hash")
assert pool.select("a") is pool.select("a")
print(sys.version.split()[0], "fine,", len(names), "extensions")
"""


def interpreters() -> list[str]:
    """One interpreter per version from 3.11 up, the first found of each."""
    found: dict[tuple[int, int], str] = {}
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, *(str(path) for path in sorted(pyenv.glob("3.*/bin/python3")))]
    candidates += [path for minor in range(11, 20) if (path := shutil.which(f"python3.{minor}"))]
    for path in candidates:
        asked = (
            "import sys, sysconfig, os; "
            "print(*sys.version_info[:2], os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
        )
        answer = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            major, minor, headers = answer.stdout.split()
            if (int(major), int(minor)) >= (3, 11) and headers == "True":
                found.setdefault((int(major), int(minor)), path)
    return [found[version] for version in sorted(found)]


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        subprocess.run(
            [sys.executable, "-m", "build", "--sdist", "--outdir", work, ROOT], check=True, stdout=subprocess.DEVNULL
        )
        (sdist,) = work.glob("*.tar.gz")
        for number, python in enumerate(interpreters()):
            environment, elsewhere = work / f"venv{number}", work / f"empty{number}"
            elsewhere.mkdir()
            if python == sys.executable:
                venv.create(environment, with_pip=True)
            else:
                subprocess.run([python, "-m", "venv", environment], check=True)
            binary = environment / "bin" / "python"
            wheels = work / f"wheels{number}"
            pip = [binary, "-m", "pip", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, sdist], check=True, cwd=elsewhere)
            (wheel,) = wheels.glob("fastroute-*.whl")
            subprocess.run([*pip, "install", wheel], check=True, cwd=elsewhere)
            subprocess.run([binary, "-c", CHECK.replace("{root}", str(ROOT))], check=True, cwd=elsewhere)
            subprocess.run([environment / "bin" / "fastroute", "version"], check=True, cwd=elsewhere)
    return 0


if __name__ == "__main__":
    sys.exit(main())
