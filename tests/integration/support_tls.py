"""Certificates for tests: an authority, and by it a server and a client on this machine; and one that nobody trusts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def make_certificates(directory: Path) -> None:
    """Write NAME.pem and NAME.key for ca, stranger, server and client."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificates for this test, is not installed")

    def make(name: str, *more: str) -> None:
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        subprocess.run(
            [openssl, "req", "-x509", *KEY, *files, "-subj", f"/CN={name}", *more],
            cwd=directory,
            check=True,
            capture_output=True,
        )

    for authority in ("ca", "stranger"):
        make(authority, "-addext", "keyUsage=critical,keyCertSign")
    signed = ("-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key")
    for name in ("server", "client"):
        make(name, "-addext", "subjectAltName=IP:127.0.0.1", *signed)
