"""Scenarios from the tests and threads of peers: how a new version reaches pods that run.

Each docstring names the peer and the scenario; docs/scenarios.md lists all of them and what covers each. What can
happen at all is tried by tests/property/test_rollout.py; these are the histories that hurt somebody.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import Tick
from everynode.core.identity import revision_hash
from everynode.core.status import compute_status
from everynode.core.values import Condition, DaemonSet, Node, Pod, Selector, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import NOTHING, SET, Asked, alike, asked, situation
from everynode.testing.world import World

CANARY = Selector(match_labels={"canary": "yes"})


def version(
    number: int, max_unavailable: int | str = 1, spec: dict[str, Any] | None = None, **strategy: Any
) -> DaemonSet:
    """Make a version of the set; its generation follows its number."""
    wanted = UpdateStrategy(type="RollingUpdate", max_unavailable=max_unavailable, **strategy)
    template = {"image": f"v{number}"} | (spec or {})
    return daemonset(template, generation=number, update_strategy=wanted)


def running(wanted: DaemonSet, nodes: list[Node], **changes: Any) -> list[Pod]:
    """Make one pod of the set on each node."""
    return [pod(wanted, each, f"{wanted.generation}-{each.name}", **changes) for each in nodes]


def covered(count: int, **first: Any) -> World:
    """Make a world whose nodes all have an available pod of version 1."""
    nodes = alike(count)
    world = situation(version(1, **first), nodes, running(version(1), nodes, created_ms=1))
    world.run()
    return world


def sync(world: World) -> Asked:
    """Let the worker decide once and carry that out."""
    found = asked(world)
    while world.queue:
        world.carry_out()
    return found


def versions(world: World) -> dict[int, int]:
    """Count the live pods by version."""
    numbers = {revision_hash(version(number).template): number for number in range(1, 9)}
    live = [numbers[found.revision] for found in world.pods.values() if found.live]
    return {number: live.count(number) for number in sorted(set(live))}


def available(world: World) -> int:
    """Count the pods that do their work."""
    return sum(found.live and found.ready for found in world.pods.values())


def status_of(world: World) -> Status:
    """Count, as the worker sees it now."""
    world.read(world.worker)
    status = compute_status(world.worker.fleet, SET)
    assert status is not None
    return status


def progressing(world: World) -> Condition:
    """Return how the rollout goes."""
    condition = status_of(world).condition("Progressing")
    assert condition is not None
    return condition


@pytest.mark.parametrize(
    ("down", "going", "limit", "taken"),
    [
        pytest.param(0, 0, 1, 1, id="one at a time"),
        pytest.param(0, 0, 10, 10, id="all at a time"),
        pytest.param(0, 0, "25%", 3, id="a share, rounded up"),
        pytest.param(0, 1, 1, 0, id="a pending delete counts"),
        pytest.param(0, 1, 3, 2, id="a pending delete leaves the rest"),
        pytest.param(1, 0, 1, 1, id="what is down goes first"),
        pytest.param(2, 0, 1, 2, id="more are down than may be: they go, no other does"),
        pytest.param(1, 0, 3, 3, id="one is down, two more go"),
        pytest.param(1, 1, 3, 2, id="one is down, one is going, one more goes"),
    ],
)
def test_a_rollout_obeys_its_limit(down: int, going: int, limit: int | str, taken: int) -> None:
    """Nomad (TestEvictAndPlace), scenario 15, S3: how many old pods go, by what is down and what is going.

    We differ: in Nomad those that are down do not count against max_parallel. Here they go first and do count, so that
    one bad version after the other cannot take everything down.
    """
    world = covered(10)
    if going:
        world.apply(version(2, going))
        assert going == len(asked(world).deletes)  # decided, and not carried out
    for found in sorted(world.pods.values(), key=lambda item: item.node)[10 - down :]:
        world.change_pod(found.key, phase="Running", ready=False)
    world.apply(version(3, limit))

    assert taken == len(asked(world).deletes)


def test_what_was_down_before_counts_in_the_next_version() -> None:
    """Nomad (SystemSched_UpdateBlock), scenario 16, S3: the next version finds the last one half done.

    Of 6 nodes two have version 2 (one not ready), one lost its pod, three have version 1. Version 3 may have two down:
    the broken pod of version 2 goes, the missing one is made, and nothing that works is touched.
    """
    nodes = alike(6)
    pods = [
        *running(version(2), nodes[:1]),
        *running(version(2), nodes[1:2], ready=False, ready_since_ms=0),
        *running(version(1), nodes[3:]),
    ]
    world = situation(version(3, 2), nodes, pods)

    assert Asked(["node-2"], [("2-node-1", "OutdatedRevision")]) == asked(world)


def canaries(count: int, canary_count: int) -> World:
    """Make a world of which some nodes are canaries, covered by version 1, with version 2 for the canaries only."""
    nodes = [
        node(f"node-{number}", canary="yes" if number < canary_count else "no")
        for number in range(count)
    ]
    world = situation(version(1), nodes, running(version(1), nodes))
    world.run()
    world.apply(version(2, 5, selector=CANARY))
    return world


def test_canaries_await_promotion() -> None:
    """Nomad ("awaiting promotion", "promoted"), scenario 17: the selector chooses canaries, taking it away promotes."""
    world = canaries(6, 2)
    world.run()
    assert {1: 4, 2: 2} == versions(world)
    assert "RolloutHeld" == progressing(world).reason

    world.apply(structs.replace(version(2, 5), generation=3))
    world.run()

    assert {2: 6} == versions(world)
    assert "RolloutComplete" == progressing(world).reason


def test_canaries_fail() -> None:
    """Nomad ("canaries failed"), scenario 17: canaries that do not get ready are said, and spread nowhere.

    There is no canary count and no promotion by itself: whoever holds a rollout lets it go on or takes it back.
    """
    world = canaries(6, 2)
    world.hanging.add(revision_hash(version(2).template))
    world.run()
    assert {1: 4, 2: 2} == versions(world)
    assert "ProgressDeadlineExceeded" == progressing(world).reason

    world.remove_pod(next(key for key, found in world.pods.items() if found.node == "node-5"))
    world.run()
    assert {1: 4, 2: 2} == versions(world)

    world.apply(structs.replace(version(1, 5), generation=3))
    world.run()
    assert {1: 6} == versions(world)


def test_a_rollout_is_complete_without_nodes_that_are_not_eligible() -> None:
    """Nomad #26885, scenarios 18 and 19: nodes that are excluded are waited for by nobody, and in no share of nodes."""
    nodes = [*alike(4, zone="a"), *(node(f"other-{number}", zone="b") for number in range(4))]
    zoned = {"nodeSelector": {"zone": "a"}}
    world = situation(version(1, spec=zoned), nodes, [])
    world.run()
    world.apply(version(2, spec=zoned, partition="50%"))
    world.run()
    assert 2 == status_of(world).updated_number_scheduled

    world.apply(structs.replace(version(2, spec=zoned), generation=3))
    world.run()

    assert (4, 4) == (
        status_of(world).desired_number_scheduled,
        status_of(world).updated_number_scheduled,
    )
    assert "RolloutComplete" == progressing(world).reason


