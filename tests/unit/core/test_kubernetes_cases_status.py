"""The unit cases of Kubernetes' own controller, re-expressed: what is reported of a set, and its history.

Source: pkg/controller/daemon/daemon_controller_test.go and update_test.go; each docstring names the case.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import NoticeReported, RevisionGone, RevisionRecorded, StatusReported
from everynode.core.values import DaemonSet, Revision, SetKey, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

both_strategies = pytest.mark.parametrize(
    "strategy",
    [UpdateStrategy(), UpdateStrategy(type="RollingUpdate")],
    ids=["OnDelete", "RollingUpdate"],
)

ONE = node("node-0")


def reported(world: World) -> Status:
    """Return what the log says about the set."""
    *_, status = (r.message.status for r in world.log if isinstance(r.message, StatusReported))
    return status


def carry_out_all(world: World) -> None:
    """Carry out what was decided."""
    while world.queue:
        world.carry_out()


# Status


@both_strategies
def test_pods_that_were_made_are_counted(strategy: UpdateStrategy) -> None:
    """TestSimpleDaemonSetUpdatesStatusAfterLaunchingPods: as soon as they are seen; nothing else is needed."""
    world = situation(daemonset(update_strategy=strategy), alike(5), [])
    world.decide()
    assert (5, 0) == (
        reported(world).desired_number_scheduled,
        reported(world).current_number_scheduled,
    )

    carry_out_all(world)
    assert world.decide() == []

    assert reported(world).current_number_scheduled == 5


def test_some_creates_failed() -> None:
    """TestSimpleDaemonSetPodCreateErrors: of 100 nodes 10 got a pod: that is what the status says."""
    world = World()
    for each in alike(100):
        world.put_node(each)
    world.apply(AGENT)
    while len(world.pods) < 10:
        world.decide()
        while world.queue:
            world.carry_out(works=len(world.pods) < 10)
    world.decide()

    status = reported(world)

    assert (100, 10, 10) == (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.updated_number_scheduled,
    )
    assert status.waiting_nodes["CommandFailed"] == 5


@both_strategies
@pytest.mark.parametrize(
    ("decision_fails", "status_fails"),
    [(True, False), (False, True), (True, True)],
    ids=["sync error", "status error", "sync error and status error"],
)
def test_a_decision_or_a_status_cannot_be_written(
    strategy: UpdateStrategy, decision_fails: bool, status_fails: bool
) -> None:
    """TestSimpleDaemonSetUpdatesStatusError, L1: what fails comes again, and keeps nothing else from the log."""
    world = situation(daemonset(update_strategy=strategy, generation=3), [ONE], [])
    worker = world.worker
    world.read(worker)
    (proposal,) = worker.proposals(10)
    if decision_fails:
        worker.refused(SET, None)
    else:
        assert world.offer(worker, proposal)
        world.read(worker)

    (status,) = worker.reports()
    assert (0 if decision_fails else 3) == status.observed_generation
    if status_fails:
        worker.unreported(status)
    else:
        world.write(StatusReported(status=status))

    world.decide()
    carry_out_all(world)
    world.decide()
    assert (3, 1) == (reported(world).observed_generation, reported(world).number_available)


@both_strategies
def test_pods_get_ready(strategy: UpdateStrategy) -> None:
    """TestNumberReadyStatus: 0 of 2, then both."""
    wanted = daemonset(update_strategy=strategy)
    nodes = alike(2)
    pods = [pod(wanted, each, each.name, ready=False, phase="Pending") for each in nodes]
    world = situation(wanted, nodes, pods)
    world.decide()
    assert reported(world).number_ready == 0

    for each in pods:
        world.change_pod(each.key, phase="Running", ready=True)
    world.decide()

    assert reported(world).number_ready == 2


@both_strategies
def test_the_generation_that_was_observed(strategy: UpdateStrategy) -> None:
    """TestObservedGeneration: it is that of the set after a look at it, also if there was nothing to do."""
    wanted = daemonset(update_strategy=strategy, generation=1)
    world = situation(wanted, [ONE], pods_on(ONE, 1, wanted))
    world.decide()
    assert reported(world).observed_generation == 1

    world.apply(structs.replace(wanted, generation=2, min_ready_seconds=1))
    world.decide()

    assert reported(world).observed_generation == 2


# Events


@pytest.mark.parametrize(
    ("works", "reasons"),
    [
        (True, ["SuccessfulCreate", "SuccessfulDelete"]),
        (False, ["FailedCreate", "FailedDelete"]),
    ],
)
def test_people_are_told_of_commands(works: bool, reasons: list[str]) -> None:
    """Reasons are those of Kubernetes' pod control, and those that are alike are told as one, with their number."""
    twins = [found for each in alike(2) for found in pods_on(each, 2)]
    world = situation(AGENT, alike(4), twins)
    world.decide()
    while world.queue:
        world.carry_out(works=works)
    world.decide()

    told = [r.message.notice for r in world.log if isinstance(r.message, NoticeReported)]
    about = {item.reason: item for item in told if item.pod}

    assert reasons == sorted(about)
    assert [2, 2] == [item.count for item in about.values()]
    assert {"Normal" if works else "Warning"} == {item.type for item in about.values()}


