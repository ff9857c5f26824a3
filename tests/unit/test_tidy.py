"""The repository's own lint: the rules that no linter off the shelf knows.

Each rule is a function from a source text to complaints. One test runs it over the tree, and
another feeds it sources that must and must not be complained about, so that a rule that sees
nothing is found.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_DIRECTORIES = ("engine", "adapters", "tests", "benchmarks")

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
TODO_WORDS_MIN = 5

CORE_MAY_IMPORT = frozenset(
    {
        *("everynode.core", "everynode.errors"),
        *("msgspec", "pyroaring"),
        *("__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum"),
        *(
            "functools",
            "hashlib",
            "heapq",
            "itertools",
            "math",
            "operator",
            "re",
            "types",
            "typing",
        ),
    }
)
CORE_MAY_NOT_USE = {
    "hash": "differs from process to process",
    "id": "differs from process to process",
    "open": "the core has no files",
    "print": "the core talks through its decisions",
    "input": "the core talks through its decisions",
    "exec": "the core is what it reads as",
    "eval": "the core is what it reads as",
    "__import__": "imports stand at the top, where the allow-list sees them",
}
NO_MOCKS_BELOW = ("tests/unit/core", "tests/simulation")

Rule = Callable[[str], list[str]]


# --- the rules ------------------------------------------------------------------------------------


def long_functions(source: str) -> list[str]:
    """A function fits on a screen."""
    return [
        f"{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES_MAX} are allowed"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def long_module(source: str) -> list[str]:
    """A module can be read in one go."""
    lines = len(source.splitlines())
    if lines <= MODULE_LINES_MAX:
        return []
    return [f"1: the module has {lines} lines, {MODULE_LINES_MAX} are allowed"]


def missing_module_docstring(source: str) -> list[str]:
    """A module says what it is for."""
    if ast.get_docstring(ast.parse(source)):
        return []
    return ["1: the module does not say what it is for"]


def unexplained_todo(source: str) -> list[str]:
    """Work that is left says what and why, in the same comment."""
    complaints = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        found = re.search(r"\b(?:TODO|FIXME|XXX)\b(.*)", token.string)
        if found and len(re.findall(r"\w+", found[1])) < TODO_WORDS_MIN:
            complaints.append(f"{token.start[0]}: a TODO without an explanation")
    return complaints


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str, frozenset[str]]]:
    """Each import: its line, how it reads, and the names of which one must be allowed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, frozenset({alias.name})
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, module, frozenset({module, f"{module}.{alias.name}"})


def impure_imports(source: str) -> list[str]:
    """The core imports from the allow-list: no clock, no randomness, no I/O, no event loop."""
    return [
        f"{line}: the core may not import {module}"
        for line, module, names in imported_modules(ast.parse(source))
        if not any(
            name in CORE_MAY_IMPORT or name.startswith(("everynode.core.", "msgspec."))
            for name in names
        )
    ]


def impure_names(source: str) -> list[str]:
    """The core uses nothing whose result depends on the process or that reaches outside of it."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not _is_read(node)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return [
        f"{node.lineno}: {node.id}: {CORE_MAY_NOT_USE[node.id]}"
        for node in nodes
        if isinstance(node, ast.Name)
        and _is_read(node)
        and node.id in CORE_MAY_NOT_USE
        and node.id not in own
    ]


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)


def waiting(source: str) -> list[str]:
    """The core never waits."""
    return [
        f"{node.lineno}: the core is not asynchronous"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
    ]


def mocks(source: str) -> list[str]:
    """Tests of the core and the simulator need no mocks: values go in and values come out."""
    tree = ast.parse(source)
    complaints = [
        f"{line}: use a value or a fake that passes the conformance kit, not a mock"
        for line, _, names in imported_modules(tree)
        if any(re.match(r"(unittest\.mock|mock|pytest_mock)(\.|$)", name) for name in names)
    ]
    complaints += [
        f"{node.lineno}: use a value or a fake that passes the conformance kit, not a mock"
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.arg == "mocker"
    ]
    return complaints


def promise_ids(design: str) -> list[str]:
    """The ids in the first column of the table of promises."""
    return re.findall(r"^\| *([SLB]\d+) *\|", design, flags=re.MULTILINE)


def cited_ids(source: str, promises: list[str], *, tests_only: bool = False) -> set[str]:
    """The ids that the docstrings of a module, its classes and its functions name as words."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if tests_only and not node.name.startswith("test_"):
                continue
        elif tests_only or not isinstance(node, ast.ClassDef | ast.Module):
            continue
        words = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
        found |= words.intersection(promises)
    return found


# --- the rules, over the tree ---------------------------------------------------------------------


def python_files(*directories: str) -> list[Path]:
    """All Python files below these directories, in a fixed order."""
    return sorted(path for name in directories for path in (ROOT / name).rglob("*.py"))


