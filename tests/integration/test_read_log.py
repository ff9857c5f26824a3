"""Reading LOG once, up to its end; and views that know one's own writes, of everything or of one set."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from everynode import wire
from everynode.core.events import (
    DaemonSetObserved,
    NodeObserved,
    PodObserved,
    RevisionRecorded,
    StatusReported,
)
from everynode.core.values import DaemonSet, Revision, SetKey, Status
from everynode.ports import Outgoing
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import read_view
from everynode.testing import builders

KINDS = ("node", "pod", "daemonset", "revision", "status")


async def publish(bus: JetStreamBus, *messages: wire.AnyMessage) -> None:
    """Write messages, each on its subject."""
    await bus.publish([Outgoing(bus.subjects.of(each), wire.encode(each)) for each in messages])


def messages_about(daemonset: DaemonSet) -> list[wire.AnyMessage]:
    """One message of each kind that a set has."""
    namespace, name = daemonset.key
    revision = Revision(
        namespace=namespace,
        daemonset=name,
        daemonset_uid=daemonset.uid,
        hash="r1",
        number=1,
        template=daemonset.template,
    )
    status = Status(
        namespace=namespace, daemonset=name, daemonset_uid=daemonset.uid, observed_generation=1
    )
    return [
        DaemonSetObserved(daemonset=daemonset),
        RevisionRecorded(revision=revision),
        StatusReported(status=status),
        PodObserved(pod=builders.pod(daemonset, builders.node(), f"{name}-1")),
    ]


@pytest.mark.parametrize("start", [0, 1, 3, 5])
async def test_from_a_sequence_to_the_end(
    bus: JetStreamBus, node_messages: Callable[..., list[Outgoing]], start: int
) -> None:
    """What stands from the sequence on is read in order, once; then the reading ends."""
    await bus.publish(node_messages(bus, 5))
    chunks = [chunk async for chunk in bus.read_log([bus.subjects.of_kind("node")], start)]
    assert [each.sequence for chunk in chunks for each in chunk] == list(range(max(start, 1), 6))


async def test_nothing_to_read(
    bus: JetStreamBus, node_messages: Callable[..., list[Outgoing]]
) -> None:
    """An empty log, a sequence after its end, and subjects without messages end at once."""
    nodes = [bus.subjects.of_kind("node")]
    assert [chunk async for chunk in bus.read_log(nodes, 0)] == []
    await bus.publish(node_messages(bus, 3))
    assert [chunk async for chunk in bus.read_log(nodes, 4)] == []
    assert [chunk async for chunk in bus.read_log(nodes, 40)] == []
    assert [chunk async for chunk in bus.read_log([bus.subjects.of_kind("tick")], 1)] == []


async def test_a_view_knows_ones_own_writes(bus: JetStreamBus) -> None:
    """What was acknowledged is in the next view, although STATE takes it over a little later."""
    for number in range(50):
        daemonset = builders.daemonset(name=f"set-{number}")
        await publish(bus, DaemonSetObserved(daemonset=daemonset))
        view = await read_view(bus, ("daemonset",))
        assert len(view.daemonsets) == number + 1


async def test_a_view_of_one_set(bus: JetStreamBus) -> None:
    """A view of one set has what is the set's own, and nodes, and nothing of sets elsewhere."""
    mine = builders.daemonset(name="mine")
    others = [builders.daemonset(name=f"other-{number}") for number in range(20)]
    await publish(bus, NodeObserved(node=builders.node()))
    for each in (mine, *others):
        await publish(bus, *messages_about(each))
    view = await read_view(bus, KINDS, mine.key)
    assert set(view.daemonsets) == set(view.statuses) == {mine.key}
    assert set(view.revisions) == {(mine.key, "r1")}
    assert len(view.nodes) == 1
    assert SetKey("default", "mine") in {pod.set_key for pod in view.pods.values()}
    assert len(view.pods) < 21


@pytest.mark.parametrize("cut_short", [False, True])
async def test_nobody_listens_when_it_has_been_read(
    bus: JetStreamBus,
    node_messages: Callable[..., list[Outgoing]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    cut_short: bool,
) -> None:
    """Also if there was nothing to read, or whoever read was stopped before anything came (B1)."""
    await bus.publish(node_messages(bus, 1))
    link = bus._link
    listening, call, asked = len(link._client._subs), link.call, asyncio.Event()

    async def hang(operation: str, *rest: Any) -> Any:
        if not operation.startswith("CONSUMER.CREATE"):
            return await call(operation, *rest)
        asked.set()
        return await asyncio.Event().wait()

    async def read() -> None:
        assert [] == [chunk async for chunk in bus.read_log([bus.subjects.of_kind("pod")], 0)]

    if cut_short:
        monkeypatch.setattr(link, "call", hang)
        task = asyncio.create_task(read())
        await asked.wait()
        assert listening < len(link._client._subs)
        task.cancel()
        await asyncio.wait([task])
    else:
        await read()
    assert listening == len(link._client._subs)