def test_constraints_change_in_mid_rollout() -> None:
    """Nomad ("with changing constraints"), scenario 18, L1: nodes that fall out lose their pod, the rollout goes on."""
    nodes = [*alike(3, zone="a"), *(node(f"other-{number}", zone="b") for number in range(3))]
    world = situation(version(1), nodes, running(version(1), nodes))
    world.run()
    world.apply(version(2))
    sync(world)
    world.apply(version(3, spec={"nodeSelector": {"zone": "a"}}))
    world.run()

    assert {f"node-{number}" for number in range(3)} == {
        found.node for found in world.pods.values()
    }
    assert "RolloutComplete" == progressing(world).reason


@pytest.mark.parametrize(
    ("partition", "chosen", "stopping", "updated"),
    [
        pytest.param(0, False, 0, 4, id="no partition"),
        pytest.param(3, False, 0, 1, id="three stay"),
        pytest.param(9, False, 0, 0, id="larger than desired"),
        pytest.param(1, True, 0, 2, id="with a selector"),
        pytest.param(2, False, 1, 2, id="with a pod that is stopping"),
    ],
)
def test_a_partition(partition: int, chosen: bool, stopping: int, updated: int) -> None:
    """Kruise (FilterDaemonPodsNodeToUpdate), scenario 22: how many nodes get the new version, and no more."""
    nodes = [node(f"node-{number}", canary="yes" if number < 2 else "no") for number in range(4)]
    pods = running(version(1), nodes)
    world = situation(version(1), nodes, pods)
    world.run()
    for found in pods[4 - stopping :]:
        world.put_pod(structs.replace(found, deleting=True, ready=False))
    world.apply(version(2, 4, partition=partition, selector=CANARY if chosen else None))
    world.run()

    assert updated == versions(world).get(2, 0)
    assert 4 == available(world)


def test_a_surge_ends_by_time_alone() -> None:
    """Kruise #1012, scenario 24, L1: the old pod goes when the new one has been ready for long enough, unasked."""
    nodes = alike(1)
    surging = version(2, 0, max_surge=1)
    world = situation(
        structs.replace(surging, min_ready_seconds=15), nodes, running(version(1), nodes)
    )
    world.now_ms = 60_000  # the old pod is available
    world.write(Tick(shard=0, due_ms=0))
    assert ["node-0"] == sync(world).creates
    assert NOTHING == asked(world)
    due = world.worker.due()
    assert due is not None
    assert due.time_ms == world.now_ms + 15_000

    world.now_ms = due.time_ms
    world.write(Tick(shard=0, due_ms=due.time_ms))

    assert [("1-node-0", "OutdatedRevision")] == asked(world).deletes


