"""The unit cases of Kubernetes' own controller, re-expressed: whose pods they are, and sets that come and go.

Source: pkg/controller/daemon/daemon_controller_test.go; each docstring names the case.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import AdoptPod, CreatePod, ReleasePod, outcome_of
from everynode.core.events import NoticeReported, Tick
from everynode.core.values import Node, Pod, Selector, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import (
    AGENT,
    NOTHING,
    SET,
    Asked,
    alike,
    asked,
    pods_on,
    situation,
)
from everynode.testing.world import World

both_strategies = pytest.mark.parametrize(
    "strategy",
    [UpdateStrategy(), UpdateStrategy(type="RollingUpdate")],
    ids=["OnDelete", "RollingUpdate"],
)

ONE = node("node-0")
OTHER = daemonset(name="other")


def pass_ms(world: World, duration_ms: int) -> None:
    """Let time pass in the log."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=0))


def _orphan(name: str, on: Node, **changes: Any) -> Pod:
    return structs.replace(
        pod(AGENT, on, name), **({"owner": None, "labels": {"app": "agent"}} | changes)
    )


# Sets that nothing is done for


@both_strategies
def test_a_set_that_is_being_deleted(strategy: UpdateStrategy) -> None:
    """TestDontDoAnythingIfBeingDeleted: no create, no delete, no adoption and no status."""
    wanted = structs.replace(daemonset(update_strategy=strategy), deleting=True)
    orphan = _orphan("orphan", ONE)
    surplus = pods_on(node("node-1"), 2, wanted)
    world = situation(wanted, alike(5), [orphan, *surplus])

    assert world.decide() == []
    assert world.worker.reports() == []


@both_strategies
def test_a_set_that_is_being_deleted_without_our_knowing(strategy: UpdateStrategy) -> None:
    """TestDontDoAnythingIfBeingDeletedRace: the backend, which knows, refuses the adoption, and nothing follows.

    We differ: the look at the backend is part of carrying out the adoption, not of deciding.
    """
    wanted = daemonset(update_strategy=strategy)
    orphan = _orphan("orphan", ONE)
    world = situation(wanted, [ONE], [orphan])
    assert asked(world) == NOTHING
    (command,) = world.queue
    assert isinstance(command, AdoptPod)

    world.queue.clear()
    world.write(outcome_of(command, "superseded", "the set is being deleted"))
    assert asked(world) == NOTHING
    world.apply(structs.replace(wanted, deleting=True))
    pass_ms(world, 1_000_000)

    assert world.decide() == []
    assert world.pods == {orphan.key: orphan}


@both_strategies
def test_an_empty_selector(strategy: UpdateStrategy) -> None:
    """TestPodIsNotDeletedByDaemonsetWithEmptyLabelSelector: one that would select all pods does nothing, says so."""
    empty = structs.replace(daemonset(update_strategy=strategy), selector=Selector())
    orphan = _orphan("orphan", ONE)
    world = situation(empty, [ONE], [orphan, *pods_on(node("node-1"), 2)])

    assert world.decide() == []

    (notice,) = (r.message.notice for r in world.log if isinstance(r.message, NoticeReported))
    assert ("SelectingAll", "Warning", 1) == (notice.reason, notice.type, notice.count)


# Sets made anew


@both_strategies
def test_a_set_made_anew_starts_clean(strategy: UpdateStrategy) -> None:
    """TestExpectationsOnRecreate, L1: nothing that its namesake waited for or was refused holds up the new set."""
    wanted = daemonset(update_strategy=strategy)
    world = situation(wanted, alike(2), [])
    assert len(asked(world).creates) == 2
    world.carry_out(works=False)
    world.queue.clear()  # the second is never heard of again
    world.delete(SET)
    world.apply(structs.replace(wanted, uid="uid-anew"))

    assert asked(world) == Asked(["node-0"], []), (
        "of node-1's create nobody knows yet: it may have worked"
    )
    pass_ms(world, world.limits.pending_ms)
    assert asked(world).creates == ["node-1"]
    assert {"uid-anew"} == {command.daemonset_uid for command in world.queue}


def test_a_set_made_anew_does_not_back_off() -> None:
    """TestExpectationsOnRecreate: pods of its namesake that ended one after the other are not counted against it."""
    bad = pod(AGENT, ONE, phase="Failed", generation=1, failures=5, created_ms=1)
    world = situation(AGENT, [ONE], [bad])
    pass_ms(world, 1_000_000)
    assert asked(world).deletes == [(bad.name, "PodFailed")]
    world.carry_out()
    world.delete(SET)
    world.apply(structs.replace(AGENT, uid="uid-anew"))

    world.decide()

    assert [0] == [item.failures for item in world.queue if isinstance(item, CreatePod)]


