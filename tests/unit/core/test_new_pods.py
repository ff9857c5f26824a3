"""Which revision pods get that are made while a rollout is held: it must not spread (rollout.NewPods)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod
from everynode.core.events import RevisionRecorded, Tick
from everynode.core.identity import revision_hash
from everynode.core.values import (
    DaemonSet,
    Node,
    NodeKey,
    Pod,
    Revision,
    Selector,
    UpdateStrategy,
)
from everynode.testing.builders import BACKEND, daemonset, node, pod, taint
from everynode.testing.situations import SET, alike, situation
from everynode.testing.world import World

ROLLING = UpdateStrategy(type="RollingUpdate")
SURGE = structs.replace(ROLLING, max_unavailable=0, max_surge=1)
CANARY = Selector(match_labels={"canary": "yes"})


def version(number: int, strategy: UpdateStrategy = ROLLING, **changes: Any) -> DaemonSet:
    """Make one version of a set: its template and generation follow from the number."""
    return daemonset(
        {"version": number},
        generation=number,
        update_strategy=structs.replace(strategy, **changes),
    )


FIRST, SECOND, THIRD = (revision_hash(version(number).template) for number in (1, 2, 3))


def rolled_out(nodes: list[Node], *versions: DaemonSet) -> World:
    """Make a world where these versions were applied one after the other, each as far as it went."""
    world = situation(None, nodes, [])
    for each in versions:
        world.apply(each)
        world.run()
    return world


def lose(world: World, *names: str) -> None:
    """Pods of these nodes are gone; of all if none is named."""
    for found in list(world.pods.values()):
        if not names or found.node in names:
            world.remove_pod(found.key)


def revisions(world: World) -> dict[str, str]:
    """Say which revision each node has, when everything is at rest."""
    world.run()
    return {found.node: found.revision for found in world.pods.values()}


def creates(world: World) -> dict[str, str]:
    """Say which revision each create of the next decision is for."""
    world.decide()
    return {item.node: item.revision for item in world.queue if isinstance(item, CreatePod)}


@pytest.mark.parametrize(
    "held", [{"paused": True}, {"selector": CANARY}, {"partition": "100%"}, {"partition": 3}]
)
@pytest.mark.parametrize("count", [1, 3])
def test_nodes_whose_pods_all_die_get_back_what_they_had(held: dict[str, Any], count: int) -> None:
    """S3: not a single pod is left to say which revision it was, and still the new one does not spread."""
    world = rolled_out(alike(count), version(1), version(2, **held))

    lose(world)

    assert {FIRST} == set(revisions(world).values())


def test_each_node_gets_back_what_it_had() -> None:
    """S3: with three revisions in use each node keeps its own, also the wanted one, and nobody averages them."""
    world = rolled_out(
        alike(3),
        version(1),
        version(2, partition=1),
        version(3, partition=2),
        version(3, paused=True),
    )
    before = revisions(world)
    assert {FIRST, SECOND, THIRD} == set(before.values())

    lose(world)

    assert before == revisions(world)


def test_a_node_that_has_begun_keeps_the_new_revision() -> None:
    """S3: while its new pod is on its way out, in a surge, the next one is of the new revision, too."""
    world = rolled_out(
        alike(3),
        version(1, SURGE),
        version(2, SURGE, partition=2),
        version(2, SURGE, paused=True),
    )
    (updated,) = (found for found in world.pods.values() if found.revision == SECOND)
    world.stop_at_once = False
    world.stop_pod(updated.key)

    assert {updated.node: SECOND} == creates(world)


def test_a_node_that_joins_gets_what_most_old_pods_have() -> None:
    """S3: while paused, it gets the old revision that is in use most, not the one that is wanted."""
    world = rolled_out(alike(3), version(1), version(2, partition=1), version(3, paused=True))
    assert Counter({SECOND: 2, FIRST: 1}) == Counter(revisions(world).values())

    world.put_node(node("node-9"))

    assert revisions(world)["node-9"] == SECOND


def test_of_two_old_revisions_in_equal_use_the_later_one_counts() -> None:
    """S3: the higher number wins, whatever the hashes are."""
    for latest, other in (("a", "b"), ("b", "a")):
        world = situation(version(1, paused=True), [], [])
        for name, number in ((latest, 8), (other, 7), ("unused", 9)):
            world.write(recorded(name, number))
            if name != "unused":
                on = node(f"has-{name}")
                world.put_node(on)
                world.put_pod(old(on, name))
        world.put_node(node("joins"))

        assert {"joins": latest} == creates(world)


CREATE = CreatePod(
    id="x",
    backend=BACKEND,
    node="x",
    node_uid="x",
    namespace=SET.namespace,
    daemonset=SET.name,
    daemonset_uid="uid-agent",
    generation=2,
    pod="x",
    revision=SECOND,
    expires_ms=10**9,
)


def old(on: Node, revision: str) -> Pod:
    """Make a pod of another revision."""
    return pod(version(1), on, f"pod-{on.name}", revision=revision)


def recorded(name: str, number: int) -> RevisionRecorded:
    """A revision is on record."""
    return RevisionRecorded(
        revision=Revision(
            namespace=SET.namespace,
            daemonset=SET.name,
            daemonset_uid="uid-agent",
            hash=name,
            number=number,
            template=version(1).template,
        )
    )


def test_a_revision_that_nobody_recorded_cannot_be_made() -> None:
    """L1: a node whose pod had one that is unknown gets the most used of those that are known."""
    nodes = alike(2)
    world = situation(version(2, paused=True), nodes, [old(nodes[0], "known"), old(nodes[1], "x")])
    world.write(recorded("known", 1))
    world.remove_pod(old(nodes[1], "x").key)

    assert {"node-1": "known"} == creates(world)


def test_where_there_is_no_old_pod_there_is_nothing_to_hold() -> None:
    """L1: the first pods of a set are made though its rollout is paused."""
    world = situation(version(1, paused=True), alike(2), [])

    assert {"node-0": FIRST, "node-1": FIRST} == creates(world)


def test_nodes_that_are_selected_get_the_new_revision() -> None:
    """S3: a pod that dies on a canary is made anew as the new one, on others as what it was."""
    nodes = [node("node-0", canary="yes"), node("node-1", canary="no")]
    world = rolled_out(nodes, version(1))
    world.apply(version(2, selector=CANARY))

    lose(world)

    assert {"node-0": SECOND, "node-1": FIRST} == creates(world)


@pytest.mark.parametrize("strategy", [UpdateStrategy(), UpdateStrategy(paused=True, partition=9)])
def test_without_a_rollout_what_is_made_is_new(strategy: UpdateStrategy) -> None:
    """OnDelete: a pod that somebody deletes is made anew as the wanted one; there is no rollout to hold."""
    world = rolled_out(alike(2), version(1, strategy), version(2, strategy))

    lose(world, "node-1")

    assert {"node-0": FIRST, "node-1": SECOND} == revisions(world)


# Partitions


@pytest.mark.parametrize(("partition", "new_count"), [(0, 4), (1, 3), (3, 1), (4, 0), ("50%", 2)])
def test_a_partition_counts_pods_that_are_made_anew(partition: int | str, new_count: int) -> None:
    """S3: when all pods die at once, as many as the partition says get an old revision, within one decision too."""
    world = rolled_out(alike(4), version(1))
    world.apply(version(2, partition=partition))

    lose(world)

    found = [creates(world)[f"node-{number}"] for number in range(4)]
    assert [SECOND] * new_count + [FIRST] * (4 - new_count) == found


def test_a_partition_leaves_the_new_revision_to_nodes_that_join() -> None:
    """S3: two of three stay on the old revision; a fourth node gets the new one, as two still stay."""
    world = rolled_out(alike(3), version(1), version(2, partition=2))
    assert Counter({FIRST: 2, SECOND: 1}) == Counter(revisions(world).values())

    world.put_node(node("aaa"))

    assert {"aaa": SECOND} == creates(world)


def test_creates_of_the_new_revision_that_are_pending_use_up_the_partition() -> None:
    """S3: what another decision has asked for counts as if it were there."""
    world = rolled_out(alike(4), version(1))
    world.apply(version(2, partition=3))
    lose(world, "node-3")
    assert {"node-3": SECOND} == creates(world)

    lose(world, "node-1", "node-2")

    assert {"node-1": FIRST, "node-2": FIRST} == {
        name: revision for name, revision in creates(world).items() if name != "node-3"
    }


def test_a_partition_gives_the_new_revision_back_to_those_that_had_it() -> None:
    """S3: when all pods die, a node that was never updated does not get the new revision in another's place."""
    world = rolled_out([node("node-1")], version(1), version(2))
    world.put_node(node("node-0"))
    world.put_node(node("node-2"))
    old_pods = [old(node(name), FIRST) for name in ("node-0", "node-2")]
    for found in old_pods:
        world.put_pod(found)
    world.apply(version(2, partition=2))
    before = {"node-0": FIRST, "node-1": SECOND, "node-2": FIRST}
    assert before == revisions(world)

    lose(world)

    assert before == creates(world)


