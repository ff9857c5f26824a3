"""Charts of text: as wide as they may be, with nothing hidden that went wrong."""

from __future__ import annotations

import pytest

from everynode.cli.charts import (
    ASCII,
    BLOCKS,
    SYMBOLS,
    ChartLine,
    Span,
    chart,
    legend,
    mark_rows,
    worst,
)
from everynode.replay.timeline import Curve, Mark, MarkKind

BEGINS_MS = 1_715_000_400_000
SPAN = Span(BEGINS_MS, BEGINS_MS + 1_000)


def line(*points: tuple[int, int], shows_high: bool = False) -> ChartLine:
    """A curve whose steps are so many ms after the beginning."""
    curve = Curve()
    for after_ms, value in points:
        curve.add(BEGINS_MS + after_ms, value)
    return ChartLine("ready", curve, "green", shows_high)


def mark(kind: MarkKind, after_ms: int, count: int = 1, lasts_ms: int = 0) -> Mark:
    """Something that happened so many ms after the beginning."""
    begins = BEGINS_MS + after_ms
    return Mark(kind=kind, from_ms=begins, to_ms=begins + lasts_ms, count=count)


def drawn(*lines: ChartLine, marks: tuple[Mark, ...] = (), levels: str = BLOCKS) -> list[str]:
    """A chart of 80 columns."""
    return [text.plain for text in chart(lines, marks, SPAN, 80, levels)]


def test_a_short_dip_is_seen() -> None:
    """Of what happens within a column, the worst is shown: the lowest, or the highest if that is worse."""
    ready = worst(line((0, 9), (500, 3), (501, 9)), SPAN, 10)
    unavailable = worst(line((0, 0), (500, 6), (501, 0), shows_high=True), SPAN, 10)

    assert [9, 9, 9, 9, 9, 3, 9, 9, 9, 9] == ready
    assert [0, 0, 0, 0, 0, 6, 0, 0, 0, 0] == unavailable


def test_before_the_first_value_there_is_none() -> None:
    """Nobody knows what was before the first status, and a value holds until the end."""
    assert [None, None, None, None, None, 4, 4, 4, 4, 4] == worst(line((500, 4)), SPAN, 10)


@pytest.mark.parametrize("levels", [BLOCKS, ASCII])
def test_little_is_not_nothing_and_much_is_not_all(levels: str) -> None:
    """One of ten thousand is seen, missing or there."""
    rows = drawn(line((0, 10_000), (300, 9_999), (600, 1), (900, 0)), levels=levels)
    upper, lower = rows[1][13:], rows[2][13 : -len("    0  10000     0")]

    assert {levels[-1], levels[-2]} == set(upper)
    assert {levels[-1], levels[1], levels[0]} == set(lower)
    assert levels[0] == lower[-1]


def test_curves_that_are_compared() -> None:
    """What is not as high as the other curve gets is not drawn as high."""
    upper, lower = drawn(line((0, 5))._replace(full=10))[1:3]

    assert ("", BLOCKS[-1]) == (upper, lower[13])


def test_the_figures() -> None:
    """Lowest, highest and last value stand beside each curve, both times below; nothing is wider than it may be."""
    rows = drawn(line((0, 5), (300, 12_000), (600, 70)), line((0, 1)))

    assert ["MIN", "MAX", "LAST"] == rows[0].split()
    assert ["5", "12000", "70"] == rows[2].split()[-3:]
    assert ["1", "1", "1"] == rows[5].split()[-3:]
    assert ["2024-05-06T13:00:00Z", "2024-05-06T13:00:01Z"] == rows[-1].split()
    assert 80 == max(map(len, rows))


def test_marks_stand_where_they_happened() -> None:
    """Each in its lane; where two meet, the one that matters more is seen."""
    marks = (
        mark(MarkKind.APPLIED, 0),
        mark(MarkKind.NODES_LOST, 500),
        mark(MarkKind.NODES_JOINED, 500),
        mark(MarkKind.DECISIONS, 1_000),
    )
    rows = drawn(line((0, 1)), marks=marks)
    lanes = {row.split()[0]: row for row in rows if row[:1] in {"s", "n", "d"}}

    columns = 80 - 13 - len("  MIN  MAX  LAST")
    assert "spec         *" == lanes["spec"]
    assert f"nodes        {' ' * (columns // 2)}-" == lanes["nodes"]
    assert f"decisions    {' ' * (columns - 1)}o" == lanes["decisions"]


def test_the_legend_names_what_there_is() -> None:
    """Each symbol once, and no other; all kinds have one."""
    marks = [
        mark(MarkKind.DECISIONS, 1),
        mark(MarkKind.NODES_LOST, 2),
        mark(MarkKind.NODES_LOST, 3),
    ]

    assert ["- nodes lost   o decisions"] == legend(marks, 80)
    assert ["- nodes lost", "o decisions"] == legend(marks, 25)
    assert set(MarkKind) == set(SYMBOLS)


def test_the_table_of_marks() -> None:
    """What is close together is one row, which says how long it took."""
    marks = [
        mark(MarkKind.NODES_LOST, 0, count=3, lasts_ms=10),
        mark(MarkKind.NODES_LOST, 50),
        mark(MarkKind.NODES_LOST, 200, count=2, lasts_ms=7_000),
    ]

    assert [
        ["2024-05-06T13:00:00Z", "4 nodes lost"],
        ["2024-05-06T13:00:00Z", "2 nodes lost (within 7s)"],
    ] == mark_rows(marks, SPAN, 10)


@pytest.mark.parametrize("width", [1, 40, 60, 80, 200])
def test_times_do_not_touch(width: int) -> None:
    """On a narrow terminal the end has a line of its own; nothing is wider than a terminal of 40 columns or more."""
    rows = [text.plain for text in chart([line((0, 10_000))], (), SPAN, width, BLOCKS)]

    assert ["2024-05-06T13:00:00Z", "2024-05-06T13:00:01Z"] == " ".join(rows).split()[-2:]
    assert max(40, width) == max(map(len, rows))
