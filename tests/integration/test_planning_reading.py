"""What is read of a live log for a plan, from a real server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved
from everynode.core.pacing import Limits
from everynode.core.values import SetKey
from everynode.ports import Outgoing
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_reading import read_planned_fleet
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing.builders import daemonset, node

AGENT = SetKey("default", "agent")

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


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


async def test_what_cannot_be_read(bus: JetStreamBus, until: Until) -> None:
    """S8: of a node whose last message in STATE cannot be used, the one before it counts; LOG has it."""
    good, bad = outgoing(bus, NodeObserved(node=node(name="node-1"))), b"no message"
    await bus.publish([good, Outgoing(good.subject, bad)])
    await bus.publish([outgoing(bus, DaemonSetObserved(daemonset=daemonset(name="agent")))])

    async def state_has_it() -> bool:
        async with aclosing(bus.read_state([bus.subjects.everything()])) as chunks:
            found = [each.payload async for chunk in chunks for each in chunk]
        return len(found) == 2 and bad in found

    await until(state_has_it)
    fleet = PlannedFleet(bus.subjects, [AGENT])
    later_ms = time.time_ns() // 1_000_000 + 2 * Limits().horizon_ms
    await read_planned_fleet(bus, fleet, later_ms)
    fleet.settle(later_ms)
    assert {"node-1"} == {key.name for key in fleet.state.nodes.index.ids}
    assert 1 == fleet.refused
