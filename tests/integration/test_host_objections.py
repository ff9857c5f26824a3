"""Creates that come too late, on a real server: what an adapter host does not do although it was told to."""

import dataclasses
from collections.abc import Iterable

import pytest
from msgspec.structs import replace
from tests.integration.support_seen import Witness

from everynode import wire
from everynode.core.commands import CreatePod, Outcome
from everynode.core.events import PodGone, PodObserved
from everynode.core.values import Pod, PodKey
from everynode.runtime import delivering
from everynode.runtime.delivering import CommandDelivery
from everynode.runtime.execution import Execution
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.ledger import pod_gone
from everynode.testing.hosting import (
    OWNER,
    ScriptedAdapter,
    create,
    delete,
    eventually,
    outcomes,
    quick,
    revision,
    running,
    say,
    until,
    until_acknowledged,
)
from everynode_simulated import SimulatedAdapter, SimulatedFleet, generate_nodes

BACKEND = "sim"


def ready(said: Iterable[wire.AnyMessage]) -> list[Pod]:
    """The pods that were said to be ready."""
    return [one.pod for one in said if isinstance(one, PodObserved) and one.pod.ready]


async def outcome_for(bus: JetStreamBus, command: CreatePod) -> Outcome:
    """Wait for a command's outcome."""

    def about_it(said: list[wire.AnyMessage]) -> list[Outcome]:
        return [one for one in said if isinstance(one, Outcome) and one.id == command.id]

    return about_it(await until(bus, "outcome", lambda said: bool(about_it(said))))[-1]


async def until_gone(bus: JetStreamBus) -> None:
    """Wait until the log says that a pod is gone."""
    await until(bus, "pod", lambda said: any(isinstance(one, PodGone) for one in said))


@pytest.fixture
def simulated() -> SimulatedFleet:
    """Eight nodes on which everything works."""
    return SimulatedFleet(generate_nodes(8, seed=1, backend=BACKEND))


@pytest.fixture
def adapter(simulated: SimulatedFleet) -> SimulatedAdapter:
    """Their adapter."""
    return SimulatedAdapter(BACKEND, simulated)


