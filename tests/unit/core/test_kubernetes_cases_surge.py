"""The unit cases of Kubernetes' own controller, re-expressed: rolling updates that add first.

Source: pkg/controller/daemon/daemon_controller_test.go and update_test.go; each docstring names the case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from everynode.core.events import Tick
from everynode.core.status import compute_status
from everynode.core.values import DaemonSet, Node, Pod, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import (
    NOTHING,
    SET,
    Asked,
    alike,
    asked,
    pods_on,
    situation,
)
from everynode.testing.world import World

ONE, TWO = node("node-1"), node("node-2")
OLD = "0ld"
TOLERANT = {"tolerations": [{"key": "k", "operator": "Exists"}]}


def surging(
    image: str,
    max_surge: int | str = 1,
    *,
    min_ready_seconds: int = 0,
    spec: Mapping[str, Any] | None = None,
) -> DaemonSet:
    """Make a set that is updated by adding first."""
    return daemonset(
        {"containers": [{"name": "c", "image": image}], **(spec or {})},
        min_ready_seconds=min_ready_seconds,
        update_strategy=UpdateStrategy(
            type="RollingUpdate", max_unavailable=0, max_surge=max_surge
        ),
    )


WANTED = surging("new")


def current(name: str, on: Node, **changes: Any) -> Pod:
    """Make a pod of the wanted revision."""
    return pod(WANTED, on, name, **changes)


def old(name: str, on: Node, **changes: Any) -> Pod:
    """Make a pod of another revision."""
    return pod(WANTED, on, name, **({"revision": OLD} | changes))


def covered(count: int, wanted: DaemonSet) -> World:
    """Make a world whose nodes all have a ready pod of this set, and where new pods are not ready at once."""
    nodes = alike(count)
    pods = [pod(wanted, each, f"old-{each.name}", created_ms=1) for each in nodes]
    world = situation(wanted, nodes, pods)
    world.start_ready = False
    world.decide()
    return world


def sync(world: World) -> tuple[int, int]:
    """Let the worker decide once and carry that out; returns how many creates and deletes it was."""
    found = asked(world)
    while world.queue:
        world.carry_out()
    return len(found.creates), len(found.deletes)


def pass_ms(world: World, duration_ms: int) -> None:
    """Let time pass in the log."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=0))


# Nodes that have several pods


def test_existing_pods() -> None:
    """TestSurgeDealsWithExistingPods: 1, 2 and 5 pods on three nodes, others' on a fourth: 2 creates, 5 deletes."""
    pods = [
        found
        for number, count in ((1, 1), (2, 2), (3, 5))
        for found in pods_on(node(f"node-{number}"), count, WANTED)
    ]
    pods += pods_on(node("node-4"), 2, daemonset(name="other"))

    found = asked(situation(WANTED, alike(5), pods))

    assert (["node-0", "node-4"], 5) == (found.creates, len(found.deletes))


def test_ready_old_pods_are_kept() -> None:
    """TestSurgePreservesReadyOldPods, S1: of the new ones and of the old ones one each stays, the oldest: 3/1/0."""
    pods = [
        current("new", ONE, created_ms=100, ready=False, phase="Pending"),
        old("old-ready", ONE, created_ms=50),
        old("old-surplus", ONE, created_ms=60),
        current("other", TWO),
    ]

    found = asked(situation(WANTED, alike(5), pods))

    assert found == Asked(["node-0", "node-3", "node-4"], [("old-surplus", "Duplicate")])


def test_the_surge_is_used_up_and_an_old_pod_was_deleted() -> None:
    """TestSurgeCreatesNewPodWhenAtMaxSurgeAndOldPodDeleted, S1: a pod that leaves does not hold up the next."""
    pods = [
        old("leaves", node("node-0"), deleting=True),
        old("old", ONE),
        current("new", ONE, ready=False, phase="Pending"),
        *(old(f"old-{number}", node(f"node-{number}")) for number in (2, 3, 4)),
    ]

    world = situation(WANTED, alike(5), pods)

    assert asked(world) == Asked(["node-0"], [])


