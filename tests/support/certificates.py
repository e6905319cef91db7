"""A certificate authority of our own and a server's certificate, made by `openssl` for one test run."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import subprocess

import pytest


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    ca: str
    certificate: str
    key: str


def make_certificates(
    directory: pathlib.Path, names: str = "DNS:localhost,IP:127.0.0.1", *, days: int = 3
) -> Certificates:
    """A CA and a certificate for `names`, signed by it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=directory)  # type: ignore[list-item]

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days)]
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests CA")
    run("req", *curve[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=memcached")
    (directory / "names").write_text(f"subjectAltName={names}\n")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days),
        "-extfile", "names", "-out", "server.pem")  # fmt: skip
    for path in directory.glob("*.key"):
        path.chmod(0o644)  # memcached reads it as another user
    return Certificates(*(str(directory / name) for name in ("ca.pem", "server.pem", "server.key")))
