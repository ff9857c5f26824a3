"""What is well formed, stands where it belongs, and is not so; and trouble that others have.

Whoever may write to the log can do harm to what the message is about, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.integration.support_world import BACKEND, World, make_node, make_set

from everynode import wire
from everynode.core.commands import CreatePod, Decision, DeletePod, Outcome
from everynode.core.events import NodeObserved, PodGone, StatusReported, Tick
from everynode.core.values import WHOLE_MAX, Pod, Status
from everynode.errors import StaleError
from everynode.ports import Outgoing
from everynode.runtime.streams import log_name
from everynode_simulated import SimulatedAdapter, SimulatedFleet

SET = make_set()
OTHER = make_set("other")
NEVER_MS = WHOLE_MAX


def a_create(world: World, **fields: Any) -> CreatePod:
    """Make a create that nobody decided."""
    daemonset = world.sets[SET.key]
    made = CreatePod(
        id="made-up",
        backend=BACKEND,
        node="n0001",
        node_uid="uid-n0001",
        namespace="default",
        daemonset="agent",
        daemonset_uid=daemonset.uid,
        generation=1,
        pod="agent-made-up",
        revision=world.pods(SET)[0].revision,
        expires_ms=NEVER_MS,
    )
    return replace(made, **fields)


def a_decision(world: World, **fields: Any) -> Decision:
    """Make a decision that no worker made."""
    daemonset = world.sets[SET.key]
    made = Decision(
        namespace="default",
        daemonset="agent",
        daemonset_uid=daemonset.uid,
        generation=1,
        revision="",
        basis=1,
        at_ms=1,
        worker="nobody",
        size=0,
        windows={BACKEND: 250},
    )
    return replace(made, **fields)


def a_delete(**fields: Any) -> DeletePod:
    """Make a delete that nobody decided."""
    made = DeletePod(
        id="made-up",
        backend=BACKEND,
        node="n0001",
        namespace="default",
        daemonset="agent",
        daemonset_uid="nobody",
        generation=1,
        pod="nobody",
        pod_uid="nobody",
        expires_ms=NEVER_MS,
    )
    return replace(made, **fields)


UNTRUE: dict[str, Callable[[World], wire.AnyMessage] | wire.AnyMessage] = {
    "create for an unknown node": lambda world: a_create(world, node="nowhere", node_uid="nobody"),
    "create for another node's uid": lambda world: a_create(world, node_uid="nobody"),
    "create for a node that is covered": a_create,
    "create of an unknown revision": lambda world: a_create(world, revision="nothing"),
    "create in an unknown backend": lambda world: a_create(world, backend="nowhere"),
    "create for an unknown set": lambda world: a_create(
        world, daemonset="nobody", daemonset_uid="nobody"
    ),
    "create that has expired": lambda world: a_create(world, expires_ms=1),
    "delete of an unknown pod": a_delete(),
    "delete in an unknown backend": a_delete(backend="nowhere"),
    "delete of another pod's uid": lambda world: a_delete(pod=world.pods(SET)[0].name),
    "decision": a_decision,
    "decision that claims more than came": lambda world: a_decision(world, size=900),
    "decision of an impossible size": lambda world: a_decision(world, size=WHOLE_MAX),
    "decision with no window": lambda world: a_decision(world, windows={BACKEND: 0}),
    "decision with a huge window": lambda world: a_decision(world, windows={BACKEND: WHOLE_MAX}),
    "decision from the future": lambda world: a_decision(world, basis=WHOLE_MAX, at_ms=WHOLE_MAX),
    "decision for an unknown set": lambda world: a_decision(world, daemonset="nobody"),
    "outcome of nothing": Outcome(
        id="made-up",
        backend=BACKEND,
        namespace="default",
        daemonset="agent",
        verb="create",
        result="failed",
    ),
    "tick of the future": Tick(shard=3, due_ms=WHOLE_MAX),
    "status": lambda world: StatusReported(
        status=Status(
            namespace="default",
            daemonset="agent",
            daemonset_uid=world.sets[SET.key].uid,
            observed_generation=1,
            desired_number_scheduled=4_711,
        )
    ),
    "node that is not there": NodeObserved(node=make_node("made-up")),
}


def gone_of(pod: Pod) -> PodGone:
    """Say of a pod that it is gone."""
    return PodGone(
        backend=pod.backend,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.node,
        node_uid=pod.node_uid,
        owner=pod.owner,
    )


class TestUntrue:
    """Messages that are well formed, stand where they belong, and are not so."""

    @pytest.mark.parametrize(
        "name",
        [pytest.param(name) for name in UNTRUE],
    )
    async def test_it_hinders_nothing_but_itself(self, covered: World, name: str) -> None:
        """S1, S8, L1, L3: the fleet is covered exactly all the same, with what is new as well."""
        world = covered
        world.made_up_commands.add("made-up")
        untrue = UNTRUE[name]
        await world.read_to(await world.say(untrue(world) if callable(untrue) else untrue))
        await world.goes_on()

    async def test_a_pod_that_is_said_to_be_gone(self, covered: World) -> None:
        """S1, L1: the host lists anew and says what is so; the pod that is wanted meanwhile is not made."""
        world = covered
        (pod,) = world.pods(SET, "n0002")
        await world.read_to(await world.say(gone_of(pod)))
        await world.until(lambda: len(world.log.of(PodGone)) >= 1, "the log says that it is gone")
        await world.until(lambda: world.log.last_of_pod(pod) == pod, "the log knows the pod again")
        await world.goes_on()

    async def test_the_same_command_again_is_a_command_again(self, covered: World) -> None:
        """S4, L1: a create that is decided again, long after, is carried out again if its pod is not there."""
        world = covered
        (pod,) = world.pods(SET, "n0002")
        (create,) = [command for command in world.log.creates() if command.pod == pod.name]
        (worker,) = [part for part in world._parts if hasattr(part, "worker")]
        await world.stop(worker)
        world.backend.delete_pod(pod.key)
        await world.until(lambda: len(world.log.of(PodGone)) == 1, "the log knows that it is gone")
        await world.say(replace(create, expires_ms=NEVER_MS))
        await world.until(lambda: bool(world.pods(SET, "n0002")), "the pod is made again")


class TestFence:
    """What the server refuses."""

    async def test_a_stale_decision_is_refused_whole(self, covered: World) -> None:
        """S6: nothing of a batch gets onto the log if another decision about the set came first."""
        world = covered
        last, decision = world.log.of(Decision)[-1]
        messages: tuple[wire.AnyMessage, ...] = (
            replace(decision, size=3),
            *(a_create(world, id=f"stale-{number}") for number in range(3)),
        )
        batch = [Outgoing(world.bus.subjects.of(m), wire.encode(m)) for m in messages]
        end = (await world.bus.log_position()).last_sequence
        for stale in (0, last - 1, last + 1):
            with pytest.raises(StaleError) as refused:
                await world.bus.publish_fenced(batch, stale)
            assert last == refused.value.last_sequence
        assert end == (await world.bus.log_position()).last_sequence
        await world.silent()
        assert not [command for command in world.log.creates() if command.id.startswith("stale")]


class TestNeighbours:
    """Trouble of one part of the fleet is its own."""

    async def test_a_backend_without_its_adapter_delays_only_itself(self, covered: World) -> None:
        """L3: nodes of a backend whose adapter is away wait; the other backend's nodes get their pods."""
        world = covered
        absent = SimulatedFleet([make_node(f"a{number}", backend="absent") for number in range(8)])
        host = await world.start_host(SimulatedAdapter("absent", absent))
        await host.host.listed.wait()
        await world.stop(host)
        await world.apply(OTHER)
        await world.until(
            lambda: sorted(world.backend.nodes) == world.nodes_with(OTHER), "the others are covered"
        )

    async def test_a_template_that_no_pod_can_be_made_from(self, covered: World) -> None:
        """L3: a set whose pods fail at once delays only itself."""
        world = covered
        annotations = b'{"metadata":{"annotations":{"simulated.everynode/fate":"fails"}},"spec":{}}'
        await world.apply(replace(make_set("failing"), template=msgspec.Raw(annotations)))
        failing = world.sets.popitem()
        await world.apply(OTHER)
        await world.until(
            lambda: sorted(world.backend.nodes) == world.nodes_with(OTHER), "the others are covered"
        )
        assert failing[0].name == "failing"


