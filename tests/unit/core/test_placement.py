"""Placement as algebra: what it costs, and the backlog of candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pyroaring import BitMap

from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.index import NodeIndex
from everynode.core.placement import Backlog, excluded, place, selected
from everynode.core.selectors import compile_selector
from everynode.core.values import Node, NodeKey, Requirement, Selector
from everynode.testing.builders import daemonset, node

FLEET = 500


def spec_with_term(term: dict[str, Any]) -> dict[str, Any]:
    """Require one term of node affinity."""
    required = {"nodeSelectorTerms": [term]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


def spec_with(operator: str, value: str) -> dict[str, Any]:
    """Require one comparison of the label ``size``."""
    return spec_with_term(
        {"matchExpressions": [{"key": "size", "operator": operator, "values": [value]}]}
    )


def diverse_fleet() -> NodeIndex:
    """Make a fleet in which every node has a label value and a taint of its own."""
    index = NodeIndex()
    for number in range(FLEET):
        index.put(node(f"node-{number:03}", f"own={number}:NoSchedule", size=str(number)))
    return index


def test_an_event_about_one_node_asks_about_its_taints_only() -> None:
    """What a look at a few nodes costs does not grow with the taints of the fleet."""
    index, constraints = diverse_fleet(), compile_constraints(daemonset())

    placed = place(constraints, index, BitMap([7]))

    assert (placed.eligible, placed.tolerated) == (BitMap(), BitMap([7]))
    assert len(constraints._known) == 1


class Unlistable(dict[str, BitMap]):
    """Values of a label that may be looked up one by one and counted, but not be gone through."""

    def items(self) -> Any:
        """Refuse."""
        raise AssertionError("went through all values of the fleet")


@pytest.mark.parametrize(
    ("operator", "value", "matches"),
    [("Gt", "6", True), ("Gt", "7", False), ("Lt", "8", True), ("Lt", "7", False)],
)
def test_a_comparison_for_one_node_reads_its_own_label(
    operator: str, value: str, matches: bool
) -> None:
    """What a look at a few nodes costs does not grow with the values that a label has in the fleet."""
    index = diverse_fleet()
    index.by_label["size"] = Unlistable(index.by_label["size"])

    placed = place(compile_constraints(daemonset(spec_with(operator, value))), index, BitMap([7]))

    assert (BitMap([7]) if matches else BitMap()) == placed.tolerated


@pytest.mark.parametrize(("operator", "count"), [("Gt", 89), ("Lt", 410)])
def test_a_comparison_for_all_nodes_goes_through_the_values(operator: str, count: int) -> None:
    """With fewer values than nodes, each value is compared once."""
    index = diverse_fleet()
    for number in range(FLEET):
        index.put(node(f"more-{number:03}"))

    placed = place(compile_constraints(daemonset(spec_with(operator, "410"))), index)

    assert count == len(placed.tolerated)


class Unreadable(NodeIndex):
    """An index whose nodes may not be looked at one by one."""

    def node(self, node_id: int) -> Node:
        """Refuse."""
        raise AssertionError(f"looked at node {node_id}")


def test_a_comparison_for_all_nodes_looks_at_no_node() -> None:
    """What a look at the whole fleet costs goes with the values that a label has, not with the nodes."""
    index = Unreadable()
    for number in range(FLEET):
        index.put(node(f"node-{number:03}", size=str(number % 3)))

    placed = place(compile_constraints(daemonset(spec_with("Gt", "1"))), index)

    assert FLEET // 3 == len(placed.eligible)


@pytest.mark.parametrize(
    "term",
    [
        {"matchExpressions": [{"key": "size", "operator": "NotIn", "values": ["8"]}]},
        {"matchExpressions": [{"key": "only", "operator": "DoesNotExist"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-008"]}]},
    ],
)
def test_what_excludes_a_node_elsewhere_brings_in_none(term: dict[str, Any]) -> None:
    """Of the nodes that are looked at, all may stay; one that is not looked at is not in the answer."""
    index = diverse_fleet()
    index.put(node("node-008", size="8", only="here"))

    placed = place(compile_constraints(daemonset(spec_with_term(term))), index, BitMap([7]))

    assert placed.tolerated == BitMap([7])


def test_excluded_nodes_are_counted_by_their_first_reason() -> None:
    """Each node that is not eligible is counted once, by the first reason that the predicate gives, sorted by code."""
    index = NodeIndex()
    nodes = [
        *(node(f"west-{number}", backend="west", zone="a") for number in range(5)),
        *(node(f"far-{number}", zone="b") for number in range(4)),
        *(node(f"small-{number}", zone="a", size="1") for number in range(3)),
        *(node(f"full-{number}", "k:NoExecute", zone="a", size="9") for number in range(3)),
        *(node(f"good-{number}", "k:PreferNoSchedule", zone="a", size="9") for number in range(2)),
    ]
    for item in nodes:
        index.put(item)
    spec = {"nodeSelector": {"zone": "a"}} | spec_with("Gt", "5")
    constraints = compile_constraints(daemonset(spec, backend="east"))

    found = excluded(constraints, index)

    first_reasons = [verdict(constraints, item).reasons[:1] for item in nodes]
    assert Counter(reason.code for first in first_reasons for reason in first) == found
    assert list(found.items()) == [
        ("NodeAffinityMismatch", 3),
        ("NodeSelectorMismatch", 4),
        ("OtherBackend", 5),
        ("UntoleratedTaint", 3),
    ]


def test_a_node_name_excludes_the_other_nodes() -> None:
    """Reasons that exclude nobody are not there."""
    constraints = compile_constraints(daemonset({"nodeName": "node-007"}))

    assert excluded(constraints, diverse_fleet()) == {
        "NodeNameMismatch": FLEET - 1,
        "UntoleratedTaint": 1,
    }


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        (Selector(match_labels={"size": "7"}), [7]),
        (Selector(match_labels={"size": "9"}), []),
        (
            Selector(match_expressions=(Requirement(key="size", operator="NotIn", values=("7",)),)),
            [5, 6],
        ),
        (Selector(match_expressions=(Requirement(key="size", operator="NotIn"),)), []),
        (Selector(), [5, 6, 7]),
    ],
)
def test_a_selector_selects_among_some_nodes(selector: Selector, wanted: list[int]) -> None:
    """Only nodes that were asked about are selected, and none by a selector that cannot be used."""
    found = selected(compile_selector(selector), diverse_fleet(), BitMap([5, 6, 7]))

    assert BitMap(wanted) == found


def test_nothing_outside_the_fleet_is_placed() -> None:
    """Ids that no node has are in no placement."""
    index = NodeIndex()
    index.put(node())

    placed = place(compile_constraints(daemonset()), index, BitMap([0, 5]))

    assert placed.eligible == BitMap([0])


def test_placement_does_not_share_its_bitmaps_with_the_index() -> None:
    """Who changes a placement in place does not change the index."""
    index = NodeIndex()
    index.put(node())

    placed = place(compile_constraints(daemonset()), index)
    placed.eligible.clear()

    assert index.everything == placed.tolerated == BitMap([0])


def name_of(node_id: int) -> NodeKey:
    """Name a node so that names and ids are in opposite order."""
    return NodeKey("east", f"node-{99 - node_id:02}")


def counted(calls: Counter[int]) -> Callable[[int], NodeKey]:
    """Name nodes, and count how often each is asked for."""

    def key_of(node_id: int) -> NodeKey:
        calls[node_id] += 1
        return name_of(node_id)

    return key_of


def test_a_few_candidates_are_sorted_and_nothing_is_remembered() -> None:
    """With no more candidates than wanted, all of them come back by name."""
    backlog = Backlog()

    assert backlog.first(BitMap([1, 5, 3]), 3, name_of) == [5, 3, 1]
    assert backlog.first(BitMap([1, 5]), 3, name_of) == [5, 1]
    assert len(backlog) == 0


def test_a_look_at_a_few_leaves_what_is_remembered() -> None:
    """A moment with nothing to do, as when a budget is used up, does not make the next look a first one."""
    backlog, calls = Backlog(), Counter[int]()
    backlog.first(BitMap(range(40)), 1, name_of)
    assert backlog.first(BitMap(range(40)), 0, name_of) == []
    assert backlog.first(BitMap([3]), 1, name_of) == [3]

    assert backlog.first(BitMap(range(40)), 1, counted(calls)) == [39]
    assert set(calls) == {39}


@pytest.mark.parametrize("count_max", [0, 1])
def test_what_is_done_is_let_go_of(count_max: int) -> None:
    """B1: when there is no candidate any more, none is remembered, whether or not anything could be done."""
    backlog = Backlog()
    backlog.first(BitMap(range(40)), 1, name_of)
    assert len(backlog) > 1

    assert backlog.first(BitMap(), count_max, name_of) == []
    assert len(backlog) == 0


def test_candidates_that_come_later_take_their_place_by_name() -> None:
    """A node that becomes a candidate after the first look is not behind those known before."""
    backlog = Backlog()
    assert backlog.first(BitMap([10, 20, 30]), 1, name_of) == [30]

    assert backlog.first(BitMap([10, 20, 30, 40]), 2, name_of) == [40, 30]
    assert backlog.first(BitMap([10, 15, 20, 30]), 3, name_of) == [30, 20, 15]
    assert backlog.first(BitMap([5, 10, 20]), 1, name_of) == [20]


def test_the_backlog_is_filled_again_when_it_has_run_out() -> None:
    """Candidates beyond the limit of what is remembered are found in their turn."""
    backlog, candidates, found = Backlog(nodes_max=4), BitMap(range(10)), []
    while candidates:
        taken = backlog.first(candidates, 2, name_of)
        found += taken
        candidates -= BitMap(taken)

    assert found == list(range(9, -1, -1))


def test_no_more_than_the_first_of_many_are_remembered() -> None:
    """B1: of a large fleet's candidates a bounded number is remembered."""
    backlog = Backlog()

    found = backlog.first(BitMap(range(5_000)), 2, lambda item: NodeKey("east", f"{item:04}"))

    assert found == [0, 1]
    assert len(backlog) == 4_096


