"""How many commands a decision has, and for which backends: limits, windows, and a rollout over several backends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import COMMANDS, Command, CreatePod, DeletePod, outcome_of
from everynode.core.decision import propose
from everynode.core.events import Tick
from everynode.core.pacing import Limits
from everynode.core.values import Node, Pod, UpdateStrategy
from everynode.testing.builders import node, pod
from everynode.testing.situations import AGENT, NOTHING, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
ROLLING = UpdateStrategy(type="RollingUpdate")
SURGE = structs.replace(ROLLING, max_unavailable=0, max_surge="100%")
ABOUT: dict[str, Any] = {
    "id": "x",
    "backend": "a",
    "node": "x",
    "namespace": "default",
    "daemonset": "agent",
    "daemonset_uid": AGENT.uid,
    "generation": 1,
    "expires_ms": 1,
}
POD: dict[str, Any] = {"pod": "a-1-0", "pod_uid": "uid-a-1-0"}
CREATED = CreatePod(**ABOUT, node_uid="x", pod="x", revision="x")


def mine(on: Node, name: str = "", **changes: Any) -> Pod:
    """Make a pod of the set."""
    return structs.replace(pod(AGENT, on, name or f"pod-{on.name}"), **changes)


def stray(on: Node) -> Pod:
    """Make a pod that nobody controls and that the set selects."""
    return mine(on, owner=None, labels={"app": "agent"})


def commands(world: World) -> list[Command]:
    """Return the commands of what the worker would decide; nothing is written."""
    world.read(world.worker)
    found = propose(world.worker.fleet, SET, "w")
    return [] if found is None else [item for item in found.others if isinstance(item, COMMANDS)]


def on_backends(count: int, *backends: str) -> list[Node]:
    """Make nodes alike on each of some backends."""
    return [
        node(f"{backend}-{number}", backend=backend)
        for backend in backends
        for number in range(count)
    ]


def tick(world: World, duration_ms: int) -> None:
    """Time passes, and the log says so."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=0))


# How many, and where


def test_each_backend_has_its_own_window() -> None:
    """L3, B1: creates that are pending on one backend take no other's room; what a decision has in all is limited."""
    nodes = on_backends(4, "a", "b")
    world = situation(AGENT, nodes, [], Limits(creates_max=3))
    for backend in ("a", "b"):
        for number in range(3):
            world.write(
                structs.replace(
                    outcome_of(commands(world)[0], "done"), id=f"{backend}{number}", backend=backend
                )
            )

    assert ["a-0", "a-1", "a-2"] == asked(world).creates
    assert ["b-0", "b-1", "b-2"] == asked(world).creates
    assert asked(world) == NOTHING
    world.carry_out()
    assert ["a-3"] == asked(world).creates


@pytest.mark.parametrize(("limit", "made"), [(1, 1), (2, 2), (4, 4), (9, 5)])
def test_creates_beside_old_pods_share_the_window(limit: int, made: int) -> None:
    """B1: one pod is made where there is none; what is left of the window is for those beside old ones."""
    nodes = alike(5)
    pods = [mine(on, revision="old") for on in nodes[1:]]
    wanted = structs.replace(AGENT, update_strategy=SURGE)

    found = asked(situation(wanted, nodes, pods, Limits(creates_max=limit)))

    assert [f"node-{number}" for number in range(made)] == found.creates


def test_what_is_left_of_the_creates_goes_to_the_next_backend() -> None:
    """B1: four creates, one of which the first backend needs."""
    world = situation(
        AGENT, [*on_backends(1, "a"), *on_backends(5, "b")], [], Limits(creates_max=4)
    )
    world.write(outcome_of(structs.replace(CREATED, backend="a"), "done"))
    for number in range(9):
        made = structs.replace(CREATED, id=f"b{number}", backend="b")
        world.write(outcome_of(made, "done"))

    assert ["a-0", "b-0", "b-1", "b-2"] == asked(world).creates


def test_more_pending_than_there_may_be() -> None:
    """B1: when a window has shrunk, or another worker allows itself more, nothing is added until it has room again."""
    nodes = on_backends(4, "a")
    world = situation(
        AGENT, nodes, [*pods_on(nodes[0], 2), *pods_on(nodes[1], 2)], Limits(changes_max=1)
    )
    for number in range(3):
        about = ABOUT | {"id": f"c{number}", "node": f"a-{2 * bool(number)}", "expires_ms": 10**9}
        world.write(CreatePod(**about, pod=f"c{number}", node_uid="x", revision="x"))
        world.write(DeletePod(**about | {"id": f"d{number}", "node": "a-1"}, **POD))

    assert commands(world) == []


