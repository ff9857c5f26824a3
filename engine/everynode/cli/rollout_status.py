"""What `everynode rollout status` does: follow a set until its rollout is over.

Lines as kubectl prints them, or a bar in a terminal. It follows the log and never asks twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple

from everynode.cli.exits import ExitCode
from everynode.cli.options import OutputFormat
from everynode.cli.output import print_object
from everynode.cli.rollout_progress import Progress, Stage, judge
from everynode.cli.running import beside
from everynode.cli.terminal import error_line, stderr_is_terminal, stdout_is_terminal
from everynode.cli.watching import end_when_cut_off
from everynode.core.values import DaemonSet, SetKey
from everynode.errors import RefusedError
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.revisions import current_hash
from everynode.runtime.view import FleetView, follow_view

Show = Callable[[Progress], None]


class StatusWish(NamedTuple):
    """What is asked for.

    Attributes:
        watch: Wait until the rollout is over.
        timeout_ms: Wait at most so long; 0: for ever.
        revision: It has to be about this revision; 0: about whatever the set is to have.
    """

    key: SetKey
    watch: bool
    timeout_ms: int
    revision: int
    output: OutputFormat


class _Last(NamedTuple):
    daemonset: DaemonSet
    progress: Progress


class RolloutWatch:
    """One look at a rollout, however long it takes."""

    def __init__(self, bus: JetStreamBus, wish: StatusWish) -> None:
        """Have seen nothing yet."""
        self._bus = bus
        self._wish = wish
        self._last: _Last | None = None

    async def run(self) -> ExitCode:
        """Show how far the rollout is until it is over, or until one has waited long enough.

        Raises:
            RefusedError: There is no such set, it has no rollouts, or it is about another revision.
            UnavailableError: The log cannot be reached.
        """
        seconds = self._wish.timeout_ms / 1_000 or None
        late = False
        async with self._screen() as show:
            try:
                async with asyncio.timeout(seconds), beside(end_when_cut_off(self._bus)):
                    await self._follow(show)
            except TimeoutError:
                late = True
        return self._conclude(late=late)

    async def _follow(self, show: Show) -> None:
        kinds = ("daemonset", "status", *(("revision",) if self._wish.revision else ()))
        async with aclosing(follow_view(self._bus, kinds, self._wish.key)) as views:
            async for view in views:
                daemonset = self._find(view)
                progress = judge(daemonset, view.statuses.get(daemonset.key))
                progress = self._about_revision(view, daemonset, progress)
                self._last = _Last(daemonset, progress)
                show(progress)
                if progress.stage.over or not self._wish.watch:
                    return

    def _find(self, view: FleetView) -> DaemonSet:
        key = self._wish.key
        daemonset = view.daemonsets.get(key)
        if daemonset is not None:
            return daemonset
        if self._last is not None:
            raise RefusedError(f'daemonset "{key.name}" has been deleted')
        raise RefusedError(f'daemonsets "{key.name}" not found in namespace {key.namespace}')

    def _about_revision(
        self, view: FleetView, daemonset: DaemonSet, progress: Progress
    ) -> Progress:
        wanted = self._wish.revision
        if not wanted:
            return progress
        found = view.revisions.get((daemonset.key, current_hash(daemonset)))
        if found is None:
            return Progress(Stage.WAITING, "Waiting for daemon set spec update to be observed...")
        if found.number != wanted:
            message = f"desired revision ({wanted}) is different from the running revision ({found.number})"
            raise RefusedError(message)
        return progress

    def _conclude(self, *, late: bool) -> ExitCode:
        if self._last is None:
            error_line("timed out before anything was heard of it")
            return ExitCode.REFUSED
        daemonset, progress = self._last
        failed = progress.stage is Stage.STALLED
        if self._wish.output is not OutputFormat.TABLE:
            print_object(progress.as_document(daemonset), self._wish.output)
        elif _draws_bar(self._wish.output) and not failed and not late:
            print(progress.line, flush=True)
        if late:
            error_line(f"timed out waiting for the condition: {progress.line}")
        elif failed:
            error_line(progress.line)
        return ExitCode.REFUSED if late or failed else ExitCode.DONE

    @contextlib.asynccontextmanager
    async def _screen(self) -> AsyncIterator[Show]:
        output = self._wish.output
        if _draws_bar(output):
            from everynode.cli.rollout_screen import rollout_bar  # noqa: PLC0415 - only terminals need it

            with rollout_bar(self._wish.key.name) as show:
                yield show
        elif output is OutputFormat.TABLE:
            yield PlainLines().show
        else:
            yield lambda progress: None  # noqa: ARG005 - the end is all that is asked for


def _draws_bar(output: OutputFormat) -> bool:
    """Say whether a person watches: a pipe gets lines."""
    return stderr_is_terminal() and (stdout_is_terminal() or output is not OutputFormat.TABLE)


class PlainLines:
    """Prints each line once, as long as it stays the same; what has failed is said in the end, as an error."""

    def __init__(self) -> None:
        """Have printed nothing yet."""
        self._printed = ""

    def show(self, progress: Progress) -> None:
        """Print how far it is."""
        if progress.line != self._printed and progress.stage is not Stage.STALLED:
            self._printed = progress.line
            print(progress.line, flush=True)
