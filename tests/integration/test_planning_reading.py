"""What is read of a live log for a plan, from a real server."""

from __future__ import annotations

import time

import pytest

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved
from everynode.core.values import SetKey
from everynode.ports import Outgoing
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_reading import read_planned_fleet
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing.builders import daemonset, node

AGENT = SetKey("default", "agent")


def outgoing(bus: JetStreamBus, message: wire.AnyMessage) -> Outgoing:
    """A message as it is published."""
    return Outgoing(bus.subjects.of(message), wire.encode(message))


@pytest.mark.parametrize("held", [1, 1_000])
async def test_all_of_it(bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """All nodes, the set, and no other: subject by subject, or all at once where that is more than is to be held."""
    monkeypatch.setattr("everynode.runtime.apart.READ_APART_MESSAGES_MAX", held)
    names = ("other-0", "other-1", "agent", "other-2")
    messages: list[wire.AnyMessage] = [
        NodeObserved(node=node(name=name)) for name in ("node-1", "node-2")
    ]
    messages += [DaemonSetObserved(daemonset=daemonset(name=name)) for name in names]
    await bus.publish([outgoing(bus, message) for message in messages])
    fleet = PlannedFleet(bus.subjects, [AGENT])
    now_ms = time.time_ns() // 1_000_000
    await read_planned_fleet(bus, fleet, now_ms)
    fleet.settle(now_ms)
    assert 2 == len(fleet.state.nodes.index)
    assert {AGENT} == set(fleet.state.sets)
    assert 0 == fleet.refused
