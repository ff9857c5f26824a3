"""Properties of placement: the rule for one node and the algebra over all nodes are one rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.index import NodeIndex, deciding_taints
from everynode.core.placement import BACKLOG_NODES_MAX, Backlog, place
from everynode.core.values import DaemonSet, Node, NodeKey
from everynode.testing import strategies

fleets = st.lists(strategies.nodes(), max_size=10, unique_by=lambda node: node.key)


@given(fleets, strategies.daemonsets())
def test_algebra_and_predicate_agree(fleet: list[Node], daemonset: DaemonSet) -> None:
    """S2: the bitmaps of a set name exactly the nodes for which the predicate says so."""
    index = NodeIndex()
    for node in fleet:
        index.put(node)
    constraints = compile_constraints(daemonset)

    placed = place(constraints, index)

    verdicts = {index.ids[node.key]: verdict(constraints, node) for node in fleet}
    assert {item for item, found in verdicts.items() if found.should_run} == set(placed.eligible)
    assert {item for item, found in verdicts.items() if found.may_stay} == set(placed.tolerated)
    for found in verdicts.values():
        assert found.should_run == (not found.reasons)
        assert found.may_stay or not found.should_run


@given(fleets, strategies.daemonsets(), st.sets(st.integers(0, 12)))
def test_part_of_the_fleet_is_placed_as_in_the_whole(
    fleet: list[Node], daemonset: DaemonSet, ids: set[int]
) -> None:
    """Looking only at some nodes gives what looking at all gives for those."""
    index = NodeIndex()
    for node in fleet:
        index.put(node)
    constraints, within = compile_constraints(daemonset), BitMap(ids)

    whole, part = place(constraints, index), place(constraints, index, within)

    assert whole.eligible & within == part.eligible
    assert whole.tolerated & within == part.tolerated


@given(st.lists(st.one_of(strategies.nodes(), st.sampled_from(strategies.NAMES)), max_size=30))
def test_index_equals_one_built_afresh(steps: list[Node | str]) -> None:
    """However nodes came, changed and left, the bits are those of the nodes that are there."""
    index, there = NodeIndex(), dict[NodeKey, Node]()
    for step in steps:
        if isinstance(step, Node):
            change = index.put(step)
            old = there.get(step.key)
            same = old is not None and old.uid == step.uid
            same = same and old is not None and old.labels == step.labels
            same = same and old is not None and deciding_taints(old) == deciding_taints(step)
            assert same == change.empty
            there[step.key] = step
        else:
            for backend in strategies.BACKENDS:
                key = NodeKey(backend, step)
                assert (index.remove(key) is None) == (there.pop(key, None) is None)

    assert there == {key: index.node(node_id) for key, node_id in index.ids.items()}
    assert set(index.ids.values()) == set(index.everything)
    assert len(there) == len(index)
    for label, values in index.by_label.items():
        for value, nodes in values.items():
            wanted = {key for key, node in there.items() if node.labels.get(label) == value}
            assert wanted == {index.node(item).key for item in nodes}
        assert set(index.by_label_key[label]) == {
            item for nodes in values.values() for item in nodes
        }
    for taint, nodes in index.by_taint.items():
        wanted = {key for key, node in there.items() if taint in node.taints}
        assert wanted == {index.node(item).key for item in nodes}
    labels = {(label, node.labels[label]) for node in there.values() for label in node.labels}
    assert labels == {
        (label, value) for label, values in index.by_label.items() for value in values
    }
    assert {taint for node in there.values() for taint in deciding_taints(node)} == set(
        index.by_taint
    )


changes = st.tuples(st.sets(st.integers(0, 40), max_size=6), st.integers(1, 6))


@given(st.sets(st.integers(0, 40), min_size=15), st.lists(changes, max_size=40))
def test_backlog_returns_the_first_by_name(
    candidates: set[int], rounds: list[tuple[set[int], int]]
) -> None:
    """However candidates come and go between two questions, the first by name come back."""
    backlog = Backlog(nodes_max=6)

    def key_of(node_id: int) -> NodeKey:
        return NodeKey("east", f"node-{node_id * 7 % 41:02}")

    for changed, count_max in rounds:
        wanted = sorted(candidates, key=key_of)[:count_max]

        assert wanted == backlog.first(BitMap(candidates), count_max, key_of)

        candidates = candidates ^ changed


@given(st.lists(st.sets(st.integers(0, 10)), max_size=8))
def test_backlog_follows_ids_that_change_their_name(rounds: list[set[int]]) -> None:
    """An id that stands for another node now is not returned in the place of the old one."""
    backlog = Backlog(nodes_max=4)
    for generation, candidates in enumerate(rounds):
        backlog.forget(BitMap(range(11)))

        def key_of(node_id: int, shift: int = generation) -> NodeKey:
            return NodeKey("east", f"node-{(node_id * 3 + shift) % 11:02}")

        assert sorted(candidates, key=key_of)[:2] == backlog.first(BitMap(candidates), 2, key_of)


def test_backlog_has_a_limit() -> None:
    """B1: a set remembers a bounded number of candidates, however many there are."""
    backlog = Backlog()
    candidates = BitMap(range(BACKLOG_NODES_MAX * 2))

    found = backlog.first(candidates, 3, lambda item: NodeKey("east", f"{item:06}"))

    assert found == [0, 1, 2]
    assert len(backlog) <= BACKLOG_NODES_MAX
