"""How a command's coroutine is run: until it is done, or until somebody asks it to stop.

`options.connected` runs every command that speaks to a fleet through this module. The first SIGINT (Ctrl-C), SIGTERM or
SIGHUP (its terminal was closed) cancels the command, which then has a bounded time to leave in order; the second one
ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from everynode.cli.exits import ExitCode
from everynode.cli.terminal import error_line
from everynode.errors import EverynodeError

STOP_SECONDS_MAX = 5.0
"""How long a command may take to leave in order after it was asked to stop."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(command: Coroutine[Any, Any, ExitCode]) -> ExitCode:
    """Run a command to its end.

    Returns:
        What it returned; `INTERRUPTED` if it was asked to stop and did not say itself how it ended.

    Raises:
        EverynodeError: What it raised.
    """
    return asyncio.run(_until_done_or_asked(command))


async def _until_done_or_asked(command: Coroutine[Any, Any, ExitCode]) -> ExitCode:
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    asked = loop.create_future()

    heeded = [number for number in _SIGNALS if not _ignored(number)]

    def ask() -> None:
        for number in heeded:
            loop.remove_signal_handler(number)  # the next one ends the process at once
        asked.set_result(None)

    for number in heeded:
        loop.add_signal_handler(number, ask)
    await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_SECONDS_MAX)
        if not task.done():
            error_line(f"could not stop in order within {STOP_SECONDS_MAX:.0f} s; stopping now")
            sys.stderr.flush()
            os._exit(ExitCode.REFUSED)
    return ExitCode.INTERRUPTED if task.cancelled() else task.result()


def _ignored(number: signal.Signals) -> bool:
    """Say whether we were started so as to outlive this signal, as `nohup` does with SIGHUP."""
    return signal.getsignal(number) is signal.SIG_IGN and number is signal.SIGHUP


async def until_stopped(*parts: Coroutine[Any, Any, None]) -> None:
    """Keep parts running side by side until one of them fails, or the command is asked to stop.

    To be asked to stop is how a service ends well: then this returns.

    Raises:
        EverynodeError: The first part that failed failed so; the others were stopped.
    """
    with contextlib.suppress(asyncio.CancelledError):
        async with beside(*parts):
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def beside(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Keep parts running beside the body, and stop them when it ends.

    Raises:
        EverynodeError: The first that failed failed so, a part or the body; all the others were stopped.
        OSError: As well; that is how writing to stdout fails.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            yield
            for task in tasks:
                task.cancel()
    except* (EverynodeError, OSError) as failed:
        raise _first(failed) from None


def _first(group: BaseExceptionGroup[EverynodeError | OSError]) -> EverynodeError | OSError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
