"""Runs fleets from seeds: first with faults, then without, and says what came of each.

One seed is one run: everything in it, its configuration too, comes from that number, so that it can be had again. Many
seeds are shared out to processes. Logs are off: they would read the clock, and take most of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import random
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from everynode.errors import EverynodeError
from everynode.testing.simulation import marks
from everynode.testing.simulation.config import Configuration, draw
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.nemesis import Nemesis
from everynode.testing.simulation.report import Outcome
from everynode.testing.simulation.stage import Stage

HEALED_MS_MAX = 4_000_000
"""How long a fleet may take to come to rest: two intervals of lists, expiry, and the longest rests in a row."""
STEPS_MAX = 5_000_000
"""More steps than any sound run needs."""
RUNS_AHEAD = 4
"""So many runs of each process may wait to be begun, or for their turn to be told of."""
RUNS_PER_PROCESS = 200
"""After so many runs a process is replaced, so that what one leaves behind does not add up."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what is logged meanwhile."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


class RunLoop(VirtualLoop):
    """A loop that knows what of an answer that came too late is nobody's fault."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass over errors of ours in answers that nobody waits for any more: who asked was cancelled meanwhile."""
        is_answer = not isinstance(context.get("future"), asyncio.Task)
        if is_answer and isinstance(context.get("exception"), EverynodeError):
            return
        super().call_exception_handler(context)


def run_seed(
    seed: int,
    *,
    configuration: Configuration | None = None,
    tamper: Callable[[Stage], None] | None = None,
    steps_max: int = STEPS_MAX,
) -> Outcome:
    """Run one fleet.

    Args:
        seed: What everything is drawn from.
        configuration: What the run is like; drawn from the seed, if not given.
        tamper: Called with the stage before it begins.
        steps_max: How many steps it may have.
    """
    chance = random.Random(seed)
    configuration = configuration or draw(chance)
    began_s = time.perf_counter()
    with silent(), marks.collecting() as hit, RunLoop(chance) as loop:
        stage = Stage(loop, configuration)
        if tamper is not None:
            tamper(stage)
        _run(stage, steps_max)
        violations = tuple(dict.fromkeys(stage.violations))
        trace, figures = stage.trace(), stage.figures()
        steps, virtual_ms = loop.steps, loop.now_us // 1_000
    wall_s = time.perf_counter() - began_s
    return Outcome(seed, steps, virtual_ms, wall_s, trace, violations, hit.counts, figures)


def _run(stage: Stage, steps_max: int) -> None:
    nemesis = stage.loop.process("nemesis")
    stage.begin()
    nemesis.spawn(Nemesis(stage, stage.configuration).act())
    if not stage.run_for(stage.configuration.faulty_ms, steps_max):
        return
    nemesis.kill()
    stage.heal()
    stage.run_to_rest(HEALED_MS_MAX, steps_max)


def run_many(seeds: Iterable[int], jobs: int = 1) -> Iterator[Outcome]:
    """Run fleets from many seeds, in several processes if asked to; outcomes come in the order of the seeds."""
    if jobs <= 1:
        yield from map(run_seed, seeds)
        return
    method = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=method, max_tasks_per_child=RUNS_PER_PROCESS)
    waiting: deque[Future[Outcome]] = deque()
    try:
        for seed in seeds:
            waiting.append(pool.submit(run_seed, seed))
            if len(waiting) >= RUNS_AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def commit() -> str:
    """Name the commit of the source tree, if there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - whichever git there is
            capture_output=True,
            check=False,
            cwd=Path(__file__).parent,
            text=True,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
