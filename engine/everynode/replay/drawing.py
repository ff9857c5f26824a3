"""Curves and marks as a picture: SVG that any browser shows, without a script and without anything from elsewhere.

Used by ``timeline`` and by what-if. Colours and grey are in the middle, so that they can be read on a white page and on
a dark one; lines differ in colour, width and dashes, so that nobody has to tell colours apart. Names are not trusted:
all text is escaped. It knows curves and marks, and nothing of where they come from.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from everynode.replay.timeline import LANES, Curve, Mark, MarkKind, Point, merged, thinned
from everynode.runtime.clock import timestamp

WIDTH = 960
LEFT, RIGHT = 84, 36
PLOT_WIDTH = WIDTH - LEFT - RIGHT
TITLE_HEIGHT = 52
LEGEND_HEIGHT = 30
PLOT_HEIGHT = 150
PANEL_HEIGHT = LEGEND_HEIGHT + PLOT_HEIGHT + 8
LANE_HEIGHT = 20
LANES_GAP = 8
AXIS_HEIGHT = 44
LETTER_WIDTH = 7  # of the legend's font, about
SAMPLE_WIDTH = 28

SLICES = PLOT_WIDTH // 2
"""A curve is merged into slices of two pixels; more is not seen."""
MARK_WIDTH = 12
"""Marks of a kind that would touch are drawn as one."""
TIME_TICKS_MAX = 8
VALUE_TICKS_MAX = 4

GREY = "#777777"
BLUE = "#0072B2"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#C06C98"

_SECOND_MS = 1_000
_MINUTE_MS = 60 * _SECOND_MS
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_TIME_STEPS_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(number * _SECOND_MS for number in (1, 2, 5, 10, 15, 30)),
    *(number * _MINUTE_MS for number in (1, 2, 5, 10, 15, 30)),
    *(number * _HOUR_MS for number in (1, 2, 3, 6, 12)),
)


class Pen(NamedTuple):
    """How a line looks; ``dashes`` as SVG has them, empty for a line without gaps."""

    color: str
    width: float
    dashes: str = ""


PENS = (
    Pen(GREY, 6),
    Pen(BLUE, 4, "10 3"),
    Pen(GREEN, 2.5),
    Pen(PURPLE, 2, "5 4"),
    Pen(RED, 2),
)
"""Each next one is narrower: where lines lie on each other, all can be seen."""


class Line(NamedTuple):
    """A curve with its name, and which of ``PENS`` draws it."""

    label: str
    curve: Curve
    pen: int


class Panel(NamedTuple):
    """Lines on one scale, from 0 to the highest of them; those that come later lie on top."""

    lines: Sequence[Line]


class Picture(NamedTuple):
    """What is to be drawn.

    Attributes:
        title, subtitle: What stands above it.
        begins_ms, ends_ms: Which time it is about, in ms since 1970.
        panels: One below the other, over the same time.
        marks: In the order of time.
    """

    title: str
    subtitle: str
    begins_ms: int
    ends_ms: int
    panels: Sequence[Panel]
    marks: Sequence[Mark]


def svg(picture: Picture) -> str:
    """Draw a picture; the text of an SVG file."""
    return "\n".join(_Drawing(picture).elements()) + "\n"


_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """Write any text so that it is text in XML, also between quotes; what XML cannot say becomes U+FFFD."""
    return html.escape(_NOT_IN_XML.sub("\ufffd", text))


def time_step_ms(span_ms: int, ticks_max: int = TIME_TICKS_MAX) -> int:
    """Return the smallest round step with which a span of time has at most so many."""
    for step_ms in _TIME_STEPS_MS:
        if span_ms <= step_ms * ticks_max:
            return step_ms
    step_ms = _DAY_MS
    while span_ms > step_ms * ticks_max:
        step_ms *= 2
    return step_ms


def value_step(high: int, ticks_max: int = VALUE_TICKS_MAX) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... with which at most so many steps reach a value."""
    unit = 1
    while True:
        for step in (unit, 2 * unit, 5 * unit):
            if high <= step * ticks_max:
                return step
        unit *= 10