# Whose pods, and where


def test_pods_of_a_node_that_is_gone() -> None:
    """TestDeleteUnscheduledPodForNotExistingNode, L1: what was for a node that is gone is deleted.

    We differ: there, pods that run on it are left to the garbage collector of pods; here all go by command. And a
    node that was never heard of is not one that is gone.
    """
    unbound = pod(AGENT, node("node-9"), "unbound", phase="Pending", ready=False, node_uid="")
    bound = pod(AGENT, node("node-9"), "bound")
    world = situation(AGENT, [ONE], [*pods_on(ONE, 1), unbound, bound])
    assert asked(world) == NOTHING

    world.put_node(node("node-9"))
    world.remove_node(node("node-9").key)

    assert asked(world) == Asked([], [("bound", "NodeGone"), ("unbound", "NodeGone")])


def test_which_pods_are_the_sets() -> None:
    """TestGetNodesToDaemonPods: its own and orphans that match are; others', and what has ended and leaves, are not."""
    nodes = {each.name: each for each in alike(8)}
    pods = [
        pod(AGENT, nodes["node-0"], "own"),
        pod(AGENT, nodes["node-1"], "own-failed", phase="Failed"),
        pod(AGENT, nodes["node-2"], "own-leaves", deleting=True),
        _orphan("orphan", nodes["node-3"]),
        _orphan("orphan-unlike", nodes["node-4"], labels={"app": "another"}),
        pod(OTHER, nodes["node-5"], "others"),
        pod(AGENT, nodes["node-6"], "own-ended-leaves", phase="Succeeded", deleting=True),
        pod(AGENT, nodes["node-7"], "own-unlike", labels={"app": "another"}),
    ]
    world = situation(AGENT, list(nodes.values()), pods)

    found = asked(world)

    assert found == Asked(["node-4", "node-5", "node-6"], [("own-failed", "PodFailed")])
    assert ["orphan"] == [item.pod for item in world.queue if isinstance(item, AdoptPod)]
    assert ["own-unlike"] == [item.pod for item in world.queue if isinstance(item, ReleasePod)]


@both_strategies
def test_pods_whose_labels_do_not_match_any_more(strategy: UpdateStrategy) -> None:
    """TestDealsWithExistingPods, S1: they are let go of, and others are made once that was seen.

    We differ: there, letting go and making happen in one sync; here a decision makes nothing on a node that it tidies.
    """
    wanted = daemonset(update_strategy=strategy)
    unlike = pods_on(ONE, 2, wanted, labels={"app": "another"})
    world = situation(wanted, [ONE], unlike)

    assert asked(world) == NOTHING
    assert [ReleasePod, ReleasePod] == [type(command) for command in world.queue]
    world.carry_out()
    assert asked(world) == NOTHING
    world.carry_out()
    assert asked(world) == Asked(["node-0"], [])
    assert {None} == {item.owner for item in world.pods.values()}


def test_an_orphan_is_adopted_where_it_is_of_use() -> None:
    """TestGetNodesToDaemonPods, S1: an orphan becomes a node's pod if that has none, and its age does not count.

    We differ: there, all that match are adopted, and those that are too many are deleted.
    """
    tainted = node("node-1", "k:NoExecute")
    orphans = [
        _orphan("beside", ONE),
        _orphan("evicted", tainted),
        _orphan("first", node("node-2"), created_ms=1),
        _orphan("second", node("node-2"), created_ms=2),
        _orphan("leaves", node("node-3"), deleting=True),
        structs.replace(_orphan("elsewhere", node("node-3")), namespace="kube-system"),
    ]
    nodes = [ONE, tainted, node("node-2"), node("node-3")]
    world = situation(AGENT, nodes, [*pods_on(ONE, 1), *orphans])

    assert asked(world) == Asked(["node-3"], [])
    assert ["first"] == [item.pod for item in world.queue if isinstance(item, AdoptPod)]

    world.run()
    assert ["beside", "elsewhere", "evicted", "second"] == sorted(
        item.name for item in world.pods.values() if item.owner is None
    )


def test_a_later_set_adopts_what_was_left() -> None:
    """L1, L2: a set that is made anew has the pods that its namesake has left, and restarts none of them."""
    world = situation(AGENT, alike(3), [])
    world.run()
    before = {key: found.uid for key, found in world.pods.items()}
    world.delete(SET, "orphan")
    world.run()
    for key in before:
        world.label_pod(key, {"app": "agent"})
    assert {None} == {found.owner for found in world.pods.values()}

    world.apply(structs.replace(AGENT, uid="uid-anew"))
    world.run()

    assert before == {key: found.uid for key, found in world.pods.items()}
    assert {"uid-anew"} == {found.owner.uid for found in world.pods.values() if found.owner}
