"""The plan of a chaos run: drawn from the seed alone, and complete."""

from __future__ import annotations

import pytest
from tests.chaos.faults import KINDS, LANES, LONG_MS, Fault, plan


@pytest.mark.parametrize("lane", sorted(LANES))
def test_a_seed_gives_one_plan(lane: str) -> None:
    """The same seed gives the same plan, and another one another."""
    assert plan(7, lane, 60) == plan(7, lane, 60)
    assert plan(7, lane, 60) != plan(8, lane, 60)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_before_one_comes_again(seed: int) -> None:
    """Each lane is a deck that is shuffled anew when it is empty, so no kind is forgotten for long."""
    for lane, kinds in LANES.items():
        planned = [fault.kind for fault in plan(seed, lane, 600)]
        whole = len(planned) - len(planned) % len(kinds)
        for start in range(0, whole, len(kinds)):
            assert sorted(kinds) == sorted(planned[start : start + len(kinds)])


def test_kinds_are_told_apart() -> None:
    """No two kinds have one name: the report counts by name."""
    assert len(KINDS) == len(set(KINDS))


def lasts_long(faults: list[Fault]) -> bool:
    """Say whether a fault outlasts what a command is waited for."""
    return any(fault.duration_ms >= LONG_MS[0] for fault in faults)


def test_only_a_long_run_has_long_faults() -> None:
    """A short one has no time for them."""
    long, short = (
        [fault for seed in range(10) for fault in plan(seed, "processes", seconds)]
        for seconds in (600, 45)
    )
    assert lasts_long(long)
    assert not lasts_long(short)