def test_unready_old_pods_are_deleted() -> None:
    """TestSurgeDeletesUnreadyOldPods: an old pod that is not ready does not wait for the new one: 3/2/0."""
    pods = [
        current("new", ONE, created_ms=100, ready=False, phase="Pending"),
        old("old-unready", ONE, created_ms=50, ready=False),
        old("old-surplus", ONE, created_ms=60, ready=False),
        current("other", TWO),
    ]

    found = asked(situation(WANTED, alike(5), pods))

    assert found.creates == ["node-0", "node-3", "node-4"]
    assert sorted(found.deletes) == [
        ("old-surplus", "Duplicate"),
        ("old-unready", "OutdatedRevision"),
    ]


def test_ready_old_pods_stay_until_the_new_one_is_available() -> None:
    """TestSurgePreservesOldReadyWithUnsatisfiedMinReady, TestSurgeDeletesOldReadyWithUnsatisfiedMinReady.

    Of 15 seconds 10 have passed: the old one stays, 3/1/0. When 15 have, it goes; in Kubernetes a moment later.
    """
    wanted = surging("new", min_ready_seconds=15)
    pods = [
        pod(wanted, ONE, "new", created_ms=100, ready_since_ms=1_000),
        old("old-ready", ONE, created_ms=50),
        old("old-surplus", ONE, created_ms=60),
        pod(wanted, TWO, "other"),
    ]
    world = situation(wanted, alike(5), pods)
    pass_ms(world, 10_000)
    assert asked(world) == Asked(["node-0", "node-3", "node-4"], [("old-surplus", "Duplicate")])
    while world.queue:
        world.carry_out()

    pass_ms(world, 4_999)
    assert asked(world) == NOTHING
    pass_ms(world, 1)

    assert asked(world) == Asked([], [("old-ready", "OutdatedRevision")])


# A whole rollout


def test_waves() -> None:
    """TestDaemonSetUpdatesPodsWithMaxSurge, S1, S3, L2: 5 nodes, surge 2: +2, +2 -2, +1 -2, -1, with waits."""
    world = covered(5, surging("old"))
    world.apply_changed(surging("new", 2))

    for wave in ((2, 0), (2, 2), (1, 2)):
        assert wave == sync(world)
        assert sync(world) == (0, 0), "the new ones are not ready yet"
        world.move_on()

    assert sync(world) == (0, 1)
    assert sync(world) == (0, 0)
    assert len(world.pods) == 5


def test_old_pods_none_of_which_is_ready() -> None:
    """TestDaemonSetUpdatesAllOldPodsNotReadyMaxSurge, S3: those that are down do not need the surge; then time counts.

    5 old pods that are not ready get 5 new ones beside them, whatever the surge, and go at once. The next update adds
    3, waits until these were ready for 15 s, deletes 3 and adds 2, and waits again.
    """
    world = covered(5, surging("old"))
    for found in list(world.pods.values()):
        world.change_pod(found.key, phase="Running", ready=False)
    world.apply_changed(surging("new", 3))
    assert [sync(world), sync(world), sync(world)] == [(5, 0), (0, 5), (0, 0)]
    world.move_on()
    pass_ms(world, 100_000)

    world.apply_changed(surging("newer", 3, min_ready_seconds=15))

    for wave in ((3, 0), (2, 3)):
        assert wave == sync(world)
        world.move_on()
        pass_ms(world, 14_999)
        assert sync(world) == (0, 0)
        pass_ms(world, 1)
    assert [sync(world), sync(world)] == [(0, 2), (0, 0)]


def test_old_pods_that_are_not_available_yet() -> None:
    """TestDaemonSetUpdatesAllOldPodsNotReadyMaxSurge, S3: we differ: what is ready waits for its turn."""
    world = covered(5, surging("old"))

    world.apply_changed(surging("new", 2, min_ready_seconds=3600))

    assert [sync(world), sync(world)] == [(2, 0), (0, 0)]


