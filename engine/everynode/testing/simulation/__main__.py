"""``python -m everynode.testing.simulation``: runs fleets from seeds, prints a line for each failure and a table."""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from everynode.testing.simulation.crash import Victim, sweep
from everynode.testing.simulation.report import Outcome, failure_line, marks_table, table
from everynode.testing.simulation.run import commit, run_many

SEED_BITS = 40
PROGRESS_STEPS = 1_000_000


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m everynode.testing.simulation")
    parser.add_argument("--seed", type=int, help="the first seed; a new one if not given")
    parser.add_argument("--seeds", type=int, default=None, help="how many seeds, one after another")
    parser.add_argument(
        "--steps", type=int, default=None, help="go on until so many steps are made"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many processes to use")
    parser.add_argument("--corpus", type=Path, help="a file of seeds to run first, one on a line")
    parser.add_argument("--marks", action="store_true", help="show how often each mark was hit")
    parser.add_argument("--trace", action="store_true", help="show each run's trace hash")
    parser.add_argument("--crash", action="store_true", help="kill a program at each step instead")
    parser.add_argument("--strict-marks", action="store_true", help="fail if a mark was missed")
    return parser.parse_args(given)


def read_corpus(path: Path) -> list[int]:
    """Read seeds, one on a line; what follows a ``#`` says why it is kept."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [int(line) for line in lines if line]


def _seeds(arguments: argparse.Namespace) -> Iterator[int]:
    corpus = [] if arguments.corpus is None else read_corpus(arguments.corpus)
    first = secrets.randbits(SEED_BITS) if arguments.seed is None else arguments.seed
    count = arguments.seeds
    if count is None and arguments.steps is None:
        count = 1 if arguments.seed is not None else 20
    fresh = itertools.count(first) if count is None else iter(range(first, first + count))
    return itertools.chain(corpus, fresh)


def main(given: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    arguments = _arguments(given)
    if arguments.crash:
        return _crash()
    began_s = time.perf_counter()
    name = commit()
    outcomes: list[Outcome] = []
    steps = failed = 0
    for outcome in run_many(_seeds(arguments), arguments.jobs):
        outcomes.append(outcome)
        if outcome.violations:
            failed += 1
            _say(failure_line(outcome, name))
        if arguments.trace:
            _say(f"seed={outcome.seed} steps={outcome.steps} trace={outcome.trace}")
        if (steps + outcome.steps) // PROGRESS_STEPS > steps // PROGRESS_STEPS:
            spent_s = time.perf_counter() - began_s
            _say(
                f"{steps + outcome.steps:,} steps, {len(outcomes)} seeds, {failed} failed, {spent_s:,.0f} s"
            )
        steps += outcome.steps
        if arguments.steps is not None and steps >= arguments.steps:
            break
    lines = table(outcomes, time.perf_counter() - began_s, failed)
    missed = [line for line in lines if line.startswith("mark missed")]
    for line in lines:
        _say(line)
    if arguments.marks:
        hit: dict[str, int] = {}
        for outcome in outcomes:
            for mark, count in outcome.marks.items():
                hit[mark] = hit.get(mark, 0) + count
        for line in marks_table(hit):
            _say(line)
    return 1 if failed or (arguments.strict_marks and missed) else 0


def _crash() -> int:
    """Kill the worker, then the host, at each step of a small run; returns the exit code."""
    failed = 0
    victims: tuple[Victim, ...] = ("worker", "host")
    for victim in victims:
        points = 0
        for difference in sweep(victim):
            points += 1
            if difference is not None:
                failed += 1
                _say(f"FAILED {victim} killed at step {difference.step}: {difference.text}")
        _say(f"{victim}: killed at each of {points} steps")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
