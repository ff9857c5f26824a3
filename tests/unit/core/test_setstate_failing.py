"""Pods that end one after the other: for how long a node counts as one on which they do, and who looks again when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import AdoptPod, outcome_of
from everynode.core.events import PodGone, StatusReported, Tick
from everynode.core.pacing import REST_FORGOTTEN_MS
from everynode.core.setstate import SetState
from everynode.core.values import Owner, Pod, Status
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")


def known(world: World) -> SetState:
    """Let the worker read, and return what it knows of the set."""
    world.read(world.worker)
    return world.worker.fleet.refreshed(SET)


def fails(world: World) -> bool:
    """Say whether pods end on the node, as the worker sees it."""
    return known(world).failing_on(ONE.key, world.worker.fleet.now_ms)


def pass_time(world: World, duration_ms: int) -> None:
    """Time passes, and the log says so."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=world.now_ms))
    world.read(world.worker)


def made(world: World) -> Pod:
    """Let the worker replace what has ended, and return the pod that is there then."""
    for _ in range(3):
        world.decide()
        while world.queue:
            world.carry_out()
    (found,) = world.pods.values()
    assert found.live
    return found


def end(world: World) -> None:
    """The pod that is there fails."""
    (key,) = world.pods
    world.change_pod(key, phase="Failed", ready=False)


def test_a_pod_after_one_that_ended_has_to_last() -> None:
    """L1: from the end of the first pod until its successor has lasted as long as it would have to rest."""
    world = situation(AGENT, [ONE], [])
    made(world)
    assert not fails(world)
    end(world)
    assert fails(world)
    asked(world)
    world.carry_out()
    assert not world.pods
    assert fails(world), "nothing speaks for the next one"

    second = made(world)

    assert second.failures == 1
    assert fails(world)
    due = world.worker.due()
    assert due is not None
    assert (due.node, due.time_ms) == (ONE.key, second.created_ms + 1_000)
    world.worker.fleet.dirty.clear()
    pass_time(world, second.created_ms + 999 - world.now_ms)
    assert fails(world)
    assert not world.worker.fleet.dirty
    pass_time(world, 1)
    assert not fails(world)
    assert world.worker.fleet.dirty == {SET}, "its status is to be counted again"


def test_a_pod_that_is_not_available_is_not_sound() -> None:
    """However long it lasts: a pod that comes after one that ended and never gets ready is no recovery."""
    world = situation(AGENT, [ONE], [])
    made(world)
    end(world)
    world.start_ready = False
    successor = made(world)
    pass_time(world, 10_000)
    assert fails(world)

    world.change_pod(successor.key, phase="Running", ready=True)

    assert not fails(world)


def test_degraded_does_not_flap() -> None:
    """L2: while pods end one after the other, each after a moment, Degraded turns once and stays."""
    world = situation(AGENT, [ONE], [])
    made(world)
    turns: list[str] = []
    for _ in range(300):
        for key, each in list(world.pods.items()):
            if each.live and world.now_ms - each.created_ms >= 200:
                world.change_pod(key, phase="Failed", ready=False)
        world.decide()
        while world.queue:
            world.carry_out()
        pass_time(world, 100)
    for record in world.log:
        if isinstance(record.message, StatusReported):
            found = record.message.status.condition("Degraded")
            assert found is not None
            if turns[-1:] != [found.status]:
                turns.append(found.status)

    assert turns == ["False", "True"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"failures": 3}, False),  # it has lasted for four seconds
        ({"failures": 3, "created_ms": 997_000}, True),
        ({"failures": 3, "created_ms": 996_000}, False),
        ({"failures": 3, "created_ms": 997_000, "generation": 1}, False),
        ({"failures": 3, "created_ms": 997_000, "generation": 3}, False),
        ({"failures": 3, "ready": False}, True),
        ({"phase": "Failed", "ready": False}, True),
        ({"phase": "Succeeded", "ready": False}, True),
        ({"phase": "Failed", "ready": False, "generation": 1}, False),
        ({"phase": "Failed", "ready": False, "generation": 3}, False),
        ({"ready": False}, False),
    ],
)
def test_whether_pods_end_on_a_node(changes: dict[str, Any], expected: bool) -> None:
    """Pods of this generation speak for or against their node; those of another one are no news."""
    wanted = daemonset(generation=2)
    one = structs.replace(pod(wanted, ONE, generation=2), **{"created_ms": 1, **changes})
    world = situation(wanted, [ONE], [one])
    pass_time(world, 1_000_000 - world.now_ms)

    assert expected == fails(world)


