"""The wheel, as people get it: complete, installable by itself, and working.

The other tests run against the source tree, where a package that was left out of the wheel is
still found. These build the wheel and install it, with the locked dependencies, into an empty
environment.
"""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("engine", "adapters")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROCESS_TIMEOUT_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PROCESS_TIMEOUT_S)]

IMPORT_ALL = """
import importlib, pkgutil
for name in ("everynode", "everynode_kubernetes", "everynode_simulated"):
    package = importlib.import_module(name)
    print(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if module.name.startswith("everynode.testing.") or module.name.endswith(".__main__"):
            continue  # the first needs the extra `testing`, the second runs the program
        if module.name != "everynode.testing":
            importlib.import_module(module.name)
        print(module.name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program away from the source tree, and return what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))
    }
    finished = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, f"{command}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def source_files() -> set[str]:
    """Everything below the source roots that belongs into the wheel, as paths inside of it."""
    return {
        path.relative_to(ROOT / source_root).as_posix()
        for source_root in SOURCE_ROOTS
        for path in (ROOT / source_root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend that pyproject.toml names."""
    directory = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*build, "--outdir", directory, ROOT, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and the locked dependencies of all that it ships, nothing else."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", directory / "venv", cwd=directory)
    programs = directory / "venv" / "bin"
    install = (programs / "python", "-m", "pip", "install", "--quiet")
    run(*install, "--require-hashes", "-r", ROOT / "requirements" / "run.txt", cwd=directory)
    run(*install, "--no-deps", wheel, cwd=directory)
    run(programs / "python", "-m", "pip", "check", cwd=directory)
    return programs


def test_wheel_has_every_source_file(wheel: Path) -> None:
    """What is in the tree is in the wheel, and nothing else but the metadata."""
    packed = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if not PurePosixPath(name).parts[0].endswith(".dist-info")
    }
    assert packed == source_files()


def test_every_source_directory_is_a_package() -> None:
    """A directory without an __init__.py would be a namespace that other distributions can join."""
    directories = {PurePosixPath(name).parent for name in source_files() if name.endswith(".py")}
    bare = [
        directory.as_posix()
        for directory in sorted(directories)
        if f"{directory}/__init__.py" not in source_files()
    ]
    assert bare == []


def test_every_package_is_typed() -> None:
    """Each top-level package tells type checkers that its annotations count."""
    toplevel = {PurePosixPath(name).parts[0] for name in source_files()}
    assert {name for name in toplevel if f"{name}/py.typed" not in source_files()} == set()


def test_wheel_contents_are_in_order(wheel: Path) -> None:
    """check-wheel-contents finds the packages that we ship, and nothing else."""
    toplevel = sorted({PurePosixPath(name).parts[0] for name in source_files()})
    checker = Path(sys.executable).with_name("check-wheel-contents")
    run(checker, "--no-config", "--toplevel", ",".join(toplevel), wheel, cwd=wheel.parent)


def test_wheel_imports(environment: Path, tmp_path: Path) -> None:
    """Every module imports with the dependencies that a user gets."""
    imported = run(environment / "python", "-I", "-c", IMPORT_ALL, cwd=tmp_path).split()
    packages = {
        PurePosixPath(name).parent.as_posix().replace("/", ".")
        for name in source_files()
        if name.endswith("/__init__.py") and not name.startswith("everynode/testing/")
    }
    assert sorted(packages - set(imported)) == []


def test_installed_program_knows_its_version(environment: Path, tmp_path: Path) -> None:
    """The console script starts and tells the version of the wheel."""
    version = run(environment / "python", "-I", "-c", PRINT_VERSION, cwd=tmp_path).strip()
    assert version in run(environment / "everynode", "version", cwd=tmp_path).split()


PRINT_VERSION = "from importlib.metadata import version; print(version('everynode'))"

LOAD_ADAPTERS = """
from importlib.metadata import entry_points
for entry_point in entry_points(group="everynode.adapters"):
    print(entry_point.name, entry_point.load().__name__)
"""


def test_adapters_are_found(environment: Path, tmp_path: Path) -> None:
    """The adapters that we ship load by their entry points, as those of third parties do."""
    loaded = run(environment / "python", "-I", "-c", LOAD_ADAPTERS, cwd=tmp_path).splitlines()
    declared = PROJECT["project"]["entry-points"]["everynode.adapters"]
    assert sorted(loaded) == sorted(
        f"{name} {target.partition(':')[2]}" for name, target in declared.items()
    )