def complaints_about(files: list[Path], rule: Rule) -> list[str]:
    """Run one rule over files; each complaint reads `path:line: text`."""
    return [
        f"{path.relative_to(ROOT).as_posix()}:{complaint}"
        for path in files
        for complaint in rule(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(
    "rule", [long_functions, long_module, missing_module_docstring, unexplained_todo]
)
def test_every_module_is_tidy(rule: Rule) -> None:
    """No module of ours breaks the rule."""
    files = python_files(*SOURCE_DIRECTORIES)
    assert Path(__file__) in files
    assert complaints_about(files, rule) == []


@pytest.mark.parametrize("rule", [impure_imports, impure_names, waiting])
def test_the_core_is_pure(rule: Rule) -> None:
    """Nothing in the core depends on anything but its arguments."""
    files = python_files("engine/everynode/core")
    assert files
    assert complaints_about(files, rule) == []


def test_no_mocks_where_values_do() -> None:
    """The tests of the core and of the simulator use no mocks."""
    assert complaints_about(python_files(*NO_MOCKS_BELOW), mocks) == []


def test_every_promise_has_a_test() -> None:
    """Each promise in docs/design.md is cited by a test."""
    promises = promise_ids((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))
    assert set(promises) >= {"S1", "S8", "L1", "L3", "B1"}, "the table of promises was not found"

    cited: set[str] = set()
    for path in python_files("tests"):
        if path != Path(__file__):
            cited |= cited_ids(path.read_text(encoding="utf-8"), promises)
    for path in python_files("engine/everynode/testing"):
        cited |= cited_ids(path.read_text(encoding="utf-8"), promises, tests_only=True)

    assert sorted(set(promises) - cited) == [], "no test cites these promises"


def test_source_roots_are_not_packages() -> None:
    """An __init__.py in a source root would give every module a second name."""
    assert [name for name in SOURCE_DIRECTORIES if (ROOT / name / "__init__.py").exists()] == []


# --- each rule can fail ---------------------------------------------------------------------------

LONG_BODY = "    x = 1\n" * FUNCTION_LINES_MAX


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, f"def f():\n{LONG_BODY}"),
        (long_functions, f"class C:\n  async def f(self):\n{LONG_BODY}"),
        (long_module, "x = 1\n" * (MODULE_LINES_MAX + 1)),
        (missing_module_docstring, ""),
        (missing_module_docstring, "x = 1\n"),
        (unexplained_todo, "# TODO\n"),
        (unexplained_todo, "x = 1  # TODO: do this later\n"),
        (unexplained_todo, "# FIXME soon\n"),
        (impure_imports, "import time\n"),
        (impure_imports, "import os.path\n"),
        (impure_imports, "from random import choice\n"),
        (impure_imports, "def f():\n    import asyncio\n"),
        (impure_imports, "from everynode import runtime\n"),
        (impure_imports, "from everynode.corelike import x\n"),
        (impure_imports, "from ..ports import Bus\n"),
        (impure_names, "key = hash(name)\n"),
        (impure_names, "names.sort(key=id)\n"),
        (impure_names, "def f(path):\n    return open(path)\n"),
        (impure_names, "print(state)\n"),
        (waiting, "async def f():\n    pass\n"),
        (mocks, "import unittest.mock\n"),
        (mocks, "from unittest import mock\n"),
        (mocks, "from unittest.mock import patch\n"),
        (mocks, "def test_x(mocker):\n    pass\n"),
    ],
)
def test_a_rule_complains(rule: Rule, source: str) -> None:
    """A source that breaks the rule gets exactly one complaint, with its line."""
    (complaint,) = rule(source)
    assert re.match(r"\d+: \w", complaint)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, f"def f():\n{LONG_BODY.removesuffix('    x = 1' + chr(10))}"),
        (long_module, "x = 1\n" * MODULE_LINES_MAX),
        (missing_module_docstring, '"""What this is for."""\n'),
        (unexplained_todo, "# TODO: drop this when the oldest server has batches\n"),
        (unexplained_todo, "text = 'TODO'\n"),
        (impure_imports, "from collections.abc import Mapping\nimport msgspec.json\n"),
        (impure_imports, "from everynode.core.values import Node\n"),
        (impure_imports, "from everynode import core, errors\n"),
        (impure_names, "def f(id: str) -> str:\n    return id\n"),
        (impure_names, "class C:\n    def __hash__(self):\n        return self.id\n"),
        (waiting, "def f():\n    return 1\n"),
        (mocks, "from hypothesis import given\n"),
    ],
)
def test_a_rule_lets_pass(rule: Rule, source: str) -> None:
    """A source that keeps the rule gets no complaint."""
    assert rule(source) == []


def test_promises_and_citations_are_found() -> None:
    """Ids are read from the table's first column, and cited only as whole words in docstrings."""
    design = "| id | promise |\n|---|---|\n| S1 | never two, see S2 |\n| B1 | a limit |\n"
    promises = promise_ids(design)
    assert promises == ["S1", "B1"]

    test = 'def test_x():\n    """S1: never two; not B11."""\n    y = "B1"  # B1\n'
    helper = 'def explain():\n    """B1 is not tested here."""\n'
    assert cited_ids(test, promises) == {"S1"}
    assert cited_ids(test + helper, promises) == {"S1", "B1"}
    assert cited_ids(test + helper, promises, tests_only=True) == {"S1"}
