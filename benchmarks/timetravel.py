"""Looking at a fleet's past and its future: the commands as people run them, from their start to their exit.

`fleet` makes what they look at: a fleet of some size that is covered, on a server of its own, and a recording of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from measuring import Row, Target, best_seconds, say

from everynode import wire
from everynode.core.events import Tick
from everynode.replay.recording import Reader, Writer
from everynode.replay.streams import entry_of

ANSWER_SECONDS = Target(bound=1.0, unit="s")

RUNS = 3
TIMEOUT_SECONDS = 120
HOUR_MS = 3_600_000
_UNCOMPILED = frozenset({"PYTHONDONTWRITEBYTECODE"})
PROGRAM = Path(sys.executable).parent / "everynode"
MANIFEST = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  updateStrategy: {{type: RollingUpdate, rollingUpdate: {{maxUnavailable: {max_unavailable}}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      containers:
      - {{name: agent, image: "example.com/agent:{version}"}}
      tolerations: [{{operator: Exists}}]
"""


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is."""

    nodes: int


@dataclass(frozen=True)
class Fleet:
    """A fleet that is covered, with one set whose pods run on every node.

    Attributes:
        directory: For files of the measurement.
        recording: Its whole log as a file.
    """

    address: str
    directory: Path
    recording: Path

    def run(self, *words: str | Path, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command on it; returns what it prints."""
        done = subprocess.run(  # noqa: S603 - our own command
            [PROGRAM, *words],
            capture_output=True,
            check=False,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=self._environment(),
        )
        assert done.returncode in codes, f"exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        """Run it as it is installed: compiled, once, before the first figure counts."""
        ours = {"EVERYNODE_NATS": self.address, "PYTHONPYCACHEPREFIX": str(self.directory / "code")}
        theirs = {key: value for key, value in os.environ.items() if key not in _UNCOMPILED}
        return theirs | ours

    def manifest(self, version: str, max_unavailable: int | str = "10%") -> Path:
        """Write another version of its set."""
        path = self.directory / f"agent-{version}-{max_unavailable}.yaml"
        path.write_text(MANIFEST.format(version=version, max_unavailable=max_unavailable))
        return path


@contextlib.contextmanager
def fleet(nodes: int) -> Iterator[Fleet]:
    """Run a fleet for as long as it is looked at."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        first = directory / "first.yaml"
        first.write_text(MANIFEST.format(version="1", max_unavailable="10%"))
        up = subprocess.Popen(  # noqa: S603 - our own command
            [PROGRAM, "up", "--nodes", str(nodes), first],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            made = Fleet(_address(up), directory, directory / "recording")
            made.run("record", "-o", made.recording)
            yield made
        finally:
            up.terminate()
            up.wait(TIMEOUT_SECONDS)
            if up.stdout is not None:
                up.stdout.close()


def _address(up: subprocess.Popen[str]) -> str:
    """Wait until it is covered; returns where its log is."""
    address = ""
    for line in up.stdout or ():
        if " at nats://" in line:
            address = line.split(" at ")[1].split(";")[0]
        if "all covered" in line:
            return address
    raise AssertionError(f"everynode up ended with {up.wait()} before all nodes were covered")


def measure(sizes: Sizes) -> list[Row]:
    """Ask for the past and the future of a fleet whose set was rolled out once, on the fleet and on its recording."""
    rows = []
    with fleet(sizes.nodes) as made:
        say(f"timetravel: {sizes.nodes:,} nodes, a rolling update of all of them")
        made.run("apply", "-f", made.manifest("2"))
        made.run("rollout", "status", "daemonset/agent")
        made.run("record", "-o", made.recording, "--force")
        pod = made.run("get", "pods", "-o", "name").splitlines()[0]
        next_version, same = made.manifest("3"), made.manifest("2", "20%")
        recorded = ("--recording", made.recording)
        at_rest = ("--recording", _an_hour_later(made.recording))
        commands: dict[str, tuple[str | Path, ...]] = {
            "plan": ("plan", "-f", next_version),
            "plan, from a recording": ("plan", "-f", next_version, *recorded),
            "plan, an hour after the update": ("plan", "-f", next_version, *at_rest),
            "explain a pod": ("explain", pod),
            "explain a pod, from a recording": ("explain", pod, *recorded),
            "explain a node": ("explain", "daemonset/agent", "--node", _node_of(made, pod)),
            "timeline": ("timeline", "daemonset/agent"),
            "timeline, from a recording": ("timeline", "daemonset/agent", *recorded),
            "replay --what-if": ("replay", made.recording, "--what-if", same),
        }
        for what, words in commands.items():
            say(f"timetravel: {what}")
            code = (2,) if words[0] == "plan" else (0,)
            seconds = best_seconds(
                lambda words=words, code=code: made.run(*words, codes=code), RUNS
            )
            part = f"time travel, {sizes.nodes:,} nodes"
            rows.append(Row(part=part, what=what, figure=seconds, unit="s", target=ANSWER_SECONDS))
    return rows


def _an_hour_later(recording: Path) -> Path:
    """Let a recording end with a tick, when all that happened in it was long ago: the fleet is at rest."""
    later = recording.with_name("later")
    with recording.open("rb") as source, later.open("wb") as file:
        reader = Reader(source, recording.name)
        writer = Writer(file, reader.header)
        for entry in reader.entries():
            writer.write(entry)
        last = entry.received
        subjects = wire.Subjects(reader.header.fleet, reader.header.shards)
        time_ms = last.time_ms + HOUR_MS
        writer.write(entry_of(subjects, last.sequence + 1, time_ms, Tick(shard=0, due_ms=time_ms)))
        writer.finish()
    return later


def _node_of(made: Fleet, pod: str) -> str:
    """Say where a pod runs."""
    found = msgspec.json.decode(made.run("get", *pod.split("/"), "-o", "json"))
    name: str = found["spec"]["nodeName"]
    return name
