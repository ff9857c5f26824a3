"""What nodes without an available pod of the wanted revision wait for, and what the conditions are drawn from."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import StatusReported, Tick
from everynode.core.status import compute_status
from everynode.core.values import Condition, DaemonSet, Node, Pod, Selector, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
LOST = structs.replace(ONE, ready=False, unready_since_ms=500)
SURGING = daemonset(update_strategy=UpdateStrategy(type="RollingUpdate", max_surge=1))
SKIPPING = daemonset(update_strategy=UpdateStrategy(type="RollingUpdate", unreachable_nodes="Skip"))
SLOW = daemonset(min_ready_seconds=60)


def counted(world: World) -> Status:
    """Let the worker read, and count."""
    world.read(world.worker)
    status = compute_status(world.worker.fleet, SET)
    assert status is not None
    return status


def said(world: World, kind: str) -> Condition:
    """Let the worker read, and return one of the conditions."""
    found = counted(world).condition(kind)
    assert found is not None
    return found


def on(*which: str, node: Node = ONE, **changes: Any) -> list[Pod]:
    """Make pods of these names on a node."""
    return [pod(AGENT, node, name, created_ms=1, **changes) for name in which]


NOT_READY: dict[str, Any] = {"ready": False, "ready_since_ms": 0}
ENDED: dict[str, Any] = {**NOT_READY, "phase": "Failed", "generation": 1, "failures": 5}


@pytest.mark.parametrize(
    ("wanted", "nodes", "pods", "reasons"),
    [
        pytest.param(AGENT, [ONE], on("a"), {}, id="a good pod"),
        pytest.param(AGENT, [ONE], [], {"NoPod": 1}, id="no pod"),
        pytest.param(AGENT, [ONE], on("a", revision="old"), {"Outdated": 1}, id="old"),
        pytest.param(AGENT, [ONE], on("a", **NOT_READY), {"NotReady": 1}, id="not ready"),
        pytest.param(
            AGENT, [ONE], on("a", revision="old", **NOT_READY), {"NotReady": 1},
            id="old and not ready",
        ),
        pytest.param(SLOW, [ONE], on("a"), {"NotAvailableYet": 1}, id="not for long enough"),
        pytest.param(
            SLOW, [ONE], on("a", revision="old"), {"NotAvailableYet": 1},
            id="old and not for long enough",
        ),
        pytest.param(AGENT, [LOST], on("a", **NOT_READY), {"Unreachable": 1}, id="lost"),
        pytest.param(AGENT, [LOST], [], {"Unreachable": 1}, id="lost and without a pod"),
        pytest.param(AGENT, [LOST], on("a"), {}, id="lost, but the pod is said to work"),
        pytest.param(
            AGENT, [LOST], on("a", revision="old"), {"Outdated": 1},
            id="lost, but the old pod is said to work",
        ),
        pytest.param(
            SKIPPING, [LOST], on("a", revision="old", **NOT_READY), {"Skipped": 1}, id="skipped"
        ),
        pytest.param(AGENT, [ONE], on("a", deleting=True), {"Terminating": 1}, id="leaves"),
        pytest.param(
            AGENT, [ONE], on("a", deleting=True, **NOT_READY), {"Terminating": 1},
            id="leaves and is not ready",
        ),
        pytest.param(AGENT, [ONE], on("a", **ENDED), {"BackOff": 1}, id="ended"),
        pytest.param(
            AGENT, [ONE], on("a", deleting=True, **ENDED), {"NoPod": 1}, id="ended and leaves"
        ),
        pytest.param(
            AGENT, [LOST], on("a", **ENDED), {"Unreachable": 1}, id="ended on a lost node"
        ),
        pytest.param(
            SURGING, [ONE], [*on("a", revision="old"), *on("b", **ENDED)], {"Outdated": 1},
            id="the new one has ended beside an old one",
        ),
        pytest.param(
            SURGING, [ONE], [*on("a", revision="old"), *on("b", deleting=True)], {"Outdated": 1},
            id="the new one leaves beside an old one",
        ),
        pytest.param(
            SURGING, [ONE], [*on("a", **NOT_READY), *on("b", deleting=True, revision="old")],
            {"NotReady": 1}, id="the old one leaves and the new one is not ready",
        ),
        pytest.param(
            SURGING, [ONE], [*on("a", **NOT_READY), *on("b", revision="old", **NOT_READY)],
            {"NotReady": 1}, id="two that are not ready",
        ),
        pytest.param(
            SURGING, [ONE], [*on("a", **NOT_READY), *on("b", revision="old")], {"NotReady": 1},
            id="the new one is not ready beside an old one",
        ),
        pytest.param(
            structs.replace(SURGING, min_ready_seconds=60), [ONE],
            [*on("a"), *on("b", revision="old", ready_since_ms=0)], {"NotAvailableYet": 1},
            id="the new one is ready beside an old one, not for long enough",
        ),
        pytest.param(
            structs.replace(SURGING, min_ready_seconds=60), [ONE],
            [*on("a", **NOT_READY), *on("b", revision="old")], {"NotReady": 1},
            id="the new one is not ready beside an old one that is, not for long enough",
        ),
        pytest.param(
            AGENT, [ONE], [structs.replace(on("a")[0], owner=None, labels={"app": "agent"})],
            {"Adopting": 1}, id="an orphan",
        ),
        pytest.param(
            AGENT, [node("node-0", "k:NoSchedule")], on("a", **NOT_READY), {}, id="not eligible"
        ),
        pytest.param(
            AGENT, [node("node-0", "k:NoSchedule")], on("a"), {}, id="good, but not eligible"
        ),
        pytest.param(
            AGENT, alike(4), [*on("a"), *on("b", node=node("node-1"), **NOT_READY)],
            {"NoPod": 2, "NotReady": 1}, id="several",
        ),
    ],
)  # fmt: skip
def test_what_a_node_waits_for(
    wanted: DaemonSet, nodes: list[Node], pods: list[Pod], reasons: dict[str, int]
) -> None:
    """Each eligible node that is not done is counted once, for the first reason that holds; others are not."""
    found = counted(situation(wanted, nodes, pods)).waiting_nodes

    assert reasons == found
    assert list(found) == sorted(found)


def test_what_is_being_done() -> None:
    """A pod that is on its way in is Creating; after a failure the node waits for the next try."""
    world = situation(AGENT, alike(2), [])
    assert asked(world).creates == ["node-0", "node-1"]
    assert counted(world).waiting_nodes == {"Creating": 2}
    world.carry_out(works=False)
    assert counted(world).waiting_nodes == {"CommandFailed": 1, "Creating": 1}

    world.carry_out()

    assert counted(world).waiting_nodes == {"CommandFailed": 1}


def test_what_is_being_taken_down() -> None:
    """From the decision on a node whose old pod is to be deleted waits for its end; the others for their turn."""
    rolling = UpdateStrategy(type="RollingUpdate")
    changed = daemonset({"image": "new"}, generation=2, update_strategy=rolling)
    pods = [found for each in alike(3) for found in pods_on(each, 1)]
    world = situation(changed, alike(3), pods)
    assert counted(world).waiting_nodes == {"Outdated": 3}

    assert asked(world).deletes == [("node-0-0", "OutdatedRevision")]

    assert counted(world).waiting_nodes == {"Outdated": 2, "Terminating": 1}
    world.carry_out()
    assert counted(world).waiting_nodes == {"NoPod": 1, "Outdated": 2}
    world.decide()
    assert counted(world).waiting_nodes == {"Creating": 1, "Outdated": 2}


def test_what_is_being_done_beside_a_pod() -> None:
    """While a second pod is made, and when that has failed, the old one is what there is."""
    changed = structs.replace(SURGING, template=daemonset({"image": "new"}).template)
    world = situation(changed, [ONE], pods_on(ONE, 1))
    assert asked(world).creates == ["node-0"]
    assert counted(world).waiting_nodes == {"Outdated": 1}

    world.carry_out(works=False)

    assert counted(world).waiting_nodes == {"Outdated": 1}
    assert said(world, "Degraded").reason == "CommandsFailing"


# What the conditions are drawn from


@pytest.mark.parametrize(
    ("nodes", "pods", "available"),
    [
        (alike(3), [*on("a"), *on("b", node=node("node-1"))], (2, 1)),
        (alike(2), [], (0, 2)),
        (alike(4), on("a"), (1, 3)),
        (alike(5), [*on("a"), *on("b", node=node("node-1"))], (2, 3)),
    ],
)
def test_how_many_are_available(
    nodes: list[Node], pods: list[Pod], available: tuple[int, int]
) -> None:
    """Every eligible node counts as available or as not."""
    status = counted(situation(AGENT, nodes, pods))

    assert available == (status.number_available, status.number_unavailable)


def test_a_rollout_is_complete_when_each_node_that_counts_is_done() -> None:
    """A misplaced pod does not count, a skipped node does not either; one that lacks its pod does."""
    pods = [*on("a"), *on("c", node=node("node-2")), *on("d", node=node("node-3"))]
    nodes = [*alike(3), node("node-3", "k:NoSchedule")]
    world = situation(AGENT, nodes, pods)
    assert said(world, "Progressing").reason == "RolloutProgressing"

    world.put_pod(pod(AGENT, node("node-1"), "b"))

    assert said(world, "Progressing").reason == "RolloutComplete"


def test_pods_that_end_are_told_for_eligible_nodes() -> None:
    """Degraded counts the nodes on which pods end; one that is no place for the set is not its failure."""
    nodes = [*alike(3), node("node-3", "k:NoSchedule")]
    pods = [found for each in nodes[1:] for found in on(each.name, node=each, **ENDED)]
    world = situation(AGENT, nodes, [*on("good"), *pods])

    found = said(world, "Degraded")

    assert ("True", "PodsFailing") == (found.status, found.reason)
    assert found.message.startswith("on 2 nodes pods end")


@pytest.mark.parametrize(
    ("pods", "leaves"),
    [
        pytest.param(on("a", **{**ENDED, "generation": 0}), False, id="of another generation"),
        pytest.param(on("a", **ENDED), True, id="and has gone"),
    ],
)
def test_a_node_on_which_a_pod_ended(pods: list[Pod], leaves: bool) -> None:
    """It is told of while the pod that ended is there, whatever it was made for, and while the next one is awaited."""
    world = situation(AGENT, [ONE], pods)
    if leaves:
        world.remove_pod(pods[0].key)

    assert said(world, "Degraded").reason == "PodsFailing"


def failed(world: World) -> World:
    """Let a worker decide, and every command fail."""
    world.decide()
    assert world.queue
    while world.queue:
        world.carry_out(works=False)
    return world


@pytest.mark.parametrize(
    ("wanted", "nodes", "pods"),
    [
        pytest.param(AGENT, [ONE], [], id="a pod that is lacking"),
        pytest.param(AGENT, [node("node-0", "k:NoExecute")], on("a"), id="a misplaced pod"),
        pytest.param(
            AGENT, [node("node-0", "k:NoExecute")], on("a", **ENDED), id="a misplaced pod that ended"
        ),
        pytest.param(
            AGENT, [node("node-0", "k:NoExecute")], [*on("a"), *on("b", **ENDED)],
            id="two misplaced pods of which one has ended",
        ),
        pytest.param(
            AGENT, [node("node-0", "k:NoExecute")], on("a", "b"), id="two misplaced pods"
        ),
        pytest.param(AGENT, [ONE], on("a", "b"), id="a pod too many"),
        pytest.param(
            SURGING, [node("node-0", "k:NoSchedule")], on("a", "b"), id="one too many that may stay"
        ),
        pytest.param(
            AGENT, [node("node-0", "k:NoSchedule")],
            [structs.replace(on("a")[0], owner=None, labels={"app": "agent"})], id="an orphan",
        ),
        pytest.param(
            structs.replace(SURGING, template=daemonset({"image": "new"}).template), [ONE],
            pods_on(ONE, 1), id="an old pod",
        ),
    ],
)  # fmt: skip
def test_commands_that_fail_are_told(wanted: DaemonSet, nodes: list[Node], pods: list[Pod]) -> None:
    """Whatever was to be done on a node and failed degrades the set, as long as it is to be done."""
    world = failed(situation(wanted, nodes, pods))

    found = said(world, "Degraded")

    assert ("True", "CommandsFailing") == (found.status, found.reason)
    assert found.message == "for 1 nodes commands have failed and are tried again"


def test_commands_that_failed_are_told_as_long_as_something_is_to_be_done() -> None:
    """A node that is no place for the set any more is not one for which commands fail."""
    world = failed(situation(AGENT, alike(2), [*on("a")]))
    assert said(world, "Degraded").reason == "CommandsFailing"

    world.put_node(node("node-1", "k:NoSchedule"))

    assert said(world, "Degraded").reason == "AsExpected"


def test_a_pod_that_may_stay_is_nothing_to_be_done() -> None:
    """A delete that failed is over when the node tolerates the pod again, or the pod has become the wanted one."""
    world = failed(situation(AGENT, [node("node-0", "k:NoExecute")], on("a")))
    assert said(world, "Degraded").reason == "CommandsFailing"

    for taints in ((), ("k:NoSchedule",)):
        world.put_node(node("node-0", *taints))
        assert said(world, "Degraded").reason == "AsExpected"


def test_an_old_pod_on_a_node_that_is_not_eligible_is_nothing_to_be_done() -> None:
    """A rollout does not touch it, so that a failure from before the taint is no reason any more."""
    changed = structs.replace(SURGING, template=daemonset({"image": "new"}).template)
    world = failed(situation(changed, [ONE], pods_on(ONE, 1)))
    assert said(world, "Degraded").reason == "CommandsFailing"

    world.put_node(node("node-0", "k:NoSchedule"))

    assert said(world, "Degraded").reason == "AsExpected"


def test_a_failure_that_is_forgotten_is_not_told() -> None:
    """B1: Degraded ends at the latest when nobody knows of the failure any more; a worker that starts says the same."""
    patient = daemonset(update_strategy=UpdateStrategy(progress_deadline_seconds=0))
    world = failed(situation(patient, [ONE], []))
    world.now_ms += world.limits.horizon_ms + 1
    world.write(Tick(shard=0, due_ms=world.now_ms))

    assert said(world, "Degraded").reason == "AsExpected"
    fresh = compute_status(world.new_worker("fresh").fleet, SET)
    assert fresh is not None
    assert fresh.conditions == counted(world).conditions


# What it goes on from


def earlier(uid: str, *, generation: int = 1, at_ms: int = 7) -> Status:
    """Make a report of a rollout that was under way."""
    condition = Condition(
        type="Progressing", status="True", reason="RolloutProgressing", last_update_ms=at_ms
    )
    return Status(
        namespace="default",
        daemonset="agent",
        daemonset_uid=uid,
        observed_generation=generation,
        revision=counted(situation(AGENT, [ONE], [])).revision,
        conditions=(condition,),
    )


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("uid", "wanted"), [("uid-agent", (1, 7)), ("a-uid", (0, 1_000)), ("z-uid", (0, 1_000))]
)
def test_it_goes_on_from_what_was_reported(uid: str, wanted: tuple[int, int], given: bool) -> None:
    """The last report is the one on the log, or the one that this worker has on its way; another set's is not."""
    world = situation(AGENT, [ONE], [])
    if not given:
        world.write(StatusReported(status=earlier(uid)))
    world.read(world.worker)
    status = compute_status(world.worker.fleet, SET, earlier(uid) if given else None)

    assert status is not None
    progressing = status.condition("Progressing")
    assert progressing is not None
    assert wanted == (status.observed_generation, progressing.last_update_ms)


