"""Where should the pods of a set be? The rule for all nodes at once, as algebra over bitmaps.

The fleet's state asks this for a set's first placement (all nodes) and after changes (only the nodes that changed). The
rules are those of ``eligibility``, which answers for one node with reasons; a property test holds the two equal.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.eligibility import (
    NODE_AFFINITY_MISMATCH,
    NODE_NAME_MISMATCH,
    NODE_SELECTOR_MISMATCH,
    OTHER_BACKEND,
    UNTOLERATED_TAINT,
    Constraints,
    Term,
    compares,
    matches,
)
from everynode.core.index import EMPTY, NodeIndex
from everynode.core.values import NO_EXECUTE, NodeKey, Requirement

BACKLOG_NODES_MAX = 4096


class Placement(NamedTuple):
    """The nodes that a set's constraints allow.

    Attributes:
        eligible: A pod should be made here if there is none.
        tolerated: A pod that is here may stay; contains ``eligible``.
    """

    eligible: BitMap
    tolerated: BitMap


def place(constraints: Constraints, index: NodeIndex, within: BitMap | None = None) -> Placement:
    """Evaluate a set's constraints over the index.

    Args:
        constraints: The set's.
        index: The fleet's nodes.
        within: Only these nodes are looked at; ``None`` for all. What it costs goes with their number.
    """
    *_, (_, selected_nodes) = _stages(constraints, index, within)
    tolerated, eligible = BitMap(selected_nodes), BitMap(selected_nodes)
    for taint in index.by_taint if within is None else index.taints_on(selected_nodes):
        if constraints.tolerates(taint):
            continue
        eligible -= index.by_taint[taint]
        if taint.effect == NO_EXECUTE:
            tolerated -= index.by_taint[taint]
    return Placement(eligible, tolerated)


def excluded(constraints: Constraints, index: NodeIndex) -> dict[str, int]:
    """Count the nodes that are not eligible, each by the first of its reasons, sorted by reason.

    The reasons are the codes of ``eligibility.verdict``.
    """
    counts: dict[str, int] = {}
    left = index.everything
    for code, selected in _stages(constraints, index, None):
        counts[code] = len(left) - len(selected)
        left = selected
    counts[UNTOLERATED_TAINT] = len(left) - len(place(constraints, index).eligible)
    return {code: count for code, count in sorted(counts.items()) if count}


def selected(term: Term, index: NodeIndex, within: BitMap) -> BitMap:
    """Return those of some nodes whose labels a compiled selector selects."""
    return _term(term, index, within) if term.usable else EMPTY


def _stages(
    constraints: Constraints, index: NodeIndex, within: BitMap | None
) -> Iterator[tuple[str, BitMap]]:
    """Narrow the nodes down, one rule after the other; each with the reason of those that it excludes."""
    selected = index.everything if within is None else within & index.everything
    if constraints.backend:
        selected = selected & index.by_backend.get(constraints.backend, EMPTY)
    yield OTHER_BACKEND, selected
    if constraints.node_name:
        selected = selected & index.named(constraints.node_name)
    yield NODE_NAME_MISMATCH, selected
    for key, value in constraints.node_selector:
        selected = selected & index.by_label.get(key, {}).get(value, EMPTY)
    yield NODE_SELECTOR_MISMATCH, selected
    if constraints.terms is not None:
        matching = [_term(term, index, selected) for term in constraints.terms if term.usable]
        selected = BitMap.union(*matching) if matching else EMPTY
    yield NODE_AFFINITY_MISMATCH, selected


def _term(term: Term, index: NodeIndex, within: BitMap) -> BitMap:
    for requirement in term.labels:
        within = _requirement(requirement, index, within)
    for requirement in term.fields:
        named = index.named(requirement.values[0])
        within = within & named if requirement.operator == "In" else within - named
    return within


def _requirement(requirement: Requirement, index: NodeIndex, within: BitMap) -> BitMap:
    values = index.by_label.get(requirement.key, {})
    match requirement.operator:
        case "In":
            return within & _union([values.get(value, EMPTY) for value in requirement.values])
        case "NotIn":
            return within - _union([values.get(value, EMPTY) for value in requirement.values])
        case "Exists":
            return within & index.by_label_key.get(requirement.key, EMPTY)
        case "DoesNotExist":
            return within - index.by_label_key.get(requirement.key, EMPTY)
        case _ if len(within) < len(values):
            labels = ((node_id, index.node(node_id).labels) for node_id in within)
            return BitMap([node_id for node_id, found in labels if matches(requirement, found)])
        case _:  # Gt and Lt: nothing else is usable
            return within & _union(
                [nodes for value, nodes in values.items() if compares(requirement, value)]
            )


def _union(bitmaps: list[BitMap]) -> BitMap:
    match bitmaps:
        case []:
            return EMPTY
        case [single]:
            return single
        case _:
            return BitMap.union(*bitmaps)


class Backlog:
    """The first nodes of many, by name, without sorting them all each time.

    A set that is to cover a large fleet has thousands of candidates and takes a few at a time. This remembers the
    first ``BACKLOG_NODES_MAX`` of them. It is a cache: what ``first`` returns depends on its arguments alone.
    """

    def __init__(self, nodes_max: int = BACKLOG_NODES_MAX) -> None:
        """Start with nothing remembered."""
        self._nodes_max = nodes_max
        self._queue: list[tuple[NodeKey, int]] = []
        self._considered = BitMap()

    def __len__(self) -> int:
        """Count the nodes that are remembered."""
        return len(self._queue)

    def forget(self, ids: BitMap) -> None:
        """Look afresh at ids that may stand for other nodes now."""
        self._considered -= ids

    def first(
        self, candidates: BitMap, count_max: int, key_of: Callable[[int], NodeKey]
    ) -> list[int]:
        """Return the first ``count_max`` candidates (no more than are remembered), sorted by key."""
        if not candidates:  # nor is any of those remembered: what comes is looked at afresh
            self._queue, self._considered = [], BitMap()
        if not count_max:
            return []
        if len(candidates) <= count_max:  # what is remembered holds good for the next time
            return [node_id for _, node_id in sorted((key_of(item), item) for item in candidates)]
        self._considered &= candidates
        fresh = candidates - self._considered
        if len(fresh) > self._nodes_max or not self._queue:
            self._refill(candidates, key_of)
        else:
            self._take_in(fresh, key_of)
        found = self._scan(candidates, count_max, key_of)
        if len(found) < count_max:
            self._refill(candidates, key_of)
            found = self._scan(candidates, count_max, key_of)
        return found

    def _refill(self, candidates: BitMap, key_of: Callable[[int], NodeKey]) -> None:
        pairs = ((key_of(node_id), node_id) for node_id in candidates)
        self._queue = heapq.nsmallest(self._nodes_max, pairs)
        self._considered = BitMap(candidates)

    def _take_in(self, fresh: BitMap, key_of: Callable[[int], NodeKey]) -> None:
        last = self._queue[-1]
        for node_id in fresh:
            entry = (key_of(node_id), node_id)
            if entry < last:  # later ones are found when the queue has run out
                bisect.insort(self._queue, entry)
        del self._queue[self._nodes_max :]
        self._considered |= fresh

    def _scan(
        self, candidates: BitMap, count_max: int, key_of: Callable[[int], NodeKey]
    ) -> list[int]:
        """Take the first from the queue, at least one; what is no candidate any more leaves it on the way."""
        valid: list[tuple[NodeKey, int]] = []
        last: tuple[NodeKey, int] | None = None
        seen = 0
        for seen, entry in enumerate(self._queue, 1):  # noqa: B007 - how far it came
            key, node_id = entry
            if node_id in candidates and key_of(node_id) == key and entry != last:
                last = entry
                valid.append(entry)
                if len(valid) == count_max:
                    break
        self._queue[:seen] = valid
        return [node_id for _, node_id in valid]
