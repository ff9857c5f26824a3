"""The lock files: complete, hashed, and tied to no machine and no package index."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def normalized(requirement: str) -> str:
    """The project that a requirement names, spelled as lock files spell it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def locked(text: str) -> set[str]:
    """The projects that a lock file pins."""
    return set(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==", text, flags=re.MULTILINE))


def problems(text: str) -> list[str]:
    """Lines that pin nothing, pins without a hash, and everything that names a place."""
    logical = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    pins = [line for line in logical if not line.lstrip().startswith("#")]
    found = [line for line in pins if not re.match(r"[a-z0-9-]+(\[[^]]*\])?==\S+ ", line)]
    found += [line for line in pins if "--hash=sha256:" not in line]
    found += [
        line for line in logical if re.search(r"://|--(extra-)?index|find-links|(^|\s)/", line)
    ]
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_lock_is_in_order(lock: Path) -> None:
    """Each line pins one version with its hashes, and none names an index or a path."""
    assert problems(lock.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "rich==15.0.0",
        "rich>=15 --hash=sha256:00",
        "--index-url https://index.example --hash=sha256:00",
        "rich @ file:///somewhere/rich.whl --hash=sha256:00",
        "# made in /home/me",
    ],
)
def test_a_wrong_line_is_found(line: str) -> None:
    """A line that pins nothing, has no hash or names a place is a problem."""
    assert problems(f"typer==0.29.2 \\\n    --hash=sha256:00\n{line}\n")


def test_locks_cover_the_dependencies() -> None:
    """What pyproject.toml asks for is locked, for users and for development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dependencies = {normalized(line) for line in project["project"]["dependencies"]}
    extras = {
        normalized(line)
        for lines in project["project"]["optional-dependencies"].values()
        for line in lines
    } - {"everynode"}
    backend = {normalized(line) for line in project["build-system"]["requires"]}

    by_name = {path.stem: locked(path.read_text(encoding="utf-8")) for path in LOCKS}
    assert dependencies - by_name["run"] == set()
    assert (dependencies | extras | backend) - by_name["dev"] == set()