@pytest.mark.parametrize("works", [True, False])
def test_a_node_that_waits_for_its_pod_keeps_its_place(works: bool) -> None:
    """S3: another one does not get the new revision while a create of it is tried again, or a pod is on its way out."""
    world = rolled_out(alike(3), version(1), version(2, partition=2))
    (updated,) = (found for found in world.pods.values() if found.revision == SECOND)
    if works:
        world.stop_at_once = False
        world.stop_pod(updated.key)
    else:
        world.remove_pod(updated.key)
        assert {updated.node: SECOND} == creates(world)
        world.carry_out(works=False)

    lose(world, "node-1", "node-2")

    assert {FIRST} == set(creates(world).values())


def test_what_a_partition_leaves_to_new_pods() -> None:
    """S3: of 14 nodes 4 stay; 4 have the new revision or are about to, 3 had it: 3 of the other 6 get it, by name."""
    world = situation(version(2, partition=4), [], [])
    world.write(recorded(FIRST, 1))

    def put(name: str, *now: str, had: str = "", taints: str = "") -> None:
        """A node has pods of these revisions, a create is pending for it, and it had a pod that is gone."""
        on = node(name, *taints.split())
        world.put_node(on)
        for revision in now:
            if revision == "coming":
                world.write(structs.replace(CREATE, id=name, node=name, pod=f"coming-{name}"))
            else:
                world.put_pod(structs.replace(old(on, revision), name=f"{name}-{revision}"))
        if had:
            gone = structs.replace(old(on, had), name=f"gone-{name}")
            world.put_pod(gone)
            world.remove_pod(gone.key)

    put("has-1", SECOND)
    put("has-2", SECOND, had=SECOND)
    put("comes", "coming", had=SECOND)
    put("has-and-comes", SECOND, "coming")
    put("stays", FIRST, had=SECOND)
    for number in range(3):
        put(f"had-{number}", had=SECOND)
    for number in range(6):
        put(f"joins-{number}", had=FIRST if number == 0 else "")
    for name, now in (("has", SECOND), ("stays", FIRST), ("comes", "coming"), ("empty", "")):
        put(f"tainted-{name}", *now.split(), had=SECOND, taints="k:NoSchedule")

    found = creates(world)

    new = {"had-0", "had-1", "had-2", "joins-0", "joins-1", "joins-2"}
    assert new == {name for name, revision in found.items() if revision == SECOND}
    assert {"joins-3", "joins-4", "joins-5"} == found.keys() - new


