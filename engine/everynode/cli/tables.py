"""Rows as columns that line up, and ages as kubectl writes them.

Used by every command that prints a table. Nothing is ever cut off: a name that is cut cannot be pasted. Rows are text
or `Cell`s; whether colour is wanted is the caller's business. (rich's own table takes a second for 3,000 rows.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from everynode.cli.terminal import harmless, stdout_is_terminal

if TYPE_CHECKING:
    from rich.text import Text

GAP = "   "
UNKNOWN = "<unknown>"
NONE = "<none>"

GOOD = "green"
WAITING = "yellow"
BAD = "red"
_HEADER = "bold"

_SECOND_MS = 1_000
_MINUTE_MS = 60 * _SECOND_MS
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class Cell(NamedTuple):
    """Text of a table that has a colour where there are colours."""

    text: str
    style: str = ""


Row = Sequence[str | Cell]


def _cell(value: str | Cell) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return cell._replace(text=harmless(cell.text))


class Columns:
    """Rows under a header, as wide as the widest of them.

    Args:
        header: Names of the columns, in capitals.
        rows: The rows that decide how wide the columns are.
    """

    def __init__(self, header: Sequence[str], rows: Iterable[Row]) -> None:
        """Measure once."""
        self.header = [Cell(name, _HEADER) for name in header]
        self.rows = [[_cell(value) for value in row] for row in rows]
        everything = [self.header, *self.rows]
        self._widths = [max(len(row[i].text) for row in everything) for i in range(len(header))]

    def line(self, row: Row) -> str:
        """Write one row, which may be one that comes later (and then may stand out to the right)."""
        texts = [
            _cell(value).text.ljust(width) for value, width in zip(row, self._widths, strict=True)
        ]
        return GAP.join(texts).rstrip()

    def lines(self) -> list[str]:
        """Write all, plain."""
        return [self.line(self.header), *(self.line(row) for row in self.rows)]

    def styled_line(self, row: Row) -> Text:
        """Write one row with its colours."""
        from rich.text import Text  # noqa: PLC0415 - takes long, and only terminals need it

        text = Text(no_wrap=True)
        for value, width in zip(row, self._widths, strict=True):
            cell = _cell(value)
            text.append(cell.text, cell.style)
            text.append(" " * (width - len(cell.text)) + GAP)
        text.rstrip()
        return text

    def styled(self) -> Text:
        """Write all with colours."""
        from rich.text import Text  # noqa: PLC0415 - takes long, and only terminals need it

        return Text("\n").join([self.styled_line(row) for row in (self.header, *self.rows)])

    def print(self) -> None:
        """Print all on stdout: with colours in a terminal, plain in a pipe."""
        self._print(self.styled() if stdout_is_terminal() else "\n".join(self.lines()))

    def print_row(self, row: Row) -> None:
        """Print one more row below those that were printed."""
        self._print(self.styled_line(row) if stdout_is_terminal() else self.line(row))

    @staticmethod
    def _print(text: Text | str) -> None:
        if isinstance(text, str):
            print(text, flush=True)
            return
        from rich.console import Console  # noqa: PLC0415 - takes long, and only terminals need it

        Console(highlight=False).print(text, soft_wrap=True)


def progress_cell(count: int, wanted: int) -> Cell:
    """Show a number that is good when it has reached another one."""
    return Cell(str(count), GOOD if count >= wanted else WAITING)


def age(created_ms: int, now_ms: int) -> str:
    """Write how long ago something was made: `45s`, `3m20s`, `12m`, `5h10m`, `2d4h`, `30d`.

    Args:
        created_ms: When, in milliseconds since 1970; 0 if nobody knows.
        now_ms: The time now.
    """
    if created_ms <= 0:
        return UNKNOWN
    duration_ms = max(0, now_ms - created_ms)
    for unit_ms, unit, part_ms, part, large in (
        (_DAY_MS, "d", _HOUR_MS, "h", 8),
        (_HOUR_MS, "h", _MINUTE_MS, "m", 8),
        (_MINUTE_MS, "m", _SECOND_MS, "s", 10),
    ):
        whole, rest_ms = divmod(duration_ms, unit_ms)
        if whole == 0:
            continue
        fraction = rest_ms // part_ms
        if whole >= large or fraction == 0:
            return f"{whole}{unit}"
        return f"{whole}{unit}{fraction}{part}"
    return f"{duration_ms // _SECOND_MS}s"


def pairs(mapping: dict[str, str]) -> str:
    """Write labels as kubectl does: `a=1,b=2`, or `<none>`."""
    return ",".join(f"{key}={value}" for key, value in sorted(mapping.items())) or NONE
