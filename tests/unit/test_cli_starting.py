"""How the program starts: what is loaded when it is used, what is loaded without rich, and what is not loaded."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import LazyLoader
from pathlib import Path

import pytest

from everynode.cli import starting
from everynode.cli.starting import GARBAGE_THRESHOLD, LoadsQuickly, WithoutRich

ROOT = Path(__file__).resolve().parents[2]
RECORDING = str(ROOT / "tests" / "recordings" / "covering.everynode")
MANIFEST = str(ROOT / "deploy" / "examples" / "fluentd.yaml")

START_AND_TELL = """
import gc, sys
from everynode.cli import main
try:
    main()
except SystemExit:
    pass
print(*sys.modules, gc.isenabled(), gc.get_threshold()[0], file=sys.stderr)
"""
"""Runs a command and says, in the last line on stderr, what was imported, and how garbage is collected in the end."""


def told(*words: str) -> list[str]:
    """What START_AND_TELL tells of a command."""
    command = [sys.executable, "-c", START_AND_TELL, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stderr.splitlines()[-1].split()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package, with another one that it imports, that is to be loaded when it is used."""
    name = "everynode_loaded_when_used"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .inner import VALUE\n")
    (tmp_path / name / "inner.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(starting.LOADERS, name, LazyLoader)
    monkeypatch.setattr(sys, "meta_path", [LoadsQuickly(), *sys.meta_path])
    for loaded in (name, f"{name}.inner"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    return name


def test_it_is_loaded_when_it_is_used(package: str) -> None:
    """Not by the first import, but as soon as something in it is asked for."""
    module = importlib.import_module(package)
    assert f"{package}.inner" not in sys.modules

    assert module.VALUE == 7
    assert f"{package}.inner" in sys.modules


def test_a_part_of_it_can_be_imported(package: str) -> None:
    """Before or after the package itself."""
    importlib.import_module(package)
    assert importlib.import_module(f"{package}.inner").VALUE == 7


def test_what_is_not_there_cannot_be_imported(package: str, tmp_path: Path) -> None:
    """It is found out at once, not when it is used."""
    (tmp_path / package).rename(tmp_path / "elsewhere")
    importlib.invalidate_caches()
    with pytest.raises(ImportError):
        importlib.import_module(package)


def test_others_are_left_to_python() -> None:
    """It has no opinion about them."""
    assert LoadsQuickly().find_spec("json", None) is None


def test_one_package_is_loaded_without_rich(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears that there is none; everybody else has the same one before and after."""
    rich = importlib.import_module("rich")
    name = "everynode_asks_for_rich"
    asks = "try:\n    import rich\nexcept ImportError:\n    rich = None\n"
    (tmp_path / f"{name}.py").write_text(asks)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(starting.LOADERS, name, WithoutRich)
    monkeypatch.setattr(sys, "meta_path", [LoadsQuickly(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, name, raising=False)

    module = importlib.import_module(name)
    assert module.rich is None
    assert module.__spec__ is not None
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader
    assert importlib.import_module("rich") is rich


TRACEBACKS = {"attr", "pygments", "rich.pretty", "rich.traceback"}
RICH = {"rich.console", "rich.text"} | TRACEBACKS
SERVER = {"nats", "everynode.runtime.jetstream", "aiohttp.client"}
MANIFESTS = {"yaml", "everynode.manifest"}


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["version"], RICH | SERVER | {"structlog"}),
        (["plan", "-f", MANIFEST, "--recording", RECORDING], RICH | SERVER),
        (["explain", "ds/agent", "--recording", RECORDING], RICH | SERVER | MANIFESTS),
        (["timeline", "ds/agent", "--recording", RECORDING], SERVER | TRACEBACKS | MANIFESTS),
        (["replay", RECORDING], SERVER | TRACEBACKS | MANIFESTS),
    ],
    ids=["version", "plan", "explain", "timeline", "replay"],
)
def test_what_is_not_used_is_not_loaded(words: list[str], unwanted: set[str]) -> None:
    """What takes long to import stays out of commands that work without it."""
    loaded = set(told(*words))
    assert "everynode.cli" in loaded
    assert set() == unwanted & loaded


def test_garbage_is_collected_once_a_command_works() -> None:
    """Nothing is looked through while the program starts, and what a command makes is looked through seldom."""
    assert ["True", str(GARBAGE_THRESHOLD)] == told("plan", "-f", os.devnull)[-2:]
    assert "False" == told("version")[-2]
    assert gc.isenabled()  # importing single commands, as here, changes nothing
