"""Where a rollout stands, what it does next, and which revision pods get that have to be made meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from pyroaring import BitMap

from everynode.core.commands import CreatePod, DeletePod, outcome_of
from everynode.core.events import Tick
from everynode.core.pacing import UNSEEN_MS_MAX
from everynode.core.rollout import Rollout, is_held, next_step, rollout_of
from everynode.core.setstate import SetState
from everynode.core.values import DaemonSet, Node, Pod, Selector, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, situation
from everynode.testing.world import World

ROLLING = UpdateStrategy(type="RollingUpdate")
SURGE = structs.replace(ROLLING, max_unavailable=0, max_surge=1)
CANARY = Selector(match_labels={"canary": "yes"})


def wanted(strategy: UpdateStrategy = ROLLING, **changes: Any) -> DaemonSet:
    """Make the set, as its strategy is changed."""
    return daemonset(update_strategy=structs.replace(strategy, **changes))


def old(on: Node, name: str = "old", **changes: Any) -> Pod:
    """Make a pod of another revision; it is ready unless the changes say otherwise."""
    return pod(AGENT, on, f"{name}-{on.name}", **({"revision": "old"} | changes))


def new(on: Node, **changes: Any) -> Pod:
    """Make a pod of the wanted revision."""
    return pod(AGENT, on, f"new-{on.name}", **changes)


DOWN: dict[str, Any] = {"ready": False, "ready_since_ms": 0}
RESTING: dict[str, Any] = DOWN | {
    "phase": "Failed",
    "generation": 1,
    "failures": 9,
    "created_ms": 900,
}


def about(on: Node, command_id: str) -> dict[str, Any]:
    """Fill in what every command about a node says."""
    return {
        "id": f"{command_id}-{on.name}",
        "backend": on.backend,
        "node": on.name,
        "node_uid": on.uid,
        "namespace": SET.namespace,
        "daemonset": SET.name,
        "daemonset_uid": AGENT.uid,
        "generation": 1,
        "expires_ms": 300_000,
    }


def delete(on: Node, which: str = "old") -> DeletePod:
    """Ask for the end of a pod."""
    name = f"{which}-{on.name}"
    return DeletePod(**about(on, "delete"), pod=name, pod_uid=f"uid-{name}")


def create(on: Node, revision: str) -> CreatePod:
    """Ask for a pod."""
    return CreatePod(**about(on, "create"), pod=f"coming-{on.name}", revision=revision)


def look(world: World) -> tuple[SetState, Rollout]:
    """Let the worker read, and say where the rollout stands."""
    world.read(world.worker)
    state = world.worker.fleet.refreshed(SET)
    return state, rollout_of(state, world.worker.fleet.index)


def names(world: World, bitmap: BitMap) -> str:
    """Name the nodes of a bitmap, in their order."""
    return " ".join(sorted(world.worker.fleet.index.key(node_id).name for node_id in bitmap))


def step(world: World, count_max: int = 100, within: str = "") -> tuple[list[str], list[str]]:
    """Name the nodes that the next step takes: where it takes down, and where it adds."""
    world.read(world.worker)
    index = world.worker.fleet.index
    allowed = [node_id for key, node_id in index.ids.items() if key.name in within.split()]
    found = next_step(
        world.worker.fleet.refreshed(SET),
        index,
        BitMap(allowed) if within else index.everything,
        count_max,
    )
    return (
        [index.key(node_id).name for node_id in found.take_down],
        [index.key(node_id).name for node_id in found.add_on],
    )


REVISION = new(node()).revision
KINDS_OF_NODES = (
    ("updated",),
    ("outdated",),
    ("down",),
    ("empty",),
    ("tainted", "k:NoSchedule"),
    ("leaving",),
    ("doomed",),
    ("making",),
    ("cooling",),
    ("twice",),
    ("busy",),
    ("both",),
    ("both-done",),
    ("joining",),
    ("ended",),
    ("ended-joining",),
    ("both-joining",),
    ("updated-down",),
    ("updated-doomed",),
    ("unseen",),
    ("tainted-joining", "k:NoSchedule"),
)
"""The name of a node of each kind, and its taints."""


def every_kind_of_node(strategy: UpdateStrategy) -> World:
    """Make a world with one node of each kind that a rollout tells apart; each is called what it is."""
    on = {name: node(name, *taints) for name, *taints in KINDS_OF_NODES}
    pods = [
        new(on["updated"]),
        old(on["outdated"]),
        old(on["down"], **DOWN),
        old(on["tainted"]),
        old(on["leaving"], deleting=True, **DOWN),
        old(on["doomed"]),
        old(on["cooling"]),
        old(on["twice"]),
        old(on["twice"], "other"),
        old(on["busy"]),
        old(on["both"]),
        new(on["both"], **DOWN),
        old(on["both-done"]),
        new(on["both-done"]),
        old(on["joining"]),
        old(on["ended"]),
        old(on["ended"], "failed", **RESTING),
        old(on["ended-joining"]),
        old(on["ended-joining"], "failed", **RESTING),
        old(on["both-joining"]),
        new(on["both-joining"], **DOWN),
        new(on["updated-down"], **DOWN),
        new(on["updated-doomed"]),
        old(on["unseen"]),
        old(on["tainted-joining"]),
    ]
    world = situation(wanted(strategy), list(on.values()), pods)
    world.write(delete(on["unseen"]))
    world.write(outcome_of(delete(on["unseen"]), "done"))
    world.now_ms += UNSEEN_MS_MAX
    world.write(Tick(shard=0, due_ms=0))
    for command in (delete(on["doomed"]), delete(on["updated-doomed"], "new")):
        world.write(command)
    for name, revision in (
        ("making", REVISION),
        ("busy", "old"),
        ("joining", REVISION),
        ("ended-joining", REVISION),
        ("both-joining", REVISION),
        ("tainted-joining", REVISION),
    ):
        world.write(create(on[name], revision))
    world.write(delete(on["cooling"]))
    world.write(outcome_of(delete(on["cooling"]), "failed"))
    return world


def test_where_a_rollout_stands() -> None:
    """S3: what counts as down, what may be replaced, and what the partition keeps, for every kind of node."""
    world = every_kind_of_node(structs.replace(ROLLING, max_unavailable="50%", partition=2))

    _, found = look(world)

    assert (10, 0, 2) == found.budget
    assert names(world, found.skipped) == ""
    assert names(world, found.counting) == (
        "both both-done both-joining busy cooling doomed down empty ended ended-joining joining "
        "leaving making outdated twice unseen updated updated-doomed updated-down"
    )
    assert names(world, found.unavailable) == (
        "doomed down empty leaving making unseen updated-doomed updated-down"
    )
    assert names(world, found.open) == "down outdated"
    assert (4, 2) == (found.room, found.held)
    assert names(world, found.surging) == "both both-joining ended ended-joining joining"


def test_where_a_rollout_with_a_surge_stands() -> None:
    """S3: what leaves is not down before it has left, as an old pod goes only when the new one serves."""
    world = every_kind_of_node(structs.replace(SURGE, max_surge="10%"))

    _, found = look(world)

    assert (0, 2, 0) == found.budget
    assert names(world, found.unavailable) == "down empty leaving making updated-down"
    assert names(world, found.open) == "down outdated"
    assert names(world, found.surging) == "both both-joining ended ended-joining joining"


@pytest.mark.parametrize(
    ("strategy", "wanted_open", "room", "held"),
    [
        pytest.param(ROLLING, "down outdated", 6, 0, id="nothing is held"),
        pytest.param(structs.replace(ROLLING, paused=True), "", 0, 6, id="paused"),
        pytest.param(UpdateStrategy(), "", 0, 6, id="OnDelete"),
        pytest.param(structs.replace(ROLLING, selector=CANARY), "", 0, 6, id="none is selected"),
        pytest.param(structs.replace(ROLLING, partition=5), "down outdated", 1, 5, id="partition"),
        pytest.param(structs.replace(ROLLING, partition=6), "down outdated", 0, 6, id="all stay"),
        pytest.param(structs.replace(ROLLING, partition=9), "down outdated", 0, 6, id="more stay"),
    ],
)
def test_what_is_held(strategy: UpdateStrategy, wanted_open: str, room: int, held: int) -> None:
    """S3: pause, selector and partition each leave the other nodes on their old revision, and say how many."""
    world = every_kind_of_node(strategy)

    _, found = look(world)

    assert wanted_open == names(world, found.open)
    assert (room, held) == (found.room, found.held)


def test_a_selector_and_a_partition_hold_both() -> None:
    """S3: with four old nodes, two selected and three to stay, one is replaced; all but that one are held."""
    nodes = [node(f"node-{number}", canary="yes" if number < 2 else "no") for number in range(4)]
    strategy = structs.replace(ROLLING, selector=CANARY, partition=3, max_unavailable=4)
    world = situation(wanted(strategy), nodes, [old(on) for on in nodes])

    _, found = look(world)

    assert names(world, found.open) == "node-0 node-1"
    assert (1, 3) == (found.room, found.held)
    assert step(world) == (["node-0"], [])
    world.apply(wanted(strategy, partition=1))
    _, found = look(world)
    assert (2, 2) == (found.room, found.held)


def test_nodes_that_are_skipped() -> None:
    """S3: nodes that were lost before the set changed anything there neither count, nor block, nor are taken.

    One that got the new pod before it was lost counts; so does one that is not ready where they are not skipped.
    """
    lost = {
        name: structs.replace(node(name, *taints), ready=False, unready_since_ms=500)
        for name, *taints in (
            ("lost",),
            ("lost-empty",),
            ("blamed",),
            ("lost-tainted", "k:NoSchedule"),
            ("blamed-tainted", "k:NoSchedule"),
        )
    }
    nodes = [*lost.values(), node("fine")]
    pods = [
        old(lost["lost"]),
        new(lost["blamed"], **DOWN, created_ms=400),
        old(lost["lost-tainted"]),
        new(lost["blamed-tainted"], **DOWN, created_ms=400),
        old(node("fine")),
    ]
    world = situation(wanted(unreachable_nodes="Skip", max_unavailable="100%"), nodes, pods)

    _, found = look(world)

    assert names(world, found.skipped) == "lost lost-empty"
    assert names(world, found.counting) == "blamed fine"
    assert names(world, found.unavailable) == "blamed"
    assert names(world, found.open) == "fine"
    assert (4, 1, 0) == (found.budget.max_unavailable, found.room, found.held)

    world.apply(wanted(unreachable_nodes="Skip", paused=True))
    assert look(world)[1].held == 1  # of those that count
    world.apply(wanted())
    _, found = look(world)
    assert names(world, found.skipped) == ""
    assert names(world, found.open) == "fine lost"


@pytest.mark.parametrize(
    ("strategy", "held"),
    [
        (ROLLING, False),
        (structs.replace(ROLLING, paused=True), True),
        (structs.replace(ROLLING, partition=1), True),
        (structs.replace(ROLLING, selector=CANARY), True),
    ],
)
def test_whether_anything_is_held(strategy: UpdateStrategy, held: bool) -> None:
    """S3: a rollout that is paused, partitioned or for some nodes only keeps old revisions."""
    assert held == is_held(look(situation(wanted(strategy), [], []))[0])


# What is done next


def outdated(count: int, down: str = "", **strategy: Any) -> World:
    """Make a world of nodes with an old pod each, of which some are not ready."""
    nodes = alike(count)
    pods = [old(on, **(DOWN if on.name in down.split() else {})) for on in nodes]
    return situation(wanted(**strategy), nodes, pods)


@pytest.mark.parametrize(
    ("max_unavailable", "taken"),
    [
        pytest.param(1, ["node-1", "node-3"], id="more are down than may be"),
        pytest.param(2, ["node-1", "node-3"], id="just as many"),
        pytest.param(3, ["node-1", "node-3", "node-0"], id="one fewer"),
        pytest.param(4, ["node-1", "node-3", "node-0", "node-2"], id="two fewer"),
        pytest.param("100%", ["node-1", "node-3", "node-0", "node-2", "node-4"], id="all may be"),
    ],
)
def test_what_is_down_anyway_is_taken_first(max_unavailable: int | str, taken: list[str]) -> None:
    """S3: nodes whose old pod is not ready cost nothing, come first, and use up the budget for the others."""
    world = outdated(5, "node-3 node-1", max_unavailable=max_unavailable)

    assert (taken, []) == step(world)


@pytest.mark.parametrize(
    ("max_surge", "taken"),
    [
        pytest.param(1, ["node-1", "node-0"], id="one"),
        pytest.param(2, ["node-1", "node-0", "node-2"], id="two"),
    ],
)
def test_with_a_surge_new_pods_are_added(max_surge: int, taken: list[str]) -> None:
    """S3: beside a pod that is not ready in any case, beside others as many as the surge allows."""
    world = outdated(4, "node-1", max_unavailable=0, max_surge=max_surge)

    assert ([], taken) == step(world)


def test_a_surge_that_is_used_up_adds_nothing() -> None:
    """S3: new pods that are not available yet use it up; those that are do not."""
    world = outdated(5, max_unavailable=0, max_surge=2)
    first, second, *_ = alike(5)
    for on in (first, second):
        world.put_pod(new(on, **DOWN))
    assert step(world) == ([], [])

    world.put_pod(new(first))
    assert step(world) == ([], ["node-2"])
    world.apply(wanted(max_unavailable=0, max_surge=3))
    assert step(world) == ([], ["node-2", "node-3"])
    world.apply(wanted(max_unavailable=0, max_surge=1))
    assert step(world) == ([], [])


@pytest.mark.parametrize(
    ("partition", "count_max", "taken"),
    [
        pytest.param(0, 4, "node-1 node-3 node-0 node-2", id="the limit"),
        pytest.param(0, 3, "node-1 node-3 node-0", id="a smaller limit"),
        pytest.param(0, 2, "node-1 node-3", id="the limit ends with those that are down"),
        pytest.param(0, 1, "node-1", id="the limit is one"),
        pytest.param(0, 0, "", id="the limit is nothing"),
        pytest.param(2, 9, "node-1 node-3 node-0", id="the partition"),
        pytest.param(4, 9, "node-1", id="the partition leaves one"),
        pytest.param(5, 9, "", id="the partition leaves none"),
    ],
)
def test_a_step_has_limits(partition: int, count_max: int, taken: str) -> None:
    """S3, B1: partition and limit count nodes that are down, too."""
    world = outdated(5, "node-1 node-3", max_unavailable=5, partition=partition)

    assert (taken.split(), []) == step(world, count_max)


def test_a_step_is_taken_where_there_is_room() -> None:
    """L3: nodes that are not looked at now leave their turn to others, not their place in the budget."""
    world = outdated(5, "node-1 node-3", max_unavailable=3)

    assert step(world, within="node-2 node-3 node-4") == (["node-3", "node-2"], [])
    assert step(world, within="node-1") == (["node-1"], [])


def test_a_moment_without_room_does_not_forget_whose_turn_it_is() -> None:
    """L2: while no backend takes a command, what is known of the order of nodes is kept: it is not all asked anew."""
    world = outdated(5, "", max_unavailable=2)
    assert step(world, count_max=1) == (["node-0"], [])
    remembered = len(world.worker.fleet.sets[SET].coverage.working_backlog)

    assert step(world, within="none of them") == ([], [])

    nodes = world.worker.fleet.sets[SET].coverage
    assert len(nodes.working_backlog) == remembered > 0

    nodes.outdated.clear()  # it is over
    assert step(world) == ([], [])
    assert len(nodes.working_backlog) == 0


def test_a_pod_that_is_ready_is_not_down() -> None:
    """S3: one that is not available yet counts as down, but is not taken as if it were."""
    nodes = alike(3)
    slow = structs.replace(wanted(), min_ready_seconds=60)
    world = situation(slow, nodes, [old(on, ready_since_ms=900) for on in nodes])

    assert step(world) == ([], [])


def test_deletes_that_are_done_and_not_seen_keep_their_place() -> None:
    """S3: a backend that shows what it did only after minutes does not make a rollout overdraw its budget."""
    world = outdated(6)
    done = []
    for _ in range(6):
        world.decide()
        for command in world.queue:
            if isinstance(command, DeletePod):
                done.append(command.node)
                world.write(outcome_of(command, "done"))
        world.queue.clear()
        world.now_ms += UNSEEN_MS_MAX + 1_000
        world.write(Tick(shard=0, due_ms=0))

    assert {"node-0"} == set(done)


def test_deletes_that_fail_give_their_place_back() -> None:
    """L3: a single node whose pod cannot be deleted does not hold up all the others."""
    world = outdated(2)
    assert step(world) == (["node-0"], [])
    world.decide()
    world.carry_out(works=False)

    assert step(world) == (["node-1"], [])