def tick_label(time_ms: int, step_ms: int) -> str:
    """Write a time as exactly as steps of this length need it, in UTC."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    if step_ms >= _DAY_MS:
        return moment.strftime("%Y-%m-%d")
    if step_ms >= _MINUTE_MS:
        return moment.strftime("%H:%M")
    text = moment.strftime("%H:%M:%S")
    return text if step_ms >= _SECOND_MS else f"{text}.{time_ms % 1000:03}"


def _number(value: float) -> str:
    """Write a place in pixels, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{_number(x)}" y="{_number(y)}"{more}>{escaped(text)}</text>'


_GLYPHS = {
    MarkKind.APPLIED: ("M0-6L6 0 0 6-6 0Z", BLUE, True),
    MarkKind.SPEC: ("M0-6L6 0 0 6-6 0Z", BLUE, True),
    MarkKind.DELETED: ("M-4-4L4 4M4-4L-4 4", RED, False),
    MarkKind.NODES_LOST: ("M-5-4H5L0 5Z", RED, True),
    MarkKind.NODES_JOINED: ("M-5 4H5L0-5Z", GREEN, True),
    MarkKind.NODES_NOT_READY: ("M-5-4H5L0 5Z", RED, False),
    MarkKind.NODES_READY: ("M-5 4H5L0-5Z", GREEN, False),
    MarkKind.NODES_CORDONED: ("M-3-5V5M3-5V5", PURPLE, False),
    MarkKind.NODES_UNCORDONED: ("M-3-5L5 0-3 5Z", PURPLE, False),
    MarkKind.DECISIONS: ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0Z", GREY, True),
}
"""How each kind of mark looks: outline around 0,0; colour; whether it is filled."""

_THROUGH = {MarkKind.APPLIED, MarkKind.SPEC, MarkKind.DELETED, MarkKind.NODES_LOST}
"""Marks from which a line goes up through the curves."""