# History


def image(name: str, **changes: Any) -> DaemonSet:
    """Make the set with this image."""
    return structs.replace(daemonset({"containers": [{"image": name}]}), **changes)


def numbers(world: World) -> list[int]:
    """Return the numbers of the revisions that are on record, sorted."""
    known = world.worker.fleet.sets[SET].revisions.values()
    return sorted(revision.number for revision in known)


def test_history_belongs_to_a_set() -> None:
    """TestControlledHistories: revisions of the set's name in its namespace are its own, those of others are not.

    We differ: a revision stands under its set's name and namespace, so that none has to be adopted or released.
    """
    elsewhere = SetKey("elsewhere", SET.name)
    world = situation(AGENT, [ONE], [])
    world.decide()
    (record,) = (r.message for r in world.log if isinstance(r.message, RevisionRecorded))
    for namespace, name in (elsewhere, ("default", "other")):
        foreign = structs.replace(record.revision, namespace=namespace, daemonset=name, number=9)
        world.write(RevisionRecorded(revision=foreign))
    carry_out_all(world)

    world.apply_changed(image("second"))
    world.decide()

    assert numbers(world) == [1, 2]
    assert [9] == [item.number for item in world.worker.fleet.sets[elsewhere].revisions.values()]


@pytest.mark.parametrize(
    ("limit", "left"), [(0, [5]), (1, [4, 5]), (2, [3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_history_has_a_limit(limit: int, left: list[int]) -> None:
    """B1: as in Kubernetes' cleanupHistory the oldest go, the wanted one does not count; 0 is a limit."""
    world = situation(None, [], [])
    for number in range(5):
        world.apply_changed(image(f"v{number}", revision_history_limit=limit))
        world.decide()
    world.decide()

    assert left == numbers(world)


@pytest.mark.parametrize(
    "changes",
    [{}, {"deleting": True}, {"phase": "Succeeded", "deleting": True}],
    ids=["runs", "leaves", "has ended and leaves"],
)
def test_a_revision_in_use_stays(changes: dict[str, Any]) -> None:
    """TestGetNodesToDaemonPods with deleted terminal pods: whatever pod still has a revision, it is kept."""
    first = image("v0", uid="agent-1", revision_history_limit=1)
    world = situation(None, [ONE], [pod(first, ONE, **changes)])
    for number in range(4):
        world.apply_changed(image(f"v{number}", revision_history_limit=1))
        world.decide()
        world.queue.clear()

    assert 1 in numbers(world)
    assert 2 not in numbers(world)


def test_returning_to_a_revision() -> None:
    """As in Kubernetes' constructHistory, the revision returned to gets the next number, and none is made."""
    world = situation(None, [], [])
    for name in ("v0", "v1", "v0"):
        world.apply_changed(image(name))
        world.decide()

    assert numbers(world) == [2, 3]
    state = world.worker.fleet.sets[SET]
    assert state.revisions[state.revision].number == 3


def test_only_the_template_makes_a_revision() -> None:
    """TestDaemonSetUpdatesNoTemplateChanged, L2: labels, limits and strategy of the set are no part of it."""
    world = situation(None, [ONE], [])
    world.apply_changed(image("v0"))
    world.run()
    before = dict(world.pods)

    world.apply_changed(
        image(
            "v0",
            min_ready_seconds=5,
            revision_history_limit=3,
            labels={"a": "b"},
            update_strategy=UpdateStrategy(type="RollingUpdate", max_unavailable="50%"),
        )
    )
    world.run()

    assert numbers(world) == [1]
    assert before == world.pods


def test_a_revision_that_says_nothing_new_is_not_written_twice() -> None:
    """L2: names follow from content, so that there are no two revisions of one template, and none to do away with."""
    world = situation(AGENT, [ONE], [])
    world.run()

    again = [r.message for r in world.log if isinstance(r.message, RevisionRecorded | RevisionGone)]

    assert len(again) == 1
    assert isinstance(again[0], RevisionRecorded)
    assert isinstance(again[0].revision, Revision)
    assert asked(world) == ([], [])