class TestObjections:
    """Commands that come too late."""

    async def test_an_expired_command_is_not_carried_out(self, bus: JetStreamBus) -> None:
        """By the log's time, whatever this machine's clock says."""
        nodes = generate_nodes(2, 1, BACKEND)
        adapter = ScriptedAdapter(BACKEND, nodes)
        async with running(bus, adapter):
            await say(bus, revision(), replace(create(nodes[0]), expires_ms=1), create(nodes[1]))
            found = {outcome.id: outcome for outcome in await outcomes(bus, 2)}
        assert found[create(nodes[0]).id].result == "superseded"
        assert "expired" in found[create(nodes[0]).id].message
        assert [command.node for command in adapter.applied] == [nodes[1].name]

    async def test_a_node_that_has_another_pod_by_now(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """S1: a create that comes again late, when the node has a pod under another name, is superseded."""
        node = next(iter(simulated.nodes.values()))
        late = create(node)
        newer = create(node, replaces="the first one")
        async with running(bus, adapter):
            await say(bus, revision(), newer, late)
            first, second = await outcomes(bus, 2)
            assert (first.id, first.result) == (newer.id, "done")
            assert (second.id, second.result) == (late.id, "superseded")
            assert newer.pod in second.message
        assert [pod.name for pod in simulated.pods.values()] == [newer.pod]

    async def test_a_surge_may_have_two_of_different_revisions(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """S1: slot 1 stands beside one pod of another revision, never beside its own or beside two."""
        node, other = list(simulated.nodes.values())[:2]
        old = simulated.create_pod(
            PodKey(BACKEND, "ns", "old"), node=node.name, owner=OWNER, revision="old"
        )
        async with running(bus, adapter):
            surge = create(node, slot=1)
            await say(bus, revision(), surge)
            assert (await outcomes(bus, 1))[0].result == "done"
            await say(bus, create(node, slot=1, replaces="x"), create(other))
            (_, *found) = await outcomes(bus, 3)
            await say(bus, create(other, slot=1, replaces="y"))
            found += (await outcomes(bus, 4))[3:]
        assert sorted(outcome.result for outcome in found) == ["done", "superseded", "superseded"]
        on_node = [pod.name for pod in simulated.pods.values() if pod.node == node.name]
        assert on_node == [old.name, surge.pod]

    async def test_a_pod_that_was_created_and_is_not_observed_yet(self, bus: JetStreamBus) -> None:
        """S1: another create for its node waits for a new list, which shows whether it is there."""
        nodes = generate_nodes(2, 1, BACKEND)
        adapter = ScriptedAdapter(BACKEND, nodes)  # it lists no pod, ever
        async with running(bus, adapter, quick(tries_max=100)) as host:
            await say(bus, revision(), create(nodes[0]))
            await outcomes(bus, 1)
            await say(bus, create(nodes[0], replaces="x"))
            (_, second) = await outcomes(bus, 2)
        assert second.result == "done", "the list did not have the first one"
        assert host.counts.retried > 0
        assert adapter.observed > 1

    @pytest.mark.parametrize("starts_anew", [False, True])
    @pytest.mark.parametrize("is_replaced", [False, True])
    async def test_a_pod_that_has_come_and_gone(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        monkeypatch: pytest.MonkeyPatch,
        is_replaced: bool,
        starts_anew: bool,
    ) -> None:
        """S1: a create that comes again after its pod was deleted does not bring it back, also in another host."""
        command = create(next(iter(simulated.nodes.values())))
        acknowledge = CommandDelivery.ack

        async def lost(_: CommandDelivery) -> None:
            pass

        async def unknown(*_: object) -> bool:
            return False

        monkeypatch.setattr(CommandDelivery, "ack", lost)
        monkeypatch.setattr(Execution, "_answered_before", unknown)
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 1_000)
        forgetful = quick(outcomes_remembered_max=0, tries_max=100)
        async with running(bus, adapter, forgetful):
            await say(bus, revision(), command)
            (outcome,) = await outcomes(bus, 1)
            await say(bus, delete(command, outcome.pod_uid))
            await until_gone(bus)
            names_live = []
            if is_replaced:
                newer = create(next(iter(simulated.nodes.values())), replaces=outcome.pod_uid)
                await say(bus, newer)
                await outcome_for(bus, newer)
                names_live = [newer.pod]
            if not starts_anew:
                monkeypatch.setattr(CommandDelivery, "ack", acknowledge)
                await until_acknowledged(bus, BACKEND)
        if starts_anew:
            monkeypatch.setattr(CommandDelivery, "ack", acknowledge)
            async with running(bus, adapter, forgetful):
                await until_acknowledged(bus, BACKEND)
        results = [one.result for one in await outcomes(bus, 3) if one.id == command.id]
        assert "superseded" == results[-1]
        assert names_live == [pod.name for pod in simulated.pods.values()]

    async def test_an_outcome_on_the_log_is_answer_enough(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """S4, S5: what a host that is gone has answered and could not acknowledge is not carried out again."""
        command = create(next(iter(simulated.nodes.values())))
        acknowledge = CommandDelivery.ack

        async def lost(_: CommandDelivery) -> None:
            pass

        monkeypatch.setattr(CommandDelivery, "ack", lost)
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 1_000)
        async with running(bus, adapter, quick()):
            await say(bus, revision(), command)
            await outcomes(bus, 1)
        monkeypatch.setattr(CommandDelivery, "ack", acknowledge)
        async with running(bus, adapter, quick()) as host:
            await until_acknowledged(bus, BACKEND)
        assert host.counts.repeated == 1
        assert len(await outcomes(bus, 1)) == 1

    @pytest.mark.parametrize("lie", ["gone", "deleting"])
    async def test_a_pod_of_which_others_say_that_it_is_gone(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, lie: str
    ) -> None:
        """S1: until a list has shown what is so, its node gets no other pod; then that is superseded."""
        witness = Witness(simulated, lambda: None)
        node = next(iter(simulated.nodes.values()))
        old = create(node)
        slow = quick(tries_max=100)
        slow = dataclasses.replace(
            slow, observe=dataclasses.replace(slow.observe, doubt_delay_ms=500)
        )
        async with running(bus, adapter, slow) as host:
            await say(bus, revision(), old)
            (pod,) = ready(await until(bus, "pod", lambda said: len(ready(said)) == 1))
            untrue = (
                pod_gone(pod, "a lie")
                if lie == "gone"
                else PodObserved(pod=replace(pod, deleting=True))
            )
            await say(bus, untrue)
            newer = create(node, replaces=pod.uid)
            logbook = host._logbook
            assert logbook is not None
            await eventually(lambda: pod != logbook.ledger.pods.get(pod.key))
            await say(bus, newer)
            assert "superseded" == (await outcome_for(bus, newer)).result
            await until(bus, "pod", lambda said: said[-1] == PodObserved(pod=pod))
        witness.close()
        assert [] == witness.doubles
        assert [old.pod] == [one.name for one in simulated.pods.values()]
        assert host.counts.retried > 0

    async def test_a_node_that_is_another_one_by_now(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """A create for a node that has left, or returned as another one, is superseded."""
        gone, returned = list(simulated.nodes.values())[:2]
        simulated.remove_node(gone.name)
        simulated.remove_node(returned.name)
        simulated.add_node(replace(returned, uid="another"))
        async with running(bus, adapter):
            await say(bus, revision(), create(gone), create(returned))
            found = await outcomes(bus, 2)
        assert [outcome.result for outcome in found] == ["superseded"] * 2
        assert dict(simulated.pods) == {}