def test_one_sound_pod_does_not_speak_for_the_other() -> None:
    """Of two pods on a node, as with a surge, each that comes after one that ended has to last."""
    sound = pod(AGENT, ONE, "sound", generation=1)
    young = pod(AGENT, ONE, "young", generation=1, failures=3, created_ms=999_000)
    world = situation(AGENT, [ONE], [sound, young])
    pass_time(world, 1_000_000 - world.now_ms)

    assert fails(world)


def gone(**changes: Any) -> PodGone:
    """Make the tombstone of a pod that was the third in a row to end."""
    facts: dict[str, Any] = {
        "owner": Owner(name="agent", uid="uid-agent"),
        "generation": 2,
        "created_ms": 900,
        "failures": 3,
    }
    about: dict[str, Any] = {
        "backend": ONE.backend,
        "namespace": "default",
        "name": "pod-1",
        "node": ONE.name,
    }
    return PodGone(**about, uid="uid-pod-1", **facts | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"failures": 0}, False),
        ({"generation": 1}, False),
        ({"generation": 3}, False),
        ({"owner": Owner(name="agent", uid="a-uid")}, False),
        ({"owner": Owner(name="agent", uid="z-uid")}, False),
    ],
)
def test_a_pod_that_has_gone_speaks_until_there_is_another(
    changes: dict[str, Any], expected: bool
) -> None:
    """What ended last on a node counts as long as nothing is there: if it was this set's, for this generation."""
    world = situation(daemonset(generation=2), [ONE], [])
    world.write(gone(**changes))

    assert expected == fails(world)


def test_what_went_long_ago_does_not_speak() -> None:
    """B1: after the horizon a node without a pod is one like any other, and the set is counted again."""
    world = situation(daemonset(generation=2), [ONE], [])
    world.write(gone())
    assert asked(world).creates == [ONE.name]
    world.decide()
    pass_time(world, world.limits.horizon_ms)
    assert fails(world)
    world.worker.fleet.dirty.clear()

    pass_time(world, 1)

    assert not known(world).failing_on(ONE.key, world.worker.fleet.now_ms)
    assert world.worker.fleet.dirty == {SET}


@pytest.mark.parametrize(
    ("lasted_ms", "created_ms", "failures"),
    [
        (REST_FORGOTTEN_MS - 1, 5, 3),
        (REST_FORGOTTEN_MS, 5, 1),
        (REST_FORGOTTEN_MS + 1, 5, 1),
        (REST_FORGOTTEN_MS, 0, 3),
    ],
)
def test_a_pod_that_lasted_begins_a_new_row(lasted_ms: int, created_ms: int, failures: int) -> None:
    """After half an hour an end has nothing to do with those before; it is the first, if it was an end at all."""
    world = situation(daemonset(generation=2), [ONE], [])
    world.now_ms = created_ms + lasted_ms

    for told, wanted in ((3, failures), (1, 1), (0, 0)):
        world.write(gone(created_ms=created_ms, failures=told))
        assert wanted == known(world).last_gone_on[ONE.key].failures


# Commands that failed


def test_each_failure_on_a_node_is_awaited() -> None:
    """L1: of two deletes that failed on a node the later one works after all: the other is tried again in time."""
    world = situation(AGENT, [ONE], pods_on(ONE, 3))
    asked(world)
    first, second = world.queue
    world.queue.clear()
    world.write(outcome_of(second, "failed"))
    asked(world)
    world.now_ms += 500
    world.write(outcome_of(first, "failed"))
    asked(world)
    world.now_ms += 200
    world.remove_pod(second.pod_key)
    asked(world)

    due = world.worker.due()
    assert due is not None
    assert (1_000 + 500 + 1_000, ONE.key) == (due.time_ms, due.node)
    pass_time(world, due.time_ms - world.now_ms)

    assert [first.pod] == [name for name, _ in asked(world).deletes]


