"""The commands of a decision: which sets get any, what each says, and how many there are on each backend."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    ReleasePod,
)
from everynode.core.decision import Proposal, propose, unwanted
from everynode.core.events import Tick
from everynode.core.identity import command_id, pod_name
from everynode.core.pacing import Limits
from everynode.core.values import Node, Owner, Pod, Selector, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, NOTHING, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
ROLLING = UpdateStrategy(type="RollingUpdate")
SURGE = structs.replace(ROLLING, max_unavailable=0, max_surge="100%")
LABELS = {"app": "agent"}
EARLIER = Owner(name="agent", uid="earlier")


def mine(on: Node, name: str = "", **changes: Any) -> Pod:
    """Make a pod of the set."""
    return structs.replace(pod(AGENT, on, name or f"pod-{on.name}"), **changes)


def stray(on: Node, name: str = "", **changes: Any) -> Pod:
    """Make a pod that nobody controls and that the set selects."""
    return structs.replace(mine(on, name), owner=None, labels=LABELS, **changes)


def proposed(world: World) -> Proposal | None:
    """Let the worker read and say what it would decide; nothing is written."""
    world.read(world.worker)
    return propose(world.worker.fleet, SET, "w")


def commands(world: World) -> list[Command]:
    """Return the commands of what the worker would decide."""
    found = proposed(world)
    return [] if found is None else [item for item in found.others if isinstance(item, COMMANDS)]


def tick(world: World, duration_ms: int) -> None:
    """Time passes, and the log says so."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=0))


# Sets that are left alone


@pytest.mark.parametrize("changes", [{"deleting": True}, {"selector": Selector()}])
def test_a_set_that_is_left_alone(changes: dict[str, Any]) -> None:
    """S1: whatever it has, it gets nothing and loses nothing."""
    nodes = alike(3)
    pods = [*pods_on(nodes[0], 2), stray(nodes[1])]

    assert asked(situation(structs.replace(AGENT, **changes), nodes, pods)) == NOTHING


def test_a_decision_that_is_still_coming_in_blocks_the_next() -> None:
    """S6: between a decision and the last of its commands nothing is proposed, after it the rest is."""
    world = situation(AGENT, alike(2), [])
    world.read(world.worker)
    (proposal,) = world.worker.proposals(1)
    world.write(proposal.decision)
    *most, last = proposal.others
    for message in most:
        assert proposed(world) is None
        world.write(message)
    assert proposed(world) is None

    world.write(last)

    assert commands(world) == []
    world.put_node(node("node-9"))
    assert ["node-9"] == [item.node for item in commands(world)]


# What commands say


def test_what_a_create_says() -> None:
    """S1, S2: for which set, node and revision, under a name that follows from them, and until when."""
    wanted = structs.replace(AGENT, generation=7)
    world = situation(wanted, [ONE], [])
    revision = mine(ONE).revision
    name = pod_name("agent", AGENT.uid, ONE.uid, revision, "", 0)

    assert commands(world) == [
        CreatePod(
            id=command_id(AGENT.uid, 7, "east/node-0", "create", name, 0),
            backend="east",
            node="node-0",
            node_uid=ONE.uid,
            namespace="default",
            daemonset="agent",
            daemonset_uid=AGENT.uid,
            generation=7,
            pod=name,
            revision=revision,
            expires_ms=world.now_ms + Limits().pending_ms,
            reason="NodeHasNoPod",
        )
    ]


@pytest.mark.parametrize(
    ("running", "verb", "reason", "owner_uid"),
    [
        pytest.param(mine(ONE, labels={}), ReleasePod, "SelectorMismatch", AGENT.uid),
        pytest.param(mine(ONE, owner=EARLIER), DeletePod, "OwnerReplaced", "earlier"),
        pytest.param(mine(ONE, phase="Failed"), DeletePod, "PodFailed", AGENT.uid),
        pytest.param(stray(ONE), AdoptPod, "SelectorMatches", AGENT.uid),
    ],
)
def test_what_other_commands_say(
    running: Pod, verb: type[DeletePod | ReleasePod | AdoptPod], reason: str, owner_uid: str
) -> None:
    """S1: about which very pod, for the set that controls it, or is to."""
    world = situation(structs.replace(AGENT, generation=7), [ONE], [running])
    found = [item for item in commands(world) if not isinstance(item, CreatePod)]

    assert found == [
        verb(
            id=command_id(
                owner_uid, 7, "east/node-0", f"{verb.verb} {running.uid}", running.name, 0
            ),
            backend="east",
            node="node-0",
            node_uid=ONE.uid,
            namespace="default",
            daemonset="agent",
            daemonset_uid=owner_uid,
            generation=7,
            pod=running.name,
            pod_uid=running.uid,
            expires_ms=world.now_ms + Limits().pending_ms,
            reason=reason,
        )
    ]


@pytest.mark.parametrize("pods", [[], [mine(ONE, phase="Failed")], [stray(ONE)]])
def test_a_command_that_failed_is_asked_for_again_after_a_while(pods: list[Pod]) -> None:
    """S4, L1: as a new attempt, whatever it was, and not before its node has cooled."""
    world = situation(AGENT, [ONE], pods)
    (first,) = commands(world)
    world.decide()
    world.carry_out(works=False)
    tick(world, 999)
    assert commands(world) == []

    tick(world, 1)

    (again,) = commands(world)
    assert (0, 1) == (first.attempt, again.attempt)
    assert (first.pod, first.reason) == (again.pod, again.reason)
    assert first.id != again.id


