"""What is known of the pods of a set: where they are, of which revision, and what went lately."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import PodGone
from everynode.core.orphans import KnownPod
from everynode.core.setstate import SetState
from everynode.core.values import Node, NodeKey, Owner, Pod, SetKey
from everynode.testing.builders import daemonset, node, pod

SET = SetKey("default", "agent")
ONE = node("node-0")
AGENT = daemonset()


def gone(of: Pod, **changes: Any) -> PodGone:
    """Make the tombstone of a pod."""
    tombstone = PodGone(
        backend=of.backend, namespace=of.namespace, name=of.name, uid=of.uid,
        node=of.node, owner=of.owner, revision=of.revision, generation=of.generation,
    )  # fmt: skip
    return structs.replace(tombstone, **changes)


def running(revision: str, name: str = "pod-1", on: Node = ONE) -> Pod:
    """Make a pod of a revision."""
    return pod(AGENT, on, name, revision=revision)


def test_pods_are_counted_by_revision() -> None:
    """However often a pod is observed it counts once, for the revision that it has now; one that is gone does not."""
    state = SetState(SET)
    state.put_pod(running("a"), 1)
    state.put_pod(running("a", "pod-2"), 2)
    state.put_pod(structs.replace(running("a"), ready=False), 3)
    assert state.revision_counts == {"a": 2}

    state.put_pod(running("b"), 4)
    assert state.revision_counts == {"a": 1, "b": 1}
    state.drop_pod(gone(running("a", "pod-2")), 5, 1)
    assert state.revision_counts == {"b": 1}
    state.drop_pod(gone(running("a", "pod-2")), 6, 1)
    state.put_pod(running("a"), 3)

    assert state.revision_counts == {"b": 1}
    assert list(state.revision_counts) == ["b"], "what is not there takes no room"


@pytest.mark.parametrize(("first", "then"), [("node-0", "node-1"), ("node-1", "node-0")])
def test_a_pod_that_moves_concerns_both_nodes(first: str, then: str) -> None:
    """L1: the node that it was on may need another one; both are looked at again."""
    state = SetState(SET)
    companion = running("a", "companion", node(first))
    state.put_pod(companion, 1)
    state.put_pod(running("a", on=node(first)), 2)
    state.touched.clear()

    moved = running("a", on=node(then))
    state.put_pod(moved, 3)

    assert state.pods_on == {node(first).key: (companion.key,), node(then).key: (moved.key,)}
    assert state.touched == {node(first).key, node(then).key}


@pytest.mark.parametrize("name", ["a-companion", "z-companion"])
def test_a_pod_that_goes_leaves_the_others(name: str) -> None:
    """What is said of one pod of a node is said of that one alone."""
    state = SetState(SET)
    companion = running("a", name)
    state.put_pod(companion, 1)
    state.put_pod(running("a"), 2)
    state.put_pod(running("a"), 3)
    assert state.pods_on == {ONE.key: (companion.key, running("a").key)}

    state.drop_pod(gone(running("a")), 4, 1)
    assert state.pods_on == {ONE.key: (companion.key,)}

    state.drop_pod(gone(companion), 5, 1)
    assert not state.pods_on


def test_an_end_is_kept_until_something_newer_is_known() -> None:
    """S4: the order in which a pod and its end are heard of does not matter."""
    state = SetState(SET)
    state.drop_pod(gone(running("a")), 5, 1)
    state.put_pod(running("a"), 4)
    assert not state.pods

    state.put_pod(running("a"), 6)
    assert list(state.pods) == [running("a").key]
    state.drop_pod(gone(running("a")), 5, 1)
    assert list(state.pods) == [running("a").key]
    state.drop_pod(gone(running("a")), 7, 1)

    assert not state.pods


@pytest.mark.parametrize(
    ("owner", "uid"), [(None, ""), (Owner(name="agent", uid="uid-agent"), "uid-agent")]
)
def test_what_an_end_says(owner: Owner | None, uid: str) -> None:
    """What the next pod on the node depends on is kept of the one that went."""
    state = SetState(SET)
    state.drop_pod(gone(running("a"), owner=owner, generation=4, failures=2), 5, 77)

    (kept,) = state.gone_pods.values()
    assert (uid, ONE.key, 5, 77, "a", 4, 2) == (
        *(kept.owner_uid, kept.node, kept.sequence, kept.time_ms),
        *(kept.revision, kept.generation, kept.failures),
    )
    assert state.last_gone_on == {ONE.key: kept}


@pytest.mark.parametrize(("first", "then"), [("node-0", "node-1"), ("node-1", "node-0")])
def test_the_last_end_on_a_node_is_the_latest(first: str, then: str) -> None:
    """B1: of each node the last end is kept, by its place in the log; a name that ends elsewhere leaves its node."""
    state = SetState(SET)
    state.drop_pod(gone(running("a", "other", node(first))), 9, 1)
    state.drop_pod(gone(running("a", on=node(first))), 7, 1)
    assert state.last_gone_on[node(first).key].sequence == 9

    state.drop_pod(gone(running("a", on=node(first))), 10, 1)
    assert state.last_gone_on[node(first).key].sequence == 10
    state.drop_pod(gone(running("a", on=node(then))), 11, 1)

    assert list(state.last_gone_on) == [node(then).key]
    state.drop_pod(gone(running("a", on=node(first))), 8, 1)
    assert list(state.last_gone_on) == [node(then).key]


@pytest.mark.parametrize("other", ["a-pod", "z-pod"])
def test_a_name_that_ends_elsewhere_leaves_the_ends_of_others(other: str) -> None:
    """What is the last of its old node stays, if it is another pod's."""
    state = SetState(SET)
    state.drop_pod(gone(running("a")), 7, 1)
    state.drop_pod(gone(running("a", other)), 9, 1)

    state.drop_pod(gone(running("a", on=node("node-1"))), 10, 1)

    assert {9, 10} == {end.sequence for end in state.last_gone_on.values()}


