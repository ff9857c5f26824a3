"""The command line as people use it: as processes, against a real server.

`everynode` runs a command to its end. `start` runs one beside the test, and ends it with the test. `fleet_up` is one
`everynode up` that all tests of a module share; they leave its sets as they found them. `written` is a fleet on which
nobody works: the test writes its messages.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from everynode import wire
from everynode.ports import Outgoing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "deploy" / "examples"
PROGRAM = Path(sysconfig.get_path("scripts")) / "everynode"

COMMAND_SECONDS_MAX = 90
WAIT_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15

SET = """\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {name}
  namespace: {namespace}
spec:
  selector:
    matchLabels: {{app: {name}}}
  updateStrategy: {{type: OnDelete}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{simulated.everynode/fate: {fate}}}
    spec:
      containers:
      - name: main
        image: example.com/{name}:{version}
        env: [{{name: PASSWORD, value: open-sesame}}]
      nodeSelector: {{kubernetes.io/os: linux}}
"""


@pytest.fixture
def manifest() -> Callable[..., str]:
    """Write a DaemonSet for all Linux nodes that have no taint."""

    def write(
        name: str, *, namespace: str = "default", version: str = "1", fate: str = "works"
    ) -> str:
        return SET.format(name=name, namespace=namespace, version=version, fate=fate)

    return write


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def environment(address: str | None = None) -> dict[str, str]:
    """The environment of a command: nobody's settings but the test's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EVERYNODE_", "NO_COLOR", "FORCE_COLOR"))
    }
    return kept | ({"EVERYNODE_NATS": address} if address else {})


class Everynode:
    """Runs commands against the server at an address; without one, commands look for it where they do by default."""

    def __init__(self, address: str | None = None) -> None:
        """Remember the address."""
        self.address = address

    program = str(PROGRAM)

    def environment(self) -> dict[str, str]:
        """The environment in which commands find the server."""
        return environment(self.address)

    def __call__(self, *arguments: str | Path, stdin: str = "") -> Ended:
        """Run a command to its end."""
        ended = subprocess.run(
            [PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=ROOT,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def until(self, *arguments: str | Path, holds: Callable[[str], bool]) -> str:
        """Run a command again and again until its output is as it should be."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            ended = self(*arguments)
            if holds(ended.out):
                return ended.out
            assert time.monotonic() < deadline, f"still not: {ended}"


class Running:
    """A command that runs beside the test; what it writes is collected."""

    def __init__(self, arguments: tuple[str | Path, ...], address: str | None) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(address),
            cwd=ROOT,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def line(self, pattern: str) -> str:
        """Wait for a line of either output that matches, and return it."""

        def found() -> str | None:
            return next((text for text in self.out + self.err if re.search(pattern, text)), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended(), WAIT_SECONDS_MAX)
            line = found()
        assert line is not None, f"no line {pattern!r} in {self.out} or {self.err}"
        return line

    def address(self) -> str:
        """Where an `up` says that its log is."""
        return self.line(r"^fleet .* at nats://").split(" at ")[1].split(";")[0]

    def _ended(self) -> bool:
        return not any(reader.is_alive() for reader in self._readers)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS_MAX)
        for reader in self._readers:
            reader.join(STOP_SECONDS_MAX)
        return code

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS_MAX)
        for reader in self._readers:
            reader.join(STOP_SECONDS_MAX)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def everynode() -> Everynode:
    """Commands that bring their own server, or need none."""
    return Everynode()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start commands that run beside the test."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str | Path, address: str | None = None) -> Running:
            running = Running(arguments, address)
            stack.callback(running.end)
            return running

        yield begin


@pytest.fixture(scope="module")
def fleet_up() -> Iterator[Everynode]:
    """Commands on the fleet of an `up` with the examples, which all tests of a module share."""
    running = Running(("up", EXAMPLES, "--nodes", "20"), None)
    try:
        running.line("all covered")
        yield Everynode(running.address())
    finally:
        running.stop()
        running.end()


@pytest.fixture
def on_server(server: EmbeddedServer) -> Everynode:
    """Commands on the server that all tests share."""
    return Everynode(server.url)


class WrittenFleet:
    """A fleet whose messages the test writes itself, and commands on it."""

    def __init__(self, bus: JetStreamBus, everynode: Everynode) -> None:
        """Nothing is written yet."""
        self.bus = bus
        self._everynode = everynode

    async def write(self, *messages: wire.AnyMessage) -> None:
        """Write messages."""
        subjects = self.bus.subjects
        await self.bus.publish([Outgoing(subjects.of(it), wire.encode(it)) for it in messages])

    def words(self, *words: str) -> tuple[str, ...]:
        """A command on this fleet."""
        return (*words, "--fleet", self.bus.subjects.fleet)

    async def __call__(self, *words: str, stdin: str = "") -> Ended:
        """Run a command to its end."""
        return await asyncio.to_thread(self._everynode, *self.words(*words), stdin=stdin)


@pytest.fixture
def written(bus: JetStreamBus, on_server: Everynode) -> WrittenFleet:
    """A fleet on the shared server on which nobody works."""
    return WrittenFleet(bus, on_server)
