"""What a node had before: which pod the next one replaces, of which revision, and how many ended in a row."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import PodGone, Tick
from everynode.core.lately import failures_before, replaced_uid, revision_before
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.values import Pod
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, asked, situation
from everynode.testing.world import World

ONE, OTHER = node("node-0"), node("node-1")
LIMITS = Limits()
NAMESAKE = daemonset(uid="earlier")


def known(pods: list[Pod]) -> tuple[World, SetState]:
    """Make a world with these pods, and return what its worker knows of the set."""
    world = situation(AGENT, [ONE, OTHER], pods)
    world.read(world.worker)
    return world, world.worker.fleet.sets[SET]


def ended(name: str = "old", **changes: Any) -> Pod:
    """Make a pod of the set's generation that has ended."""
    return pod(AGENT, ONE, name, **({"phase": "Failed", "ready": False, "generation": 1} | changes))


def gone(world: World, **changes: Any) -> None:
    """A pod of the node is gone, of which only the tombstone is heard."""
    about = PodGone(
        backend=ONE.backend,
        namespace="default",
        name="gone",
        uid="uid-gone",
        node=ONE.name,
        owner=pod(AGENT, ONE).owner,
        revision="old",
        generation=1,
        failures=2,
    )
    world.write(structs.replace(about, **changes))
    world.read(world.worker)


def test_a_node_that_had_nothing() -> None:
    """Without a pod, now or lately, nothing is replaced, and nothing has failed."""
    world, state = known([pod(AGENT, OTHER, phase="Failed", generation=1)])

    assert replaced_uid(state, ONE.key, world.now_ms, LIMITS) == ""
    assert failures_before(state, ONE.key, world.now_ms, LIMITS) == 0
    assert revision_before(state, ONE.key, world.now_ms, LIMITS) == ""


def test_all_pods_that_are_left_are_replaced() -> None:
    """S1: their names are taken; what they are called does not depend on the order in which they were observed."""
    pods = [ended("b"), ended("a")]
    for order in (pods, pods[::-1]):
        world, state = known(order)
        gone(world)

        assert replaced_uid(state, ONE.key, world.now_ms, LIMITS) == "uid-a,uid-b"


def test_what_went_lately_is_replaced() -> None:
    """S1: a name that was used a moment ago is not used again, as the pod that had it may not be gone everywhere."""
    world, state = known([])
    gone(world)

    assert replaced_uid(state, ONE.key, world.now_ms, LIMITS) == "uid-gone"
    assert revision_before(state, ONE.key, world.now_ms, LIMITS) == "old"
    assert failures_before(state, ONE.key, world.now_ms, LIMITS) == 2


def test_what_went_before_the_horizon_is_forgotten() -> None:
    """S4: a worker that runs for long knows no more than one that has just read the last minutes of the log."""
    world, state = known([])
    gone(world)
    last_ms = world.now_ms + LIMITS.horizon_ms
    for now_ms, wanted in ((last_ms, ("uid-gone", 2, "old")), (last_ms + 1, ("", 0, ""))):
        found = (
            replaced_uid(state, ONE.key, now_ms, LIMITS),
            failures_before(state, ONE.key, now_ms, LIMITS),
            revision_before(state, ONE.key, now_ms, LIMITS),
        )
        assert wanted == found


@pytest.mark.parametrize(
    ("pods", "wanted"),
    [
        pytest.param([ended(failures=3)], 4, id="one that has ended"),
        pytest.param([ended(failures=3, phase="Succeeded")], 4, id="or has succeeded"),
        pytest.param([ended(failures=3, deleting=True)], 4, id="and is on its way out"),
        pytest.param([ended("a", failures=1), ended("b", failures=4)], 5, id="the longer row"),
        pytest.param([ended(phase="Running", deleting=True, failures=3)], 0, id="one that runs"),
        pytest.param([ended(generation=2, failures=3)], 0, id="of another generation"),
        pytest.param(
            [pod(NAMESAKE, ONE, phase="Failed", generation=1, failures=3)], 0, id="of a namesake"
        ),
    ],
)
def test_pods_that_have_ended_and_are_still_there_count(pods: list[Pod], wanted: int) -> None:
    """L2: the row goes on with pods that are slow to leave: else each next one would be made at once."""
    world, state = known(pods)

    assert wanted == failures_before(state, ONE.key, world.now_ms, LIMITS)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, 2, id="the set's own"),
        pytest.param({"generation": 2}, 0, id="of another generation"),
        pytest.param({"owner": pod(NAMESAKE, ONE).owner}, 0, id="of a namesake"),
    ],
)
def test_what_went_counts_for_its_set_and_generation(changes: dict[str, Any], wanted: int) -> None:
    """L1: a set that was changed, or made anew, does not wait for what went wrong before."""
    world, state = known([])
    gone(world, **changes)

    assert wanted == failures_before(state, ONE.key, world.now_ms, LIMITS)


def test_the_longer_row_counts_of_what_is_there_and_what_went() -> None:
    """L2: neither a pod that is still there nor one that went makes the other forgotten."""
    for there, wanted in ((0, 2), (1, 2), (5, 6)):
        world, state = known([ended(failures=there)])
        gone(world)

        assert wanted == failures_before(state, ONE.key, world.now_ms, LIMITS)


def test_pods_that_end_one_after_the_other_and_are_slow_to_leave() -> None:
    """L2: a pod that ends at once and takes a while to go is made anew ever more slowly."""
    world = situation(AGENT, [ONE], [])
    world.stop_at_once = False
    began_ms = world.now_ms
    made: dict[str, int] = {}
    while world.now_ms < began_ms + 30_000:
        world.now_ms += 100
        world.write(Tick(shard=0, due_ms=world.now_ms))
        world.decide()
        while world.queue:
            world.carry_out()
        for found in list(world.pods.values()):
            made.setdefault(found.uid, found.failures)
            if found.live:
                world.change_pod(found.key, phase="Failed", ready=False)
            elif found.deleting and world.now_ms >= found.deleting_since_ms + 2_000:
                world.remove_pod(found.key)

    assert list(range(6)) == list(made.values())  # 0, 1, 2, 4, 8, 16 s: the sixth rests


def test_the_revision_of_a_pod_on_its_way_out() -> None:
    """S3: a node whose pod is about to go had that pod's revision, whatever went before it."""
    for changes in ({"deleting": True}, {"phase": "Failed"}):
        world, state = known([pod(AGENT, ONE, "leaving", revision="last", **changes)])
        gone(world)

        assert revision_before(state, ONE.key, world.now_ms, LIMITS) == "last"


def test_of_several_pods_that_leave_the_last_observed_says_the_revision() -> None:
    """S3: which of them was there last is what the log says, not how they are called."""
    leaving = [ended("a", revision="a"), ended("b", revision="b")]
    for order in (leaving, leaving[::-1]):
        world, state = known(order)

        assert revision_before(state, ONE.key, world.now_ms, LIMITS) == order[-1].revision


def test_a_live_pod_is_not_what_a_node_had() -> None:
    """With a live pod beside it, what counts is the one that went."""
    world, state = known([pod(AGENT, ONE, "live", revision="now")])
    gone(world)

    assert revision_before(state, ONE.key, world.now_ms, LIMITS) == "old"


def test_a_new_name_for_each_pod_that_follows_another() -> None:
    """S1: the pod after one that went is another one."""
    world = situation(AGENT, [ONE], [])
    names = set()
    for _ in range(3):
        assert asked(world).creates == ["node-0"]
        world.carry_out()
        (made,) = world.pods.values()
        names.add(made.name)
        world.remove_pod(made.key)

    assert len(names) == 3
