"""How the benchmarks measure, and the table that they print.

Every part of the benchmark returns rows; ``run`` prints them and says whether all targets are met. A target belongs to
a figure that the project promises; a row without one is there to be looked at.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WIDTH_IN_A_PIPE = 180
_NANOSECONDS_PER_SECOND = 1e9


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound that a figure must keep.

    Attributes:
        bound: In the unit of the figure.
        at_least: The figure must not be smaller; otherwise it must not be larger.
    """

    bound: float
    unit: str = ""
    at_least: bool = False

    def met_by(self, figure: float) -> bool:
        """Say whether a figure keeps the bound."""
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        """Read as ``<= 4 s``."""
        return f"{'>=' if self.at_least else '<='} {written(self.bound)} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        figure: What was measured, in ``unit``.
        loop_ratio: How many times longer a plain loop over all pairs of set and node takes; ``None``: there is none.
    """

    part: str
    what: str
    figure: float
    unit: str
    loop_ratio: float | None = None
    target: Target | None = None

    @property
    def missed(self) -> bool:
        """Its target is not met."""
        return self.target is not None and not self.target.met_by(self.figure)


def written(number: float) -> str:
    """Write a number with three significant digits, and a large one in groups of thousands."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def print_table(rows: Sequence[Row], *, enforced: bool) -> None:
    """Print all rows, grouped by part.

    Args:
        rows: What was measured.
        enforced: Show targets, and judge the figures by them.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_A_PIPE)
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("part", "measured"):
        table.add_column(heading, no_wrap=True)
    for heading in ("figure", "plain loop takes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("target", "verdict"):
        table.add_column(heading, no_wrap=True)
    part = ""
    for row in rows:
        if part and row.part != part:
            table.add_section()
        ratio = "" if row.loop_ratio is None else f"{written(row.loop_ratio)} times"
        target = verdict = ""
        if row.target is not None and enforced:
            target, verdict = str(row.target), "MISSED" if row.missed else "ok"
        shown_part = row.part if row.part != part else ""
        figure = f"{written(row.figure)} {row.unit}"
        table.add_row(shown_part, row.what, figure, ratio, target, verdict)
        part = row.part
    console.print(table)


@contextlib.contextmanager
def quiet_heap() -> Iterator[None]:
    """Keep the garbage collector out of a measurement of microseconds, and start it with a clean heap."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds_of(action: Callable[[], object]) -> float:
    """Measure one run."""
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) / _NANOSECONDS_PER_SECOND


def best_seconds(action: Callable[[], object], runs: int) -> float:
    """Measure several runs and return the shortest: what the code takes when nothing else gets in its way."""
    return min(seconds_of(action) for _ in range(runs))


def say(text: str) -> None:
    """Say what is going on, on stderr, so that the table can be redirected."""
    print(text, file=sys.stderr, flush=True)
