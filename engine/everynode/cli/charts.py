"""Curves and marks as lines of text, as wide as the terminal: bars of block characters, or of ASCII where it must be.

Used by `timeline`. It returns styled text and prints nothing.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from everynode.replay.timeline import LANES, Curve, Mark, MarkKind, merged
from everynode.runtime.clock import timestamp

PIPE_WIDTH = 80
WIDTH_MIN = 40
LABEL_WIDTH = 13
ROWS = 2
"""How many lines of text a curve is high."""

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:|#"
"""Bars from empty to full, by eighths or by quarters of a line."""
_TIED = "\u00a0"
"""A space at which no line is broken."""

SYMBOLS = {
    MarkKind.APPLIED: "*",
    MarkKind.SPEC: "*",
    MarkKind.DELETED: "x",
    MarkKind.NODES_LOST: "-",
    MarkKind.NODES_JOINED: "+",
    MarkKind.NODES_NOT_READY: "!",
    MarkKind.NODES_READY: "^",
    MarkKind.NODES_CORDONED: "c",
    MarkKind.NODES_UNCORDONED: "u",
    MarkKind.DECISIONS: "o",
}


def levels() -> str:
    """Return the characters of bars: ASCII where nothing else can be written."""
    try:
        BLOCKS.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


class ChartLine(NamedTuple):
    """One curve.

    Attributes:
        style: Its colour.
        shows_high: Of what happens within one column, the highest value is shown; otherwise the lowest.
        full: The value that is drawn as high as can be, so that curves can be compared; 0: the curve's own highest.
    """

    label: str
    curve: Curve
    style: str
    shows_high: bool = False
    full: int = 0


class Span(NamedTuple):
    """A time, in ms since 1970."""

    begins_ms: int
    ends_ms: int


def chart(
    lines: Sequence[ChartLine], marks: Sequence[Mark], span: Span, width: int, levels: str = BLOCKS
) -> Iterator[Text]:
    """Draw curves, each from 0 to its highest value, and below them what happened.

    Args:
        lines: The curves; each has points.
        marks: In the order of time; if there is none, there is no room for any.
        span: Which time is drawn.
        width: How many columns there are.
        levels: The characters of bars, from empty to full.
    """
    figures = [[str(number) for number in _figures(line.curve)] for line in lines]
    head = ("MIN", "MAX", "LAST")
    widths = [max(map(len, column)) for column in zip(head, *figures, strict=True)]
    columns = max(WIDTH_MIN, width) - LABEL_WIDTH - sum(widths) - 2 * len(widths)
    yield Text(" " * (LABEL_WIDTH + columns) + _row(head, widths), style="bold")
    for number, (line, numbers) in enumerate(zip(lines, figures, strict=True)):
        if number:
            yield Text()
        values = worst(line, span, columns)
        bars = list(_bars(values, line.full or line.curve.high, levels))
        for place, bar in enumerate(bars):
            is_last = place == ROWS - 1
            label = line.label if is_last else ""
            text = Text(label.ljust(LABEL_WIDTH))
            text.append(bar, line.style)
            text.append(_row(numbers, widths) if is_last else "")
            text.rstrip()
            yield text
    for lane, kinds in LANES.items() if marks else ():
        mine = [mark for mark in marks if mark.kind in kinds]
        text = Text(lane.ljust(LABEL_WIDTH) + _lane(mine, kinds, span, columns))
        text.rstrip()
        yield text
    begins, ends = timestamp(span.begins_ms), timestamp(span.ends_ms)
    if len(begins) + len(ends) < columns:
        yield Text(" " * LABEL_WIDTH + begins + ends.rjust(columns - len(begins)))
    else:
        yield Text(" " * LABEL_WIDTH + begins)
        yield Text(" " * LABEL_WIDTH + ends.rjust(columns))


def worst(line: ChartLine, span: Span, columns: int) -> list[int | None]:
    """Say for each column the lowest (or highest) value that the curve had in its time; ``None`` before its first."""
    pick = max if line.shows_high else min
    values: list[int | None] = [None] * columns
    points = line.curve.points
    for place, point in enumerate(points):
        following = points[place + 1].time_ms if place + 1 < len(points) else span.ends_ms
        first = _column(point.time_ms, span, columns)
        # In the column where it ends there are two values, and the worse one is shown.
        for column in range(first, _column(following, span, columns) + 1):
            known = values[column]
            values[column] = point.value if known is None else pick(known, point.value)
    return values


def _column(time_ms: int, span: Span, columns: int) -> int:
    length_ms = max(1, span.ends_ms - span.begins_ms)
    return min(columns - 1, max(0, (time_ms - span.begins_ms) * columns // length_ms))


def _figures(curve: Curve) -> tuple[int, int, int]:
    return curve.low, curve.high, curve.last


def _row(values: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"  {value.rjust(width)}" for value, width in zip(values, widths, strict=True))


def _bars(values: Sequence[int | None], high: int, levels: str) -> Iterator[str]:
    """Write bars as lines of text, the upper one first.

    What is above 0 is never drawn as nothing, and what is below the highest value never as high as that.
    """
    steps = len(levels) - 1
    full = ROWS * steps
    heights: list[int] = []
    for value in values:
        if not value:
            heights.append(0)
        elif value >= high:
            heights.append(full)
        else:
            heights.append(max(1, value * full // high))
    for row in reversed(range(ROWS)):
        yield "".join(levels[min(steps, max(0, height - row * steps))] for height in heights)


def _lane(marks: Sequence[Mark], kinds: Sequence[MarkKind], span: Span, columns: int) -> str:
    """Write the marks of a lane, each in its column; where several meet, the most important one is seen."""
    cells = [" "] * columns
    for kind in reversed(kinds):
        for mark in marks:
            if mark.kind is kind:
                cells[_column(mark.from_ms, span, columns)] = SYMBOLS[kind]
    return "".join(cells)


def legend(marks: Sequence[Mark], width: int) -> list[str]:
    """Say what the symbols of marks mean, in lines that are no wider than this."""
    seen = {mark.kind: "" for kinds in LANES.values() for mark in marks if mark.kind in kinds}
    said = (f"{SYMBOLS[kind]} {kind}".replace(" ", _TIED) for kind in seen)
    return [line.replace(_TIED, " ") for line in textwrap.wrap("   ".join(said), width)]


def mark_rows(marks: Sequence[Mark], span: Span, steps: int) -> list[list[str]]:
    """Write marks as rows of a table, TIME and WHAT; those of a kind within one of so many steps are one row."""
    window_ms = (span.ends_ms - span.begins_ms) // steps
    return [[timestamp(mark.from_ms), _said(mark)] for mark in merged(marks, window_ms)]


def _said(mark: Mark) -> str:
    seconds = (mark.to_ms - mark.from_ms + 500) // 1000
    return f"{mark.text} (within {seconds}s)" if mark.count > 1 and seconds > 0 else mark.text