def test_a_create_says_how_many_ended_before() -> None:
    """L2: the pod carries on the row of those that ended on its node."""
    ended = mine(ONE, phase="Failed", generation=1, failures=3, deleting=True)

    (create,) = commands(situation(AGENT, [ONE], [ended]))

    assert isinstance(create, CreatePod)
    assert create.failures == 4


def test_a_pod_beside_another_has_another_place() -> None:
    """S1: beside a pod that runs, in a surge, the next one takes the second place; without a surge the only one."""
    surging = structs.replace(AGENT, update_strategy=SURGE)
    for wanted, pods, slot in (
        (surging, [mine(ONE, revision="old")], 1),
        (surging, [mine(ONE, deleting=True)], 1),
        (surging, [], 0),
        (AGENT, [mine(ONE, phase="Failed", deleting=True)], 0),
        (surging, [mine(node("node-1"))], 0),
    ):
        nodes = [ONE, *([node("node-1")] if slot == 0 else [])]
        found = commands(situation(wanted, nodes, pods))
        first = next(item for item in found if item.node == ONE.name)

        assert isinstance(first, CreatePod)
        replaces = ",".join(each.uid for each in pods if each.node == ONE.name)
        revision = mine(ONE).revision
        name = pod_name("agent", AGENT.uid, ONE.uid, revision, replaces, slot)
        assert (slot, name) == (first.slot, first.pod)


def test_reasons_of_creates() -> None:
    """A pod where there is none, and one beside an old one, are made for different reasons."""
    world = situation(
        structs.replace(AGENT, update_strategy=SURGE), alike(2), [mine(ONE, revision="old")]
    )

    assert {"node-0": "OutdatedRevision", "node-1": "NodeHasNoPod"} == {
        item.node: item.reason for item in commands(world)
    }


def test_a_pod_that_was_let_go_of_keeps_its_name() -> None:
    """S1, L1: long after a pod was released, its successor is made under another name, for each that is in the way."""
    world = situation(AGENT, [ONE], [])
    names = set()
    for _ in range(3):
        world.run()
        (made,) = (found for found in world.pods.values() if found.owner)
        names.add(made.name)
        world.label_pod(made.key, {"app": "debug"})
        world.run()
        (successor,) = (found for found in world.pods.values() if found.owner)
        world.remove_pod(successor.key)
        tick(world, world.limits.horizon_ms + 1)

    assert len(names) == 3
    world.run()
    assert [True] == [bool(found.owner) for found in world.pods.values() if found.labels is None]


def test_commands_are_sorted() -> None:
    """A decision lists its commands by backend, node and pod: the same decision is the same message."""
    nodes = [node("b", backend="x"), node("a", backend="x"), node("c", backend="a")]
    pods = [
        *(mine(nodes[1], name, phase="Failed") for name in ("p2", "p1")),
        *(mine(nodes[0], name, owner=EARLIER) for name in ("zz", "a")),
    ]
    found = [
        (item.backend, item.node, item.pod) for item in commands(situation(AGENT, nodes, pods))
    ]

    assert sorted(found) == found
    assert len(found) == 6


# Pods that must go


def test_pods_go_from_a_node_where_none_may_stay() -> None:
    """S1, L1: all of them, each once; those of others for what they are, those on their way out not again."""
    evicts = node("node-0", "k:NoExecute")
    pods = [
        mine(ONE, "a"),
        mine(ONE, "b"),
        mine(ONE, "failed", phase="Failed"),
        mine(ONE, "leaving", deleting=True),
        mine(ONE, "others", owner=EARLIER),
        mine(ONE, "relabelled", labels={}),
    ]
    world = situation(AGENT, [evicts], pods)

    assert {
        "a": ("delete", "UntoleratedTaint"),
        "b": ("delete", "UntoleratedTaint"),
        "failed": ("delete", "UntoleratedTaint"),
        "others": ("delete", "OwnerReplaced"),
        "relabelled": ("release", "SelectorMismatch"),
    } == {item.pod: (item.verb, item.reason) for item in commands(world)}


def test_a_pod_goes_for_the_first_reason() -> None:
    """L1: of several things that speak against a node the first is what people are told."""
    zoned = structs.replace(AGENT, template=daemonset({"nodeSelector": {"zone": "a"}}).template)
    evicts = node("node-0", "k:NoExecute")

    (delete,) = commands(situation(zoned, [evicts], [mine(ONE)]))

    assert delete.reason == "NodeSelectorMismatch"


def test_unwanted_pods_of_nodes_that_are_not_there() -> None:
    """L1: where a node is only unknown, what would go because of the node stays, what is another's goes."""
    world = situation(AGENT, [], [mine(ONE, "a"), mine(ONE, "b", owner=EARLIER)])
    world.read(world.worker)
    fleet = world.worker.fleet

    def named() -> dict[str, str]:
        found = unwanted(fleet, fleet.refreshed(SET), ONE.key)
        return {item.pod.name: item.reason for item in found}

    assert {"b": "OwnerReplaced"} == named()
    world.put_node(ONE)
    world.remove_node(ONE.key)
    world.read(world.worker)
    assert {"a": "NodeGone", "b": "OwnerReplaced"} == named()


def test_an_old_pod_is_taken_down_alone() -> None:
    """S3: a rollout deletes the old pod, not one that is on its way out already."""
    wanted = structs.replace(AGENT, update_strategy=ROLLING)
    pods = [mine(ONE, "old", revision="old"), mine(ONE, "leaving", revision="old", deleting=True)]

    assert asked(situation(wanted, [ONE], pods)).deletes == [("old", "OutdatedRevision")]
