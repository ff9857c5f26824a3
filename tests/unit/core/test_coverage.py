"""What is said of a node, in a set's bitmaps; that it is brought up to date, and only where something happened."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from pyroaring import BitMap

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    ReleasePod,
    outcome_of,
)
from everynode.core.coverage import Coverage
from everynode.core.events import NodeGone, PodGone, Tick
from everynode.core.pacing import UNSEEN_MS_MAX
from everynode.core.setstate import SetState
from everynode.core.values import DaemonSet, Node, Owner, Pod, Selector, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod, taint
from everynode.testing.situations import AGENT, SET, alike, situation
from everynode.testing.world import World

ONE = node("node-0")
ROLLING = UpdateStrategy(type="RollingUpdate")
SURGING = structs.replace(
    AGENT, update_strategy=structs.replace(ROLLING, max_unavailable=0, max_surge=1)
)
SLOW = structs.replace(AGENT, min_ready_seconds=60)
CANARIES = structs.replace(
    AGENT, update_strategy=structs.replace(ROLLING, selector=Selector(match_labels={"c": "y"}))
)
DOWN: dict[str, Any] = {"ready": False, "ready_since_ms": 0}
ENDED: dict[str, Any] = DOWN | {"phase": "Failed", "generation": 1, "failures": 9}
RUNS = "present obstructed occupied"
SERVES = f"{RUNS} ready available serving"
DONE = f"{SERVES} updated current replaced renewing"


def mine(name: str = "a", on: Node = ONE, **changes: Any) -> Pod:
    """Make a pod of the set."""
    return structs.replace(pod(AGENT, on, name), **({"created_ms": 900} | changes))


def old(name: str = "old", **changes: Any) -> Pod:
    """Make a pod of another revision."""
    return mine(name, **({"revision": "old"} | changes))


ABOUT: dict[str, Any] = {
    "id": "id",
    "backend": ONE.backend,
    "node": ONE.name,
    "node_uid": ONE.uid,
    "namespace": SET.namespace,
    "daemonset": SET.name,
    "daemonset_uid": AGENT.uid,
    "generation": 1,
    "expires_ms": 10**9,
}
CREATE = CreatePod(**ABOUT, pod="new", revision=mine().revision)
DELETE = DeletePod(**ABOUT, pod="a", pod_uid="uid-a")


def coverage_of(world: World) -> Coverage:
    """Let the worker read, and return the set's bitmaps."""
    world.read(world.worker)
    return world.worker.fleet.refreshed(SET).coverage


BITMAPS = tuple(name for name, value in vars(Coverage()).items() if isinstance(value, BitMap))


def said(world: World, on: Node = ONE) -> set[str]:
    """Name the bitmaps that a node is in, but for what is so with any node."""
    found = coverage_of(world)
    node_id = world.worker.fleet.index.ids[on.key]
    return {name for name in BITMAPS if node_id in getattr(found, name)} - PLAIN


PLAIN = {"eligible", "tolerated", "chosen"}


