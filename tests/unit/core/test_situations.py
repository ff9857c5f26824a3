"""Which pods are made and which go, situation by situation (pkg/controller/daemon/daemon_controller_test.go)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod, Decision, outcome_of
from everynode.core.events import DaemonSetGone, NodeGone, Tick
from everynode.core.pacing import UNSEEN_MS_MAX, Limits
from everynode.core.state import Record
from everynode.core.values import Node, Pod, SetKey
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import (
    AGENT,
    NOTHING,
    SET,
    Asked,
    alike,
    asked,
    pods_on,
    situation,
)

ONE = node("node-0")
ZONED = {"nodeSelector": {"zone": "a"}}
TOLERANT = {"tolerations": [{"key": "k", "operator": "Exists"}]}


# Which nodes get a pod


@pytest.mark.parametrize(
    ("spec", "nodes", "wanted"),
    [
        pytest.param({}, alike(5), 5, id="plain nodes"),
        pytest.param({}, [], 0, id="no nodes"),
        pytest.param({}, [node("node-0", ready=False)], 1, id="a node that is not ready"),
        pytest.param({}, [node("node-0", unschedulable=True)], 1, id="a cordoned node"),
        pytest.param(
            {"containers": [{"resources": {"requests": {"memory": "75M"}}}]},
            [ONE],
            1,
            id="requests that may not fit",
        ),
        pytest.param(
            ZONED, [*alike(4), node("z", zone="a"), node("b", zone="b")], 1, id="selector"
        ),
        pytest.param(ZONED, alike(3, zone="b"), 0, id="a selector that no node has"),
        pytest.param({"nodeName": "node-0"}, alike(5), 1, id="a node name"),
        pytest.param({"nodeName": "node-9"}, alike(5), 0, id="a node name that is not there"),
        pytest.param(ZONED | {"nodeName": "node-0"}, alike(2, zone="a"), 1, id="name and selector"),
        pytest.param(ZONED | {"nodeName": "node-0"}, alike(2), 0, id="name and selector disagree"),
        pytest.param({}, alike(1, "k:NoSchedule"), 0, id="a taint"),
        pytest.param({}, alike(1, "k:NoExecute"), 0, id="a taint that evicts"),
        pytest.param({}, alike(1, "k:PreferNoSchedule"), 1, id="a taint that is a preference"),
        pytest.param(TOLERANT, alike(1, "k:NoSchedule"), 1, id="a tolerated taint"),
        pytest.param(TOLERANT, alike(1), 1, id="tolerations without taints"),
        pytest.param(
            {}, alike(1, "node.kubernetes.io/not-ready:NoExecute"), 1, id="the not-ready taint"
        ),
        pytest.param(
            {}, alike(1, "node.kubernetes.io/unreachable:NoExecute"), 1, id="the unreachable taint"
        ),
        pytest.param(
            {}, alike(1, "node.kubernetes.io/disk-pressure:NoSchedule"), 1, id="pressure on disks"
        ),
    ],
)
def test_which_nodes_get_a_pod(spec: dict[str, Any], nodes: list[Node], wanted: int) -> None:
    """S2, L1: the set's pods are made on its nodes, on no other, and then it is silent."""
    world = situation(daemonset(spec), nodes, [])

    found = asked(world)

    assert (wanted, []) == (len(found.creates), found.deletes)
    world.run()
    assert wanted == len(world.pods)
    assert asked(world) == NOTHING


# Which pods go


