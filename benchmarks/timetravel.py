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

from measuring import Row, Target, best_seconds, say

PLAN_SECONDS = Target(bound=1.0, unit="s")

RUNS = 5
TIMEOUT_SECONDS = 120
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
            env={**os.environ, "EVERYNODE_NATS": self.address},
        )
        assert done.returncode in codes, f"exit code {done.returncode}: {done.stderr}"
        return done.stdout

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


def plan(sizes: Sizes) -> list[Row]:
    """Measure `everynode plan` of a rolling update of every node, on the live fleet and on its recording."""
    say(f"plan: {sizes.nodes:,} nodes")
    rows = []
    with fleet(sizes.nodes) as made:
        part = f"everynode plan, {sizes.nodes:,} nodes"
        for where, words in (("live", ()), ("recording", ("--recording", made.recording))):
            for limit in ("10%", 1):
                command = ("plan", "-f", made.manifest("2", limit), *words)
                seconds = best_seconds(lambda command=command: made.run(*command, codes=(2,)), RUNS)
                what = f"{where}, maxUnavailable {limit}"
                rows.append(
                    Row(part=part, what=what, figure=seconds, unit="s", target=PLAN_SECONDS)
                )
    return rows