@pytest.mark.parametrize(
    ("wanted", "pods", "facts"),
    [
        pytest.param(AGENT, [], "missing", id="nothing"),
        pytest.param(AGENT, [mine()], DONE, id="a pod of the wanted revision"),
        pytest.param(AGENT, [mine(**DOWN)], f"{RUNS} updated current", id="one that is down"),
        pytest.param(SLOW, [mine()], f"{RUNS} ready updated current renewing", id="not yet"),
        pytest.param(AGENT, [old()], f"{SERVES} outdated", id="an old pod"),
        pytest.param(AGENT, [old(**DOWN)], f"{RUNS} outdated", id="an old pod that is down"),
        pytest.param(
            AGENT, [mine(**DOWN, deleting=True)], "present obstructed updated terminating"
        ),
        pytest.param(
            AGENT, [mine(deleting=True)], "present obstructed ready available updated terminating"
        ),
        pytest.param(
            AGENT,
            [mine(**ENDED, deleting=True)],
            "missing failing",
            id="one that has ended and is on its way out is none",
        ),
        pytest.param(
            AGENT,
            [mine(**ENDED)],
            "present obstructed updated ended failing",
            id="one that has ended and rests",
        ),
        pytest.param(
            AGENT,
            [mine(**(ENDED | {"failures": 0}))],
            "present obstructed updated ended failing excess surplus",
            id="one that has ended and goes",
        ),
        pytest.param(AGENT, [mine(), mine("b")], f"{DONE} excess surplus", id="two"),
        pytest.param(
            AGENT, [mine(), old()], f"{DONE} outdated excess surplus", id="an old and a new one"
        ),
        pytest.param(
            SURGING,
            [mine(**DOWN), old()],
            f"{SERVES} outdated current",
            id="the old one counts while the new one is down",
        ),
        pytest.param(
            SURGING,
            [mine(), old(**DOWN)],
            f"{DONE} outdated excess surplus",
            id="a surge that is done",
        ),
        pytest.param(
            SURGING,
            [mine(deleting=True, **DOWN)],
            "present updated terminating missing",
            id="a surge goes on beside what leaves",
        ),
        pytest.param(
            AGENT,
            [mine(**ENDED), old()],
            f"{SERVES} outdated ended failing",
            id="an old one and a new one that has ended",
        ),
        pytest.param(
            AGENT,
            [mine(owner=Owner(name="agent", uid="other"))],
            "excess surplus missing",
            id="a namesake's pod",
        ),
        pytest.param(
            AGENT,
            [mine(owner=None, labels={"app": "agent"})],
            "obstructed adoptable",
            id="an orphan",
        ),
        pytest.param(
            AGENT,
            [mine(generation=1, failures=3, created_ms=100_000)],
            f"{DONE} failing",
            id="one after others that ended, which has not lasted yet",
        ),
    ],
)
def test_what_is_said_of_a_node(wanted: DaemonSet, pods: list[Pod], facts: str) -> None:
    """S1, S3: each bitmap has the nodes that it says, by the pods that are there."""
    assert set(facts.split()) == said(situation(wanted, [ONE], pods))


@pytest.mark.parametrize(
    ("pods", "command", "facts"),
    [
        pytest.param([], CREATE, "busy coming", id="a create"),
        pytest.param(
            [], structs.replace(CREATE, revision="old"), "busy", id="a create of an old revision"
        ),
        pytest.param([], structs.replace(CREATE, revision="0"), "busy", id="of another one"),
        pytest.param([mine()], DELETE, f"{DONE} busy leaving", id="a delete"),
        pytest.param(
            [mine(), mine("b")], DELETE, f"{DONE} busy leaving excess", id="a delete of a surplus"
        ),
        pytest.param([mine()], ReleasePod(**ABOUT, pod="a", pod_uid="uid-a"), f"{DONE} busy"),
        pytest.param(
            [mine(owner=None, labels={"app": "agent"})],
            AdoptPod(**ABOUT, pod="a", pod_uid="uid-a"),
            "busy obstructed adoptable",
            id="an adoption",
        ),
    ],
)
def test_what_is_said_of_a_node_with_a_pending_command(
    pods: list[Pod], command: Command, facts: str
) -> None:
    """S1: a node that is being worked on lacks nothing and has nothing too much, until that has come about."""
    world = situation(AGENT, [ONE], pods)
    world.write(command)

    assert set(facts.split()) == said(world)


def test_what_is_said_of_a_node_after_a_failure() -> None:
    """L1, L3: it is left alone for its time, and counts as troubled until something works there."""
    world = situation(AGENT, [ONE], [])
    world.write(CREATE)
    world.write(outcome_of(CREATE, "failed"))
    assert {"cooling", "troubled"} == said(world)

    world.now_ms += 999
    world.write(Tick(shard=0, due_ms=0))
    assert {"cooling", "troubled"} == said(world)
    world.now_ms += 1
    world.write(Tick(shard=0, due_ms=0))
    assert {"missing", "troubled"} == said(world)

    world.put_pod(mine("new"))
    assert set(DONE.split()) == said(world)