@pytest.mark.parametrize(
    ("spec", "nodes", "pods", "wanted"),
    [
        pytest.param({}, [ONE], pods_on(ONE, 1), NOTHING, id="its own pod"),
        pytest.param(
            {},
            alike(3),
            [*pods_on(alike(3)[0], 1), *pods_on(alike(3)[1], 2), *pods_on(alike(3)[2], 5)],
            Asked(
                [],
                [
                    ("node-1-1", "Duplicate"),
                    *((f"node-2-{age}", "Duplicate") for age in range(1, 5)),
                ],
            ),
            id="one, two and five pods on a node",
        ),
        pytest.param(
            ZONED,
            [ONE, node("node-1", zone="a")],
            [*pods_on(ONE, 2), *pods_on(node("node-1"), 1)],
            Asked([], [("node-0-0", "NodeSelectorMismatch"), ("node-0-1", "NodeSelectorMismatch")]),
            id="pods on a node that is not selected",
        ),
        pytest.param(
            ZONED,
            [ONE],
            pods_on(ONE, 1, phase="Failed"),
            Asked([], [("node-0-0", "NodeSelectorMismatch")]),
            id="a failed pod on a node that is not selected",
        ),
        pytest.param(
            {"nodeName": "node-1"},
            [ONE],
            pods_on(ONE, 1),
            Asked([], [("node-0-0", "NodeNameMismatch")]),
            id="a pod on a node of another name",
        ),
        pytest.param(
            {}, alike(1, "k:NoSchedule"), pods_on(ONE, 1), NOTHING, id="a taint that came later"
        ),
        pytest.param(
            {},
            alike(1, "k:NoExecute"),
            pods_on(ONE, 1),
            Asked([], [("node-0-0", "UntoleratedTaint")]),
            id="a taint that evicts",
        ),
        pytest.param(
            TOLERANT, alike(1, "k:NoExecute"), pods_on(ONE, 1), NOTHING, id="a tolerated taint"
        ),
        pytest.param(
            {},
            alike(1, "k:NoSchedule"),
            pods_on(ONE, 2),
            Asked([], [("node-0-1", "Duplicate")]),
            id="two pods where one may stay",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, phase="Failed"),
            Asked([], [("node-0-0", "PodFailed")]),
            id="a failed pod",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, phase="Succeeded"),
            Asked([], [("node-0-0", "PodSucceeded")]),
            id="a pod that has ended",
        ),
        pytest.param(
            {},
            [ONE],
            [*pods_on(ONE, 1, phase="Failed"), pod(AGENT, ONE, "ok", created_ms=9)],
            Asked([], [("node-0-0", "PodFailed")]),
            id="a failed pod beside a good one",
        ),
        pytest.param(
            {},
            [ONE],
            [pod(AGENT, ONE, "bad", phase="Failed"), *pods_on(ONE, 3)],
            Asked([], [("bad", "PodFailed"), ("node-0-1", "Duplicate"), ("node-0-2", "Duplicate")]),
            id="a failed pod and three good ones",
        ),
        pytest.param(
            {}, [ONE], pods_on(ONE, 1, phase="Unknown"), NOTHING, id="a pod nobody hears of"
        ),
        pytest.param({}, [ONE], pods_on(ONE, 1, deleting=True), NOTHING, id="a pod on its way out"),
        pytest.param(
            {},
            [ONE],
            [pod(AGENT, ONE, "old", deleting=True), *pods_on(ONE, 1)],
            NOTHING,
            id="a pod on its way out beside its successor",
        ),
        pytest.param(
            {},
            [ONE],
            [pod(AGENT, ONE, "old", deleting=True), *pods_on(ONE, 2)],
            Asked([], [("node-0-1", "Duplicate")]),
            id="a pod on its way out beside two others",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, phase="Failed", deleting=True),
            Asked(["node-0"], []),
            id="a pod that has ended and is on its way out",
        ),
        pytest.param(
            {},
            [node("node-0", uid="new")],
            pods_on(ONE, 1),
            Asked(["node-0"], [("node-0-0", "NodeGone")]),
            id="a pod of a node that was made anew under its name",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, node_uid=""),
            NOTHING,
            id="a pod that knows no node's identity",
        ),
        pytest.param(
            {},
            [],
            pods_on(ONE, 2),
            NOTHING,
            id="pods of a node that was never heard of",
        ),
        pytest.param(
            {}, [], pods_on(ONE, 1, deleting=True), NOTHING, id="one that leaves with its node"
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, daemonset(uid="earlier")),
            Asked(["node-0"], [("node-0-0", "OwnerReplaced")]),
            id="a pod of an earlier set of the same name",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 1, daemonset(uid="earlier"), deleting=True),
            Asked(["node-0"], []),
            id="one of an earlier set that is on its way out",
        ),
        pytest.param(
            {},
            [ONE],
            pods_on(ONE, 3, daemonset(name="other")),
            Asked(["node-0"], []),
            id="pods of another set",
        ),
    ],
)
def test_which_pods_go(
    spec: dict[str, Any], nodes: list[Node], pods: list[Pod], wanted: Asked
) -> None:
    """S1, L1, L2: surplus pods are deleted, each with its reason; afterwards it is silent."""
    world = situation(daemonset(spec), nodes, pods)

    assert wanted == asked(world)

    world.run()
    assert asked(world) == NOTHING


