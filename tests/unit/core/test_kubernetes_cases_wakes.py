"""The unit cases of Kubernetes' own controller, re-expressed: what makes it look at a set again.

Source: pkg/controller/daemon/daemon_controller_test.go, the cases about handlers and queues; each docstring names the
case. There a set is put into a queue, here it is marked in ``FleetState.dirty``; looking without need is harmless, as
nothing is decided then, so that what these cases protect is that nothing is overlooked, and that a fleet at rest is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import PodGone, RevisionGone
from everynode.core.status import compute_status
from everynode.core.values import DaemonSet, Node, Pod, SetKey, Status
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, NOTHING, SET, alike, asked, situation
from everynode.testing.world import World

ONE = node("node-0")
TWIN = structs.replace(daemonset(name="twin"), selector=AGENT.selector)
UNLIKE = daemonset(name="unlike")
OWN = pod(AGENT, ONE)
ORPHAN = structs.replace(OWN, owner=None, labels={"app": "agent"})
TWIN_KEY, UNLIKE_KEY = TWIN.key, UNLIKE.key
MATCHING = {SET, TWIN_KEY}


def at_rest(*pods: Pod, sets: tuple[DaemonSet, ...] = (AGENT, TWIN, UNLIKE)) -> World:
    """Make a world in which nobody has anything to do: no set may run on its node, but what is there may stay."""
    world = situation(None, [node("node-0", "k:NoSchedule")], [])
    for each in sets:
        world.apply(each)
    for known in pods:
        world.put_pod(known)
    world.read(world.worker)
    world.worker.fleet.dirty.clear()
    return world


def marked(world: World) -> set[SetKey]:
    """Let the worker read; return the sets that it would look at."""
    world.read(world.worker)
    return set(world.worker.fleet.dirty)


def status_of(world: World, key: SetKey = SET) -> Status:
    """Let the worker read, and count."""
    world.read(world.worker)
    status = compute_status(world.worker.fleet, key)
    assert status is not None
    return status


# Nodes


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        pytest.param(ONE, ONE, False, id="Nothing changed, should not enqueue"),
        pytest.param(node("node-0"), node("node-0", color="blue"), True, id="Node labels changed"),
        pytest.param(ONE, node("node-0", "k:NoSchedule"), True, id="Node taints changed"),
        pytest.param(
            ONE,
            structs.replace(ONE, labels={"allocatable": "changed"}),
            False,
            id="Node Allocatable changed: it is not looked at, nor is a label that nobody mentions",
        ),
    ],
)
def test_a_node_changes(before: Node, after: Node, wanted: bool) -> None:
    """TestUpdateNode, TestShouldIgnoreNodeUpdate: labels and taints that a set depends on wake it up, nothing else."""
    world = situation(daemonset({"nodeSelector": {"color": "blue"}}), [before], [])
    world.decide()
    world.worker.fleet.dirty.clear()

    world.put_node(after)

    assert wanted == (SET in marked(world))


def test_a_node_joins() -> None:
    """TestAddNode: a new node concerns every set."""
    world = at_rest()

    world.put_node(node("node-1"))

    assert marked(world) == {SET, TWIN_KEY, UNLIKE_KEY}


def test_a_taint_that_keeps_what_runs() -> None:
    """L1: counters follow a NoSchedule taint at once; in Kubernetes nothing asks for them until later."""
    world = situation(AGENT, [ONE], [OWN])
    world.run()
    before = status_of(world)

    world.put_node(node("node-0", "k:NoSchedule"))

    assert SET in marked(world)
    after = status_of(world)
    assert (1, 0) == (before.desired_number_scheduled, before.number_misscheduled)
    assert (0, 1) == (after.desired_number_scheduled, after.number_misscheduled)


def test_a_node_is_lost() -> None:
    """L1: whether a node is ready concerns the sets that may run there: a rollout may pass over it."""
    world = situation(AGENT, [ONE], [OWN])
    world.run()

    world.set_node_ready(ONE.key, ready=False)

    assert SET in marked(world)
    assert status_of(world).waiting_nodes == {"Unreachable": 1}


def test_a_node_leaves() -> None:
    """L1: counters follow a node that leaves at once; in Kubernetes they wait until its pod is removed."""
    world = situation(AGENT, alike(2), [])
    world.run()

    world.remove_node(ONE.key)

    assert SET in marked(world)
    assert status_of(world).desired_number_scheduled == 1


# Pods


def _appears(world: World) -> None:
    world.put_pod(OWN)


def _changes(world: World) -> None:
    world.change_pod(OWN.key, phase="Running", ready=False)


def _goes(world: World) -> None:
    world.remove_pod(OWN.key)


def _is_labelled(world: World) -> None:
    world.label_pod(OWN.key, {"app": "agent", "more": "labels"})


def _is_handed_over(world: World) -> None:
    owner = pod(TWIN, ONE).owner
    world.put_pod(structs.replace(OWN, owner=owner))


def _is_released(world: World) -> None:
    world.put_pod(ORPHAN)


def _orphan_appears(world: World) -> None:
    world.put_pod(structs.replace(ORPHAN, name="new"))


@pytest.mark.parametrize(
    ("known", "happens", "wanted"),
    [
        pytest.param([], _appears, {SET}, id="TestAddPod"),
        pytest.param([], _orphan_appears, MATCHING, id="TestAddPodOrphan"),
        pytest.param([OWN], _changes, {SET}, id="TestUpdatePod"),
        pytest.param(
            [structs.replace(ORPHAN, labels={})],
            _is_labelled,
            MATCHING,
            id="TestUpdatePodOrphanWithNewLabels",
        ),
        pytest.param([OWN], _is_handed_over, MATCHING, id="TestUpdatePodChangeControllerRef"),
        pytest.param([OWN], _is_released, MATCHING, id="TestUpdatePodControllerRefRemoved"),
        pytest.param([OWN], _goes, {SET}, id="TestDeletePod"),
    ],
)
def test_a_pod_changes(
    known: list[Pod], happens: Callable[[World], None], wanted: set[SetKey]
) -> None:
    """The Kubernetes case of the row's id: its owner is marked, or for an orphan each set that selects it."""
    world = at_rest(*known)

    happens(world)

    assert wanted == marked(world)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ready": False}, id="TestUpdatePodOrphanSameLabels"),
        pytest.param(None, id="TestDeletePodOrphan"),
    ],
)
def test_an_orphan_changes(change: dict[str, Any] | None) -> None:
    """TestUpdatePodOrphanSameLabels, TestDeletePodOrphan, L2: nothing is decided.

    We differ: the sets that select it are looked at, as the state of an orphan may decide which one joins.
    """
    orphan = structs.replace(ORPHAN, node="node-9", node_uid="")  # of no use to anybody
    world = at_rest(orphan)

    if change is None:
        world.remove_pod(orphan.key)
    else:
        world.put_pod(structs.replace(orphan, **change))

    assert marked(world) <= MATCHING
    assert asked(world) == NOTHING
    assert world.queue == []


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(structs.replace(OWN, owner=None, labels={"app": "else"}), id="no owner"),
        pytest.param(pod(daemonset(name="stranger"), ONE), id="owner of another name"),
        pytest.param(
            structs.replace(OWN, namespace="elsewhere"),
            id="owner of that name in another namespace",
        ),
    ],
)
def test_a_foreign_pod_goes(gone: Pod) -> None:
    """TestDeleteNoDaemonPod: the end of a pod that is no set's here marks none of them."""
    world = at_rest(gone)

    world.remove_pod(gone.key)

    assert marked(world).isdisjoint({SET, TWIN_KEY, UNLIKE_KEY})


