"""What people see of a simulation: one line for each failure, and a table of figures at the end."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from everynode.testing.simulation import marks
from everynode.testing.simulation.checks import Violation


class Outcome(NamedTuple):
    """What came of one run.

    Attributes:
        seed: What it was drawn from.
        steps: How many callbacks ran.
        virtual_ms: How much virtual time passed.
        wall_s: How long it took.
        trace: Equal for equal runs.
        violations: What was wrong; empty if nothing was.
        marks: How often each mark was hit.
        figures: How much of everything happened.
    """

    seed: int
    steps: int
    virtual_ms: int
    wall_s: float
    trace: str
    violations: tuple[Violation, ...]
    marks: Mapping[str, int]
    figures: Mapping[str, int]


def failure_line(outcome: Outcome, commit: str) -> str:
    """Say in one line what failed and how to see it again."""
    first = outcome.violations[0]
    text = " ".join(first.text.split())
    return (
        f"FAILED seed={outcome.seed} commit={commit} python={platform.python_version()} "
        f"promise={first.promise} step={outcome.steps}: {text} | make sim SEED={outcome.seed}"
    )


def table(outcomes: Iterable[Outcome], wall_s: float, failed: int) -> list[str]:
    """Return the lines of the table of figures."""
    seeds = steps = virtual_ms = 0
    spent_s = 0.0
    hit: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    for outcome in outcomes:
        seeds += 1
        steps += outcome.steps
        virtual_ms += outcome.virtual_ms
        spent_s += outcome.wall_s
        hit.update(outcome.marks)
        figures.update(outcome.figures)
    registered = marks.registered()
    missed = sorted(registered - hit.keys())
    rows = {
        "seeds": f"{seeds:,}",
        "failed": f"{failed:,}",
        "steps": f"{steps:,}",
        "virtual time": f"{virtual_ms / 3_600_000:,.1f} h",
        "wall time": f"{wall_s:,.1f} s",
        "steps/s of one core": f"{steps / spent_s if spent_s else 0:,.0f}",
        **{name: f"{count:,}" for name, count in sorted(figures.items())},
        "marks hit": f"{len(registered) - len(missed)} of {len(registered)}",
    }
    lines = [f"{name:<28}{value:>16}" for name, value in rows.items()]
    lines += [f"mark missed: {name}" for name in missed]
    return lines


def marks_table(counts: Mapping[str, int]) -> list[str]:
    """Return the lines that say how often each mark was hit."""
    return [f"{counts.get(name, 0):>12,}  {name}" for name in sorted(marks.registered())]