def test_what_is_said_of_a_node_whose_pod_does_not_go() -> None:
    """S3: a delete that is done and not seen keeps the node leaving; one that failed does not."""
    for result, left in (("done", {"leaving"}), ("failed", set())):
        world = situation(AGENT, [ONE], [mine(), mine("b")])
        world.write(DELETE)
        world.write(
            outcome_of(DELETE, "done") if result == "done" else outcome_of(DELETE, "failed")
        )
        world.now_ms += UNSEEN_MS_MAX
        world.write(Tick(shard=0, due_ms=0))

        assert left == said(world) & {"leaving"}


def test_a_create_that_is_done_and_not_seen_is_no_leaving() -> None:
    """S3: only a delete takes a place in the budget of what goes."""
    world = situation(AGENT, [ONE], [])
    world.write(CREATE)
    world.write(outcome_of(CREATE, "done"))
    world.now_ms += UNSEEN_MS_MAX
    world.write(Tick(shard=0, due_ms=0))

    assert {"cooling", "troubled"} == said(world)


@pytest.mark.parametrize(
    ("since_ms", "pods", "blamed"),
    [
        pytest.param(0, [mine(created_ms=0)], False, id="a node that is ready"),
        pytest.param(500, [mine(created_ms=500)], True, id="a new pod was made when it was lost"),
        pytest.param(500, [mine(created_ms=499)], True, id="or before"),
        pytest.param(500, [mine(created_ms=501)], False, id="or later"),
        pytest.param(500, [old(created_ms=499)], False, id="an old pod"),
        pytest.param(500, [old(created_ms=499, revision="0")], False, id="another old pod"),
        pytest.param(
            500,
            [old(created_ms=1, deleting=True, deleting_since_ms=500)],
            True,
            id="an old pod was on its way out",
        ),
        pytest.param(
            500, [mine(created_ms=1, deleting=True, deleting_since_ms=501)], False, id="or later on"
        ),
        pytest.param(
            500, [old(deleting=True, deleting_since_ms=0)], True, id="since nobody knows when"
        ),
        pytest.param(500, [old(created_ms=1), mine(created_ms=400)], True, id="one of two"),
        pytest.param(500, [], False, id="nothing"),
    ],
)
def test_who_is_to_blame_for_a_lost_node(since_ms: int, pods: list[Pod], blamed: bool) -> None:
    """S3: a node that was lost after the set began to change something there may be lost because of that."""
    lost = structs.replace(ONE, ready=not since_ms, unready_since_ms=since_ms)

    assert blamed == ("blamed" in said(situation(SURGING, [lost], pods)))


# Where a pod may be, and what is missing or too much there


@pytest.mark.parametrize(
    ("taints", "pods", "facts"),
    [
        pytest.param(("k:NoSchedule",), [], "tolerated", id="nothing is lacking"),
        pytest.param(("k:NoSchedule",), [mine()], f"tolerated {DONE}", id="what is there may stay"),
        pytest.param(
            ("k:NoSchedule",),
            [mine(), mine("b")],
            f"tolerated {DONE} excess surplus",
            id="but not two",
        ),
        pytest.param(("k:NoExecute",), [], "", id="nothing to take away"),
        pytest.param(("k:NoExecute",), [mine()], f"{DONE} surplus", id="one to take away"),
        pytest.param(
            ("k:NoExecute",),
            [mine(**ENDED)],
            "present obstructed updated ended failing surplus",
            id="one that has ended goes at once",
        ),
        pytest.param(
            ("k:NoExecute",),
            [mine(), mine("b", **ENDED)],
            f"{DONE} ended failing surplus",
            id="and so does one beside it",
        ),
        pytest.param(
            ("k:NoExecute",),
            [mine(deleting=True, **DOWN)],
            "present obstructed updated terminating",
        ),
    ],
)
def test_nodes_that_are_no_place_for_a_pod(
    taints: tuple[str, ...], pods: list[Pod], facts: str
) -> None:
    """L1: where a pod may not be made none is missing; where it may not stay all are too many."""
    world = situation(AGENT, [node(ONE.name, *taints)], pods)
    found = coverage_of(world)
    node_id = world.worker.fleet.index.ids[ONE.key]

    place = {name for name in ("eligible", "tolerated") if node_id in getattr(found, name)}
    assert set(facts.split()) == said(world) | place


