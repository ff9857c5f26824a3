"""Workers are killed, one every two seconds, while they cover a fleet: ``python -m tests.chaos.kill_workers``.

Several workers, one adapter, one server; the backend takes its time, so that there is a middle to be killed in. Whoever
is killed is started again at once. At the end the fleet is covered exactly, no pod was made twice, and no command was
lost, by the same histories and the same checks as a chaos run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import structlog
from tests.chaos.histories import Report, check
from tests.chaos.lines import (
    PodLine,
)
from tests.chaos.run import CONVERGED_SECONDS_MAX, history_of
from tests.chaos.support_rig import Rig, Shape, beside, make_set

NODES = 5_000
SECONDS = 60
KILL_EVERY_SECONDS = 2.0
CALLS_AT_ONCE = 32
"""What an adapter host allows a set that is alone; so many nodes are covered in the time of one call."""
SHOWN_MAX = 5


class Result(NamedTuple):
    """What came out of it.

    Attributes:
        kills: How many there were until the fleet was covered.
        covered_seconds: How long it took to cover it.
        pods: How many pods were ever made.
    """

    report: Report
    kills: int
    covered_seconds: float
    pods: int
    nodes: int
    faults: list[str]

    @property
    def sound(self) -> bool:
        """Covered exactly, nothing twice, nothing lost, and there was somebody to kill."""
        exact = self.pods == self.nodes and not self.faults
        return self.report.sound and exact and self.kills > 0


async def kill_workers(directory: Path, seed: int, nodes: int, seconds: float) -> Result:
    """Do it, so that covering takes about so many seconds."""
    call_ms = int(seconds * 1_000 * CALLS_AT_ONCE / nodes)
    apply_ms = f"{call_ms // 2}-{call_ms * 3 // 2}"
    shape = Shape(nodes=nodes, seed=seed, servers=1, adapters=1, apply_ms=apply_ms)
    draw = random.Random(f"kill workers/{seed}")
    kills = 0
    async with Rig(directory, shape) as rig:

        async def kill() -> None:
            nonlocal kills
            while True:
                await asyncio.sleep(KILL_EVERY_SECONDS)
                process = draw.choice(rig.workers).process
                process.kill()
                process.start()
                kills += 1

        began = time.monotonic()
        await rig.apply(make_set("agent", 0))
        async with beside(kill):
            _, faults = await rig.converged(seconds + CONVERGED_SECONDS_MAX)
        covered_seconds = time.monotonic() - began
    history = history_of(rig, {}, [])
    pods = len({line.uid for line in history.backend if isinstance(line, PodLine)})
    report = check(history)
    return Result(report, kills, covered_seconds, pods, nodes, faults)


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Workers are killed while they cover a fleet.")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long covering is to take"
    )
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        result = asyncio.run(kill_workers(directory, seed, arguments.nodes, arguments.seconds))
    print(table(result))  # noqa: T201 - it is a command
    if not result.sound:
        command = "python -m tests.chaos.kill_workers"
        options = f"--seed {seed} --nodes {arguments.nodes} --seconds {arguments.seconds:.0f}"
        print(f"reproduce: {command} {options}")  # noqa: T201 - it is a command
    return 0 if result.sound else 1


def table(result: Result) -> str:
    """Write a result for people."""
    report = result.report
    rows: list[tuple[str, object]] = [
        ("workers killed", result.kills),
        ("seconds until covered", f"{result.covered_seconds:.1f}"),
        ("nodes", result.nodes),
        ("pods ever made", result.pods),
        ("commands issued", report.issued),
        ("commands settled", report.settled),
        ("decisions", report.decisions),
        ("lost", len(report.violations["S4 lost"])),
        ("doubled", len(report.violations["S4 doubled"])),
        ("most live pods of a set on a node", report.live_max),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    for promise, findings in report.violations.items():
        lines += [f"VIOLATION {promise}: {finding}" for finding in findings[:SHOWN_MAX]]
    lines += [f"NOT COVERED: {fault}" for fault in result.faults[:SHOWN_MAX]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