def test_a_raised_partition_takes_nothing_back() -> None:
    """S3: a node that had the new revision gets it again, though more nodes are to stay on the old one by now."""
    world = rolled_out(alike(3), version(1), version(2, partition=1), version(2, partition=3))
    before = revisions(world)
    assert Counter({SECOND: 2, FIRST: 1}) == Counter(before.values())

    lose(world)

    assert before == revisions(world)


def test_pods_where_the_set_may_not_be_made_use_up_nothing() -> None:
    """S3: an updated node that is not eligible any more is no reason to hold another."""
    world = rolled_out(alike(3), version(1), version(2, partition=2))
    (updated,) = (found.node for found in world.pods.values() if found.revision == SECOND)
    on = world.nodes[NodeKey(BACKEND, updated)]
    world.put_node(structs.replace(on, taints=(taint("k:NoSchedule"),)))
    world.apply(version(2, partition=1))
    first, _ = (name for name in ("node-0", "node-1", "node-2") if name != updated)

    lose(world, first)

    assert {first: SECOND} == creates(world)


def test_what_a_node_had_is_forgotten_after_a_while() -> None:
    """S4: long after its pod has gone, a node counts as one that joins."""
    world = rolled_out(alike(3), version(1), version(2, partition=1), version(3, paused=True))
    (first,) = (found.node for found in world.pods.values() if found.revision == FIRST)
    on = world.nodes[NodeKey(BACKEND, first)]
    world.put_node(structs.replace(on, taints=(taint("k:NoSchedule"),)))
    lose(world, first)
    world.run()
    world.now_ms += world.limits.horizon_ms + 1
    world.write(Tick(shard=0, due_ms=0))

    world.put_node(on)

    assert revisions(world)[first] == SECOND