@pytest.mark.parametrize("afresh", [True, False])
def test_a_node_that_changes_is_looked_at_again(afresh: bool) -> None:
    """L1, S4: what it may have and is chosen for follows its labels and taints, as for a worker that starts then."""
    world = situation(CANARIES, [ONE, node("node-1", c="y")], [mine()])
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"labels": {"c": "y"}}, "eligible tolerated chosen"),
        ({"taints": (taint("k:NoExecute"),)}, "surplus"),
        ({"taints": (taint("k:NoSchedule"),), "labels": {"c": "y"}}, "tolerated chosen"),
        ({}, "eligible tolerated"),
    )
    for changed, facts in changes:
        coverage_of(world)
        world.put_node(structs.replace(ONE, **changed))
        if afresh:
            world.worker = world.new_worker("fresh")
        found = coverage_of(world)
        node_id = world.worker.fleet.index.ids[ONE.key]

        place = {name for name in PLAIN if node_id in getattr(found, name)}
        assert set(f"{DONE} {facts}".split()) == place | said(world)


@pytest.mark.parametrize("changed", [True, False])
def test_a_node_that_takes_anothers_place_inherits_nothing(changed: bool) -> None:
    """S1: whatever was said of a node that left is not said of the next, which gets its id, though the set changed."""
    lost = structs.replace(ONE, ready=False, unready_since_ms=950)
    world = situation(CANARIES, [structs.replace(lost, labels={"c": "y"})], [mine(), mine("b")])
    world.write(structs.replace(CREATE, pod="fails"))
    world.write(outcome_of(CREATE, "failed"))
    assert {"blamed", "troubled", "excess", "replaced"} <= said(world)
    node_id = world.worker.fleet.index.ids[ONE.key]
    world.remove_node(ONE.key)
    other = node("zzz")
    world.put_node(other)
    if changed:
        world.apply(structs.replace(CANARIES, generation=2))

    assert {"missing"} == said(world, other)
    assert node_id == world.worker.fleet.index.ids[other.key]
    assert node_id not in coverage_of(world).chosen


def test_a_node_that_comes_back_has_what_it_had() -> None:
    """L1: pods, orphans, commands and failures that are known of it count again."""
    for pods, command, result, facts in (
        ([mine()], None, "", DONE),
        ([mine(owner=None, labels={"app": "agent"})], None, "", "obstructed adoptable"),
        ([], CREATE, "", "busy coming"),
        ([], CREATE, "failed", "cooling troubled"),
    ):
        world = situation(AGENT, [ONE, node("other")], pods)
        if command is not None:
            world.write(command)
        if result:
            world.write(outcome_of(CREATE, "failed"))
        assert set(facts.split()) == said(world)
        world.remove_node(ONE.key)
        coverage_of(world)

        world.put_node(ONE)

        assert set(facts.split()) == said(world)


