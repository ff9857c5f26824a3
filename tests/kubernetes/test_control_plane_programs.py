"""Where no control plane can be built or found, everybody is told what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kubernetes.control_plane import build
from tests.kubernetes.support_programs import MissingProgramsError, find_programs

ROOT = Path(__file__).parents[2]
TEST = "tests/kubernetes/test_control_plane.py::test_the_shared_plane_is_left_clean"


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an empty cache and an empty PATH; the directory that both are in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("EVERYNODE_CONTROL_PLANE", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "bin").mkdir()
    return tmp_path


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with such arguments."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("nothing")
def test_without_go_the_build_says_which_go_is_needed() -> None:
    """The build fails with one line that names the version of Go, and nothing is left in the cache."""
    done = run("-m", "tests.kubernetes.control_plane.build")
    assert 1 == done.returncode
    assert done.stderr.startswith("control-plane: go was not found: install Go 1.")
    assert 1 == len(done.stderr.splitlines())
    assert build.cached() is None


@pytest.mark.usefixtures("nothing")
def test_missing_programs_are_named_with_the_way_to_get_them() -> None:
    """All programs that are missing are in one message, with the command that builds them."""
    with pytest.raises(MissingProgramsError, match=r"etcd, .*kube-apiserver.*`make control-plane`"):
        find_programs()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing")
def test_tests_are_skipped_without_a_control_plane_and_fail_where_it_is_required() -> None:
    """Without the programs a test is skipped with the reason; with EVERYNODE_CONTROL_PLANE=required it is an error."""
    pytest_run = ("-m", "pytest", "-q", "-p", "no:cacheprovider", TEST)
    skipped = run(*pytest_run)
    assert 0 == skipped.returncode
    assert "make control-plane" in skipped.stdout
    required = run(*pytest_run, EVERYNODE_CONTROL_PLANE="required")
    assert 1 == required.returncode
    assert "make control-plane" in required.stdout


def executables(directory: Path) -> Path:
    """A directory with a file for each program."""
    directory.mkdir(parents=True)
    for program in build.PACKAGES:
        (directory / program).touch(mode=0o755)
    return directory


def only_version(go: Path) -> None:
    """A go command that knows its version and compiles nothing."""
    go.write_text('#!/bin/sh\n[ "$1" = env ] || exit 1\necho go1.26.0\n')
    go.chmod(0o755)


def test_programs_are_found_in_the_cache_then_in_kubebuilder_assets_then_on_the_path(
    nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make control-plane` built comes first, then KUBEBUILDER_ASSETS, then the PATH."""
    on_path, assets = executables(nothing / "on_path"), executables(nothing / "assets")
    monkeypatch.setenv("PATH", str(on_path))
    assert on_path / "etcd" == find_programs().etcd
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert assets / "etcd" == find_programs().etcd
    (assets / "kwok").unlink()
    assert on_path / "kwok" == find_programs().kwok
    built = executables(build.cache() / f"{build.key()}-go1.26.0")
    assert built / "etcd" == find_programs().etcd


@pytest.mark.usefixtures("nothing")
def test_an_incomplete_or_other_build_is_not_used() -> None:
    """A directory that lacks a program, or was built from something else, is as good as none."""
    executables(build.cache() / "v1.0.0-000000000000-go1.26.0")
    built = executables(build.cache() / f"{build.key()}-go1.26.0")
    assert built == build.cached()
    (built / "etcd").unlink()
    assert build.cached() is None


def test_what_is_there_is_not_built_again(nothing: Path) -> None:
    """With the programs in the cache, the build says where they are and compiles nothing."""
    only_version(nothing / "bin" / "go")
    built = executables(build.cache() / f"{build.key()}-go1.26.0")
    done = run("-m", "tests.kubernetes.control_plane.build")
    assert (0, f"control-plane: in {built}\n") == (done.returncode, done.stdout)


def test_a_program_that_does_not_build_leaves_nothing_behind(nothing: Path) -> None:
    """The build fails with the name of the program, and the cache stays empty."""
    only_version(nothing / "bin" / "go")
    done = run("-m", "tests.kubernetes.control_plane.build")
    assert 1 == done.returncode
    assert "control-plane: certificates does not build" in done.stderr
    assert [] == list(build.cache().iterdir())
