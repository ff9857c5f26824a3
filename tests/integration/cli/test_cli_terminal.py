"""What people see in a terminal: colour, a bar that fills, a table that follows the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from everynode.core.events import DaemonSetObserved, StatusReported
from everynode.core.values import Condition, Status, UpdateStrategy
from everynode.ports import Outgoing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing import builders
from everynode.wire import AnyMessage, encode

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode

ROWS, COLUMNS = 40, 200
WAIT_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A command in a terminal of its own; what is written to the screen is collected."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it."""
        self.screen = ""
        self._news = threading.Condition()
        self._ended = False
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # that is how a terminal ends on Linux
            while received := os.read(self._ours, 65536):
                with self._news:
                    self.screen += received.decode(errors="replace")
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str) -> None:
        """Wait until something was on the screen."""

        def seen() -> bool:
            return re.search(pattern, STYLE.sub("", self.screen)) is not None

        with self._news:
            self._news.wait_for(lambda: seen() or self._ended, WAIT_SECONDS_MAX)
            assert seen(), self.screen

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(WAIT_SECONDS_MAX)
        self._reader.join(STOP_SECONDS_MAX)
        return code

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        os.close(self._ours)


@pytest.fixture
def terminal(everynode: Everynode) -> Iterator[Callable[..., Terminal]]:
    """Start a command in a terminal."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, address: str | None = None, **variables: str) -> Terminal:
            everynode.address = address
            command = [everynode.program, *arguments]
            started = Terminal(command, everynode.environment() | variables)
            stack.callback(started.close)
            return started

        yield begin


def test_once_shows_a_bar_and_leaves_the_table(terminal: Callable[..., Terminal]) -> None:
    """While it works there is a bar on the screen; in the end the table, with colours."""
    shown = terminal("up", "--once", "--nodes", "50", "deploy/examples")
    shown.wait_for(r"pods ready")
    assert shown.ended() == 0
    shown.wait_for(r"5 DaemonSets on 50 nodes: all covered after")
    assert STYLE.search(shown.screen)


def test_up_follows_the_fleet(terminal: Callable[..., Terminal], everynode: Everynode) -> None:
    """The table on the screen changes with the fleet, and Ctrl-C ends it in order."""
    shown = terminal("up", "--nodes", "4", "deploy/examples/node-exporter.yaml")
    shown.wait_for(r"1 DaemonSet on 4 nodes: all covered")
    found = re.search(r"at (nats://[0-9.:]+);", STYLE.sub("", shown.screen))
    assert found is not None
    everynode.address = found[1]
    added = everynode("simulate", "add-node", "later", "-l", "kubernetes.io/os=linux")
    assert added.code == 0
    shown.wait_for(r"1 DaemonSet on 5 nodes: all covered")
    os.killpg(shown.process.pid, signal.SIGINT)  # a terminal sends it to all of its processes
    assert shown.ended() == 0
    assert "warning" not in shown.screen


@pytest.mark.parametrize("forbid", ["option", "variable"])
def test_colour_can_be_forbidden(
    fleet_up: Everynode, terminal: Callable[..., Terminal], forbid: str
) -> None:
    """`--no-color` and NO_COLOR leave no colour in a terminal, where there is some otherwise."""
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    get = ("get", "ds", "-A")
    plain = (
        terminal(*get, "--no-color", address=fleet_up.address)
        if forbid == "option"
        else terminal(*get, address=fleet_up.address, NO_COLOR="1")
    )
    coloured = terminal(*get, address=fleet_up.address)
    assert (plain.ended(), coloured.ended()) == (0, 0)
    assert "fluentd" in plain.screen
    assert not colour.search(plain.screen)
    assert colour.search(coloured.screen)


@pytest.mark.parametrize(
    ("columns", "reasons"),
    [("200", "4 Outdated, 2 NotReady, 1 Creating"), ("60", "4 Out.*…")],
)
async def test_rollout_status_shows_a_bar(
    terminal: Callable[..., Terminal],
    bus: JetStreamBus,
    server: EmbeddedServer,
    columns: str,
    reasons: str,
) -> None:
    """In a terminal a rollout is a bar with what it waits for, which is cut off first; in the end there is one line."""
    daemonset = builders.daemonset(update_strategy=UpdateStrategy(type="RollingUpdate"))

    async def write(message: AnyMessage) -> None:
        await bus.publish([Outgoing(bus.subjects.of(message), encode(message))])

    def status(updated: int, reason: str, **waiting: int) -> StatusReported:
        return StatusReported(
            status=Status(
                namespace="default",
                daemonset="agent",
                daemonset_uid=daemonset.uid,
                observed_generation=1,
                desired_number_scheduled=10,
                updated_number_scheduled=updated,
                number_available=10,
                waiting_nodes=waiting,
                conditions=(Condition(type="Progressing", status="True", reason=reason),),
            )
        )

    await write(DaemonSetObserved(daemonset=daemonset))
    await write(status(3, "RolloutProgressing", Outdated=4, NotReady=2, Creating=1))
    words = ("rollout", "status", "ds/agent", "--fleet", bus.subjects.fleet)
    shown = terminal(*words, address=server.url, COLUMNS=columns)
    await asyncio.to_thread(shown.wait_for, rf"3/10 updated, 10 available.*{reasons}")
    await write(status(10, "RolloutComplete"))
    assert await asyncio.to_thread(shown.ended) == 0
    shown.wait_for(r'daemon set "agent" successfully rolled out')
    assert "Waiting for" not in shown.screen
