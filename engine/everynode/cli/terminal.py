"""How the command line speaks: results on stdout, everything else on stderr, colour only for people.

Every command prints through this module. Results are plain text in a pipe, so that `grep` and `cut` see
whole names; in a terminal they may carry colour, unless `--no-color` or NO_COLOR asks for none.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def forbid_color() -> None:
    """Print without colour from now on (`--no-color`)."""
    os.environ["NO_COLOR"] = "1"  # rich and typer look here, and so does whatever we start


def stdout_is_terminal() -> bool:
    """Say whether a person reads the results."""
    return sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Say whether a person reads the messages."""
    return sys.stderr.isatty()


def harmless(text: str) -> str:
    """Write what somebody else wrote so that it is one line and cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def escape_what_stdout_cannot_write() -> None:
    """Write a letter that the terminal's encoding does not have as an escape from now on, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Write results nowhere from now on, so that Python's own flush at the end has nothing to complain about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_console() -> Console:
    """Make a console on stderr, for progress and for what is shown live."""
    from rich.console import Console  # noqa: PLC0415 - takes long, and only terminals need it

    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress_of(what: str, begins: int = 0) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr, if it is a terminal, how far a long work has come; nothing is left of it then.

    Args:
        what: What is done.
        begins: Where it begins, in whatever is counted.

    Yields:
        To be called with where the work is, and where it ends.
    """
    if not stderr_is_terminal():
        yield lambda _now, _end: None
        return
    from rich.progress import (  # noqa: PLC0415 - takes long
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(now: int, end: int) -> None:
            bar.update(task, completed=now - begins, total=max(end - begins, 1))

        yield show


def _message(label: str, style: str, text: str) -> None:
    if stderr_is_terminal():
        from rich.text import Text  # noqa: PLC0415 - takes long, and only terminals need it

        line = Text.assemble((f"{label}:", style), " ", text)
        error_console().print(line, soft_wrap=True)
    else:
        print(f"{label}: {text}", file=sys.stderr)


def error_line(text: str) -> None:
    """Say what went wrong, on stderr."""
    _message("error", "bold red", text)


def warning_line(text: str) -> None:
    """Say what may not be what was meant, on stderr."""
    _message("warning", "yellow", text)


def note_line(text: str) -> None:
    """Say what is good to know, on stderr."""
    _message("note", "cyan", text)
