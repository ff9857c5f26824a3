"""Placement as algebra: what it costs, and the backlog of candidates."""

from __future__ import annotations

from typing import Any

import pytest
from pyroaring import BitMap

from everynode.core.eligibility import compile_constraints
from everynode.core.index import NodeIndex
from everynode.core.placement import Backlog, place
from everynode.core.values import NodeKey
from everynode.testing.builders import daemonset, node

FLEET = 500


def spec_with(operator: str, value: str) -> dict[str, Any]:
    """Require one comparison of the label ``size``."""
    term = {"matchExpressions": [{"key": "size", "operator": operator, "values": [value]}]}
    required = {"nodeSelectorTerms": [term]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


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


def test_a_few_candidates_are_sorted_and_nothing_is_remembered() -> None:
    """With no more candidates than wanted, all of them come back by name."""
    backlog = Backlog()

    assert backlog.first(BitMap([1, 5, 3]), 3, name_of) == [5, 3, 1]
    assert len(backlog) == 0


def test_candidates_that_come_later_take_their_place_by_name() -> None:
    """A node that becomes a candidate after the first look is not behind those known before."""
    backlog = Backlog()
    assert backlog.first(BitMap([10, 20, 30]), 1, name_of) == [30]

    assert backlog.first(BitMap([10, 20, 30, 40]), 2, name_of) == [40, 30]
    assert backlog.first(BitMap([5, 10, 20]), 1, name_of) == [20]


def test_the_backlog_is_filled_again_when_it_has_run_out() -> None:
    """Candidates beyond the limit of what is remembered are found in their turn."""
    backlog, candidates, found = Backlog(nodes_max=4), BitMap(range(10)), []
    while candidates:
        taken = backlog.first(candidates, 2, name_of)
        found += taken
        candidates -= BitMap(taken)

    assert found == list(range(9, -1, -1))


def test_a_name_that_has_changed_is_not_returned_for_the_old_one() -> None:
    """An id that was given to another node is looked at afresh."""
    backlog = Backlog()
    backlog.first(BitMap([1, 2, 3]), 1, lambda item: NodeKey("east", f"old-{item}"))
    backlog.forget(BitMap([1, 2, 3]))

    found = backlog.first(BitMap([1, 2, 3]), 2, lambda item: NodeKey("east", f"new-{9 - item}"))

    assert found == [3, 2]
