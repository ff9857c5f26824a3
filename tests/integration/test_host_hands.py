"""Pods that change hands, and pods that end, on a real server: what an adapter host writes, and what it does not do."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import AdoptPod, CreatePod, ReleasePod
from everynode.core.events import PodGone, PodObserved
from everynode.core.values import Node, Owner, Pod, PodKey, SetKey
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import read_view
from everynode.testing.hosting import (
    OWNER,
    REVISION,
    ScriptedAdapter,
    adopt,
    create,
    delete,
    outcomes,
    quick,
    release,
    revision,
    running,
    say,
    until,
    until_acknowledged,
)
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet, generate_nodes

BACKEND = "sim"
LABELS = {"app": "web"}
SOMEONE = Owner(name="other", uid="other-uid")


@pytest.fixture
def simulated() -> SimulatedFleet:
    """Eight nodes on which everything works."""
    return SimulatedFleet(generate_nodes(8, seed=1, backend=BACKEND))


@pytest.fixture
def adapter(simulated: SimulatedFleet) -> SimulatedAdapter:
    """Their adapter."""
    return SimulatedAdapter(BACKEND, simulated)


@pytest.fixture
def node(simulated: SimulatedFleet) -> Node:
    """One of the nodes."""
    return next(iter(simulated.nodes.values()))


def add_orphan(simulated: SimulatedFleet, command: CreatePod) -> Pod:
    """Make a pod that nobody controls, with the name and the node of a create."""
    simulated.create_pod(command.pod_key, node=command.node, owner=None, revision=REVISION)
    return simulated.label_pod(command.pod_key, LABELS)


def brief(said: list[wire.AnyMessage]) -> list[tuple[str, SetKey | None]]:
    """What was said of pods up to the last end, and on whose subject, without repeats of the same."""
    found: list[tuple[str, SetKey | None]] = []
    for one in said:
        if isinstance(one, PodObserved):
            entry: tuple[str, SetKey | None] = ("is", one.pod.set_key)
        elif isinstance(one, PodGone):
            entry = ("gone", one.set_key)
        else:
            continue
        if not found or found[-1] != entry:
            found.append(entry)
    while found and found[-1][0] == "is":
        found.pop()
    return found


async def said_of_pods(bus: JetStreamBus, ends: int) -> list[wire.AnyMessage]:
    """Read what was said of pods, up to so many ends."""
    return await until(
        bus, "pod", lambda said: sum(isinstance(one, PodGone) for one in said) >= ends
    )


OURS = SetKey("ns", OWNER.name)


class TestChangingHands:
    """Where a pod stands on the log, and where it stood."""

    async def test_an_orphan_stands_with_the_orphans(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """With its labels, and so does its end."""
        orphan = add_orphan(simulated, create(node))
        async with running(bus, adapter):
            simulated.delete_pod(orphan.key)
            said = await said_of_pods(bus, 1)
        assert isinstance(said[0], PodObserved)
        assert (said[0].pod.uid, said[0].pod.labels) == (orphan.uid, LABELS)
        assert brief(said) == [("is", None), ("gone", None)]
        last = await bus.last(f"{bus.subjects.prefix}.pod.{wire.ORPHANS}.>")
        assert last is not None
        assert wire.decode(last.payload) == said[-1]

    async def test_an_adoption_is_written_before_the_orphan_is_ended(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """Whoever reads the log sees the pod at every moment, and in the end under its set."""
        command = create(node)
        orphan = add_orphan(simulated, command)
        async with running(bus, adapter) as host:
            await say(bus, adopt(command, orphan.uid))
            (outcome,) = await outcomes(bus, 1)
            said = await said_of_pods(bus, 1)
            assert host.counts.outcomes == {"done": 1}
        assert (outcome.verb, outcome.pod_uid) == ("adopt", orphan.uid)
        assert brief(said) == [("is", None), ("is", OURS), ("gone", None)]
        view = await read_view(bus, ["pod"])
        assert [OWNER] == [pod.owner for pod in view.pods.values()]

    async def test_a_release_is_written_before_the_sets_pod_is_ended(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """The pod stays, and says which labels it has."""
        command = create(node)
        async with running(bus, adapter):
            await say(bus, revision(), command)
            (created,) = await outcomes(bus, 1)
            simulated.label_pod(command.pod_key, LABELS)
            await say(bus, release(command, created.pod_uid))
            (_, outcome) = await outcomes(bus, 2)
            said = await said_of_pods(bus, 1)
        assert (outcome.verb, outcome.result) == ("release", "done")
        assert brief(said) == [("is", OURS), ("is", None), ("gone", OURS)]
        view = await read_view(bus, ["pod"])
        (pod,) = view.pods.values()
        assert (None, LABELS, created.pod_uid) == (pod.owner, pod.labels, pod.uid)

    async def test_a_pod_that_changes_just_before_it_changes_hands(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """Its end on the old subject comes last, although something else was still to be written there."""
        key = create(node).pod_key
        simulated.create_pod(key, node=node.name, owner=OWNER, revision=REVISION)
        async with running(bus, adapter):
            simulated.label_pod(key, LABELS)
            simulated.release_pod(key)
            said = await said_of_pods(bus, 1)
        assert brief(said) == [("is", OURS), ("is", None), ("gone", OURS)]

    async def test_a_pod_that_changes_hands_again_and_again(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """However quickly: in the end it stands where it is, and nowhere else."""
        command = create(node)
        simulated.create_pod(command.pod_key, node=node.name, owner=OWNER, revision=REVISION)
        async with running(bus, adapter) as host:
            for owner in (SOMEONE, OWNER, SOMEONE, OWNER) * 20:
                simulated.release_pod(command.pod_key)
                simulated.adopt_pod(command.pod_key, owner)
            simulated.release_pod(command.pod_key)
            await until(bus, "pod", lambda said: brief(said)[-1:] == [("gone", OURS)])
            published = host.counts.published
        view = await read_view(bus, ["pod"])
        assert [None] == [pod.owner for pod in view.pods.values()]
        async with running(bus, adapter) as host:
            assert published > 0
            assert host.counts.published == 0

    @pytest.mark.parametrize("is_there", [True, False])
    async def test_what_a_host_did_not_come_to_is_done_by_the_next_one(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        node: Node,
        is_there: bool,
    ) -> None:
        """L1: a host that stopped in between left a pod on two subjects; the next list ends the old one."""
        command = create(node)
        pod = simulated.create_pod(command.pod_key, node=node.name, owner=OWNER, revision=REVISION)
        orphan = simulated.release_pod(command.pod_key)
        await say(bus, PodObserved(pod=pod), PodObserved(pod=orphan))
        if not is_there:
            simulated.delete_pod(command.pod_key)
        async with running(bus, adapter):
            said = await said_of_pods(bus, 1 if is_there else 2)
        ends = [one.owner for one in said if isinstance(one, PodGone)]
        assert ends == ([OWNER] if is_there else [OWNER, None])
        view = await read_view(bus, ["pod"])
        assert [pod.uid] * is_there == [one.uid for one in view.pods.values()]
        before = (await bus.log_position()).last_sequence
        async with running(bus, adapter) as host:
            assert host.counts.published == 0
        assert before == (await bus.log_position()).last_sequence

    async def test_every_adoption_and_release_is_answered_once(self, bus: JetStreamBus) -> None:
        """S4: of many, none is lost, though some need several tries."""
        nodes = generate_nodes(100, 1, BACKEND)
        behaviour = Behaviour(seed=2, calls_unavailable=0.2, calls_unanswered=0.2)
        simulated = SimulatedFleet(nodes, behaviour=behaviour)
        creates = [create(node) for node in nodes]
        adopts, releases = [], []
        for number, command in enumerate(creates):
            pod = simulated.create_pod(
                command.pod_key,
                node=command.node,
                owner=OWNER if number % 2 else None,
                revision=REVISION,
            )
            if number % 2:
                releases.append(release(command, pod.uid))
            else:
                adopts.append(adopt(command, pod.uid))
        limits = quick(tries_max=30)
        async with running(bus, SimulatedAdapter(BACKEND, simulated), limits) as host:
            await say(bus, *adopts, *releases)
            found = await outcomes(bus, 100)
            await until_acknowledged(bus, BACKEND)
            assert host.counts.retried > 0
        assert {outcome.id for outcome in found} == {one.id for one in (*adopts, *releases)}
        assert {outcome.result for outcome in found} == {"done"}
        owners = [simulated.pods[command.pod_key].owner for command in creates]
        assert owners == [None if number % 2 else OWNER for number in range(100)]


class TestObjections:
    """What comes too late."""

    async def test_an_adoption_onto_a_node_that_has_a_pod(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """S1: it is superseded, with the pod that is there; one of another set is in nobody's way."""
        first, second = create(node), create(node, replaces="x")
        orphan = add_orphan(simulated, second)
        key = PodKey(BACKEND, "ns", "others")
        simulated.create_pod(key, node=node.name, owner=SOMEONE, revision=REVISION)
        async with running(bus, adapter):
            await say(bus, revision(), first)
            await outcomes(bus, 1)
            await say(bus, adopt(second, orphan.uid))
            (_, refused) = await outcomes(bus, 2)
            assert refused.result == "superseded"
            assert first.pod in refused.message
            assert simulated.pods[second.pod_key].owner is None
            await say(bus, delete(first, simulated.pods[first.pod_key].uid))
            await said_of_pods(bus, 1)
            await say(bus, replace(adopt(second, orphan.uid), id="again"))
            assert [one.result for one in await outcomes(bus, 4)][-1] == "done"

    async def test_an_adoption_beside_a_pod_on_its_way_out(
        self, bus: JetStreamBus, node: Node
    ) -> None:
        """S1: that one is not live, and does not count."""
        simulated = SimulatedFleet([node], behaviour=Behaviour(stop_ms=(100_000, 100_000)))
        leaving, command = create(node), create(node, replaces="x")
        simulated.create_pod(leaving.pod_key, node=node.name, owner=OWNER, revision=REVISION)
        simulated.delete_pod(leaving.pod_key)
        orphan = add_orphan(simulated, command)
        async with running(bus, SimulatedAdapter(BACKEND, simulated)):
            await say(bus, adopt(command, orphan.uid))
            assert [one.result for one in await outcomes(bus, 1)] == ["done"]

    @pytest.mark.parametrize("slot", [0, 1])
    async def test_a_create_beside_a_pod_on_its_way_out(
        self, bus: JetStreamBus, node: Node, slot: int
    ) -> None:
        """S1: whichever place it is for, and whatever revision that one has; the second live one is superseded."""
        simulated = SimulatedFleet([node], behaviour=Behaviour(stop_ms=(100_000, 100_000)))
        old = PodKey(BACKEND, "ns", "old")
        simulated.create_pod(old, node=node.name, owner=OWNER, revision=REVISION)
        simulated.delete_pod(old)
        async with running(bus, SimulatedAdapter(BACKEND, simulated)):
            await say(bus, revision(), create(node, slot=slot))
            await outcomes(bus, 1)
            await say(bus, create(node, slot=slot, replaces="y"))
            assert [one.result for one in await outcomes(bus, 2)] == ["done", "superseded"]
        live = [pod.name for pod in simulated.pods.values() if pod.live]
        assert live == [create(node, slot=slot).pod]

    async def test_an_adopted_pod_counts_before_it_is_observed(self, bus: JetStreamBus) -> None:
        """S1: a create for its node waits for a new list, which shows whether it is there."""
        nodes = generate_nodes(2, 1, BACKEND)
        adapter = ScriptedAdapter(BACKEND, nodes)  # it lists no pod, ever
        async with running(bus, adapter, quick(tries_max=100)) as host:
            await say(bus, revision(), adopt(create(nodes[0]), "adopted"))
            await outcomes(bus, 1)
            await say(bus, create(nodes[0], replaces="x"))
            (_, second) = await outcomes(bus, 2)
        assert second.result == "done", "the list did not have the adopted one"
        assert host.counts.retried > 0
        assert adapter.observed > 1

    async def test_a_create_beside_an_adopted_pod(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """S1: an adopted pod has the node's place, like one that was made for it."""
        command, other = create(node), create(node, replaces="x")
        orphan = add_orphan(simulated, command)
        async with running(bus, adapter, quick(tries_max=100)):
            await say(bus, revision(), adopt(command, orphan.uid), other)
            first, second = await outcomes(bus, 2)
        assert [(first.verb, first.result), (second.verb, second.result)] == [
            ("adopt", "done"),
            ("create", "superseded"),
        ]
        assert [command.pod] == [pod.name for pod in simulated.pods.values()]

    @pytest.mark.parametrize("owner", [None, SOMEONE])
    async def test_a_delete_of_what_has_changed_hands(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        node: Node,
        owner: Owner | None,
    ) -> None:
        """S5: what a set may delete is its own; the pod of its successor, of the same name, is."""
        command, other = create(node), create(node, replaces="x")
        pod = simulated.create_pod(command.pod_key, node=node.name, owner=owner, revision=REVISION)
        before = replace(OWNER, uid="uid-of-the-set-before")
        old = simulated.create_pod(other.pod_key, node=node.name, owner=before, revision=REVISION)
        async with running(bus, adapter):
            await say(bus, delete(command, pod.uid), delete(other, old.uid))
            found = {one.id: one for one in await outcomes(bus, 2)}
        kept = found[delete(command, pod.uid).id]
        assert (kept.result, found[delete(other, old.uid).id].result) == ("superseded", "done")
        assert "changed hands" in kept.message
        assert [pod.uid] == [one.uid for one in simulated.pods.values()]

    @pytest.mark.parametrize("kind", [AdoptPod, ReleasePod])
    async def test_an_expired_command_is_not_carried_out(
        self, bus: JetStreamBus, node: Node, kind: type[AdoptPod | ReleasePod]
    ) -> None:
        """By the log's time, as for creates and deletes."""
        adapter = ScriptedAdapter(BACKEND, [node])
        command = adopt(create(node), "u") if kind is AdoptPod else release(create(node), "u")
        async with running(bus, adapter):
            await say(bus, replace(command, expires_ms=1))
            (outcome,) = await outcomes(bus, 1)
        assert (outcome.result, adapter.applied) == ("superseded", [])


class TestEnds:
    """What a tombstone says, though the adapter says no more than who is gone."""

    async def test_a_pod_that_failed_is_one_more_of_its_row(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter, node: Node
    ) -> None:
        """Its pod carries how many were before it, and what it was made for; its end says all of it."""
        command = replace(create(node), failures=2, generation=7)
        async with running(bus, adapter):
            await say(bus, revision(), command)
            await outcomes(bus, 1)
            pod = simulated.fail_pod(command.pod_key)
            simulated.delete_pod(command.pod_key)
            said = await said_of_pods(bus, 1)
        assert (pod.failures, pod.generation) == (2, 7)
        end = said[-1]
        assert isinstance(end, PodGone)
        assert (3, 7, REVISION) == (end.failures, end.generation, end.revision)
        assert (pod.created_ms, pod.node_uid) == (end.created_ms, end.node_uid)

    @pytest.mark.parametrize("while_away", [True, False])
    async def test_a_pod_that_was_deleted_passes_on_no_failures(
        self,
        bus: JetStreamBus,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
        node: Node,
        while_away: bool,
    ) -> None:
        """Whether the host heard of its end or found it missing from a list."""
        command = replace(create(node), failures=2, generation=7)
        async with running(bus, adapter):
            await say(bus, revision(), command)
            await outcomes(bus, 1)
            await until(bus, "pod", bool)
            if not while_away:
                simulated.delete_pod(command.pod_key)
                await said_of_pods(bus, 1)
        if while_away:
            simulated.delete_pod(command.pod_key)
        async with running(bus, adapter):
            end = (await said_of_pods(bus, 1))[-1]
        assert isinstance(end, PodGone)
        assert (0, 7, REVISION) == (end.failures, end.generation, end.revision)
        assert end.created_ms > 0
