"""What `rollout status` draws in a terminal: a bar that fills, and why it does not fill faster.

A module of its own because only terminals need what it imports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from everynode.cli.rollout_progress import Progress as RolloutProgress
from everynode.cli.rollout_progress import Stage
from everynode.cli.terminal import error_console


class NoteColumn(ProgressColumn):
    """Why it does not go faster. In a narrow terminal this is cut off, and the numbers before it are not."""

    def __init__(self) -> None:
        """Be made narrower first, with the bar: columns that may wrap are."""
        super().__init__(table_column=Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        """Write it on one line, however narrow."""
        return Text(task.fields["note"], style="yellow", no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def rollout_bar(name: str) -> Iterator[Callable[[RolloutProgress], None]]:
    """Show on stderr how far a rollout is, while the body runs; nothing is left of it then."""
    bar = Progress(
        TextColumn(escape(name)),
        BarColumn(bar_width=20, table_column=Column(no_wrap=False)),
        MofNCompleteColumn(),
        TextColumn("updated, {task.fields[available]} available"),
        TimeElapsedColumn(),
        NoteColumn(),
        console=error_console(),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, available=0, note="")

        def show(progress: RolloutProgress) -> None:
            status = progress.status
            if status is None:
                bar.update(task, note="waiting for the spec to be observed")
                return
            paused = "paused" if progress.stage is Stage.PAUSED else ""
            note = "; ".join(part for part in (paused, progress.reasons) if part)
            bar.update(
                task,
                total=status.desired_number_scheduled,
                completed=status.updated_number_scheduled,
                available=status.number_available,
                note=note,
            )

        yield show