def test_a_node_that_may_not_have_a_new_one() -> None:
    """TestDaemonSetUpdatesPodsNotMatchTainstWithMaxSurge: a new template tolerates a node's taint no more.

    We differ: there the pod goes as soon as enough others are available; here a rollout takes away only what it can
    replace, and what a NoSchedule taint lets stay does stay. With NoExecute it goes at once, here and there.
    """
    world = covered(5, surging("old", spec=TOLERANT))
    world.put_node(node("node-0", "k:NoSchedule"))
    assert sync(world) == (0, 0)

    world.apply_changed(surging("new"))
    world.run()
    assert {"old-node-0"} == {key.name for key in world.pods if key.name.startswith("old-")}
    assert len(world.pods) == 5

    world.put_node(node("node-0", "k:NoExecute"))
    assert asked(world).deletes == [("old-node-0", "UntoleratedTaint")]


def test_a_node_that_leaves_in_mid_surge() -> None:
    """L3: the others go on; in Kubernetes an old pod whose node is not there ends each step with an error."""
    world = covered(3, surging("old"))
    world.apply_changed(surging("new"))
    assert sync(world) == (1, 0)

    world.remove_node(node("node-0").key)
    world.run()

    assert sorted(found.node for found in world.pods.values()) == ["node-1", "node-2"]
    assert not [key.name for key in world.pods if key.name.startswith("old-")]


def test_a_new_pod_that_failed_beside_an_old_one() -> None:
    """S3: while it rests it uses up the surge, as in Kubernetes, and no third pod is made."""
    world = covered(2, surging("old"))
    world.apply_changed(surging("new"))
    assert sync(world) == (1, 0)
    (new,) = (key for key in world.pods if not key.name.startswith("old-"))
    world.put_pod(structs.replace(world.pods[new], phase="Failed", failures=9))

    assert sync(world) == (0, 0)
    assert len(world.pods) == 3

    world.remove_pod(new)
    assert sync(world) == (1, 0)


def test_a_surge_that_is_switched_off() -> None:
    """S1: a node with an old and a new pod gets back to one when the strategy allows two no more."""
    world = covered(2, surging("old"))
    world.apply_changed(surging("new", 2))
    assert sync(world) == (2, 0)

    strategy = UpdateStrategy(type="RollingUpdate")
    world.apply_changed(structs.replace(surging("new"), update_strategy=strategy))
    world.run()

    assert len(world.pods) == 2
    assert not [key.name for key in world.pods if key.name.startswith("old-")]


# Counters


def test_counters_in_mid_surge() -> None:
    """While a node has both, the old pod counts until the new one does its work; then one that leaves does not."""
    young = current("new", ONE, created_ms=2, ready=False, phase="Pending")
    world = situation(WANTED, [ONE], [old("old", ONE, created_ms=1), young])
    world.read(world.worker)
    before = compute_status(world.worker.fleet, SET)

    world.change_pod(young.key, phase="Running", ready=True)
    world.run()
    world.read(world.worker)
    after = compute_status(world.worker.fleet, SET)

    assert before is not None
    assert after is not None
    assert (1, 1, 0) == (
        before.current_number_scheduled,
        before.number_available,
        before.updated_number_scheduled,
    )
    assert (1, 1, 1) == (
        after.current_number_scheduled,
        after.number_available,
        after.updated_number_scheduled,
    )


def test_counters_of_pods_that_leave() -> None:
    """A pod that runs and is on its way out is counted as there also where the next may be made beside it."""
    tainted = node("node-2", "k:NoSchedule")
    pods = [old("a", ONE, deleting=True), old("b", tainted, deleting=True)]
    world = situation(WANTED, [ONE, tainted], pods)
    world.read(world.worker)

    status = compute_status(world.worker.fleet, SET)

    assert status is not None
    assert (1, 1) == (status.current_number_scheduled, status.number_misscheduled)
