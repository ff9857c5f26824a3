"""A process of the fleet that is started again whenever it ends, as a service manager does. Used by tests of faults."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator

from tests.kubernetes.support_fleet import Fleet


class KeptProcess:
    """One of the fleet's processes: `everynode ARGS`.

    Args:
        fleet: The fleet.
        args: The words of the command.
    """

    def __init__(self, fleet: Fleet, *args: str) -> None:
        """Start nothing yet."""
        self.starts = 0
        self._fleet = fleet
        self._args = args
        self._process: Process | None = None

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncGenerator[KeptProcess]:
        """Keep it running during the block."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            self.go_on()  # a stopped process cannot be waited for in order
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            async with self._fleet.process(*self._args) as process:
                self._process = process
                self.starts += 1
                await process.wait()

    def kill(self) -> None:
        """End it at once; it is started again."""
        self._send(signal.SIGKILL)

    def stop(self) -> None:
        """Let it stand still, with everything that it has in hand."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on where it stood, with what it knew then."""
        self._send(signal.SIGCONT)

    def _send(self, sent: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(sent)
