"""In which order a rollout comes to its nodes, and how many are taken at a time.

Used by ``planning``, after ``planning_nodes``. The rule is ``core.rollout``'s, which says what to do now; here it is
asked for the first step, and followed from there to the end in one go, over ids of nodes instead of messages. A
property test holds the two equal. A wave is what is taken down together: the next one follows when this one is
available again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.budget import Budget, budget_of
from everynode.core.index import EMPTY
from everynode.core.rollout import next_step
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import ON_DELETE, NodeKey
from everynode.replay.planning_nodes import Foreseen

PAUSED = "Paused"
NOT_SELECTED = "NotSelected"
NODE_NOT_READY = "NodeNotReady"
PARTITION = "Partition"
STALLED = "Stalled"


class Waves(NamedTuple):
    """How a rollout goes.

    Attributes:
        budget: What it may do, in numbers of nodes.
        waves: The nodes of each wave, in the order in which they are taken.
        broken: So many have a pod that is not ready: they are taken first, whatever the budget says.
        held: Nodes that stay on an old revision, and why.
        stuck: So many nodes have no available pod in the end, as things are, and use up the budget.
    """

    budget: Budget
    waves: list[list[NodeKey]]
    broken: int
    held: dict[NodeKey, str]
    stuck: int


def waves_of(fleet: FleetState, state: SetState, found: Foreseen) -> Waves:
    """Say how the rollout of a set goes, when what is not its business is done."""
    index, strategy = fleet.index, state.strategy
    budget = budget_of(strategy, len(state.coverage.eligible))
    candidates = EMPTY
    if strategy.type != ON_DELETE and not strategy.paused:
        candidates = (found.staying - found.skipped) & state.coverage.chosen
    room = min(len(candidates), max(0, len(found.staying) - budget.partition))
    step = next_step(state, index, index.everything, len(index))
    begun = step.add_on if state.surges else step.take_down
    left = candidates - BitMap(begun)
    room -= len(begun)
    broken = _in_order(fleet, left - found.ready)[: max(0, room)]
    working = _in_order(fleet, left & found.ready)[: max(0, room - len(broken))]
    waves = list(_in_waves(state, found, budget, (begun, broken, working), index.unready))
    taken = BitMap([node_id for wave in waves for node_id in wave])
    held = {
        index.key(each): _why_held(state, found, candidates, each) for each in found.staying - taken
    }
    held |= {index.key(each): STALLED for each in working if each not in taken}
    return Waves(
        budget=budget,
        waves=[[index.key(node_id) for node_id in wave] for wave in waves],
        broken=len(BitMap(begun) - state.coverage.ready) + len(broken),
        held=held,
        stuck=len((found.stuck - taken) | (taken & index.unready)),
    )


def _in_order(fleet: FleetState, ids: BitMap) -> list[int]:
    """Order nodes as the rollout takes them: by backend and name."""
    return [node_id for _, node_id in sorted((fleet.index.key(each), each) for each in ids)]


def _in_waves(
    state: SetState,
    found: Foreseen,
    budget: Budget,
    order: tuple[list[int], list[int], list[int]],
    unready: BitMap,
) -> Iterator[list[int]]:
    """Take nodes in turn: those first whose pod is not ready anyway, which cost nothing; the others within the budget.

    Args:
        state: The set.
        found: How its nodes are when the rollout has begun.
        budget: What it may do.
        order: The nodes that are taken at once; then, of the others, those whose pod is not ready; then the rest.
        unready: Nodes on which no pod gets ready: once taken, they use up the budget.
    """
    begun, broken, working = order
    first = BitMap([*begun, *broken])
    position = 0
    if state.surges:  # an old pod that is not ready goes as soon as there is a new one
        limit, used = budget.max_surge, found.finishing & found.stuck
        used |= BitMap(begun) & found.ready & unready
        if begun:
            yield begun
        position = max(0, limit - len(used))
        wave = broken + working[:position]
    else:
        limit, used = budget.max_unavailable, found.stuck - first
        down = used | first | found.remade
        used |= first & unready
        position = max(0, limit - len(down))
        wave = begun + broken + working[:position]
    if wave:
        yield wave
    used |= BitMap(working[:position]) & unready
    while position < len(working) and (room := limit - len(used)) > 0:
        wave = working[position : position + room]
        position += room
        yield wave
        used |= BitMap(wave) & unready


def _why_held(state: SetState, found: Foreseen, candidates: BitMap, node_id: int) -> str:
    """Say why the rollout does not come to a node with an old pod."""
    strategy = state.strategy
    if strategy.type == ON_DELETE:
        return ON_DELETE
    if strategy.paused:
        return PAUSED
    if node_id in found.skipped:
        return NODE_NOT_READY
    return PARTITION if node_id in candidates else NOT_SELECTED