def test_a_second_look_asks_only_about_what_is_new() -> None:
    """What a look costs goes with the candidates that are new and those that are returned, not with all."""
    backlog, calls = Backlog(), Counter[int]()
    backlog.first(BitMap(range(40)), 1, name_of)
    remembered = len(backlog)

    assert backlog.first(BitMap(range(42)), 2, counted(calls)) == [41, 40]
    assert set(calls) == {40, 41}
    assert len(backlog) == remembered + 2

    calls.clear()
    assert backlog.first(BitMap(range(42)), 2, counted(calls)) == [41, 40]
    assert set(calls) == {40, 41}
    assert len(backlog) == remembered + 2


def test_late_names_wait_for_those_that_were_not_remembered() -> None:
    """A new candidate whose name comes last is not taken before older ones that the backlog had no room for."""
    backlog, candidates = Backlog(nodes_max=4), BitMap(range(10, 20))
    assert backlog.first(candidates, 2, name_of) == [19, 18]
    candidates -= BitMap([19, 18])
    assert backlog.first(candidates, 2, name_of) == [17, 16]
    candidates -= BitMap([17, 16])
    candidates |= BitMap([3])

    assert backlog.first(candidates, 1, name_of) == [15]
    assert backlog.first(candidates, 6, name_of) == [15, 14, 13, 12]
    assert backlog.first(candidates, 7, name_of) == [15, 14, 13, 12, 11, 10, 3]


def test_a_node_that_is_looked_at_afresh_comes_back_once() -> None:
    """An id that was forgotten and still stands for the same node is not returned twice."""
    backlog = Backlog()
    assert backlog.first(BitMap([1, 2, 3]), 1, name_of) == [3]
    backlog.forget(BitMap([3]))

    assert backlog.first(BitMap([1, 2, 3]), 2, name_of) == [3, 2]


@pytest.mark.parametrize("new", ["late", "new"])
def test_a_name_that_has_changed_is_not_returned_for_the_old_one(new: str) -> None:
    """An id that was given to another node is looked at afresh, whichever name comes first."""
    backlog, candidates = Backlog(), BitMap([1, 2, 3, 4, 5])
    names = {item: NodeKey("east", f"mid-{item}") for item in (1, 2, 3)}
    names |= {item: NodeKey("east", f"same-{item}") for item in (4, 5)}
    backlog.first(candidates, 1, names.__getitem__)
    names |= {item: NodeKey("east", f"{new}-{9 - item}") for item in (1, 2, 3)}
    backlog.forget(BitMap([1, 2, 3]))

    assert backlog.first(candidates, 4, names.__getitem__) == [3, 2, 1, 4]