@pytest.mark.parametrize("failures", [0, 2])
def test_an_end_is_forgotten(failures: int) -> None:
    """B1: what went long ago is forgotten, what went since is not; a node on which pods ended is looked at again."""
    state = SetState(SET)
    key = running("a").key
    state.drop_pod(gone(running("a"), failures=failures), 7, 1)
    state.touched.clear()
    for wrong in (6, 8):
        state.forget_gone(key, wrong)
        assert len(state.gone_pods) == len(state.last_gone_on) == 1

    state.forget_gone(key, 7)

    assert not state.gone_pods
    assert not state.last_gone_on
    assert ({ONE.key} if failures else set()) == state.touched
    state.forget_gone(key, 7)
    assert not state.gone_pods


@pytest.mark.parametrize("second", ["a-pod", "z-pod"])
def test_an_end_that_is_not_the_last_is_forgotten_alone(second: str) -> None:
    """B1: what came after it on the node stays the last."""
    state = SetState(SET)
    state.drop_pod(gone(running("a"), failures=1), 7, 1)
    state.drop_pod(gone(running("a", second), failures=1), 9, 1)
    state.touched.clear()

    state.forget_gone(running("a").key, 7)

    assert [9] == [end.sequence for end in state.gone_pods.values()]
    assert [9] == [end.sequence for end in state.last_gone_on.values()]
    assert not state.touched


def test_the_end_of_a_revision_is_forgotten() -> None:
    """B1: only the very end that is old is forgotten, not what came after it."""
    state = SetState(SET)
    state.revision_sequences["h1"] = 7
    for wrong in (6, 8):
        state.forget_revision("h1", wrong)
        assert state.revision_sequences == {"h1": 7}

    state.forget_revision("h1", 7)

    assert state.revision_sequences == {}
    state.forget_revision("h1", 7)


def test_orphans_are_known_by_node() -> None:
    """L1: an orphan that changes is known once, as it is now; its node is looked at again whenever it does."""
    state = SetState(SET)
    orphan = structs.replace(running("a"), owner=None)
    other = structs.replace(running("a", "other"), owner=None)
    state.put_orphan(KnownPod(orphan, 1))
    state.put_orphan(KnownPod(other, 2))
    state.put_orphan(KnownPod(structs.replace(orphan, ready=False), 3))
    assert sorted(state.orphans_on[ONE.key]) == sorted([orphan.key, other.key])
    assert not state.orphans[orphan.key].pod.ready
    assert state.touched == {ONE.key}

    for key in (orphan.key, other.key):
        state.touched.clear()
        state.drop_orphan(key)
        assert state.touched == {ONE.key}

    assert not state.orphans
    assert not state.orphans_on
    state.touched.clear()
    state.drop_orphan(other.key)
    assert state.touched == set[NodeKey]()