def test_the_oldest_pod_stays() -> None:
    """S1: of duplicates a ready one stays, the oldest by creation and then by name; the revision does not count."""
    world = situation(
        AGENT,
        [ONE],
        [
            pod(AGENT, ONE, "young", created_ms=9),
            pod(AGENT, ONE, "a", created_ms=1, ready=False, phase="Pending"),
            pod(AGENT, ONE, "b", created_ms=3, revision="old"),
            pod(AGENT, ONE, "c", created_ms=3),
        ],
    )

    assert asked(world).deletes == [(name, "Duplicate") for name in ("a", "c", "young")]


def test_a_label_that_goes_takes_the_pod_along() -> None:
    """L1: affinity counts for running pods too: a node that does not match any more loses its pod."""
    world = situation(daemonset(ZONED), [node("node-0", zone="a")], [])
    world.run()
    (running,) = world.pods.values()

    world.put_node(node("node-0", zone="b"))

    assert asked(world) == Asked([], [(running.name, "NodeSelectorMismatch")])
    world.run()
    world.put_node(node("node-0", zone="a"))
    assert asked(world) == Asked(["node-0"], [])


def test_a_running_pod_on_its_way_out_blocks_its_successor() -> None:
    """S1: without a surge the next pod is made when the last one has gone."""
    world = situation(AGENT, [ONE], pods_on(ONE, 1, deleting=True))
    assert asked(world) == NOTHING

    world.remove_pod(next(iter(world.pods)))

    assert asked(world) == Asked(["node-0"], [])


def test_a_failed_pod_is_replaced_when_it_is_gone() -> None:
    """S1: the delete comes first, the create in a later decision, under another name."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (first,) = world.pods.values()
    world.change_pod(first.key, phase="Failed", ready=False)

    assert asked(world) == Asked([], [(first.name, "PodFailed")])
    world.carry_out()
    assert asked(world) == Asked(["node-0"], [])
    assert [command.pod for command in world.queue] != [first.name]


def test_pods_that_linger_never_lend_their_name() -> None:
    """S1, L1: pods that have ended but do not leave, all of one age, do not keep their successor from being made."""
    world = situation(AGENT, [ONE], [])
    for round_number in range(12):
        assert asked(world).creates == ["node-0"]
        world.carry_out()
        assert len(world.pods) == round_number + 1
        (live,) = (found for found in world.pods.values() if found.live)
        world.put_pod(structs.replace(live, phase="Failed", deleting=True, created_ms=7))


def test_pods_of_a_vanished_node_go() -> None:
    """L1: when a node has left, the pods that it had are deleted."""
    world = situation(AGENT, alike(2), [])
    world.run()
    world.remove_node(ONE.key)

    assert [reason for _, reason in asked(world).deletes] == ["NodeGone"]

    world.run()
    assert {running.node for running in world.pods.values()} == {"node-1"}


def test_a_node_is_gone_when_it_is_said_to_be() -> None:
    """Pods of a node that nobody has heard of stay until a tombstone says that it has left, whichever comes first."""
    world = situation(AGENT, [], pods_on(ONE, 2))
    assert asked(world) == NOTHING

    world.write(NodeGone(backend=ONE.backend, name=ONE.name, uid=ONE.uid))
    assert asked(world).deletes == [("node-0-0", "NodeGone"), ("node-0-1", "NodeGone")]

    fresh = world.new_worker("fresh")
    world.queue.clear()
    world.put_node(ONE)
    world.read(fresh)
    assert world.worker.fleet.index.departed == {ONE.key: None}
    assert fresh.fleet.index.departed == {}


def test_a_vanished_node_that_is_being_worked_on_is_left_alone() -> None:
    """L2: pods of a node that is not there are asked for once, and again only after a failure has cooled."""
    world = situation(AGENT, [ONE], pods_on(ONE, 1))
    world.remove_node(ONE.key)
    assert asked(world).deletes == [("node-0-0", "NodeGone")]
    assert asked(world) == NOTHING

    world.carry_out(works=False)
    assert asked(world) == NOTHING

    world.now_ms += 1_000
    world.write(Tick(shard=0, due_ms=0))
    assert asked(world).deletes == [("node-0-0", "NodeGone")]


def test_a_backend_that_gives_no_answer_holds_up_only_its_own() -> None:
    """L3, B1: limits count for each backend: creates and deletes that nobody carries out take no other's room."""
    limits = Limits(creates_max=2, changes_max=2)
    silent = [node(f"a-{number}", backend="silent") for number in range(3)]
    world = situation(AGENT, [*silent, *alike(3)], [], limits)
    for _ in range(12):
        world.decide()
        world.queue.sort(key=lambda command: command.backend)  # east before silent
        while world.queue and world.queue[0].backend == "east":
            world.carry_out()
    assert {running.node for running in world.pods.values()} == {"node-0", "node-1", "node-2"}

    world.delete(SET)
    for _ in range(12):
        world.decide()
        world.queue.sort(key=lambda command: command.backend)
        while world.queue and world.queue[0].backend == "east":
            world.carry_out()
    assert world.pods == {}