def test_what_is_on_its_way_counts_more_than_what_is_on_the_log() -> None:
    """A worker goes on from its own last report, before that has come back."""
    world = situation(AGENT, [ONE], [])
    world.write(StatusReported(status=earlier("uid-agent", at_ms=7)))
    world.read(world.worker)

    status = compute_status(world.worker.fleet, SET, earlier("uid-agent", at_ms=9))

    assert status is not None
    assert [9] == [each.last_update_ms for each in status.conditions if each.type == "Progressing"]


def test_a_report_never_claims_more_than_is_wanted() -> None:
    """A generation that was reported and is not there any more, as after a restore of the backend, is not repeated."""
    world = situation(daemonset(generation=3), [ONE], [])
    for reported, wanted in ((2, 2), (3, 3), (9, 3)):
        world.write(StatusReported(status=earlier("uid-agent", generation=reported)))
        assert wanted == counted(world).observed_generation


@pytest.mark.parametrize(
    "changes", [{"deleting": True}, {"selector": Selector()}], ids=["deleting", "selects all"]
)
def test_a_set_that_is_left_alone_has_no_status(changes: dict[str, Any]) -> None:
    """Nothing is done for it, so that nothing is to be reported."""
    world = situation(structs.replace(AGENT, **changes), [ONE], [])
    world.read(world.worker)

    assert compute_status(world.worker.fleet, SET) is None