def test_deletes_have_their_limit_on_each_backend() -> None:
    """L3, B1: changes that are pending on one backend take no other's room; what a decision has in all is limited."""
    nodes = on_backends(3, "a", "b")
    world = situation(
        AGENT, nodes, [pod for on in nodes for pod in pods_on(on, 2)], Limits(changes_max=2)
    )

    assert [("a-0-1", "Duplicate"), ("a-1-1", "Duplicate")] == asked(world).deletes
    assert [("b-0-1", "Duplicate"), ("b-1-1", "Duplicate")] == asked(world).deletes
    assert asked(world) == NOTHING
    world.carry_out()
    assert [("a-2-1", "Duplicate")] == asked(world).deletes


def test_what_is_left_of_a_limit_goes_to_the_next_backend() -> None:
    """B1: three changes, two of which the first backend needs."""
    nodes = [*on_backends(2, "a"), *on_backends(3, "b")]
    pods = [pod for on in nodes for pod in pods_on(on, 2)]

    found = asked(situation(AGENT, nodes, pods, Limits(changes_max=3)))

    assert ["a-0-1", "a-1-1", "b-0-1"] == [name for name, _ in found.deletes]


def test_stranded_pods_come_first_and_have_the_same_limit() -> None:
    """B1, L1: pods of nodes that are gone go too, also those of a backend that has no node left."""
    nodes = [node("kept"), *alike(2), node("only", backend="closed")]
    world = situation(AGENT, nodes, [*pods_on(nodes[0], 2), *(mine(on) for on in nodes[1:])])
    for on in nodes[1:]:
        world.remove_node(on.key)
    world.limits = Limits(changes_max=2)
    world.worker = world.new_worker("limited")

    assert [("pod-only", "NodeGone"), ("pod-node-0", "NodeGone")] == asked(world).deletes
    world.carry_out()
    world.carry_out()
    found = asked(world).deletes
    assert [("kept-1", "Duplicate"), ("pod-node-1", "NodeGone")] == found


def test_several_pods_of_one_node_count_each() -> None:
    """B1: the limit is on commands: of three pods of a node that is gone two go first."""
    world = situation(AGENT, [ONE], pods_on(ONE, 3), Limits(changes_max=2))
    world.remove_node(ONE.key)

    assert 2 == len(asked(world).deletes)


def test_adoptions_have_the_same_limit() -> None:
    """B1: orphans join in the order of their nodes, so many at a time, after what must go."""
    nodes = alike(4)
    pods = [*pods_on(nodes[3], 2), *(stray(on) for on in nodes[:3])]
    world = situation(AGENT, nodes, pods, Limits(changes_max=3))

    found = commands(world)

    assert [("adopt", "node-0"), ("adopt", "node-1"), ("delete", "node-3")] == [
        (item.verb, item.node) for item in found
    ]
    world.run()
    assert {None} != {running.owner for running in world.pods.values()} == {mine(ONE).owner}


def test_orphans_that_would_have_to_go_stay_as_they_are() -> None:
    """L2: nobody is adopted where no pod may stay, or while the node is being worked on."""
    evicts, later = node("evicts", "k:NoExecute"), node("later", "k:NoSchedule")
    world = situation(AGENT, [evicts, later], [stray(evicts), stray(later)])
    (adoption,) = commands(world)
    assert ("adopt", "later") == (adoption.verb, adoption.node)

    world.decide()
    assert commands(world) == []
    world.carry_out(works=False)
    tick(world, 999)
    assert commands(world) == []
    tick(world, 1)
    assert ["later"] == [item.node for item in commands(world)]


def test_a_node_that_rests_takes_nobodys_turn() -> None:
    """L3: an orphan joins though a node before its own has failed and is left alone."""
    world = situation(AGENT, [ONE], [], Limits(changes_max=1))
    world.decide()
    world.carry_out(works=False)
    later = node("node-1")
    world.put_node(later)
    world.put_pod(stray(later))

    assert [("adopt", "node-1")] == [(item.verb, item.node) for item in commands(world)]


