"""The simulator, in small: fresh seeds, seeds that once failed, and that one seed is one run.

A violation is reported with the line that `make sim` would print: it names the seed. `make sim STEPS=20000000` is the
same for longer.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from everynode.testing.simulation.__main__ import read_corpus
from everynode.testing.simulation.report import Outcome, failure_line
from everynode.testing.simulation.run import commit, run_seed

CORPUS = Path(__file__).parent / "corpus.txt"
FRESH_STEPS = 400_000
SEED_BITS = 40
HASH_SEEDS = ("1", "2")
TRACED = ("--seed", "31", "--seeds", "3", "--trace")


def lines_of(outcomes: list[Outcome]) -> list[str]:
    """Return the lines that say what failed."""
    return [failure_line(outcome, commit()) for outcome in outcomes if outcome.violations]


@pytest.mark.slow
def test_fresh_seeds_keep_every_promise() -> None:
    """S1 to S6, S8, L1 to L3, B1: whatever fails, during faults and after them."""
    outcomes: list[Outcome] = []
    first = secrets.randbits(SEED_BITS)
    while sum(outcome.steps for outcome in outcomes) < FRESH_STEPS:
        outcomes.append(run_seed(first + len(outcomes)))
    assert [] == lines_of(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", read_corpus(CORPUS))
def test_a_seed_that_once_failed(seed: int) -> None:
    """What was found once stays found."""
    assert [] == lines_of([run_seed(seed)])


def traces(hash_seed: str) -> list[str]:
    """Run the same seeds in a process of its own; returns the hashes of all that happened."""
    found = subprocess.run(
        [sys.executable, "-m", "everynode.testing.simulation", *TRACED],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        text=True,
    )
    return [line for line in found.stdout.splitlines() if "trace=" in line]


@pytest.mark.slow
def test_a_seed_is_one_run() -> None:
    """Equal seeds give equal traces, in another process and with another PYTHONHASHSEED."""
    first, second = map(traces, HASH_SEEDS)
    assert len(first) == 3
    assert first == second


def test_another_seed_is_another_run() -> None:
    """The hash of a trace depends on what happened."""
    assert run_seed(1).trace != run_seed(2).trace
