"""The index: what changes when a node comes, changes and goes."""

from __future__ import annotations

import pytest
from msgspec import structs
from pyroaring import BitMap

from everynode.core.index import NodeChange, NodeIndex, deciding_taints
from everynode.core.values import Node, NodeKey
from everynode.testing.builders import node, taint


def index_of(*nodes: Node) -> NodeIndex:
    """Put nodes in."""
    index = NodeIndex()
    for item in nodes:
        index.put(item)
    return index


def bits(index: NodeIndex) -> object:
    """Copy everything that the index holds about nodes that are there."""
    return (
        set(index.everything),
        {backend: set(ids) for backend, ids in index.by_backend.items()},
        {
            label: {value: set(ids) for value, ids in values.items()}
            for label, values in index.by_label.items()
        },
        {label: set(ids) for label, ids in index.by_label_key.items()},
        {item: set(ids) for item, ids in index.by_taint.items()},
        set(index.unready),
    )


@pytest.mark.parametrize(
    ("after", "labels", "taints"),
    [
        (node("node-1", "k:NoSchedule", zone="a"), [], []),
        (node("node-1", "k:NoSchedule", zone="a", unschedulable=True), [], []),
        (node("node-1", "k:NoSchedule", "p:PreferNoSchedule", zone="a"), [], []),
        (node("node-1", "k:NoSchedule", "k:NoSchedule", zone="a"), [], []),
        (node("node-1", "k:NoSchedule", zone="b"), ["zone"], []),
        (node("node-1", "k:NoSchedule"), ["zone"], []),
        (node("node-1", "k:NoSchedule", zone="a", arch="x"), ["arch"], []),
        (node("node-1", zone="a"), [], ["k:NoSchedule"]),
        (node("node-1", "k=v:NoSchedule", zone="a"), [], ["k:NoSchedule", "k=v:NoSchedule"]),
        (node("node-1", "k:NoSchedule", "l:NoExecute", zone="a"), [], ["l:NoExecute"]),
    ],
)
def test_a_change_names_what_differs(after: Node, labels: list[str], taints: list[str]) -> None:
    """An update says which labels and which deciding taints differ; a heartbeat says nothing."""
    index = index_of(node("node-1", "k:NoSchedule", zone="a"))

    change = index.put(after)

    assert change == NodeChange(
        id=0,
        identity_changed=False,
        labels=frozenset(labels),
        taints=frozenset(map(taint, taints)),
    )
    assert change.empty == (not labels and not taints)
    assert bits(index) == bits(index_of(after))
    assert index.get(after.key) == after


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ((True, 0), (True, 0), False),
        ((True, 0), (False, 5), True),
        ((False, 5), (True, 0), True),
        ((False, 5), (False, 5), False),
        ((False, 5), (False, 6), True),
        ((False, 6), (False, 5), True),
    ],
)
def test_a_change_of_readiness_is_named(
    before: tuple[bool, int], after: tuple[bool, int], changed: bool
) -> None:
    """That a node became ready or not ready, or did so at another time, concerns rollouts."""
    first, then = (
        structs.replace(node(), ready=ready, unready_since_ms=since_ms)
        for ready, since_ms in (before, after)
    )
    index = index_of(first)
    assert index.unready == (BitMap() if first.ready else BitMap([0]))

    change = index.put(then)

    assert changed == change.readiness_changed
    assert changed != change.empty
    assert index.unready == (BitMap() if then.ready else BitMap([0]))


def test_a_node_that_leaves_is_not_unready() -> None:
    """Nor is the node that gets its id."""
    index = index_of(node(ready=False))

    index.remove(NodeKey("east", "node-1"))
    assert index.unready == BitMap()

    index.put(node("node-2"))
    assert index.unready == BitMap()


def test_a_node_made_anew_is_another_node() -> None:
    """A node is its uid: the same name with another uid concerns every set."""
    index = index_of(node(uid="first"))

    change = index.put(node(uid="second"))

    assert change.identity_changed
    assert not change.empty


def test_a_node_that_leaves_takes_its_bits_along() -> None:
    """Nothing is kept of labels, taints and backends that no node has any more."""
    index = index_of(node("node-1", "k:NoSchedule", zone="a"))

    change = index.remove(NodeKey("east", "node-1"))

    assert change == NodeChange(id=0, identity_changed=True)
    assert bits(index) == bits(NodeIndex())
    assert not index._texts
    assert len(index) == 0
    assert index.get(NodeKey("east", "node-1")) is None
    for ask in (index.node, index.key):
        with pytest.raises(LookupError, match="no node has id 0"):
            ask(0)


def test_removing_what_is_not_there_changes_nothing() -> None:
    """S8: a tombstone of an unknown node is no news."""
    index = index_of(node())
    before = bits(index)

    assert index.remove(NodeKey("west", "node-1")) is None
    assert bits(index) == before


