"""Placement: many sets over a whole fleet at once, beside a plain loop over all pairs of set and node.

The loop is what one would write first: the rule for one pair, without reasons, on constraints that are compiled
already. It would take minutes, so that it runs on a sample and is scaled up by the number of pairs. On the sample both,
and the rule with reasons that ``everynode explain`` shows, must give the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from measuring import Row, Target, best_seconds, quiet_heap, say
from workload import make_nodes, make_sets

from everynode.core.eligibility import (
    NODE_NAME_FIELD,
    Constraints,
    Term,
    compile_constraints,
    matches,
    verdict,
)
from everynode.core.index import NodeIndex
from everynode.core.placement import place
from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, DaemonSet, Node

PLACEMENT_SECONDS = Target(bound=0.2, unit="s")
PLACEMENT_LOOP_RATIO = Target(bound=500, unit="times", at_least=True)

SAMPLE_SETS = 50
SAMPLE_NODES = 2_000
RUNS = 5


class Answer(NamedTuple):
    """Whether a pod should be made, and whether one that is there may stay."""

    should_run: bool
    may_stay: bool


def answer_for_pair(constraints: Constraints, node: Node) -> Answer:
    """Apply the rule to one pair, and stop at the first thing that speaks against it."""
    labels = node.labels
    if constraints.backend not in {"", node.backend}:
        return Answer(should_run=False, may_stay=False)
    if constraints.node_name not in {"", node.name}:
        return Answer(should_run=False, may_stay=False)
    for key, value in constraints.node_selector:
        if labels.get(key) != value:
            return Answer(should_run=False, may_stay=False)
    terms = constraints.terms
    if terms is not None and not any(_term_matches(term, node) for term in terms):
        return Answer(should_run=False, may_stay=False)
    should_run = True
    for taint in node.taints:
        if taint.effect in {NO_SCHEDULE, NO_EXECUTE} and not constraints.tolerates(taint):
            if taint.effect == NO_EXECUTE:
                return Answer(should_run=False, may_stay=False)
            should_run = False
    return Answer(should_run, may_stay=True)


def _term_matches(term: Term, node: Node) -> bool:
    if not term.usable:
        return False
    if not all(matches(requirement, node.labels) for requirement in term.labels):
        return False
    fields = {NODE_NAME_FIELD: node.name}
    return all(matches(requirement, fields) for requirement in term.fields)


def loop_seconds_per_pair(sets: Sequence[DaemonSet], nodes: Sequence[Node]) -> float:
    """Measure the plain loop on a sample."""
    constraints = [compile_constraints(item) for item in sets[:SAMPLE_SETS]]
    step = max(1, len(nodes) // SAMPLE_NODES)
    sample = nodes[::step][:SAMPLE_NODES]

    def loop() -> None:
        for item in constraints:
            for node in sample:
                answer_for_pair(item, node)

    with quiet_heap():
        return best_seconds(loop, RUNS) / (len(constraints) * len(sample))


def check_answers(sets: Sequence[DaemonSet], index: NodeIndex, nodes: Sequence[Node]) -> None:
    """Make sure that all three ways give the same answers on the sample.

    Raises:
        AssertionError: They do not.
    """
    step = max(1, len(nodes) // SAMPLE_NODES)
    seen: set[Answer] = set()
    for daemonset in sets[:SAMPLE_SETS]:
        constraints = compile_constraints(daemonset)
        placed = place(constraints, index)
        for node in nodes[::step][:SAMPLE_NODES]:
            node_id = index.ids[node.key]
            by_algebra = Answer(node_id in placed.eligible, node_id in placed.tolerated)
            by_loop = answer_for_pair(constraints, node)
            by_reasons = verdict(constraints, node)[:2]
            assert by_algebra == by_loop == by_reasons, (daemonset.name, node.name)
            seen.add(by_loop)
    assert len(seen) == 3, f"the sample is too much alike: {seen}"


@dataclass(frozen=True)
class Sizes:
    """How much is placed."""

    sets: int
    nodes: int


def measure(sizes: Sizes) -> list[Row]:
    """Place all sets over all nodes."""
    say(f"placement: {sizes.sets:,} sets over {sizes.nodes:,} nodes")
    nodes, sets = make_nodes(sizes.nodes), make_sets(sizes.sets)
    index = NodeIndex()

    def fill() -> None:
        for node in nodes:
            index.put(node)

    index_seconds = best_seconds(fill, 1)
    check_answers(sets, index, nodes)
    with quiet_heap():
        seconds = best_seconds(
            lambda: [place(compile_constraints(item), index) for item in sets], RUNS
        )
    pair_seconds = loop_seconds_per_pair(sets, nodes)
    loop_seconds = pair_seconds * sizes.sets * sizes.nodes
    pairs = min(SAMPLE_SETS, sizes.sets) * min(SAMPLE_NODES, sizes.nodes)
    part = f"placement, {sizes.sets:,} sets, {sizes.nodes:,} nodes"
    return [
        Row(part=part, what="index all nodes, once", figure=index_seconds, unit="s"),
        Row(
            part=part,
            what="compile and place all sets",
            figure=seconds,
            unit="s",
            loop_ratio=loop_seconds / seconds,
            target=PLACEMENT_SECONDS,
        ),
        Row(
            part=part,
            what=f"plain loop, scaled from {pairs:,} pairs (same answers)",
            figure=loop_seconds,
            unit="s",
        ),
        Row(
            part=part,
            what="plain loop / placement",
            figure=loop_seconds / seconds,
            unit="times",
            target=PLACEMENT_LOOP_RATIO,
        ),
    ]
