"""Real processes for tests: each writes to a log of its own, is reachable by pid, and goes when we go.

Used by support_control_plane; knows nothing of Kubernetes. A process is no child of an event loop, so it may
outlive the loop of the test that started it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections, so that a port stays ours while its owner restarts."""

PORT_TRIES_MAX = 100
STOP_SECONDS_MAX = 5
LOG_TAIL_LINES = 30

# Runs in a fresh interpreter that then becomes the program: what must happen between fork and exec, without doing
# it in the copy of a process that has threads.
_BECOME_PROGRAM = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: also when the tests are killed
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

_random = (
    random.SystemRandom()
)  # the run's seed must not make two runs at once choose the same ports


class ProcessError(Exception):
    """A process ended that should run; the message ends with its log."""


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on.

    Raises:
        ProcessError: None was found.
    """
    for _ in range(PORT_TRIES_MAX):
        port = _random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            return port
    raise ProcessError(f"no free port after {PORT_TRIES_MAX} tries")


class Running:
    """One process, from its start to its end.

    It must be started in the main thread: on Linux it is killed when the thread ends that started it.

    Args:
        name: What it is called in messages.
        command: The program, by path, and its arguments.
        log: The file that its output is added to.
        cwd: Where it runs.
    """

    def __init__(self, name: str, command: Sequence[str | Path], *, log: Path, cwd: Path) -> None:
        """Start it."""
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BECOME_PROGRAM, str(os.getpid()), *command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the tests only, which then stop it in order
            )
        _all.add(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            ProcessError: It has.
        """
        code = self._process.poll()
        if code is not None:
            raise ProcessError(
                f"{self.name} ended with {code}; {self._log} ends with:\n{self.tail()}"
            )

    def tail(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def terminate(self) -> None:
        """Ask it to end, and wait for nothing."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        self._send(signal.SIGKILL)
        self._process.wait()
        _all.discard(self)

    async def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                while self._process.poll() is None:  # noqa: ASYNC110 - a process of another loop sets no event
                    await asyncio.sleep(0.02)
        self.kill()

    def _send(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


_all: set[Running] = set()


@atexit.register
def _kill_all() -> None:
    """What a test forgot, or could not stop because it was interrupted."""
    for running in list(_all):
        running.kill()
