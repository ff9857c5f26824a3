"""How the program starts: packages that are loaded when they are used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from everynode.cli import starting
from everynode.cli.starting import LoadsWhenUsed


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package, with another one that it imports, that is to be loaded when it is used."""
    name = "everynode_loaded_when_used"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .inner import VALUE\n")
    (tmp_path / name / "inner.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(starting, "LOADED_WHEN_USED", frozenset({name}))
    monkeypatch.setattr(sys, "meta_path", [LoadsWhenUsed(), *sys.meta_path])
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
    assert LoadsWhenUsed().find_spec("json", None) is None
