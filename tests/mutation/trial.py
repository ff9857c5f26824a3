"""One trial: the tests of the core, against one mutant of one of its modules.

Used by ``run``, in a process that is forked for this one trial and has not imported everynode yet. The mutant is never
written to a file: an import hook gives it to whoever imports the module.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import _hypothesis_pytestplugin  # type: ignore[import-untyped] # the plugin, unlike hypothesis itself, has no types
import pytest
import pytest_asyncio.plugin

MEMORY_BYTES_MAX = 4 * 1024**3
"""How much address space a trial may have: a mutant may collect things for ever."""

PLUGINS = (_hypothesis_pytestplugin, pytest_asyncio.plugin)


class Stage(NamedTuple):
    """Test files that run together.

    Attributes:
        files: Below the root.
        cpu_seconds_max: The CPU time after which the trial is ended, and the mutant has been noticed.
    """

    files: tuple[str, ...]
    cpu_seconds_max: float


class _MutatedModule(importlib.machinery.SourceFileLoader):
    """Loads a module from a text instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """Compile the text."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(self._source, self.get_filename(fullname), "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, before anybody else does."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, str(path), source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Say how to load the module, if it is asked for."""
        del path, target
        if fullname != self._name:
            return None
        loader = _MutatedModule(self._name, self._path, self._source)
        return importlib.machinery.ModuleSpec(fullname, loader, origin=self._path)


def attempt(root: Path, module: str, source: str, stages: Sequence[Stage]) -> list[float]:
    """Run the tests stage by stage, up to the first that fails.

    Args:
        root: A copy of the tree.
        module: Name of a module of ``everynode.core``.
        source: What it is to be.
        stages: The tests.

    Returns:
        The CPU seconds that each stage took; fewer than there are stages if one failed.
    """
    assert not any(name.split(".")[0] == "everynode" for name in sys.modules)
    path = root / "engine" / "everynode" / "core" / f"{module}.py"
    sys.meta_path.insert(0, _Finder(f"everynode.core.{module}", path, source))
    sys.path[:0] = [str(root / "engine"), str(root / "adapters")]
    os.chdir(root)
    taken: list[float] = []
    for stage in stages:
        _limit(stage.cpu_seconds_max)
        before = time.process_time()
        if pytest.main([*_options(root), *stage.files], plugins=PLUGINS) != pytest.ExitCode.OK:
            break
        taken.append(time.process_time() - before)
    return taken


def _options(root: Path) -> list[str]:
    return [
        *("-c", str(root / "tests" / "mutation" / "pytest.ini"), "--rootdir", str(root)),
        *("-p", "no:cacheprovider"),
        *("-x", "-q", "--tb=no", "--no-header", "--no-summary"),
    ]


def _limit(cpu_seconds_max: float) -> None:
    """End this process when it has used so much more CPU time (SIGXCPU), or memory."""
    seconds = int(time.process_time() + cpu_seconds_max) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    with contextlib.suppress(ValueError):  # a lower limit than this is in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
