"""How a new template reaches pods that already run: what may be taken down, replaced or added now, within the budget.

Asked by ``decision`` for its commands and by ``status`` for what people see, so that both follow one rule. All of it is
algebra over the bitmaps of ``coverage``. Source: pkg/controller/daemon/update.go (rollingUpdate), but for this:

* Nodes are taken in a fixed order: those first whose pod is not ready anyway, then by name.
* A pod on a node that is not eligible (any more) is left alone: it could not be replaced.
* A pod that the set is deleting counts as unavailable from the decision on.
* ``paused``, ``partition``, ``selector`` and ``unreachable_nodes`` are ours.
"""

from __future__ import annotations

from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.budget import Budget, budget_of
from everynode.core.index import EMPTY, NodeIndex
from everynode.core.lately import revision_before
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.values import ROLLING_UPDATE, NodeKey


class Rollout(NamedTuple):
    """Where the rollout of a set stands; bitmaps of eligible nodes.

    Attributes:
        budget: What it may do.
        skipped: Nodes that do not count: not ready since before the set began to change something there.
        counting: All others.
        unavailable: Of those, the ones that have no available pod, or will have none when pending deletes are done.
        open: Nodes with nothing but an old pod, idle, that pause and selector leave to the rollout.
        room: How many of them may be replaced before only as many old pods are left as the partition asks for.
        held: How many nodes stay on an old revision for now: paused, not selected, or for the partition.
        surging: Nodes on which a new pod was added beside the old one and is not available, or has ended.
    """

    budget: Budget
    skipped: BitMap
    counting: BitMap
    unavailable: BitMap
    open: BitMap
    room: int
    held: int
    surging: BitMap


class Step(NamedTuple):
    """What the rollout does now: ids of nodes, in the order in which they are taken.

    Attributes:
        take_down: Nodes whose old pod is to be deleted.
        add_on: Nodes on which a new pod is to be made beside the old one.
    """

    take_down: list[int]
    add_on: list[int]


def is_held(state: SetState) -> bool:
    """Say whether some nodes are to stay on an old revision for now."""
    strategy = state.strategy
    return strategy.paused or bool(strategy.partition) or strategy.selector is not None


def rollout_of(state: SetState, index: NodeIndex) -> Rollout:
    """Say where the rollout of a set stands; the set is wanted, its bitmaps are up to date."""
    nodes, strategy = state.coverage, state.strategy
    budget = budget_of(strategy, len(nodes.eligible))
    skipped = EMPTY
    if strategy.unreachable_nodes == "Skip":
        skipped = (nodes.eligible & index.unready) - nodes.blamed
    counting = nodes.eligible - skipped
    unavailable = counting - nodes.serving
    if not state.surges:
        unavailable |= counting & nodes.leaving
    staying = ((nodes.eligible & nodes.outdated) - nodes.current) - nodes.leaving - nodes.coming
    candidates = EMPTY
    if strategy.type == ROLLING_UPDATE and not strategy.paused:
        candidates = (staying - skipped) & nodes.chosen
    room = min(len(candidates), max(0, len(staying) - budget.partition))
    return Rollout(
        budget=budget,
        skipped=skipped,
        counting=counting,
        unavailable=unavailable,
        open=candidates - nodes.busy - nodes.cooling - nodes.excess - nodes.ended,
        room=room,
        held=len(staying - skipped) - room,
        surging=nodes.eligible
        & nodes.outdated
        & ((nodes.current - nodes.replaced) | nodes.coming | nodes.ended),
    )


def next_step(state: SetState, index: NodeIndex, within: BitMap, count_max: int) -> Step:
    """Say what the rollout does now.

    Nodes whose old pod is not ready come first and cost nothing, as they are down already. They count towards the
    budget all the same (kubernetes#123232). A pod that is ready, but not for ``minReadySeconds``, counts as down too,
    and is not taken as if it were: a kubelet that restarts sets the clocks of all its pods back.

    Args:
        state: The set; it is wanted, its bitmaps are up to date.
        index: The fleet's nodes.
        within: Only these nodes are looked at.
        count_max: At most so many nodes.
    """
    now = rollout_of(state, index)
    nodes = state.coverage
    limit = min(now.room, count_max)
    candidates = now.open & within
    if now.open and not candidates:
        return Step([], [])  # what the backlogs remember holds good for when they are open again
    broken = nodes.broken_backlog.first(candidates - nodes.ready, limit, index.key)
    if state.surges:
        budget = now.budget.max_surge - len(now.surging)
    else:
        budget = now.budget.max_unavailable - len(now.unavailable)
    limit = min(limit - len(broken), max(0, budget))
    working = nodes.working_backlog.first(candidates & nodes.ready, limit, index.key)
    taken = broken + working
    return Step([], taken) if state.surges else Step(taken, [])


class NewPods:
    """Which revision pods get on nodes that have none: the wanted one, unless the rollout is held there.

    A rollout that is paused, or is for other nodes only, must not spread because an old pod dies or a node joins.
    Such a node gets what it had, else the old revision that most pods have. Where there is no old pod, there is
    nothing to hold.

    Args:
        state: The set; it is wanted, its bitmaps are up to date.
        index: The fleet's nodes.
        now_ms: Log time.
        limits: How long it is remembered what a node had.
    """

    def __init__(self, state: SetState, index: NodeIndex, now_ms: int, limits: Limits) -> None:
        """Count what may still get the wanted revision."""
        self._state, self._now_ms, self._limits = state, now_ms, limits
        nodes = state.coverage
        desired = len(nodes.eligible)
        keeping = budget_of(state.strategy, desired).partition
        counts = state.revision_counts
        old = [item for item in state.revisions.values() if item.hash != state.revision]
        used = [(counts[item.hash], item.number, item.hash) for item in old if counts[item.hash]]
        self._old = max(used)[2] if used else ""
        self._room = desired
        if keeping and old:  # else there is nothing to keep
            have = nodes.eligible & (nodes.current | nodes.coming)
            without = nodes.eligible - nodes.occupied - nodes.coming
            again = [node_id for node_id in without if self._had_wanted(index.key(node_id))]
            self._room = desired - keeping - len(have) - len(again)

    def revision(self, node_id: int, key: NodeKey) -> str:
        """Return the revision for the next pod, on this node; it counts from then on."""
        state = self._state
        strategy = state.strategy
        if self._had_wanted(key):
            return state.revision  # it is counted already
        if strategy.type == ROLLING_UPDATE:
            spared = strategy.paused or node_id not in state.coverage.chosen
            if self._room <= 0 or spared:
                before = self._before(key)
                old = before if before in state.revisions else self._old
                if old:
                    return old
        self._room -= 1
        return state.revision

    def _had_wanted(self, key: NodeKey) -> bool:
        return self._before(key) == self._state.revision

    def _before(self, key: NodeKey) -> str:
        return revision_before(self._state, key, self._now_ms, self._limits)
