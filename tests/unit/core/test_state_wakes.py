"""What makes the fleet's state look at a set again, where time or readiness alone does it."""

from __future__ import annotations

import pytest
from msgspec import structs

from everynode.core.events import NodeObserved
from everynode.core.state import FleetState, Record
from everynode.core.values import DaemonSet
from everynode.testing.builders import daemonset, node
from everynode.testing.situations import AGENT, SET, situation

ONE = node("node-0")


@pytest.mark.parametrize(
    ("wanted", "looked_at"), [(AGENT, True), (daemonset({"nodeName": "x"}), False)]
)
def test_a_node_that_is_lost_is_looked_at_by_the_sets_that_are_for_it(
    wanted: DaemonSet, looked_at: bool
) -> None:
    """L1: readiness counts for rollouts and statuses, of sets that the node is eligible for, and of no other."""
    world = situation(wanted, [ONE], [])
    world.run()
    fleet: FleetState = world.worker.fleet
    assert SET not in fleet.dirty

    lost = structs.replace(ONE, ready=False, unready_since_ms=5)
    fleet.fold(Record(fleet.sequence + 1, fleet.now_ms, NodeObserved(node=lost)))
    assert looked_at == (SET in fleet.dirty)


def test_a_heartbeat_is_no_reason_to_look_at_anything() -> None:
    """L2: a node that is observed as it was concerns nobody."""
    world = situation(AGENT, [ONE], [])
    world.run()
    fleet: FleetState = world.worker.fleet
    fleet.fold(Record(fleet.sequence + 1, fleet.now_ms, NodeObserved(node=ONE)))
    assert set() == fleet.dirty
