"""An adapter host finds pods on nodes of which neither the backend nor the log knows anything.

That is how it is when a log has lost its end, and with it a node that came and went meanwhile: the pods are listed, the
node is not, and workers leave the pods of an unknown node alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from everynode.core.events import NodeGone, NodeObserved, PodObserved
from everynode.core.values import Pod, PodKey
from everynode.ports import ListBegun, ListEnded, Observation, View
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing.hosting import OWNER, REVISION, last_of_nodes, running, until
from everynode_simulated import SimulatedAdapter, SimulatedFleet, generate_nodes

BACKEND = "sim"
POD = PodKey(BACKEND, "ns", "left")


@pytest.fixture
def simulated() -> SimulatedFleet:
    """Eight nodes, and a pod on a ninth that has left."""
    fleet = SimulatedFleet(generate_nodes(9, seed=1, backend=BACKEND))
    home = list(fleet.nodes)[-1]
    fleet.create_pod(POD, node=home, owner=OWNER, revision=REVISION)
    fleet.remove_node(home)
    return fleet


@pytest.fixture
def pod(simulated: SimulatedFleet) -> Pod:
    """That pod."""
    found = simulated.pod(POD)
    assert found is not None
    return found


async def test_such_a_node_is_said_to_be_gone_once(
    bus: JetStreamBus, simulated: SimulatedFleet, pod: Pod
) -> None:
    """L1, L2: when a second list agrees the log says so, and whoever starts later does not say it again."""
    async with running(bus, SimulatedAdapter(BACKEND, simulated)):
        await until(bus, "node", lambda said: any(isinstance(one, NodeGone) for one in said))
    gone = [said for said in (await last_of_nodes(bus)).values() if isinstance(said, NodeGone)]
    assert [(pod.node, pod.node_uid)] == [(one.name, one.uid) for one in gone]
    before = await bus.log_position()
    async with running(bus, SimulatedAdapter(BACKEND, simulated)) as host:
        assert 0 == host.counts.published
    assert before == await bus.log_position()


async def test_a_node_that_joins_between_the_lists_is_not_gone(
    bus: JetStreamBus, simulated: SimulatedFleet, pod: Pod
) -> None:
    """Its pod was listed before it was itself: one list alone says nothing of it, and the next one knows it."""
    late = generate_nodes(9, seed=1, backend=BACKEND)[-1]
    assert pod.node == late.name

    class Racing(SimulatedAdapter):
        observed = 0

        async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
            self.observed += 1
            nodes = [NodeObserved(node=node) for node in simulated.nodes.values()]
            yield ListBegun("nodes")
            for node in [*nodes, *([NodeObserved(node=late)] if self.observed > 1 else [])]:
                yield node
            yield ListEnded("nodes")
            yield ListBegun("pods")
            yield PodObserved(pod=pod)
            yield ListEnded("pods")
            await asyncio.Event().wait()

    async with running(bus, Racing(BACKEND, simulated)):
        said = await until(bus, "node", lambda said: NodeObserved(node=late) in said)
    assert [] == [one for one in said if isinstance(one, NodeGone)]