def test_a_node_that_is_gone_rests_no_longer_than_it_must() -> None:
    """L1: the pods of one whose delete failed are asked for again, however late somebody looks."""
    world = situation(AGENT, [ONE], [mine(ONE)])
    world.remove_node(ONE.key)
    world.decide()
    world.carry_out(works=False)

    tick(world, 5_000)

    assert ["node-0"] == [item.node for item in commands(world)]


def test_a_decision_counts_surplus_and_stranded_nodes() -> None:
    """Nodes with pods too many, in the fleet and gone from it, are one number."""
    nodes = alike(3)
    world = situation(AGENT, nodes, [*pods_on(nodes[0], 2), *pods_on(nodes[1], 2), mine(nodes[2])])
    world.remove_node(nodes[2].key)
    world.read(world.worker)

    (proposal,) = world.worker.proposals(1)

    assert 3 == proposal.decision.counts.surplus


# Rollouts over several backends


def rolling_over(strategy: UpdateStrategy, limits: Limits) -> World:
    """Make a world of two backends whose nodes all have an old pod, and where a set's creates have gone well."""
    nodes = on_backends(3, "a", "b")
    wanted = structs.replace(AGENT, update_strategy=strategy)
    world = situation(wanted, nodes, [mine(on, revision="old") for on in nodes], limits)
    for backend in ("a", "b"):
        for number in range(10):
            made = structs.replace(
                CREATED, id=f"{backend}{number}", backend=backend, node=f"{backend}-{number}"
            )
            world.write(outcome_of(made, "done"))
    return world


@pytest.mark.parametrize("limit", [1, 2])
def test_a_rollout_goes_on_where_the_backend_answers(limit: int) -> None:
    """L3: while one backend gives no answer and has all the commands that it may have, the others are updated."""
    for strategy in (structs.replace(ROLLING, max_unavailable="100%"), SURGE):
        world = rolling_over(strategy, Limits(creates_max=limit, changes_max=limit))
        seen: list[str] = []
        for _ in range(12):
            seen += [
                item.backend
                for proposal in world.decide()
                for item in proposal.others
                if isinstance(item, COMMANDS)
            ]
            world.queue.sort(key=lambda command: command.backend, reverse=True)
            while world.queue and world.queue[0].backend == "b":
                world.carry_out()

        assert limit == seen.count("a")
        updated = {found.node for found in world.pods.values() if found.revision != "old"}
        assert {"b-0", "b-1", "b-2"} == updated
        assert 6 == len(world.pods)


def test_each_pod_is_asked_for_once() -> None:
    """S1: a command goes to its node's own backend, and to no other's turn."""
    nodes = ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    assert nodes == asked(rolling_over(SURGE, Limits())).creates

    world = rolling_over(structs.replace(ROLLING, max_unavailable="100%"), Limits())
    outdated = [(f"pod-{name}", "OutdatedRevision") for name in nodes]
    assert outdated == asked(world).deletes

    stranded = [(f"pod-{name}", "NodeGone") for name in nodes]
    world = rolling_over(UpdateStrategy(), Limits())
    for key in list(world.nodes):
        world.remove_node(key)
    assert stranded == asked(world).deletes


def test_a_rollout_leaves_a_backend_alone_that_has_too_much_to_do() -> None:
    """L3: one with more pending than it may have is as one that is full: the surge is for the other."""
    world = rolling_over(structs.replace(SURGE, max_surge=3), Limits(creates_max=2))
    assert ["a-0", "a-1"] == asked(world).creates
    world.write(outcome_of(structs.replace(CREATED, id="bad"), "failed"))  # a window of one

    assert ["b-0"] == asked(world).creates

    world = rolling_over(structs.replace(ROLLING, max_unavailable="100%"), Limits(changes_max=1))
    for number in range(2):
        about = ABOUT | {"id": f"d{number}", "node": f"a-{number}", "expires_ms": 10**9}
        world.write(DeletePod(**about, pod=f"pod-a-{number}", pod_uid=f"uid-pod-a-{number}"))

    assert [("pod-b-0", "OutdatedRevision")] == asked(world).deletes


def test_a_rollout_goes_on_where_creates_go_well() -> None:
    """L3: a backend whose creates fail gets one at a time; the rest of the surge is for the other."""
    world = rolling_over(structs.replace(SURGE, max_surge=3), Limits())
    world.write(outcome_of(structs.replace(CREATED, id="bad"), "failed"))

    assert [["a-0"], ["b-0", "b-1"], []] == [asked(world).creates for _ in range(3)]
