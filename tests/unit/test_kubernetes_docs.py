"""docs/kubernetes.md and docs/differences.md name functions and tests: every one of them must be there.

The two documents say where each rule of Kubernetes' controller is implemented and what proves it. A name that is
changed in the code has to be changed there, or this fails.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("docs/kubernetes.md", "docs/differences.md")
TEST_DIRECTORIES = ("tests", "engine/everynode/testing")
CASES = "test_kubernetes_cases"

_TEST = re.compile(r"(?P<file>[\w/]+\.py)::(?P<names>[\w:]+)(?:\[(?P<id>[^\]]+)\])?")
_FUNCTION = re.compile(r"[a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)+")
_KUBERNETES_CASE = re.compile(r"\bTest[A-Z]\w+")


def quoted(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


@cache
def files_with_tests() -> tuple[Path, ...]:
    """Return all files in which there may be tests."""
    return tuple(path for name in TEST_DIRECTORIES for path in sorted((ROOT / name).rglob("*.py")))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the functions and classes of a module, those in classes as ``Class::name``."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")), ""))


def _names(tree: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _names(node, f"{prefix}{node.name}::")
        elif isinstance(node, ast.Assign):  # TestX = Machine.TestCase
            yield from (prefix + item.id for item in node.targets if isinstance(item, ast.Name))


def problem_with_test(name: str) -> str:
    """Say what is wrong with the name of a test; empty if it is there."""
    found = _TEST.fullmatch(name)
    if found is None:
        return f"{name}: is no name of a test: write file.py::test or file.py::Class::test"
    paths = [
        path for path in files_with_tests() if f"/{path.as_posix()}".endswith(f"/{found['file']}")
    ]
    if len(paths) != 1:
        return (
            f"{name}: {len(paths)} files are called {found['file']}: write so much that it is one"
        )
    if found["names"] not in names_in(paths[0]):
        return f"{name}: there is no {found['names']} in that file"
    if found["id"] is not None and not _has_id(paths[0], found["id"]):
        return f"{name}: no case in that file has the id {found['id']}"
    return ""


def _has_id(path: Path, wanted: str) -> bool:
    text = path.read_text(encoding="utf-8")
    return f'id="{wanted}"' in text or (wanted.isdigit() and f"({wanted}, " in text)


def problem_with_function(name: str) -> str:
    """Say what is wrong with the name of a function or class; empty if it is there."""
    parts = name.split(".")
    for root in ("everynode.core", "everynode"):
        for length in range(len(parts) - 1, 0, -1):
            module = ".".join([root, *parts[:length]])
            try:
                found: object = importlib.import_module(module)
            except ModuleNotFoundError:
                continue
            for part in parts[length:]:
                found = getattr(found, part, None)
            return f"{name}: {module} has none" if found is None else ""
    return f"{name}: there is no module of that name"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_everything_that_is_named_exists(document: str) -> None:
    """Each name between backticks that has a dot or colons is a function, class or test of ours."""
    names = quoted((ROOT / document).read_text(encoding="utf-8"))
    tests = [name for name in names if "::" in name]
    functions = [name for name in names if "::" not in name and _FUNCTION.fullmatch(name)]
    assert len(tests) > 20
    assert len(functions) > 20

    problems = [*map(problem_with_test, tests), *map(problem_with_function, functions)]

    assert [problem for problem in problems if problem] == []


def test_every_difference_that_is_referred_to_exists() -> None:
    """D1, D2, ... are numbered without gaps, and docs/kubernetes.md names all of them and no other."""
    kubernetes, differences = ((ROOT / path).read_text(encoding="utf-8") for path in DOCUMENTS)
    numbers = [int(number) for number in re.findall(r"^### D(\d+) ", differences, re.MULTILINE)]

    assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(map(int, set(re.findall(r"\bD(\d+)\b", kubernetes)))) == numbers


def test_each_case_is_where_the_table_says() -> None:
    """A Kubernetes case that is said to be re-expressed in a file is named there, and all that are named are listed."""
    listed: set[str] = set()
    wrong = []
    for line in (ROOT / DOCUMENTS[0]).read_text(encoding="utf-8").splitlines():
        cases = _KUBERNETES_CASE.findall(line.split("|")[1]) if line.startswith("| Test") else []
        listed.update(cases)
        for name in (name for name in quoted(line) if CASES in name):
            path = ROOT / "tests/unit/core" / name.partition("::")[0]
            text = path.read_text(encoding="utf-8")
            wrong += [f"{case} is not named in {path.name}" for case in cases if case not in text]
    named = {
        case
        for path in sorted((ROOT / "tests/unit/core").glob(f"{CASES}*.py"))
        for case in _KUBERNETES_CASE.findall(path.read_text(encoding="utf-8"))
    }

    assert wrong == []
    assert named - listed == set()
    assert len(listed) > 60


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("test_kubernetes_docs.py::test_each_case_is_where_the_table_says", ""),
        ("conformance.py::AdapterConformance::test_a_repeated_delete_is_done", ""),
        ("test_situations.py::test_which_pods_go[a taint that evicts]", ""),
        ("test_kubernetes_docs.py", "is no name of a test"),
        ("test_kubernetes_docs.py::test_nothing", "there is no test_nothing"),
        ("test_nothing.py::test_nothing", "0 files"),
        ("conftest.py::x", "files are called"),
        ("test_situations.py::test_which_pods_go[no such row]", "no case in that file"),
    ],
)
def test_a_name_of_a_test_is_checked(name: str, problem: str) -> None:
    """File, class, function and the id of a row must be there."""
    found = problem_with_test(name)

    assert problem in found
    assert bool(problem) == bool(found)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("claims.claim", ""),
        ("setstate.SetState.fail", ""),
        ("manifest.strategy.read_strategy", ""),
        ("claims.nothing", "has none"),
        ("setstate.SetState.nothing", "has none"),
        ("nothing.at_all", "there is no module"),
    ],
)
def test_a_name_of_a_function_is_checked(name: str, problem: str) -> None:
    """Module, class and function must be there."""
    found = problem_with_function(name)

    assert problem in found
    assert bool(problem) == bool(found)