def test_what_nodes_share_stays_with_the_others() -> None:
    """A label or taint is forgotten with the last node that has it, its key with the last value."""
    first, second = (
        node("node-1", "k:NoSchedule", zone="a"),
        node("node-2", "k:NoSchedule", zone="a"),
    )
    third = node("node-3", zone="b")
    index = index_of(first, second, third)

    index.remove(first.key)

    assert ["a", "b"] == sorted(index.by_label["zone"])
    assert list(index.by_taint) == [taint("k:NoSchedule")]
    index.remove(second.key)
    assert list(index.by_label["zone"]) == ["b"]
    assert not index.by_taint
    index.remove(third.key)
    assert not index.by_label
    assert not index.by_label_key


def test_ids_are_used_again() -> None:
    """B1: a fleet whose nodes come and go for ever keeps small ids: the smallest free one is next."""
    index = index_of(*(node(f"node-{number}") for number in range(3)))
    index.remove(NodeKey("east", "node-2"))
    index.remove(NodeKey("east", "node-0"))

    assert [index.put(node(f"new-{number}")).id for number in range(3)] == [0, 2, 3]
    assert index.node(0).name == "new-0"


def test_the_same_name_in_two_backends_is_two_nodes() -> None:
    """Names are looked up in every backend."""
    index = index_of(node(backend="east"), node(backend="west"), node("node-2"))

    assert index.named("node-1") == BitMap([0, 1])
    assert index.named("node-3") == BitMap()
    assert len(index) == 3


def test_backends_are_forgotten_with_their_last_node() -> None:
    """B1: nothing grows with backends that have been there once."""
    index = index_of(node(backend="east"), node("node-2", backend="east"))
    index.remove(NodeKey("east", "node-1"))
    assert list(index.by_backend) == ["east"]

    index.remove(NodeKey("east", "node-2"))

    assert list(index.by_backend) == []


def test_only_two_effects_decide() -> None:
    """PreferNoSchedule and unknown effects are kept on the node, and placement does not see them."""
    given = node("node-1", "a:NoSchedule", "b:NoExecute", "c:PreferNoSchedule", "d:Unheard")

    assert deciding_taints(given) == {taint("a:NoSchedule"), taint("b:NoExecute")}
    assert index_of(given).taints_on(BitMap([0])) == deciding_taints(given)
    assert len(given.taints) == 4


def test_a_node_that_is_put_twice_changes_nothing() -> None:
    """The same again is no change."""
    index = index_of(node(zone="a"))
    before = bits(index)

    assert index.put(structs.replace(node(zone="a"))).empty
    assert bits(index) == before


def text_of(*letters: str) -> str:
    """A text that is an object of its own, as one that was decoded is."""
    return "".join(letters)


def test_nodes_share_the_texts_of_their_labels() -> None:
    """Most nodes have most of them in common, and a fleet's index is what a worker holds most of."""
    index = NodeIndex()
    for name in ("node-1", "node-2"):
        labels = {text_of("zo", "ne"): text_of("eu", "-1"), text_of("na", "me"): text_of(name, "")}
        index.put(structs.replace(node(name), labels=labels))
    first, second = (index.node(node_id).labels for node_id in (0, 1))

    assert [True, True] == [a is b for a, b in zip(first, second, strict=True)]
    assert first["zone"] is second["zone"]
    index.put(structs.replace(node("node-2"), labels={text_of("zo", "ne"): text_of("eu", "-1")}))
    assert first["zone"] is index.node(1).labels["zone"]


def test_a_text_that_is_there_twice() -> None:
    """Two labels may say the same, and one may say what another one is called: all of it goes with the node."""
    index = index_of(node("node-1", x="t", y="t", z="x"))
    index.remove(NodeKey("east", "node-1"))
    assert not index._texts


def test_what_is_the_same_is_kept_once() -> None:
    """A heartbeat brings labels and taints that are known already: its copies are let go of."""
    first = node("node-1", "k:NoSchedule", zone="a")
    index = index_of(first)
    labels, taints = index.node(0).labels, index.node(0).taints

    index.put(
        structs.replace(first, labels=dict(labels), taints=(taint("k:NoSchedule"),), ready=False)
    )
    assert index.node(0).labels is labels
    assert index.node(0).taints is taints


def test_only_so_many_nodes_that_left_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: of the nodes that have left, the ones that left last are known."""
    monkeypatch.setattr("everynode.core.index.DEPARTED_NODES_MAX", 2)
    index = NodeIndex()

    for name in ("a", "b", "c"):
        assert index.remove(NodeKey("east", name)) is None

    assert list(index.departed) == [NodeKey("east", "b"), NodeKey("east", "c")]


def test_a_hundred_thousand_nodes_that_left_are_remembered() -> None:
    """B1: which is as many as a large fleet has."""
    index = NodeIndex()

    for number in range(100_001):
        index.remove(NodeKey("east", str(number)))

    assert len(index.departed) == 100_000
