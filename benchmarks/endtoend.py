"""The whole way: `everynode up --once` as people run it, from its start to its exit.

In that time Python and all modules are loaded, a nats-server and its streams are made, a worker and an adapter start,
all nodes, commands, pods and outcomes pass through the log, and everything is taken down again.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import Row, Target, say

UP_SECONDS = Target(bound=4.0, unit="s")

RUNS = 3
RUN_TIMEOUT_SECONDS = 60
MANIFEST = Path(__file__).resolve().parents[1] / "deploy" / "examples" / "node-exporter.yaml"


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is."""

    nodes: int


def measure(sizes: Sizes) -> list[Row]:
    """Run it several times and take the best."""
    runs = []
    for run in range(RUNS):
        say(f"up: {sizes.nodes:,} nodes, run {run + 1} of {RUNS}")
        runs.append(_run(sizes.nodes))
    seconds, processor_seconds, pods = min(runs)
    part = f"everynode up --once, {sizes.nodes:,} nodes"
    return [
        Row(part=part, what="from start to exit", figure=seconds, unit="s", target=UP_SECONDS),
        Row(part=part, what="processor time, server included", figure=processor_seconds, unit="s"),
        Row(part=part, what="nodes", figure=sizes.nodes / seconds, unit="nodes/s"),
        Row(part=part, what="pods made and ready", figure=pods / seconds, unit="pods/s"),
    ]


def _run(nodes: int) -> tuple[float, float, int]:
    """Return how long it took, how much of that time processors worked on it, and how many pods there are now.

    Raises:
        AssertionError: Not every node that should have a pod has one.
    """
    arguments = ["up", "--once", "--nodes", str(nodes), "--output", "json", str(MANIFEST)]
    processor_before = _processor_seconds()
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command
        [Path(sys.executable).parent / "everynode", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return seconds, _processor_seconds() - processor_before, _ready_pods(done.stdout)


def _processor_seconds() -> float:
    """Return the processor time of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ready_pods(report: str) -> int:
    daemonsets = json.loads(report)["daemonsets"]
    for daemonset in daemonsets:
        assert daemonset["desired"] == daemonset["ready"] > 0, daemonset
    return sum(int(daemonset["ready"]) for daemonset in daemonsets)