def test_all_old_pods_are_not_ready() -> None:
    """Kruise #1323, scenario 25, S3: pods that are down go at once, one that works by then does not.

    Kruise takes all pods that are not available, those included that are ready but not for minReadySeconds. We take at
    once only those that are not ready, as Kubernetes does: nothing is lost with them.
    """
    world = covered(5)
    for key in list(world.pods):
        world.change_pod(key, phase="Running", ready=False)
    world.apply(version(2))
    spared = sorted(world.pods)[:3]
    for key in spared:
        world.change_pod(key, phase="Running", ready=True)

    assert {"1-node-3", "1-node-4"} == {name for name, _ in asked(world).deletes}


def test_three_bad_versions_in_a_row() -> None:
    """Kubernetes #123232, scenario 26, S3: of ten nodes with a budget of two, eight work all the time."""
    world = covered(10)
    for number in range(2, 5):
        world.apply(version(number, 2))
        world.hanging.add(revision_hash(version(number).template))
        for _ in range(12):
            sync(world)
            world.now_ms += 5_000
            assert available(world) >= 8

    assert {1: 8, 4: 2} == versions(world)


@pytest.mark.parametrize("count", [1, 2])
def test_nodes_that_are_not_ready_are_skipped_until_they_are(count: int) -> None:
    """OpenYurt, scenario 27, L1: a rollout with unreachableNodes Skip goes round dead nodes, and comes back to them.

    OpenYurt skips every node that is not ready. Here one that went down after it got the new version uses up the
    budget (tests/unit/core/test_rollout.py): it may be the version that did it.
    """
    world = covered(4)
    for number in range(count):
        world.set_node_ready(node(f"node-{number}").key, ready=False)
    world.apply(version(2, unreachable_nodes="Skip"))
    world.run()
    assert {1: count, 2: 4 - count} == versions(world)
    assert {"Skipped": count} == status_of(world).waiting_nodes

    for number in range(count):
        world.set_node_ready(node(f"node-{number}").key, ready=True)
    world.run()

    assert {2: 4} == versions(world)


def test_one_node_cannot_run_the_new_version() -> None:
    """Swarmkit #1720, scenario 29, L3: the others go on, and when nothing more comes of it, the deadline says so."""
    world = covered(4)
    world.apply(version(2, 2, progress_deadline_seconds=60))
    begun_ms = world.now_ms
    while world.now_ms < begun_ms + 300_000:
        world.decide()
        while world.queue:
            command = world.queue[0]
            world.carry_out(works=command.node != "node-1" or command.verb != "create")
        world.now_ms += 1_000
        world.write(Tick(shard=0, due_ms=0))

    assert {2: 3} == versions(world)
    assert "ProgressDeadlineExceeded" == progressing(world).reason
    assert {"CommandFailed": 1} == status_of(world).waiting_nodes


def test_a_node_is_paused_during_an_update() -> None:
    """Swarm (reconcileOneNode), scenario 31: it keeps its old pod, and waits its turn when it is back."""
    world = covered(4)
    paused = node("node-0", "pause:NoSchedule")
    world.put_node(paused)
    world.apply(version(2))
    world.run()
    assert {1: 1, 2: 3} == versions(world)
    assert "RolloutComplete" == progressing(world).reason

    broken = next(found for found in world.pods.values() if found.node == "node-3")
    world.change_pod(broken.key, phase="Running", ready=False)
    world.put_node(node("node-0"))
    assert NOTHING == asked(world)  # the budget is used up

    world.change_pod(broken.key, phase="Running", ready=True)
    world.run()
    assert {2: 4} == versions(world)


def test_an_agent_that_restarts_is_no_reason_to_replace() -> None:
    """Kruise at deckhouse, scenario 32, S3: pods whose clocks are set back while they stay ready are not taken at once.

    They count as unavailable until minReadySeconds have passed again, so that the rollout waits.
    """
    nodes = alike(5)
    wanted = structs.replace(version(1), min_ready_seconds=60)
    world = situation(wanted, nodes, running(wanted, nodes))
    world.run()
    for found in list(world.pods.values()):
        world.put_pod(structs.replace(found, ready_since_ms=world.now_ms))
    world.apply(structs.replace(version(2, 2), min_ready_seconds=60))

    assert NOTHING == asked(world)
    world.run()
    assert {2: 5} == versions(world)
