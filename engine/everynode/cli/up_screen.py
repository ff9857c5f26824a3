"""What `up` draws in a terminal while it works: a bar that fills, or a table that follows the fleet.

A module of its own because only terminals need what it imports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from everynode.cli.local import LocalFleet
from everynode.cli.running import beside
from everynode.cli.terminal import error_console
from everynode.cli.up_report import Report, status_columns

REFRESH_SECONDS = 0.25
"""How long, at least, between two drawings."""


@contextlib.asynccontextmanager
async def progress_bar(local: LocalFleet) -> AsyncIterator[None]:
    """Show on stderr how many of the wanted pods are ready, while the body runs; nothing is left of it then."""
    bar = Progress(
        TextColumn("pods ready"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=error_console(),
        transient=True,
    )
    with bar:
        async with beside(_fill(bar, local)):
            yield


async def _fill(bar: Progress, local: LocalFleet) -> None:
    task = bar.add_task("", total=None)
    while True:
        statuses = local.worker.statuses().values()
        wanted = sum(status.desired_number_scheduled for status in statuses)
        ready = sum(status.number_ready for status in statuses)
        bar.update(task, total=wanted or None, completed=ready)
        await next_drawing(local)


async def live_table(local: LocalFleet, report: Callable[[], Report]) -> None:
    """Show on stdout how far each set is, for ever."""
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            now = report()
            parts = [status_columns(now.statuses).styled()] if now.statuses else []
            live.update(Group(*parts, Text(now.sentence(timed=False), "bold")), refresh=True)
            await next_drawing(local)


async def next_drawing(local: LocalFleet) -> None:
    """Wait until there may be something new to draw, and at least a while."""
    await local.worker.wait_changed()
    await asyncio.sleep(REFRESH_SECONDS)
