"""A chaos run: ``make chaos [SECONDS=600] [SEED=]``, or ``python -m tests.chaos.run --seconds 60``.

Starts a rig, lets the nemesis at it while the fleet churns and its sets are rolled out again and again, heals
everything, waits until the fleet has converged, and only then judges what was recorded. Prints a table; a red run
ends with the command that repeats it. The seed fixes the faults and their order, not the moments at which they meet
the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from tests.chaos.faults import KINDS
from tests.chaos.histories import History, Loss, Report, check
from tests.chaos.lines import (
    AnyLogLine,
    BackendLine,
)
from tests.chaos.nemesis import Nemesis
from tests.chaos.support_cluster import OWN_NAMESPACE, mounting_is_allowed
from tests.chaos.support_rig import MAX_UNAVAILABLE_PERCENT, Rig, Shape, beside, make_set

NODES = 500
SECONDS = 600
CALM_SECONDS = 15
"""So much of the time is left for convergence."""
COVERED_SECONDS_MAX = 60
CONVERGED_SECONDS_MAX = 30
DIAGNOSED_SECONDS_MAX = 90
"""How much longer it is watched, so that a fleet that is late can be told from one that never converges."""
SILENT_SECONDS = 1.5
SILENT_SECONDS_MAX = 20
ROLLOUT_SECONDS = (4, 12)
BAD_CALLS = 0.02
TIERS = {"agent": "", "edge": "edge"}
"""The sets, and the tier of nodes that each is for."""
SHOWN_MAX = 5


class Result(NamedTuple):
    """What came out of a run."""

    report: Report
    nemesis: Nemesis
    churn: dict[str, int]
    ended: dict[str, int]
    rollouts: int
    converge_seconds: float
    converge_seconds_max: float
    faults: list[str]
    silent: bool
    seconds: float

    @property
    def sound(self) -> bool:
        """Every promise was kept."""
        in_time = self.converge_seconds <= self.converge_seconds_max
        return self.report.sound and not self.faults and in_time and self.silent


class Rollouts:
    """What people want of the fleet's sets: now and then another template.

    Args:
        rig: Whose sets.
        seed: Which set, and when.
    """

    def __init__(self, rig: Rig, seed: int) -> None:
        """Want the first versions."""
        self.count = 0
        self._rig = rig
        self._random = random.Random(f"rollouts/{seed}")
        self._versions = dict.fromkeys(TIERS, 0)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*ROLLOUT_SECONDS))
            name = self._random.choice(list(TIERS))
            self._versions[name] += 1
            self.count += 1
            await self._rig.apply(make_set(name, self._versions[name], TIERS[name]))

    async def insist(self) -> None:
        """Apply what is wanted now, in case that the log does not have it, or has it no more."""
        for name, version in self._versions.items():
            await self._rig.apply(make_set(name, version, TIERS[name]))


async def chaos(
    directory: Path, seed: int, seconds: float, nodes: int, converge_seconds_max: float
) -> Result:
    """Do it.

    Args:
        directory: For everything that is written.
        seed: Which faults, and when.
        seconds: How long, convergence included.
        nodes: How many.
        converge_seconds_max: How long it may take after the last fault until everything is as it should be.

    Raises:
        RuntimeError: The fleet was not covered even before anything went wrong.
    """
    began = time.monotonic()
    async with Rig(directory, Shape(nodes=nodes, seed=seed, bad_calls=BAD_CALLS)) as rig:
        rollouts = Rollouts(rig, seed)
        await rollouts.insist()
        _, faults = await rig.converged(COVERED_SECONDS_MAX)
        if faults:
            raise RuntimeError(f"not covered before the first fault: {faults[:SHOWN_MAX]}")
        _say(f"{nodes} nodes are covered; faults begin", began)
        nemesis = Nemesis(rig, seed, seconds - CALM_SECONDS)
        await rig.ask_backend("begin")
        async with beside(rollouts.run):
            await nemesis.run()
        await nemesis.heal()
        churn = (await rig.ask_backend("heal"))["churn"]
        _say("faults end", began)
        healed = time.monotonic()
        await rollouts.insist()
        _, faults = await rig.converged(converge_seconds_max)
        if faults:
            _say(f"late: {len(faults)} faults: {faults[:SHOWN_MAX]}", began)
            _, faults = await rig.converged(DIAGNOSED_SECONDS_MAX)
        converge_seconds = time.monotonic() - healed
        silent = await rig.silent(SILENT_SECONDS, SILENT_SECONDS_MAX)
        sets = {daemonset.uid: MAX_UNAVAILABLE_PERCENT for daemonset in rig.sets.values()}
    return Result(
        report=check(history_of(rig, sets, nemesis.losses)),
        nemesis=nemesis,
        churn=churn,
        ended=dict(rig.ended),
        rollouts=rollouts.count,
        converge_seconds=converge_seconds,
        converge_seconds_max=converge_seconds_max,
        faults=faults,
        silent=silent,
        seconds=time.monotonic() - began,
    )


def history_of(rig: Rig, sets: dict[str, int], losses: Sequence[Loss]) -> History:
    """Read what was recorded of a rig that has ended."""
    backend = msgspec.json.Decoder(BackendLine)
    log = msgspec.json.Decoder(AnyLogLine)
    return History(
        [backend.decode(line) for line in rig.backend_history.read_bytes().splitlines()],
        [log.decode(line) for line in rig.log_history.read_bytes().splitlines()],
        sets,
        losses,
    )


def _say(text: str, began: float) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)  # noqa: T201 - it is a command


def table(result: Result) -> str:
    """Write a result for people."""
    report, nemesis = result.report, result.nemesis
    rows: list[tuple[str, object]] = [("FAULT", "TIMES")]
    rows += [(kind, nemesis.counts[kind]) for kind in KINDS]
    rows += [(f"not done: {kind}", count) for kind, count in sorted(nemesis.skipped.items())]
    rows += [("", ""), ("CHURN", "TIMES"), *sorted(result.churn.items())]
    rows += [("rollouts", result.rollouts), ("", ""), ("PROCESS", "ENDED BY ITSELF")]
    rows += sorted(result.ended.items())
    lost, doubled = (report.violations[name] for name in ("S4 lost", "S4 doubled"))
    rows += [
        ("", ""),
        ("RESULT", ""),
        ("decisions", report.decisions),
        ("commands issued", report.issued),
        ("commands settled, of those that the log still has", report.settled),
        ("commands that a cut log has no more", report.forgotten),
        ("times that the log was cut", report.generations - 1),
        ("effects that only a cut explains", report.excused),
        ("lost", len(lost)),
        ("doubled", len(doubled)),
        ("most live pods of a set on a node", report.live_max),
        ("most nodes that a rollout had down", report.taken_down_max),
        ("seconds to converge after the last fault", f"{result.converge_seconds:.1f}"),
        ("silent afterwards", "yes" if result.silent else "NO"),
        ("seconds in all", f"{result.seconds:.0f}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    for promise, findings in report.violations.items():
        lines += [f"VIOLATION {promise}: {finding}" for finding in findings[:SHOWN_MAX]]
        if len(findings) > SHOWN_MAX:
            lines.append(f"VIOLATION {promise}: and {len(findings) - SHOWN_MAX} more")
    lines += [f"NOT CONVERGED: {fault}" for fault in result.faults[:SHOWN_MAX]]
    return "\n".join(lines)


def into_own_namespace() -> None:
    """Run this program again where what it mounts is nobody else's, and goes with it; if that is not allowed, go on."""
    unshare = shutil.which("unshare")
    if OWN_NAMESPACE in os.environ or unshare is None:
        return
    for flags in ("-m", "-rm"):
        if (
            subprocess.run([unshare, flags, "true"], check=False, capture_output=True).returncode
            == 0
        ):
            environment = os.environ | {OWN_NAMESPACE: flags}
            command = [unshare, flags, sys.executable, *sys.orig_argv[1:]]
            os.execve(unshare, command, environment)  # noqa: S606 - no shell is wanted


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Chaos on real processes.")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long, convergence included"
    )
    parser.add_argument("--seed", type=int, default=None, help="which faults; drawn if not given")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument(
        "--keep", type=Path, help="a directory for histories and logs; else they go"
    )
    parser.add_argument(
        "--within", type=float, default=CONVERGED_SECONDS_MAX, help="seconds to converge in"
    )
    arguments = parser.parse_args()
    into_own_namespace()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    disks = "tmpfs of their own" if mounting_is_allowed() else "plain directories: none is filled"
    print(f"seed {seed}; the servers' disks are {disks}", flush=True)  # noqa: T201 - it is a command
    with contextlib.ExitStack() as stack:
        directory = arguments.keep
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        directory.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(
            chaos(directory, seed, arguments.seconds, arguments.nodes, arguments.within)
        )
    print(table(result), flush=True)  # noqa: T201 - it is a command
    if not result.sound:
        print(f"reproduce: make chaos SEED={seed} SECONDS={arguments.seconds:.0f}")  # noqa: T201 - it is a command
    return 0 if result.sound else 1


if __name__ == "__main__":
    sys.exit(main())
