"""Commands on a real server: what an adapter host makes of them, whatever goes wrong."""

import asyncio
import time
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import Command, CreatePod, Outcome, outcome_of
from everynode.core.events import PodGone, PodObserved, RevisionGone, RevisionRecorded
from everynode.core.identity import canonical, revision_hash
from everynode.core.values import Node
from everynode.errors import OutcomeUnknownError
from everynode.ports import Outgoing
from everynode.runtime import delivering
from everynode.runtime.delivering import CommandDelivery
from everynode.runtime.execution import REASON_LENGTH_MAX
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing.hosting import (
    OWNER,
    REVISION,
    ScriptedAdapter,
    command_consumer,
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
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet, generate_nodes

BACKEND = "sim"


def names(nodes: Iterable[Node]) -> set[str]:
    """Their names."""
    return {node.name for node in nodes}


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


class TestCommands:
    """What becomes of commands."""

    async def test_a_create_and_a_delete(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """They are carried out, observed and answered, and then acknowledged for good."""
        node = next(iter(simulated.nodes.values()))
        command = create(node)
        async with running(bus, adapter) as host:
            await say(bus, revision(), command)
            (created,) = await outcomes(bus, 1)
            pod = simulated.pods[command.pod_key]
            assert created == outcome_of(command, "done", pod_uid=pod.uid)
            assert (pod.node_uid, pod.revision, pod.owner) == (node.uid, REVISION, OWNER)
            await say(bus, delete(command, pod.uid))
            (_, deleted) = await outcomes(bus, 2)
            assert (deleted.result, deleted.verb) == ("done", "delete")
            said = await until(
                bus, "pod", lambda said: bool(said) and isinstance(said[-1], PodGone)
            )
            assert isinstance(said[0], PodObserved)
            assert host.counts.outcomes == {"done": 2}
            await until_acknowledged(bus, BACKEND)

    async def test_every_command_is_answered_once(self, bus: JetStreamBus) -> None:
        """S4: of many commands, none is lost, though some need several tries."""
        nodes = generate_nodes(300, 1, BACKEND)
        behaviour = Behaviour(seed=2, calls_unavailable=0.1, calls_unanswered=0.1)
        simulated = SimulatedFleet(nodes, behaviour=behaviour)
        limits = quick(tries_max=20)
        async with running(bus, SimulatedAdapter(BACKEND, simulated), limits) as host:
            await say(bus, revision(), *map(create, nodes))
            found = await outcomes(bus, 300)
            assert {outcome.id for outcome in found} == {create(node).id for node in nodes}
            assert {outcome.result for outcome in found} == {"done"}
            assert host.counts.retried > 0
            assert {pod.node for pod in simulated.pods.values()} == names(nodes)
            assert len(simulated.pods) == 300
            await until_acknowledged(bus, BACKEND)

    async def test_a_command_that_comes_again_is_answered_from_memory(
        self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S1: if its acknowledgement is lost, it is answered as before, without another call."""
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 300)
        lost: list[int] = []
        acknowledge = CommandDelivery.ack

        async def lossy(delivery: CommandDelivery) -> None:
            if lost:
                await acknowledge(delivery)
            else:
                lost.append(delivery.received.sequence)

        monkeypatch.setattr(CommandDelivery, "ack", lossy)
        (node, *_) = nodes = generate_nodes(2, 1, BACKEND)
        adapter = ScriptedAdapter(BACKEND, nodes)
        async with running(bus, adapter) as host:
            await say(bus, revision(), create(node))
            first, second = await outcomes(bus, 2)
            await until_acknowledged(bus, BACKEND)
        assert first == second
        assert len(adapter.applied) == 1
        assert host.counts.repeated == 1

    async def test_a_command_that_is_decided_again_is_carried_out_again(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """L1: it has the same id, and is another message: its pod may be gone by now."""
        command = create(next(iter(simulated.nodes.values())))
        async with running(bus, adapter) as host:
            await say(bus, revision(), command)
            await outcomes(bus, 1)
            simulated.delete_pod(command.pod_key)
            await until_gone(bus)
            await say(bus, command)
            first, second = await outcomes(bus, 2)
            assert command.pod_key in simulated.pods
        assert ["done", "done"] == [first.result, second.result]
        assert first.pod_uid != second.pod_uid
        assert host.counts.repeated == 0

    async def test_a_command_cut_short_is_carried_out_by_the_next_host(
        self, bus: JetStreamBus
    ) -> None:
        """S4: a host that ends in the middle of its work loses nothing, and no node gets a second pod (S1)."""
        nodes = generate_nodes(40, 1, BACKEND)
        simulated = SimulatedFleet(nodes, behaviour=Behaviour(apply_ms=(1, 100)))
        adapter = SimulatedAdapter(BACKEND, simulated)
        async with running(bus, adapter):
            await say(bus, revision(), *map(create, nodes))
            await eventually(lambda: len(simulated.pods) >= 5)
        async with running(bus, adapter):
            wanted = {create(node).id for node in nodes}
            await until(
                bus,
                "outcome",
                lambda said: wanted == {one.id for one in said if isinstance(one, Outcome)},
            )
        assert len(simulated.pods) == 40
        assert {pod.node for pod in simulated.pods.values()} == names(nodes)

    async def test_a_command_is_acknowledged_after_its_outcome_is_stored(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """S4: as long as the log does not have the outcome, the command would come again."""
        gate = asyncio.Event()
        publish = bus.publish

        async def gated(messages: Sequence[Outgoing]) -> int:
            if any(".outcome." in message.subject for message in messages):
                await gate.wait()
            return await publish(messages)

        node = next(iter(simulated.nodes.values()))
        async with running(bus, adapter):
            monkeypatch.setattr(bus, "publish", gated)
            await say(bus, revision(), create(node))
            await eventually(lambda: len(simulated.pods) == 1)
            assert (await command_consumer(bus, BACKEND))["num_ack_pending"] == 1
            gate.set()
            await until_acknowledged(bus, BACKEND)
            assert len(await outcomes(bus, 1)) == 1

    async def test_a_revision_that_comes_late(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """A create whose template is not on the log is tried again."""
        node = next(iter(simulated.nodes.values()))
        async with running(bus, adapter, quick(tries_max=100)) as host:
            await say(bus, create(node))
            await eventually(lambda: host.counts.retried > 0)
            await say(bus, revision())
            (outcome,) = await outcomes(bus, 1)
            assert outcome.result == "done"

    async def test_a_revision_that_is_not_what_it_says(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """S8: a template that does not have the hash it stands under is not used."""
        node = next(iter(simulated.nodes.values()))
        async with running(bus, adapter):
            await say(bus, revision(b'{"spec":{}}'), create(node))
            (outcome,) = await outcomes(bus, 1)
        assert outcome.result == "failed"
        assert "not what its name says" in outcome.message
        assert dict(simulated.pods) == {}

    @pytest.mark.parametrize("template", [None, b'{"spec":{}}', b'{"spec":{"x":1e999}}'])
    async def test_garbage_in_the_place_of_a_revision(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        template: bytes | None,
    ) -> None:
        """S8, L1: what cannot be read, or is not what its name says, hides nothing from a host that starts later."""
        node = next(iter(simulated.nodes.values()))
        garbage = b"x" if template is None else wire.encode(revision(template))
        await say(bus, revision())
        for _ in range(3):
            await bus.publish([Outgoing(bus.subjects.of(revision()), garbage)])
        async with running(bus, adapter):
            await say(bus, create(node))
            (outcome,) = await outcomes(bus, 1)
        assert outcome.result == "done"
        assert [REVISION] == [pod.revision for pod in simulated.pods.values()]

    @pytest.mark.parametrize("is_recorded", [True, False])
    async def test_a_revision_that_is_gone_or_was_never_good(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        is_recorded: bool,
    ) -> None:
        """S8: what cannot be read, or was removed, makes no pod; the command fails after its last try."""
        node = next(iter(simulated.nodes.values()))
        recorded = revision().revision
        key = recorded.set_key
        if is_recorded:
            gone = RevisionGone(namespace=key.namespace, daemonset=key.name, hash=recorded.hash)
            await say(bus, revision(), gone)
        await bus.publish([Outgoing(bus.subjects.of(revision()), b"garbage")])
        async with running(bus, adapter):
            await say(bus, create(node))
            (outcome,) = await outcomes(bus, 1)
        assert outcome.result == "failed"
        assert REVISION in outcome.message
        assert dict(simulated.pods) == {}

    async def test_a_call_that_takes_longer_than_the_log_waits(
        self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S1: as long as it is worked on, a command is not handed out a second time."""
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 300)
        (node, *_) = nodes = generate_nodes(2, 1, BACKEND)

        class Patient(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                await asyncio.sleep(1)
                return await super().apply(command)

        adapter = Patient(BACKEND, nodes)
        settings = quick(apply_timeout_ms=10_000, progress_interval_ms=50)
        async with running(bus, adapter, settings) as host:
            await say(bus, revision(), create(node))
            await outcomes(bus, 1)
            await until_acknowledged(bus, BACKEND)
        assert len(adapter.applied) == 1
        assert host.counts.repeated == 0

    async def test_a_process_that_stood_still(self, bus: JetStreamBus) -> None:
        """S1, S5: what came before a standstill is given back, not carried out: others may have it by now."""
        nodes = generate_nodes(2, 1, BACKEND)

        class StandsStill(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                if not self.applied:
                    time.sleep(0.6)  # noqa: ASYNC251 - as if the whole process had been stopped
                return await super().apply(command)

        adapter = StandsStill(BACKEND, nodes)
        settings = quick(standstill_ms_max=200, progress_interval_ms=50, concurrency_max=1)
        async with running(bus, adapter, settings):
            await say(bus, revision(), *map(create, nodes))
            found = await outcomes(bus, 2)

        assert {"done"} == {outcome.result for outcome in found}
        assert adapter.observed >= 2

    async def test_secrets_of_a_template_are_not_logged(
        self, bus: JetStreamBus, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A bug in an adapter is logged with where it was, and without the values that it worked on."""
        nodes = generate_nodes(2, 1, BACKEND)
        template = canonical(b'{"spec":{"containers":[{"env":[{"name":"A","value":"hunter2"}]}]}}')
        recorded = replace(
            revision().revision, template=msgspec.Raw(template), hash=revision_hash(template)
        )
        command = replace(create(nodes[0]), revision=recorded.hash)

        class Failing(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                assert isinstance(command, CreatePod)
                text = bytes(command.template or b"").decode()
                assert "hunter2" in text
                raise ZeroDivisionError

        async with running(bus, Failing(BACKEND, nodes)):
            await say(bus, RevisionRecorded(revision=recorded), command)
            (outcome,) = await outcomes(bus, 1)
        printed = "".join(capsys.readouterr())
        assert "raise ZeroDivisionError" in printed
        assert "hunter2" not in printed + outcome.message

    async def test_what_a_backend_says_is_cut(self, bus: JetStreamBus) -> None:
        """B1: an outcome's message does not grow with what the backend had to say."""
        nodes = generate_nodes(2, 1, BACKEND)

        class Talkative(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                return outcome_of(command, "refused", "no " * wire.PAYLOAD_BYTES_MAX)

        async with running(bus, Talkative(BACKEND, nodes)):
            await say(bus, revision(), create(nodes[0]))
            (outcome,) = await outcomes(bus, 1)
        assert (outcome.result, len(outcome.message)) == ("refused", REASON_LENGTH_MAX)

    async def test_a_backend_that_stays_away(self, bus: JetStreamBus) -> None:
        """After the last try the command has failed, and the reason is in its outcome."""
        nodes = generate_nodes(2, 1, BACKEND)
        simulated = SimulatedFleet(nodes, behaviour=Behaviour(calls_unavailable=1))
        async with running(bus, SimulatedAdapter(BACKEND, simulated)) as host:
            await say(bus, revision(), create(nodes[0]))
            (outcome,) = await outcomes(bus, 1)
            assert (outcome.result, outcome.verb) == ("failed", "create")
            assert "not now" in outcome.message
            assert (host.counts.retried, host.counts.dead_lettered) == (2, 1)
            await until_acknowledged(bus, BACKEND)

    async def test_one_bad_command_delays_only_itself(self, bus: JetStreamBus) -> None:
        """L3: garbage, a bug in the adapter, a call that hangs or an answer that is lost stop no other command."""
        nodes = generate_nodes(6, 1, BACKEND)

        class Fragile(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                self.applied.append(command)
                match nodes.index(next(node for node in nodes if node.name == command.node)):
                    case 0:
                        raise ZeroDivisionError("a bug")
                    case 1:
                        await asyncio.Event().wait()
                    case 2:
                        raise OutcomeUnknownError("no answer")
                    case 3:
                        return outcome_of(create(nodes[4]), "done")
                return outcome_of(command, "done")

        adapter = Fragile(BACKEND, nodes)
        garbage = f"{bus.subjects.prefix}.command.{BACKEND}.n.0.garbage"
        async with running(bus, adapter) as host:
            await bus.publish([Outgoing(garbage, b"garbage")])
            await say(bus, revision(), *map(create, nodes))
            found = {outcome.id: outcome for outcome in await outcomes(bus, 6)}
            results = [found[create(node).id] for node in nodes]
            assert [one.result for one in results] == ["failed"] * 4 + ["done"] * 2
            for outcome, text in zip(
                results,
                ["ZeroDivisionError: a bug", "no answer within", "no answer", "answered"],
                strict=False,
            ):
                assert text in outcome.message
            assert [sum(one.node == node.name for one in adapter.applied) for node in nodes] == [
                3,
                3,
                3,
                3,
                1,
                1,
            ]
            assert host.counts.malformed == 1
            await until_acknowledged(bus, BACKEND)

    async def test_one_place_one_command_at_a_time(self, bus: JetStreamBus) -> None:
        """What concerns one node and set is carried out one after the other, in order; other nodes do not wait."""
        nodes = generate_nodes(2, 1, BACKEND)
        busy: set[str] = set()
        overlaps = set()
        order: list[str] = []

        class Slow(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                assert command.node not in busy
                busy.add(command.node)
                overlaps.add(len(busy))
                await asyncio.sleep(0.01)
                busy.remove(command.node)
                order.append(command.id)
                return outcome_of(command, "done")

        commands = [
            delete(create(node, replaces=str(n)), "uid") for n in range(10) for node in nodes
        ]
        async with running(bus, Slow(BACKEND, nodes)):
            await say(bus, *commands)
            found = await outcomes(bus, 20)
        assert {outcome.result for outcome in found} == {"done"}
        for node in nodes:
            mine = [command.id for command in commands if command.node == node.name]
            assert [done for done in order if done in mine] == mine
        assert 2 in overlaps

    async def test_a_queue_that_is_longer_than_what_may_be_in_flight(
        self, bus: JetStreamBus
    ) -> None:
        """B1: no more commands are handed out than the limit says, and all are carried out."""
        nodes = generate_nodes(60, 1, BACKEND)
        at_once = 0

        class Counting(ScriptedAdapter):
            async def apply(self, command: Command) -> Outcome:
                nonlocal at_once
                info = await command_consumer(bus, BACKEND)
                at_once = max(at_once, info["num_ack_pending"])
                return await super().apply(command)

        adapter = Counting(BACKEND, nodes)
        async with running(bus, adapter, quick(in_flight_max=7)):
            await say(bus, revision(), *map(create, nodes))
            await outcomes(bus, 60)
        assert 1 < at_once <= 7
        assert len(adapter.applied) == 60