class TestLostDecisions:
    """A log that has lost decisions which workers know."""

    async def test_the_last_one(self, world: World) -> None:
        """S6: whoever knew a decision that the log has not begins anew, and does not decide on from what is lost."""
        await world.start_host()
        part = await world.start_worker()
        world.add_nodes(2)
        await world.apply(SET)
        await world.covered()
        subject = world.bus.subjects.of_set("decision", SET.key)
        last = await world.bus.last(subject)
        assert last is not None
        stream = log_name(world.bus.subjects.fleet)
        await world.bus._link.call(f"STREAM.MSG.DELETE.{stream}", {"seq": last.sequence})

        world.add_nodes(1)
        await world.covered()

        assert part.worker.counts.restarts >= 1

    async def test_all(self, world: World) -> None:
        """S6: so it does if the log has none at all, although none is old enough to have left it."""
        await world.start_host()
        part = await world.start_worker()
        world.add_nodes(2)
        await world.apply(SET)
        await world.covered()
        subject = world.bus.subjects.of_set("decision", SET.key)
        stream = log_name(world.bus.subjects.fleet)
        await world.bus._link.call(f"STREAM.PURGE.{stream}", {"filter": subject})

        world.add_nodes(1)
        await world.covered()

        assert part.worker.counts.restarts >= 1
