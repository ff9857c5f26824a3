"""The runner of mutation tests: what it changes, what it takes for noticed, and what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.mutation.explained import read_explanations
from tests.mutation.planning import Mutant, plan
from tests.mutation.run import KILLED_PERCENT_MIN, Result, shown, table, total

ROOT = Path(__file__).resolve().parents[2]


def added(source: str) -> list[str]:
    """Plan a module's mutants, and return what each has instead of the original."""
    return [" ".join(" ".join(mutant.added).split()) for mutant in plan(textwrap.dedent(source))]


def test_a_mutant_is_the_module_with_one_change() -> None:
    """It knows its line and its function, what is gone and what is new; all else is as it was."""
    source = '"""Text."""\n\n\nclass C:\n    def f(self, x):\n        return x and 1\n'

    mutants = plan(source)

    assert [(each.line, each.where, each.removed) for each in mutants] == [
        (6, "C.f", ("return x and 1",))
    ] * 3
    assert {each.source for each in mutants} == {
        source.replace("x and 1", changed) for changed in ("x or 1", "x and 0", "x and 2")
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = True\n", ["x = False"]),
        ("x = a < b\n", ["x = a != b", "x = a <= b", "x = a == b", "x = a > b", "x = a >= b"]),
        ("x = a is None\n", ["x = a is not None"]),
        ("x = not a\n", ["x = a"]),
        ('x = a == "Gt"\n', ['x = a != "Gt"']),
        ("@property\ndef f(self):\n    pass\n", [""]),
        ("class C(B, frozen=True):\n    pass\n", ["class C(B, frozen=False):"]),
        ("class C:\n    x: int = 3\n", ["x: int = 2", "x: int = 4"]),
        ("try:\n    f()\nexcept E:\n    pass\n", ["except CosmicRayTestingException:"]),
        # A dotted name in brackets is beyond cosmic-ray; the other one is not.
        (
            "try:\n    f()\nexcept (a.E, F):\n    pass\n",
            ["except (a.E, CosmicRayTestingException):"],
        ),
        ("def f(a: int | None, *, b: int) -> int | None:\n    pass\n", []),
        ("x: int | None\n", []),
        ('"""Text 1."""\n', []),
        ("from a import b\n", []),
    ],
)
def test_what_a_test_can_notice_is_changed(source: str, expected: list[str]) -> None:
    """Values, operators, decorators and handlers are; annotations, texts and how code is written are not."""
    assert expected == added(source)


MUTANT = Mutant(7, "C.f", ("return x",), ("return  -1",), "")
OTHER = Mutant(9, "", ("@cache",), (), "")
PAGE = """
## `budget`

Because.

```diff
@@ C.f
- return x
+ return -1
@@ module
- @cache
```

## claims
"""


def test_survivors_are_explained_by_their_diffs() -> None:
    """An explanation holds in its module, wherever the line stands, and is missed if it is not needed."""
    explanations = read_explanations(PAGE)

    assert not explanations.explain("claims", MUTANT)
    assert len(explanations.unused("budget")) == 2
    assert explanations.explain("budget", MUTANT)
    assert not explanations.explain("budget", MUTANT._replace(added=("return 0",)))
    assert not explanations.explain("budget", MUTANT._replace(where="C.g"))
    assert ["module: nothing"] == [str(hunk) for hunk in explanations.unused("budget")]
    assert explanations.explain("budget", OTHER)
    assert explanations.unused("budget") == []


def test_what_is_printed_can_be_explained() -> None:
    """The diff that a run prints is, put into a block, the explanation's."""
    place, *diff = shown("budget", MUTANT)
    page = "\n".join(["## budget", "```diff", *diff, "```"])

    assert place == "engine/everynode/core/budget.py:7: survived"
    assert read_explanations(page).explain("budget", MUTANT)


def test_the_table_counts_what_is_explained_apart() -> None:
    """Only what is killed counts as killed; the last line adds all modules up."""
    results = [
        Result("budget", 100, 95, (MUTANT,), (OTHER,) * 4, 1.4),
        Result("claims", 0, 0, (), (), 0.2),
    ]

    assert list(table(results))[2:] == [
        "| budget | 100 | 95 | 95.0 % | 1 | 4 | 1 |",
        "| claims | 0 | 0 | 100.0 % | 0 | 0 | 0 |",
        "| all | 100 | 95 | 95.0 % | 1 | 4 | 2 |",
    ]
    assert total(results).killed_percent >= KILLED_PERCENT_MIN


TRIALS = """
import json, sys, tempfile
from pathlib import Path
from tests.mutation.run import CORE, Trial, copy_of_tree, prepare
from tests.mutation.trial import Stage

prepare()
with tempfile.TemporaryDirectory() as directory:
    root = copy_of_tree(Path(directory))
    source = (root / CORE / "pacing.py").read_text(encoding="utf-8")
    stages = [Stage(("tests/unit/core/test_pacing.py",), 10)] * 2
    passed = {}
    for name, mutant in {
        "as it is": source,
        "wrong": source.replace("RETRY_FIRST_MS = 1_000", "RETRY_FIRST_MS = 1_001"),
        "no Python": "(",
        "without end": source + "\\nwhile True: pass\\n",
        "too large": source + "\\nbytearray(2**33)\\n",
    }.items():
        trial = Trial(root, "pacing", mutant, [stages[0]._replace(cpu_seconds_max=2), stages[1]])
        trial.process.join(60)
        passed[name] = len(trial.end())
    unchanged = (root / CORE / "pacing.py").read_text(encoding="utf-8") == source
print(json.dumps([passed, unchanged]))
"""


@pytest.mark.slow
def test_tests_notice_in_a_process_of_their_own() -> None:
    """A mutant passes as many stages as notice nothing; one that never ends is ended; no file is changed."""
    done = subprocess.run(
        [sys.executable, "-c", TRIALS], cwd=ROOT, check=True, capture_output=True, timeout=100
    )

    assert json.loads(done.stdout) == [
        {"as it is": 2, "wrong": 0, "no Python": 0, "without end": 0, "too large": 0},
        True,
    ]
