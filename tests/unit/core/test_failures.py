"""Commands that did not work, and what is observed afterwards."""

from __future__ import annotations

from msgspec import structs

from everynode.core.values import NodeKey
from everynode.testing.builders import pod
from everynode.testing.situations import AGENT, NOTHING, SET, alike, asked, situation

ONE = alike(1)[0]


def test_a_failure_whose_effect_is_observed_is_none() -> None:
    """L1: a delete that is said to have failed and whose pod goes all the same leaves no rest behind."""
    old = pod(AGENT, ONE, created_ms=1)
    world = situation(
        AGENT, [ONE], [old, structs.replace(old, name="second", uid="u2", created_ms=2)]
    )
    assert asked(world).deletes == [("second", "Duplicate")]
    world.carry_out(works=False)
    assert asked(world) == NOTHING
    state = world.worker.fleet.sets[SET]
    assert list(state.cooling_nodes) == [NodeKey(ONE.backend, ONE.name)]

    world.remove_pod(structs.replace(old, name="second").key)
    world.read(world.worker)

    assert state.cooling_nodes == {}
    assert state.failures == {}


def test_of_several_failures_on_a_node_the_latest_counts() -> None:
    """L1: when one of two failed deletes has worked after all, the node rests for the other."""
    old = pod(AGENT, ONE, created_ms=1)
    others = [
        structs.replace(old, name=f"extra-{number}", uid=f"u{number}", created_ms=2 + number)
        for number in range(2)
    ]
    world = situation(AGENT, [ONE], [old, *others])
    assert len(asked(world).deletes) == 2
    world.carry_out(works=False)
    world.carry_out(works=False)
    world.read(world.worker)
    state = world.worker.fleet.sets[SET]
    assert len(state.failures) == 2

    world.remove_pod(others[1].key)
    world.read(world.worker)

    (failure,) = state.failures.values()
    assert state.cooling_nodes == {ONE.key: failure.cooling}
