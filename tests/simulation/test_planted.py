"""Bugs that are planted on purpose: the simulator finds each, within a bounded number of steps.

Each seed is fresh to the bug: nothing in the simulator knows of them.
"""

import pytest
from tests.simulation.planted import PLANTED

from everynode.testing.simulation.report import Outcome
from everynode.testing.simulation.run import run_seed

FIRST_SEED = 10_000
STEPS_MAX = 4_000_000

pytestmark = pytest.mark.timeout(
    300
)  # a fleet that never comes to rest has many steps, and coverage counts each line


def first_failure(bug: str) -> tuple[Outcome | None, int]:
    """Run seeds with a bug until one fails, or the steps are used up; returns it, and how many steps that took."""
    plant, _ = PLANTED[bug]
    steps, seed = 0, FIRST_SEED
    while steps < STEPS_MAX:
        with plant():
            outcome = run_seed(seed)
        steps += outcome.steps
        seed += 1
        if outcome.violations:
            return outcome, steps
    return None, steps


@pytest.mark.slow
@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_a_planted_bug_is_found(bug: str) -> None:
    """S1, S3, S6, L1: each bug breaks a promise, and the simulator says which."""
    outcome, steps = first_failure(bug)
    assert outcome is not None, f"not found in {steps} steps"
    assert outcome.violations[0].promise in PLANTED[bug][1], outcome.violations[0]


def test_a_bug_is_gone_when_it_is_taken_out() -> None:
    """What is planted for one test is not in force for the next."""
    before = run_seed(1).trace
    for plant, _ in PLANTED.values():
        with plant():
            pass
    assert before == run_seed(1).trace
