"""Programs that are killed at each step of a small run: what is started after them brings about the same world.

`make sim ARGS=--crash` does it for every single step; here it is every so-manieth.
"""

import gc

import pytest

from everynode.testing.simulation.crash import Victim, play, sweep

EVERY = 16


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "host"])
def test_a_death_at_any_step_is_made_good(victim: Victim) -> None:
    """S1 to S6, L1: no pod is made twice, and in the end everything is as if nobody had died."""
    found = list(sweep(victim, every=EVERY))
    assert len(found) > 10
    assert [] == [difference for difference in found if difference is not None]
    gc.collect()  # what was killed before it began is let go of here, and pytest hears of it


def test_the_small_fleet_is_updated() -> None:
    """What the deaths are compared with is a fleet whose pods are made, and replaced once."""
    world = play("worker", None)
    assert [] == list(world.violations)
    assert ["node-1", "node-2"] == [node for node, *_ in world.pods]
    assert 4 == len(set(world.made))
