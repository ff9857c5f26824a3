"""The unit cases of Kubernetes' own controller, re-expressed: rolling updates that delete first.

Source: pkg/controller/daemon/update_test.go; each docstring names the case. A wave is one decision with the deletes and
one with the creates, as there; here a decision can have both.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.identity import revision_hash
from everynode.core.rollout import rollout_of
from everynode.core.status import compute_status
from everynode.core.values import DaemonSet, Node, Pod, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import NOTHING, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")


def rolling(image: str, max_unavailable: int | str = 1, **strategy: Any) -> DaemonSet:
    """Make a set that is updated by deleting first."""
    return daemonset(
        {"containers": [{"name": "c", "image": image}]},
        update_strategy=UpdateStrategy(
            type="RollingUpdate", max_unavailable=max_unavailable, **strategy
        ),
    )


def covered(count: int) -> World:
    """Make a world whose nodes all have a ready pod of the image ``old``, and where new pods are not ready at once."""
    wanted = rolling("old")
    pods = [
        pod(wanted, each, f"old-{each.name}", generation=1, created_ms=1) for each in alike(count)
    ]
    world = situation(wanted, alike(count), pods)
    world.start_ready = False
    world.decide()
    return world


def sync(world: World) -> tuple[int, int]:
    """Let the worker decide once and carry that out; returns how many creates and deletes it was."""
    found = asked(world)
    while world.queue:
        world.carry_out()
    return len(found.creates), len(found.deletes)


def syncs(world: World, count: int) -> list[tuple[int, int]]:
    """Let the worker decide some times, with nothing getting ready meanwhile."""
    return [sync(world) for _ in range(count)]


def break_pods(world: World, count: int) -> None:
    """Let the pods of the first nodes by name not be ready any more."""
    for found in sorted(world.pods.values(), key=lambda item: item.node)[:count]:
        world.change_pod(found.key, phase="Running", ready=False)


def images(world: World) -> dict[str, int]:
    """Count the pods by image; only images that these tests use."""
    names = {revision_hash(rolling(image).template): image for image in IMAGES}
    counts: dict[str, int] = {}
    for found in world.pods.values():
        counts[names[found.revision]] = counts.get(names[found.revision], 0) + 1
    return counts


IMAGES = ("old", "new", "newer", *(f"bad-{number}" for number in range(12)))


def test_waves() -> None:
    """TestDaemonSetUpdatesPods, S3, L1, L2: 5 nodes, 2 at a time: 2 are deleted, made, get ready; then 2, then 1."""
    world = covered(5)
    world.apply_changed(rolling("new", 2))

    for size in (2, 2, 1):
        assert sync(world) == (0, size)
        assert sync(world) == (size, 0)
        assert sync(world) == (0, 0), "they are not ready yet"
        world.move_on()

    assert sync(world) == (0, 0)
    assert images(world) == {"new": 5}


def test_new_pods_that_do_not_get_ready() -> None:
    """TestDaemonSetUpdatesWhenNewPodIsNotReady, S3: three new pods that are not ready use up a budget of three."""
    world = covered(5)
    world.apply_changed(rolling("new", 3))

    assert syncs(world, 3) == [(0, 3), (3, 0), (0, 0)]
    assert images(world) == {"old": 2, "new": 3}


def test_a_second_update_while_some_are_not_ready() -> None:
    """TestDaemonSetUpdatesSomeOldPodsNotReady, S3: only those that are not ready are replaced again."""
    world = covered(5)
    world.apply_changed(rolling("new", 2))
    assert syncs(world, 3) == [(0, 2), (2, 0), (0, 0)]

    world.apply_changed(rolling("newer", 2))

    assert syncs(world, 3) == [(0, 2), (2, 0), (0, 0)]
    assert images(world) == {"old": 3, "newer": 2}


def test_healthy_pods_survive_bad_updates() -> None:
    """TestDaemonSetUpdatesSaveOldHealthyPods, S3: what is down counts, however many bad updates follow each other.

    20 nodes: a bad update with a budget of 10 leaves 10 pods, ten more with smaller ones leave them, 11 takes one.
    """
    world = covered(20)
    world.apply_changed(rolling("bad-0", 10))
    assert syncs(world, 3) == [(0, 10), (10, 0), (0, 0)]

    for number in range(1, 11):
        world.apply_changed(rolling(f"bad-{number}", number - 1))
        assert syncs(world, 3) == [(0, 10), (10, 0), (0, 0)]
        assert images(world) == {"old": 10, f"bad-{number}": 10}

    world.apply_changed(rolling("bad-11", 11))
    assert syncs(world, 3) == [(0, 11), (11, 0), (0, 0)]
    assert images(world) == {"old": 9, "bad-11": 11}


def test_old_and_new_pods_that_are_not_ready() -> None:
    """TestDaemonSetUpdatesAllOldNotReadyPodsAndNewNotReadyPods, S3: of 88 new and 2 old only the 2 are replaced."""
    world = covered(100)
    world.apply_changed(rolling("new", 88))
    assert syncs(world, 2) == [(0, 88), (88, 0)]
    old = [found for found in world.pods.values() if found.name.startswith("old-")]
    for found in old[:2]:
        world.change_pod(found.key, phase="Running", ready=False)

    world.apply_changed(rolling("new", 10))

    assert syncs(world, 3) == [(0, 2), (2, 0), (0, 0)]
    assert images(world) == {"old": 10, "new": 90}


def test_old_pods_none_of_which_is_ready() -> None:
    """TestDaemonSetUpdatesAllOldPodsNotReady: those that are down anyway are replaced at once, whatever the budget."""
    world = covered(5)
    break_pods(world, 5)
    world.apply_changed(rolling("new", 3))

    assert syncs(world, 3) == [(0, 5), (5, 0), (0, 0)]


def test_old_pods_that_are_not_available_yet() -> None:
    """TestDaemonSetUpdatesAllOldPodsNotReady, S3: we differ: a pod that is ready is never taken for one that is down.

    In Kubernetes one that has not been ready for minReadySeconds is replaced beyond the budget.
    """
    world = covered(5)
    young = structs.replace(rolling("new", 3), min_ready_seconds=3600)

    world.apply_changed(young)

    assert syncs(world, 3) == [(0, 0), (0, 0), (0, 0)]
    assert images(world) == {"old": 5}


def test_no_template_changed() -> None:
    """TestDaemonSetUpdatesNoTemplateChanged, L2: a change of the strategy alone touches no pod."""
    world = covered(5)
    before = dict(world.pods)

    world.apply_changed(rolling("old", 3))

    assert syncs(world, 2) == [(0, 0), (0, 0)]
    assert before == world.pods


def test_on_delete() -> None:
    """The E2E case of OnDelete: pods keep their revision until somebody deletes them; there are two revisions."""
    world = covered(3)
    wanted = structs.replace(rolling("new"), update_strategy=UpdateStrategy())
    world.apply_changed(wanted)
    assert syncs(world, 2) == [(0, 0), (0, 0)]
    assert images(world) == {"old": 3}

    world.stop_pod(min(world.pods))

    assert sync(world) == (1, 0)
    assert images(world) == {"old": 2, "new": 1}
    revisions = world.worker.fleet.sets[SET].revisions
    assert sorted(item.number for item in revisions.values()) == [1, 2]


def test_a_rollback_restarts_nothing_without_need() -> None:
    """The E2E case of rollback: after a bad image in mid-rollout, pods that were not touched keep their names."""
    world = covered(4)
    untouched = set(world.pods)
    world.apply_changed(rolling("bad-0", 2))
    assert syncs(world, 3) == [(0, 2), (2, 0), (0, 0)]

    world.apply_changed(rolling("old", 2))
    assert syncs(world, 2) == [(0, 2), (2, 0)]
    world.move_on()

    assert sync(world) == (0, 0)
    assert images(world) == {"old": 4}
    assert len(untouched & set(world.pods)) == 2


# How many may be down, and how many are


TWO, THREE = alike(2), alike(3)


def _ready(*nodes: Node) -> list[Pod]:
    return [found for each in nodes for found in pods_on(each, 1)]


#  maxSurge, maxUnavailable, unavailable
@pytest.mark.parametrize(
    ("nodes", "pods", "limits", "wanted"),
    [
        pytest.param([], [], (1, 0), (0, 1, 0), id="No nodes"),
        pytest.param(TWO, _ready(*TWO), (1, 0), (0, 1, 0), id="Two nodes with ready pods"),
        pytest.param(TWO, _ready(TWO[0]), (0, 0), (0, 1, 1), id="Two nodes, one node without pods"),
        pytest.param(
            TWO, _ready(TWO[0]), (0, 1), (1, 0, 1), id="Two nodes, one node without pods, surge"
        ),
        pytest.param(
            TWO, _ready(*TWO), ("50%", 0), (0, 1, 0), id="Two nodes, MaxUnavailable in percents"
        ),
        pytest.param(
            TWO, _ready(*TWO), (0, "50%"), (1, 0, 0), id="Two nodes, MaxSurge in percents"
        ),
        pytest.param(
            TWO, _ready(*TWO), (0, "100%"), (2, 0, 0), id="Two nodes, surge of 100 percent"
        ),
        pytest.param(
            THREE,
            [*_ready(*THREE[:2]), pod(daemonset(), THREE[2], deleting=True)],
            ("50%", 0),
            (0, 2, 1),
            id="three nodes, one pod terminating",
        ),
    ],
)
def test_limits_and_what_is_down(
    nodes: list[Node],
    pods: list[Pod],
    limits: tuple[int | str, int | str],
    wanted: tuple[int, int, int],
) -> None:
    """TestGetUnavailableNumbers: percentages are rounded up, both limits are never 0, a node without a pod is down."""
    strategy = UpdateStrategy(type="RollingUpdate", max_unavailable=limits[0], max_surge=limits[1])
    world = situation(daemonset(update_strategy=strategy), nodes, pods)
    world.read(world.worker)
    fleet = world.worker.fleet

    found = rollout_of(fleet.refreshed(SET), fleet.index)

    budget = found.budget
    assert wanted == (budget.max_surge, budget.max_unavailable, len(found.unavailable))


# Weak spots of Kubernetes' controller


def test_a_pod_that_is_stuck_on_its_way_out() -> None:
    """S3: it uses up budget, as in Kubernetes, and other than there the status says so."""
    world = covered(3)
    world.apply_changed(rolling("new"))
    stuck = world.pods[min(world.pods)]
    world.put_pod(structs.replace(stuck, deleting=True, deleting_since_ms=world.now_ms))

    assert syncs(world, 2) == [(0, 0), (0, 0)]

    status = compute_status(world.worker.fleet, SET)
    assert status is not None
    assert status.waiting_nodes == {"Outdated": 2, "Terminating": 1}


def test_a_dead_node_that_is_not_eligible() -> None:
    """S3: a node with unreachable:NoSchedule is neither in the number that percentages are of, nor in what is down."""
    world = covered(4)
    dead = node("node-0", "node.kubernetes.io/unreachable:NoSchedule", ready=False)
    world.put_node(dead)
    break_pods(world, 1)

    world.apply_changed(rolling("new", "34%"))

    assert sync(world) == (0, 2)
    assert {"old-node-1", "old-node-2"}.isdisjoint(key.name for key in world.pods)


def test_a_pod_that_could_not_be_replaced_is_left() -> None:
    """L1: an old pod on a node that got a NoSchedule taint stays; Kubernetes deletes it and makes no other."""
    world = covered(2)
    world.put_node(node("node-0", "k:NoSchedule"))

    world.apply_changed(rolling("new", 2))
    world.run()

    assert images(world) == {"old": 1, "new": 1}


def test_nodes_are_taken_in_order() -> None:
    """Those first whose pod is not ready, then all by name; in Kubernetes the order is that of a Go map."""
    world = covered(4)
    broken = world.pods[max(world.pods)]
    world.change_pod(broken.key, phase="Running", ready=False)

    world.apply_changed(rolling("new", 3))

    assert sorted(name for name, _ in asked(world).deletes) == [
        "old-node-0",
        "old-node-1",
        "old-node-3",
    ]


def test_a_node_with_two_pods_is_tidied_first() -> None:
    """S1, S3: duplicates go by the usual rule, and the node is not updated before; it is down only if nothing is left.

    We differ: in Kubernetes a node with an old and a new pod counts as down although one of them may be available.
    """
    world = covered(2)
    wanted = structs.replace(rolling("new"), generation=2)
    world.put_pod(pod(wanted, ONE, "new-node-0", created_ms=2))
    world.apply(wanted)

    found = asked(world)

    assert found.deletes == [("new-node-0", "Duplicate"), ("old-node-1", "OutdatedRevision")]
    assert found.creates == []
    assert asked(world) == NOTHING
