"""A process that the nemesis may kill, stop and start again, any number of times. Used by the rig and the cluster.

It is killed by the kernel when the run ends, however that ends (``tests.kubernetes.support_processes``).
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.kubernetes.support_processes import ProcessError, Running

NOT_FOR_CHILDREN = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""What a process does that is killed anyway is not measured: it would only be slower."""


class KeptProcess:
    """One command, run again after each kill.

    Args:
        name: What it is called.
        command: The program, by path, and its arguments.
        log: Where its output goes.
        environment: Variables that it has beside ours.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start nothing yet."""
        env = shutil.which("env")
        if env is None:
            raise ProcessError("there is no program `env`")
        unset = [word for name in NOT_FOR_CHILDREN for word in ("-u", name)]
        given = [f"{key}={value}" for key, value in (environment or {}).items()]
        self.name = name
        self.starts = 0
        self.deaths: list[str] = []
        """How it ended by itself, each time."""
        self._command = [env, *unset, *given, *command]
        self._log = log
        self._running: Running | None = None
        self._stopped = False

    @property
    def running(self) -> bool:
        """It was started and not killed since."""
        return self._running is not None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._running is None:
            self._running = Running(self.name, self._command, log=self._log, cwd=Path.cwd())
            self.starts += 1

    def kill(self) -> None:
        """End it at once (SIGKILL); also one that stands still."""
        running, self._running = self._running, None
        self._stopped = False
        if running is not None:
            running.kill()

    async def end(self) -> None:
        """Ask it to end (SIGTERM), and kill it if it does not."""
        self.go_on()
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    def stand_still(self) -> None:
        """Let it stand still (SIGSTOP), with everything that it has in hand."""
        self._send(signal.SIGSTOP)
        self._stopped = True

    def go_on(self) -> None:
        """Let it go on where it stood (SIGCONT); harmless for one that does."""
        if self._stopped:
            self._send(signal.SIGCONT)
        self._stopped = False

    def revive(self) -> bool:
        """Start it again if it has ended by itself; whether it had. How is kept in ``deaths``."""
        if self._running is None:
            return False
        try:
            self._running.check()
        except ProcessError as error:
            self.deaths.append(str(error))
            self.kill()
            self.start()
            return True
        return False

    def tail(self) -> str:
        """The end of its log."""
        return self._running.tail() if self._running is not None else "(does not run)"

    def _send(self, sent: signal.Signals) -> None:
        if self._running is not None:
            try:
                os.kill(self._running.pid, sent)
            except ProcessLookupError:  # it has just ended; `revive` sees to that
                return
