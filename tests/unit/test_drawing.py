"""Pictures: valid XML whatever names say, everything in its place, readable on any page."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everynode.replay import drawing
from everynode.replay.drawing import (
    LEFT,
    PENS,
    PLOT_WIDTH,
    WIDTH,
    Line,
    Panel,
    Picture,
    svg,
    tick_label,
    time_step_ms,
    value_step,
)
from everynode.replay.timeline import Curve, Mark, MarkKind

HOUR_MS = 3_600_000
NOON_MS = 1_715_000_400_000 // HOUR_MS * HOUR_MS  # 2024-05-06T13:00:00Z
NAMESPACE = "{http://www.w3.org/2000/svg}"


def curve(*points: tuple[int, int]) -> Curve:
    """A curve with these steps."""
    made = Curve()
    for time_ms, value in points:
        made.add(time_ms, value)
    return made


def mark(kind: MarkKind, time_ms: int = NOON_MS, count: int = 1) -> Mark:
    """Something that happened."""
    return Mark(kind=kind, from_ms=time_ms, to_ms=time_ms, count=count)


def picture(
    *curves: Curve, title: str = "t", label: str = "l", marks: tuple[Mark, ...] = ()
) -> Picture:
    """An hour, with each curve in a panel of its own."""
    panels = [Panel([Line(label, each, 0)]) for each in curves]
    return Picture(title, title, NOON_MS, NOON_MS + HOUR_MS, panels, marks)


def read(drawn: Picture) -> ET.Element:
    """Draw it, and read it as XML."""
    return ET.fromstring(svg(drawn))  # noqa: S314 - it is ours


def texts(drawn: Picture) -> list[str]:
    """What is written in it."""
    return [each.text or "" for each in read(drawn).iter(f"{NAMESPACE}text")]


def lines(drawn: Picture) -> list[str]:
    """The paths of its curves."""
    return [
        path.attrib["d"]
        for path in read(drawn).iter(f"{NAMESPACE}path")
        if path.get("fill") == "none" and path.get("transform") is None
    ]


class TestSafety:
    """Names come from the log, and the log is not trusted."""

    @given(st.text(), st.text())
    def test_any_text_is_text(self, title: str, label: str) -> None:
        """It can be read as XML, and says what was to be said."""
        drawn = texts(picture(curve((NOON_MS, 1)), title=title, label=label))

        spoiled = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
        title, label = (
            spoiled.sub("\ufffd", each).replace("\r\n", "\n").replace("\r", "\n")
            for each in (title, label)
        )
        assert [title, title] == drawn[:2]
        assert label in drawn

    def test_nothing_is_run_or_fetched(self) -> None:
        """Markup in a name stays text; there is no script, no handler, no reference to elsewhere."""
        hostile = """</text><script>alert(1)</script><a href="https://x" onload='y'>"""
        drawn = read(picture(curve((NOON_MS, 1)), title=hostile, label=hostile))

        tags = {each.tag.removeprefix(NAMESPACE) for each in drawn.iter()}
        attributes = {name for each in drawn.iter() for name in each.attrib}
        assert {"svg", "title", "text", "path", "g"} >= tags
        assert not [name for name in attributes if name.startswith("on") or "href" in name]
        assert not [
            value for each in drawn.iter() for value in each.attrib.values() if "url(" in value
        ]


class TestCurvesDrawn:
    """Where lines are."""

    def test_steps_to_the_end(self) -> None:
        """A value holds until the next, the last one to the right edge; 0 is at the bottom, the ceiling on top."""
        (path,) = lines(picture(curve((NOON_MS, 0), (NOON_MS + HOUR_MS // 2, 8))))

        half = LEFT + PLOT_WIDTH // 2
        found = re.fullmatch(r"M(\d+) (\d+)H(\d+)V(\d+)H(\d+)", path)
        assert found is not None
        x, bottom, middle, top, end = map(int, found.groups())
        assert (LEFT, half, LEFT + PLOT_WIDTH) == (x, middle, end)
        assert drawing.PLOT_HEIGHT == bottom - top

    def test_each_panel_has_its_scale(self) -> None:
        """A small number is not flattened by a large one in another panel."""
        drawn = picture(curve((NOON_MS, 10_000)), curve((NOON_MS, 2)))

        assert {"10,000", "5,000", "2", "1"} <= set(texts(drawn))

    def test_lines_share_the_scale_of_their_panel(self) -> None:
        """What was and what would have been can be compared."""
        both = Panel([Line("a", curve((NOON_MS, 100)), 0), Line("b", curve((NOON_MS, 50)), 4)])
        drawn = Picture("t", "", NOON_MS, NOON_MS + HOUR_MS, [both], ())

        high, low = (float(path.split(" ")[1].split("H")[0]) for path in lines(drawn))
        assert drawing.PLOT_HEIGHT / 2 == low - high

    def test_without_values(self) -> None:
        """A curve without points, one that is always 0 and a time without length can be drawn."""
        drawn = Picture("t", "", NOON_MS, NOON_MS, [Panel([Line("a", Curve(), 0)])], ())
        zero = picture(curve((NOON_MS, 0)))

        assert [] == lines(drawn)
        assert 1 == len(lines(zero))

    def test_a_long_curve_is_a_small_file(self) -> None:
        """What is narrower than a pixel is merged; the extremes are still there."""
        points = [(NOON_MS + n * 1_500, n % 7 + 1) for n in range(2_000)]
        whole = curve(*points[:1_000], (NOON_MS + 1_500_000, 40), *points[1_001:])

        path = lines(picture(whole))[0]

        assert len(path) < 20_000
        heights = [float(each) for each in re.findall(r"V([\d.]+)", path)]
        assert drawing.TITLE_HEIGHT + drawing.LEGEND_HEIGHT == min(heights)  # where its highest is


class TestMarksDrawn:
    """Where marks are."""

    def test_each_kind_has_a_look_and_a_tooltip(self) -> None:
        """Every kind is drawn in its lane, and says what it is."""
        marks = tuple(mark(kind, NOON_MS + HOUR_MS // 2) for kind in MarkKind)
        drawn = read(picture(curve((NOON_MS, 1)), marks=marks))

        glyphs = [each for each in drawn.iter(f"{NAMESPACE}path") if each.get("transform")]
        told = [each[0].text or "" for each in glyphs]
        assert len(MarkKind) == len(glyphs)
        assert sorted(told) == sorted(f"2024-05-06T13:30:00Z {each.text}" for each in marks)
        looks = {(each.get("d"), each.get("fill")) for each in glyphs}
        assert len(looks) == len(MarkKind) - 1  # a spec is a spec, the first one or another

    @pytest.mark.parametrize("kind", MarkKind)
    def test_what_moves_curves_goes_through_them(self, kind: MarkKind) -> None:
        """From a set that changes and nodes that are lost a line goes up; from nothing else."""
        drawn = svg(picture(curve((NOON_MS, 1)), marks=(mark(kind),)))

        is_through = kind in {
            MarkKind.APPLIED,
            MarkKind.SPEC,
            MarkKind.DELETED,
            MarkKind.NODES_LOST,
        }
        assert is_through == drawn.count('stroke-dasharray="2 3"')

    def test_what_would_touch_is_one(self) -> None:
        """Losses next to each other are one glyph with their sum."""
        marks = tuple(mark(MarkKind.NODES_LOST, NOON_MS + n) for n in range(12))
        drawn = svg(picture(curve((NOON_MS, 1)), marks=marks))

        assert "2024-05-06T13:00:00Z 12 nodes lost" in drawn
        assert 1 == drawn.count("nodes lost")


def luminance(color: str) -> float:
    """Relative luminance, as WCAG defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """How well one colour is seen on the other, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_it_is_readable_on_any_page(page: str) -> None:
    """Every colour has the contrast that WCAG asks of graphics, and text that of large text at least."""
    colors = set(re.findall(r'"(#[0-9A-Fa-f]{6})"', svg(everything())))

    assert {pen.color for pen in PENS} <= colors
    assert [] == [color for color in colors if contrast(color, page) < 3]
    assert contrast(drawing.GREY, page) >= 4


def test_lines_differ_without_their_colors() -> None:
    """No two pens have the same width and dashes."""
    assert len(PENS) == len({(pen.width, pen.dashes) for pen in PENS})


def everything() -> Picture:
    """All pens and all marks."""
    drawn = [Line(str(pen), curve((NOON_MS, pen)), pen) for pen in range(len(PENS))]
    marks = tuple(mark(kind) for kind in MarkKind)
    return Picture("t", "s", NOON_MS, NOON_MS + HOUR_MS, [Panel(drawn)], marks)


class TestAxes:
    """Round numbers at a readable distance."""

    @given(st.integers(1, 10**13))
    def test_time_steps(self, span_ms: int) -> None:
        """Neither too many nor none, and never so few that a finer step would have done."""
        step_ms = time_step_ms(span_ms)

        assert span_ms <= step_ms * drawing.TIME_TICKS_MAX
        assert step_ms == 1 or span_ms * 3 > step_ms * drawing.TIME_TICKS_MAX

    @given(st.integers(1, 10**9))
    def test_value_steps(self, high: int) -> None:
        """1, 2 or 5 times a power of ten, at most four of them."""
        step = value_step(high)

        assert str(step)[0] in "125"
        assert set(str(step)[1:]) <= {"0"}
        assert high <= 4 * step
        assert step == 1 or high * 3 > 4 * step

    @pytest.mark.parametrize(
        ("step_ms", "label"),
        [
            (500, "13:00:07.500"),
            (1_000, "13:00:07"),
            (60_000, "13:00"),
            (12 * HOUR_MS, "13:00"),
            (24 * HOUR_MS, "2024-05-06"),
        ],
    )
    def test_labels(self, step_ms: int, label: str) -> None:
        """As exact as the step needs it, in UTC."""
        assert label == tick_label(NOON_MS + 7_500, step_ms)

    def test_the_day_is_named_where_it_changes(self) -> None:
        """Round times, and each day once."""
        begins = NOON_MS + 8 * HOUR_MS + 60_000
        written = texts(Picture("t", "", begins, begins + 8 * HOUR_MS, [], ()))

        assert ["22:00", "2024-05-06 UTC", "23:00", "00:00", "2024-05-07", "01:00"] == [
            each for each in written if ":" in each or "-" in each
        ][:6]

    def test_days(self) -> None:
        """Where each tick is another day, it is said once that they are UTC's."""
        written = texts(Picture("t", "", NOON_MS, NOON_MS + 72 * HOUR_MS * 3, [], ()))

        assert ["2024-05-07", "UTC", "2024-05-09"] == [
            each for each in written if "-" in each or each == "UTC"
        ][:3]

    def test_everything_is_inside(self) -> None:
        """No time, however far out, is drawn outside."""
        path = lines(picture(curve((NOON_MS - HOUR_MS, 1), (NOON_MS + 5 * HOUR_MS, 2))))[0]

        assert all(LEFT <= float(x) <= WIDTH for x in re.findall(r"[MH]([\d.]+)", path))
