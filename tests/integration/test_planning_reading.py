"""What is read of a live log for a plan, from a real server."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from everynode import wire
from everynode.core.events import DaemonSetObserved
from everynode.core.values import SetKey
from everynode.ports import Outgoing
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_reading import read_planned_fleet
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing.builders import daemonset as make_set

AGENT = SetKey("default", "agent")
Messages = Callable[[JetStreamBus, int], list[Outgoing]]


def set_message(bus: JetStreamBus, name: str) -> Outgoing:
    """A set as it is applied."""
    message = DaemonSetObserved(daemonset=make_set(name))
    return Outgoing(bus.subjects.of(message), wire.encode(message))


@pytest.mark.parametrize("held", [1, 1_000])
async def test_all_of_it(
    bus: JetStreamBus, node_messages: Messages, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """All nodes, the set, and no other: subject by subject, or all at once where that is more than is to be held."""
    monkeypatch.setattr("everynode.runtime.apart.READ_APART_MESSAGES_MAX", held)
    others = [set_message(bus, f"other-{number}") for number in range(3)]
    await bus.publish([*node_messages(bus, 2), *others, set_message(bus, "agent")])
    fleet = PlannedFleet(bus.subjects, [AGENT])
    await read_planned_fleet(bus, fleet, time.time_ns() // 1_000_000)
    assert 2 == len(fleet.state.nodes.index)
    assert {AGENT} == set(fleet.state.sets)
    assert 0 == fleet.refused