def test_each_of_two_failures_has_its_own_time() -> None:
    """L1: both times are awaited, whichever command's counts; after each the node is looked at."""
    world = situation(AGENT, [ONE], pods_on(ONE, 3))
    asked(world)
    times = []
    while world.queue:
        world.carry_out(works=False)
        world.now_ms += 300
    world.read(world.worker)
    while (due := world.worker.due()) is not None and due.time_ms < 10_000:
        times.append(due.time_ms)
        pass_time(world, due.time_ms - world.now_ms)
        assert SET in world.worker.fleet.dirty
        world.worker.fleet.dirty.clear()

    assert times == [2_000, 2_300]


def test_a_failure_of_a_set_made_anew_does_not_count() -> None:
    """What could not be made for another set of this name is no failure of this one; what could not be deleted is."""
    for surplus, counts in ((1, False), (2, True)):
        pods = pods_on(ONE, 2)[: surplus if surplus > 1 else 0]
        world = situation(AGENT, [ONE], pods)
        world.decide()
        world.carry_out(works=False)
        assert known(world).cooling_on(ONE.key) is not None
        world.apply(structs.replace(AGENT, uid="z-anew"))

        assert counts == (known(world).cooling_on(ONE.key) is not None)


@pytest.mark.parametrize("generation", [1, 3])
def test_a_deletion_does_not_wait_for_an_old_failure(generation: int) -> None:
    """L1: what was to rest while the set was wanted goes at once when it is deleted."""
    world = situation(daemonset(generation=generation), [ONE], pods_on(ONE, 2))
    asked(world)
    world.carry_out(works=False)
    assert asked(world).deletes == []

    world.delete(SET)

    assert [("node-0-0", "SetDeleted"), ("node-0-1", "SetDeleted")] == asked(world).deletes


@pytest.mark.parametrize("works", [None, False], ids=["pending", "failed"])
def test_an_adoption_for_a_set_that_was_made_anew_is_over(works: bool | None) -> None:
    """L1, S4: what was to become another set's is not waited for; this one adopts it at once."""
    orphan = structs.replace(pod(AGENT, ONE), owner=None, labels={"app": "agent"})
    world = situation(AGENT, [ONE], [orphan])
    asked(world)
    (command,) = world.queue
    if works is False:
        world.carry_out(works=False)
        assert asked(world) == ([], [])
        assert not world.queue
    world.queue.clear()

    world.apply(structs.replace(AGENT, uid="uid-anew"))
    asked(world)

    (again,) = world.queue
    assert isinstance(again, AdoptPod)
    assert (orphan.uid, "uid-anew", 0) == (again.pod_uid, again.daemonset_uid, again.attempt)
    assert command.id not in known(world).pending


def test_a_status_can_be_reported_by_name() -> None:
    """A set that only has a status on record is not one that is at an end."""
    world = World()
    status = Status(
        namespace="default", daemonset="agent", daemonset_uid="u", observed_generation=1
    )
    world.write(StatusReported(status=status))

    assert not known(world).empty


@pytest.mark.parametrize("done", [False, True])
def test_a_delete_of_which_nothing_was_heard_is_not_one_that_was_done(done: bool) -> None:
    """S3: a delete that is done and shows no effect still counts as taking its pod down; one unheard of does not."""
    world = situation(AGENT, [ONE], pods_on(ONE, 2))
    asked(world)
    (command,) = world.queue
    if done:
        world.write(outcome_of(command, "done"))
    assert list(known(world).coverage.leaving) == [0]

    pass_time(world, world.limits.pending_ms)

    assert not known(world).pending
    assert ([0] if done else []) == list(known(world).coverage.leaving)