def test_a_decision_has_no_more_commands_than_its_limits() -> None:
    """B1: with several backends a decision still fits into one batch."""
    limits = Limits(creates_max=2, changes_max=2)
    nodes = [node(f"n-{number}", backend=each) for each in ("east", "west") for number in range(4)]
    world = situation(AGENT, nodes, [], limits)

    assert len(asked(world).creates) == 2
    world.run()
    world.delete(SET)

    assert len(asked(world).deletes) == 2
    world.run()
    assert world.pods == {}


def test_what_is_done_and_never_seen_is_looked_at_afresh() -> None:
    """L1: a create that is said to be done and whose pod nobody observes holds a place for half a minute."""
    world = situation(AGENT, [ONE], [])
    (first,) = world.decide()
    command = first.others[-1]
    assert isinstance(command, CreatePod)
    world.queue.clear()
    world.write(outcome_of(command, "done"))
    world.now_ms += UNSEEN_MS_MAX - 1
    world.write(Tick(shard=0, due_ms=0))
    assert asked(world) == NOTHING

    due = world.worker.due()
    assert due is not None
    assert due.time_ms == world.now_ms + 1
    world.now_ms += 1
    world.write(Tick(shard=0, due_ms=0))
    assert asked(world) == NOTHING  # the node rests, as after any failure

    world.now_ms += 1_000
    world.write(Tick(shard=0, due_ms=0))
    assert asked(world).creates == [ONE.name]
    (again,) = world.queue
    assert isinstance(again, CreatePod)
    assert (again.pod, again.attempt) == (command.pod, 1)


def test_what_is_seen_after_it_is_done_is_not_due() -> None:
    """L2: nothing is left to wait for when the pod is observed after the outcome."""
    world = situation(AGENT, [ONE], [])
    world.decide()
    world.carry_out()
    world.decide()

    assert world.worker.due() is None


def test_what_was_due_before_it_was_heard_of_is_done_at_once() -> None:
    """S4: an outcome that is read late counts from when the log took it in, as if it had been read in time."""
    world = situation(AGENT, [ONE], [])
    (first,) = world.decide()
    command = first.others[-1]
    assert isinstance(command, CreatePod)
    fleet = world.worker.fleet
    heard_ms = fleet.now_ms
    fleet.fold(Record(900, heard_ms + UNSEEN_MS_MAX, Tick(shard=0, due_ms=0)))
    assert fleet.sets[SET].pending

    fleet.fold(Record(899, heard_ms, outcome_of(command, "done")))

    assert fleet.sets[SET].pending == {}


def test_a_decision_cannot_block_a_set_for_ever() -> None:
    """S8: a decision that claims more than came with it blocks its set until the log has been read to its end."""
    world = situation(AGENT, alike(1), [])
    world.apply(structs.replace(AGENT, name="other", uid="uid-other"))
    world.run()
    world.remove_pod(min(world.pods))
    (first,) = [
        r.message
        for r in world.log
        if isinstance(r.message, Decision) and r.message.daemonset == SET.name
    ][-1:]
    assert isinstance(first, Decision)
    world.write(structs.replace(first, size=900))
    world.read(world.worker)
    assert world.worker.proposals(10) == []

    world.worker.caught_up(len(world.log))

    assert [SET] == [proposal.key for proposal in world.worker.proposals(10)]


def test_a_deleted_set_is_known_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """L1, B1: a pod that turns up long after its set was deleted goes too, for so many sets as there is room for."""
    monkeypatch.setattr("everynode.core.state.DELETED_SETS_MAX", 1)
    late = pod(AGENT, ONE)
    world = situation(AGENT, [ONE], [])
    world.delete(SET)
    world.run()
    world.now_ms += 2 * Limits().horizon_ms
    world.write(Tick(shard=0, due_ms=0))
    world.put_pod(late)

    assert [("SetDeleted")] == [reason for _, reason in asked(world).deletes]

    world.run()
    world.write(DaemonSetGone(namespace="default", name="other", uid="uid-other"))
    world.now_ms += 2 * Limits().horizon_ms
    world.write(Tick(shard=0, due_ms=0))
    world.read(world.worker)

    assert list(world.worker.fleet.sets) == [SetKey("default", "other")]