class _Drawing:
    """One picture, with its scales."""

    def __init__(self, picture: Picture) -> None:
        """Measure."""
        self._picture = picture
        self._begins_ms = picture.begins_ms
        self._span_ms = max(1, picture.ends_ms - picture.begins_ms)
        self._lanes_top = TITLE_HEIGHT + len(picture.panels) * PANEL_HEIGHT + LANES_GAP
        self._bottom = self._lanes_top + len(LANES) * LANE_HEIGHT
        self._height = self._bottom + AXIS_HEIGHT
        self._window_ms = self._span_ms * MARK_WIDTH // PLOT_WIDTH

    def elements(self) -> Iterator[str]:
        """Write the lines of the file."""
        picture = self._picture
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}" '
            f'height="{self._height}" role="img" font-family="system-ui, sans-serif" font-size="12" '
            f'fill="{GREY}">'
        )
        yield f"<title>{escaped(picture.title)}</title>"
        yield _text(LEFT, 22, picture.title, ' font-size="16" font-weight="bold"')
        yield _text(LEFT, 41, picture.subtitle)
        yield from self._times()
        marks = merged(picture.marks, self._window_ms)
        for mark in marks:
            if mark.kind in _THROUGH:
                yield self._line_through(mark)
        for number, panel in enumerate(picture.panels):
            yield from self._panel(panel, TITLE_HEIGHT + number * PANEL_HEIGHT)
        for number, (lane, kinds) in enumerate(LANES.items()):
            y = self._lanes_top + number * LANE_HEIGHT + LANE_HEIGHT / 2
            yield _text(LEFT - 10, y + 4, lane, ' text-anchor="end"')
            for mark in marks:
                if mark.kind in kinds:
                    yield self._glyph(mark, y)
        yield "</svg>"

    def _x(self, time_ms: int) -> float:
        share = (time_ms - self._begins_ms) / self._span_ms
        return LEFT + PLOT_WIDTH * min(1.0, max(0.0, share))

    def _times(self) -> Iterator[str]:
        """Draw the axis of time: round steps in UTC, and the day below the first and wherever it changes."""
        step_ms = time_step_ms(self._span_ms)
        first_ms = -(-self._begins_ms // step_ms) * step_ms
        day = ""
        yield f'<g stroke="{GREY}" stroke-opacity="0.25">'
        times_ms = range(first_ms, self._begins_ms + self._span_ms + 1, step_ms)
        for time_ms in times_ms:
            place = _number(self._x(time_ms))
            yield f'<path d="M{place} {TITLE_HEIGHT + LEGEND_HEIGHT}V{self._bottom + 4}"/>'
        yield "</g>"
        for time_ms in times_ms:
            x = self._x(time_ms)
            yield _text(x, self._bottom + 18, tick_label(time_ms, step_ms), ' text-anchor="middle"')
            its_day = "" if step_ms >= _DAY_MS else tick_label(time_ms, _DAY_MS)
            if time_ms == first_ms or its_day != day:
                said = f"{its_day} UTC".lstrip() if time_ms == first_ms else its_day
                yield _text(x, self._bottom + 34, said, ' text-anchor="middle"')
                day = its_day

    def _panel(self, panel: Panel, top: int) -> Iterator[str]:
        high = max((line.curve.high for line in panel.lines), default=0)
        step = value_step(max(1, high))
        ceiling = -(-max(1, high) // step) * step
        bottom = top + LEGEND_HEIGHT + PLOT_HEIGHT
        yield from _legend(panel, top + LEGEND_HEIGHT - 10)
        for value in range(0, ceiling + 1, step):
            y = bottom - PLOT_HEIGHT * value / ceiling
            yield f'<path d="M{LEFT} {_number(y)}h{PLOT_WIDTH}" stroke="{GREY}" stroke-opacity="0.25"/>'
            yield _text(LEFT - 10, y + 4, f"{value:,}", ' text-anchor="end"')
        for line in panel.lines:
            if line.curve.points:
                pen = PENS[line.pen]
                path = self._path(line.curve.points, bottom, PLOT_HEIGHT / ceiling)
                yield (
                    f'<path d="{path}" fill="none"{_stroke(pen)}><title>{escaped(line.label)}</title></path>'
                )

    def _path(self, points: Sequence[Point], bottom: int, unit: float) -> str:
        """Write a curve as steps, up to the end of the picture."""
        first, *others = thinned(points, SLICES)
        x, y = _number(self._x(first.time_ms)), _number(bottom - first.value * unit)
        parts = [f"M{x} {y}"]
        for point in others:
            next_x, next_y = _number(self._x(point.time_ms)), _number(bottom - point.value * unit)
            if next_x != x:
                parts.append(f"H{next_x}")
            if next_y != y:
                parts.append(f"V{next_y}")
            x, y = next_x, next_y
        return "".join([*parts, f"H{LEFT + PLOT_WIDTH}"])

    def _line_through(self, mark: Mark) -> str:
        _, color, _ = _GLYPHS[mark.kind]
        top, x = TITLE_HEIGHT + LEGEND_HEIGHT, _number(self._x(mark.from_ms))
        return (
            f'<path d="M{x} {top}V{self._bottom}" stroke="{color}" stroke-dasharray="2 3" '
            'stroke-opacity="0.7"/>'
        )

    def _glyph(self, mark: Mark, y: float) -> str:
        path, color, is_filled = _GLYPHS[mark.kind]
        place = f"translate({_number(self._x(mark.from_ms))} {_number(y)})"
        fill = color if is_filled else "none"
        said = escaped(f"{timestamp(mark.from_ms)} {mark.text}")
        return (
            f'<path transform="{place}" d="{path}" fill="{fill}" stroke="{color}" stroke-width="1.5">'
            f"<title>{said}</title></path>"
        )


def _stroke(pen: Pen) -> str:
    dashes = f' stroke-dasharray="{pen.dashes}"' if pen.dashes else ""
    return f' stroke="{pen.color}" stroke-width="{pen.width}"{dashes}'


def _legend(panel: Panel, y: int) -> Iterator[str]:
    """Name the lines of a panel, each beside a piece of it."""
    x = LEFT
    for line in panel.lines:
        yield f'<path d="M{x} {y - 4}h{SAMPLE_WIDTH}"{_stroke(PENS[line.pen])}/>'
        yield _text(x + SAMPLE_WIDTH + 6, y, line.label)
        x += SAMPLE_WIDTH + 6 + LETTER_WIDTH * len(line.label) + 20