def test_two_sets_select_one_orphan() -> None:
    """TestAddPodOrphan, S1, L1, L2: both would have it, one gets it, the other makes its own pod."""
    world = situation(AGENT, [ONE], [ORPHAN])
    world.apply(TWIN)

    world.run()

    assert sorted(found.owner.name for found in world.pods.values() if found.owner) == [
        "agent",
        "twin",
    ]
    assert world.pods[ORPHAN.key].set_key == SET


def test_a_pod_that_leaves_slowly() -> None:
    """S4: however often a pod on its way out changes, one delete is settled by it; Kubernetes counts each change."""
    nodes = alike(2, "k:NoExecute")
    world = situation(AGENT, nodes, [pod(AGENT, each, each.name) for each in nodes])
    assert len(asked(world).deletes) == 2
    leaving = structs.replace(pod(AGENT, nodes[0], "node-0"), deleting=True)

    for created_ms in (1, 2, 3):
        world.put_pod(structs.replace(leaving, created_ms=created_ms))
    world.read(world.worker)

    (pending,) = world.worker.fleet.sets[SET].pending.values()
    assert pending.command.pod_key.name == "node-1"


# Sets


def test_a_set_is_gone() -> None:
    """TestDeleteFinalStateUnknown, L1: the end of a set marks it, however that became known, and its pods go."""
    world = at_rest(OWN)

    world.delete(SET)

    assert marked(world) == {SET}
    assert asked(world).deletes == [(OWN.name, "SetDeleted")]


def test_only_the_end_of_a_pod_was_seen() -> None:
    """TestDeleteFinalStateUnknown, S8: the end of a pod that was never heard of marks its set and changes nothing."""
    world = at_rest()

    world.write(
        PodGone(
            backend=OWN.backend,
            namespace=OWN.namespace,
            name=OWN.name,
            uid=OWN.uid,
            node=OWN.node,
            owner=OWN.owner,
        )
    )

    assert marked(world) == {SET}
    assert asked(world) == NOTHING


def test_a_revision_is_gone() -> None:
    """L1: the wanted template is put on record again, if somebody has removed it."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (wanted,) = world.worker.fleet.sets[SET].revisions

    world.write(RevisionGone(namespace=SET.namespace, daemonset=SET.name, hash=wanted))

    assert marked(world) == {SET}
    world.run()
    assert list(world.worker.fleet.sets[SET].revisions) == [wanted]