def test_a_set_that_is_changed_is_looked_at_everywhere() -> None:
    """L1: where it may be, whom it updates and what it has follow the new spec."""
    nodes = [ONE, node("zoned", zone="a", c="y")]
    world = situation(AGENT, nodes, [mine()])
    assert said(world, nodes[1]) == {"missing"}

    zoned = {"nodeSelector": {"zone": "a"}}
    world.apply(daemonset(zoned, generation=2, update_strategy=CANARIES.update_strategy))
    found, ids = coverage_of(world), world.worker.fleet.index.ids
    assert ([ids[nodes[1].key]], [ids[ONE.key]]) == (list(found.eligible), list(found.surplus))
    assert [ids[nodes[1].key]] == list(found.chosen) == list(found.missing)

    world.delete(SET)
    found = coverage_of(world)
    assert [] == [*found.eligible, *found.tolerated, *found.missing]
    assert set(ids.values()) == set(found.chosen)
    assert [ids[ONE.key]] == list(found.excess)


# Nodes that are not there


def test_pods_of_nodes_that_are_not_there() -> None:
    """L1: they are stranded if the node is said to be gone, or if they would have to go from it in any case."""
    world = situation(
        AGENT, [], [mine(), mine("b", node("other"), owner=Owner(name="agent", uid="x"))]
    )
    assert {node("other").key} == coverage_of(world).stranded

    world.write(NodeGone(backend=ONE.backend, name=ONE.name, uid=ONE.uid))
    assert {node("other").key, ONE.key} == coverage_of(world).stranded

    world.put_node(ONE)
    assert {node("other").key} == coverage_of(world).stranded
    world.remove_node(ONE.key)
    world.remove_pod(mine().key)
    assert {node("other").key} == coverage_of(world).stranded
    world.apply(structs.replace(AGENT, generation=2))
    assert {node("other").key} == coverage_of(world).stranded
    world.remove_pod(mine("b").key)
    world.apply(structs.replace(AGENT, generation=3))
    assert set() == coverage_of(world).stranded


# How much is looked at


def test_only_what_was_touched_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """L2: the cost of an event does not depend on the size of the fleet: one pod, one node."""
    nodes = alike(50)
    world = situation(AGENT, nodes, [mine(f"pod-{on.name}", on) for on in nodes])
    coverage_of(world)
    looked_at: list[str] = []
    review = Coverage._review

    def counting(self: Coverage, state: SetState, keys: Any, index: Any, now_ms: int) -> BitMap:
        looked_at.extend(sorted(key.name for key in keys))
        return review(self, state, keys, index, now_ms)

    monkeypatch.setattr(Coverage, "_review", counting)

    world.remove_pod(mine("pod-node-7", nodes[7]).key)
    coverage_of(world)
    world.put_node(structs.replace(nodes[3], labels={"x": "y"}))
    world.put_node(node("node-new"))
    coverage_of(world)
    coverage_of(world)

    assert looked_at == ["node-7", "node-3"]


def test_excluded_nodes_are_counted_by_reason() -> None:
    """The count follows each change of a node or of the set."""
    world = situation(AGENT, alike(2, "k:NoSchedule"), [])

    def count() -> dict[str, int]:
        found = coverage_of(world)
        return found.excluded_nodes(world.worker.fleet.sets[SET], world.worker.fleet.index)

    assert {"UntoleratedTaint": 2} == count()
    world.put_node(node("node-1"))
    assert {"UntoleratedTaint": 1} == count()
    world.write(
        PodGone(
            backend="east", namespace="default", name="x", uid="x", node="n", owner=mine().owner
        )
    )
    assert {"UntoleratedTaint": 1} == count()
    world.apply(daemonset({"nodeSelector": {"zone": "a"}}, generation=2))
    assert {"NodeSelectorMismatch": 2} == count()
    world.delete(SET)
    assert {} == count()


@pytest.mark.parametrize("deleting", [False, True])
def test_a_node_that_does_not_say_since_when_it_is_lost_counts(deleting: bool) -> None:
    """S3: what nobody knows counts against the rollout: the new version may have been the cause."""
    lost = structs.replace(ONE, ready=False, unready_since_ms=0)
    running = mine(created_ms=500, deleting=deleting, deleting_since_ms=500 if deleting else 0)

    assert "blamed" in said(situation(SURGING, [lost], [running]))
