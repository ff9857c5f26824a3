"""Bitmaps of the nodes that one set covers, lacks, or must leave.

Owned by ``setstate``, brought up to date by ``state`` before anybody reads it, read by ``decision``, ``rollout`` and
``status``. Only nodes that something has happened to are looked at: the cost of an event does not depend on the fleet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING

from pyroaring import BitMap

from everynode.core.claims import NODE_GONE, Claims, claim
from everynode.core.commands import CreatePod, DeletePod
from everynode.core.index import NodeIndex
from everynode.core.pacing import NEVER_MS
from everynode.core.placement import Backlog, excluded, place, selected
from everynode.core.values import Node, NodeKey, Pod

if TYPE_CHECKING:
    from everynode.core.setstate import SetState

_FACTS = (
    "present",
    "obstructed",
    "occupied",
    "excess",
    "adoptable",
    "busy",
    "cooling",
    "ready",
    "available",
    "updated",
    "current",
    "outdated",
    "serving",
    "replaced",
    "renewing",
    "coming",
    "leaving",
    "terminating",
    "ended",
    "failing",
    "troubled",
    "blamed",
)
"""What is kept of each node, one bit each in the order of this table."""

(
    _PRESENT,
    _OBSTRUCTED,
    _OCCUPIED,
    _EXCESS,
    _ADOPTABLE,
    _BUSY,
    _COOLING,
    _READY,
    _AVAILABLE,
    _UPDATED,
    _CURRENT,
    _OUTDATED,
    _SERVING,
    _REPLACED,
    _RENEWING,
    _COMING,
    _LEAVING,
    _TERMINATING,
    _ENDED,
    _FAILING,
    _TROUBLED,
    _BLAMED,
) = (1 << position for position in range(len(_FACTS)))


class Coverage:
    """Where a set's pods are and should be.

    Attributes:
        eligible, tolerated: As ``placement`` says.
        chosen: Nodes that the rollout's selector selects, or all.
        present: Nodes with a pod of the set; one that has ended and is on its way out is none.
        obstructed: Nodes with a pod that stands in the way of a new one, or an orphan to adopt.
        occupied: Nodes with a live pod.
        excess: Nodes with pods that must go whether or not the node is tolerated.
        adoptable: Nodes with an orphan that is to be their pod.
        busy: Nodes with a pending command.
        cooling: Nodes that are left alone after a failure.
        ready, available, updated: Nodes whose pod (the most senior) is so.
        current, outdated: Nodes with a live pod of the wanted revision, and of another.
        serving: Nodes with a live pod that is available.
        replaced: Nodes with a live and available pod of the wanted revision.
        renewing: Nodes with a live pod of the wanted revision that is ready.
        coming: Nodes with a pending create of the wanted revision.
        leaving: Nodes with a pending delete, or one that is said to be done and has shown no effect.
        terminating: Nodes with a pod that is on its way out.
        ended: Nodes with a pod that has ended and is left as it is for a while.
        failing: Nodes without an available pod on which pods of this generation end, one after the other.
        troubled: Nodes for which commands of this generation have failed lately.
        blamed: Nodes that were not yet lost when the set began to change something there; see ``rollout``.
        missing: Nodes that should have a pod, have none, and are not being worked on.
        surplus: Nodes with pods that must go, and that are not being worked on.
        stranded: Nodes that are not in the fleet but have pods that must go.
        creates_backlogs, deletes_backlogs: What comes first, for each backend.
        broken_backlog, working_backlog: Likewise over all backends, for nodes whose old pod is not ready, and is.
    """

    def __init__(self) -> None:
        """Start with nothing known."""
        self.eligible, self.tolerated, self.chosen = BitMap(), BitMap(), BitMap()
        self.present, self.obstructed = BitMap(), BitMap()
        self.occupied, self.excess = BitMap(), BitMap()
        self.adoptable, self.busy, self.cooling = BitMap(), BitMap(), BitMap()
        self.ready, self.available, self.updated = BitMap(), BitMap(), BitMap()
        self.current, self.outdated = BitMap(), BitMap()
        self.serving, self.replaced, self.renewing = BitMap(), BitMap(), BitMap()
        self.coming, self.leaving = BitMap(), BitMap()
        self.terminating, self.ended, self.failing = BitMap(), BitMap(), BitMap()
        self.troubled, self.blamed = BitMap(), BitMap()
        self.missing, self.surplus = BitMap(), BitMap()
        self.stranded: set[NodeKey] = set()
        self.creates_backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self.deletes_backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self.broken_backlog, self.working_backlog = Backlog(), Backlog()
        self._excluded: dict[str, int] | None = None

    def refresh(
        self,
        state: SetState,
        index: NodeIndex,
        changes: list[tuple[NodeKey, int]] | None,
        now_ms: int,
    ) -> None:
        """Bring the bitmaps up to date.

        Args:
            state: The set; what was touched in it is looked at.
            index: The fleet's nodes.
            changes: Key and id of each node that changed since the last time; ``None``: look at all.
            now_ms: Log time.
        """
        if changes is None:
            self._reset(state, index)
            keys = state.touched.union(*_tables(state))
        else:
            self._replace(state, index, changes)
            keys = state.touched
        state.touched = set()
        reviewed = self._review(state, keys, index, now_ms) if keys else BitMap()
        if changes is None:
            self._conclude(index.everything)
        elif changes or keys:
            self._conclude(reviewed | BitMap([node_id for _, node_id in changes]))

    def excluded_nodes(self, state: SetState, index: NodeIndex) -> dict[str, int]:
        """Count the nodes that are not eligible, by reason; counted again only after a node or the set has changed."""
        if self._excluded is None:
            self._excluded = {} if state.constraints is None else excluded(state.constraints, index)
        return self._excluded

    def _reset(self, state: SetState, index: NodeIndex) -> None:
        everything = BitMap(index.everything)
        self.eligible, self.tolerated = BitMap(), BitMap()
        if state.constraints is not None:
            self.eligible, self.tolerated = place(state.constraints, index)
        self.chosen = BitMap(everything)
        if state.rollout_selector is not None:
            self.chosen = BitMap(selected(state.rollout_selector, index, everything))
        for name in _FACTS:
            setattr(self, name, BitMap())
        self.missing, self.surplus = BitMap(), BitMap()
        self.stranded = set()
        self._excluded = None
        self._forget_backlogs(everything)

    def _replace(
        self, state: SetState, index: NodeIndex, changes: list[tuple[NodeKey, int]]
    ) -> None:
        if not changes:
            return
        ids = BitMap([node_id for _, node_id in changes])
        for name in _FACTS:
            getattr(self, name).difference_update(ids)
        self.eligible -= ids
        self.tolerated -= ids
        self.chosen -= ids
        if state.constraints is not None:
            placed = place(state.constraints, index, ids)
            self.eligible |= placed.eligible
            self.tolerated |= placed.tolerated
        present = ids & index.everything
        if state.rollout_selector is not None:
            present = selected(state.rollout_selector, index, present)
        self.chosen |= present
        self._excluded = None
        self._forget_backlogs(ids)
        for key, _ in changes:
            if any(key in table for table in _tables(state)):
                state.touched.add(key)

    def _forget_backlogs(self, ids: BitMap) -> None:
        backlogs = (*self.creates_backlogs.values(), *self.deletes_backlogs.values())
        for backlog in (*backlogs, self.broken_backlog, self.working_backlog):
            backlog.forget(ids)

    def _review(
        self, state: SetState, keys: Collection[NodeKey], index: NodeIndex, now_ms: int
    ) -> BitMap:
        """Look at some nodes; returns those in the fleet. What is alike is entered together: most of many are."""
        alike: defaultdict[int, list[int]] = defaultdict(list)
        ids_of = index.ids
        for key in keys:
            node_id = ids_of.get(key)
            if node_id is None:
                departed = key in index.departed
                self._review_stranger(key, claim(state, key, None, now_ms), departed=departed)
                continue
            node = index.node(node_id)
            facts = _pod_facts(state, node, claim(state, key, node, now_ms), now_ms)
            alike[facts | _command_facts(state, key, now_ms)].append(node_id)
        if self.stranded:
            self.stranded.difference_update(key for key in keys if key in ids_of)
        groups = [(facts, BitMap(ids)) for facts, ids in alike.items()]
        reviewed = BitMap.union(BitMap(), *(ids for _, ids in groups))
        for position, name in enumerate(_FACTS):
            bitmap: BitMap = getattr(self, name)
            bitmap.difference_update(reviewed)
            for facts, ids in groups:
                if facts >> position & 1:
                    bitmap |= ids
        return reviewed

    def _review_stranger(self, key: NodeKey, claims: Claims, *, departed: bool) -> None:
        """Look at a node that is not in the fleet. What is pending for it settles or expires.

        One that was never heard of is not one that has left: its message may have been unreadable or be on its way,
        and its pods may be running.
        """
        stranded = any(departed or item.reason != NODE_GONE for item in claims.unwanted)
        (self.stranded.add if stranded else self.stranded.discard)(key)

    def _conclude(self, ids: BitMap) -> None:
        """Say what is missing and what must go among these nodes; what it costs goes with their number."""
        idle = ids - self.busy - self.cooling
        self.missing -= ids
        self.missing |= (idle & self.eligible) - self.obstructed
        self.surplus -= ids
        self.surplus |= (idle & (self.occupied | self.ended)) - self.tolerated
        self.surplus |= idle & self.excess


def _pod_facts(state: SetState, node: Node, claims: Claims, now_ms: int) -> int:
    """Say what is so with a node's pods."""
    facts = _EXCESS if claims.unwanted else 0
    if claims.obstructed:
        facts |= _OBSTRUCTED
    if claims.adopted is not None:
        facts |= _ADOPTABLE
    for pod in claims.pods:
        if not node.ready and _began_before(node, state, pod):
            facts |= _BLAMED
        finished = pod.finished
        if finished and pod.deleting:
            continue
        available = pod.ready and state.available_ms(pod) <= now_ms
        wanted = pod.revision == state.revision
        if not facts & _PRESENT:  # the most senior one
            facts |= _PRESENT
            facts |= (pod.ready and _READY) | (available and _AVAILABLE) | (wanted and _UPDATED)
        if finished:
            facts |= _ENDED
        elif pod.deleting:
            facts |= _TERMINATING
        else:
            facts |= _OCCUPIED | (_CURRENT if wanted else _OUTDATED)
            facts |= available and (_SERVING | (wanted and _REPLACED))
            facts |= (wanted and pod.ready) and _RENEWING
    return facts


def _command_facts(state: SetState, key: NodeKey, now_ms: int) -> int:
    """Say what is being done with a node, and what did not work there."""
    facts = 0
    for name in state.pending_on.get(key, ()):
        command = state.pending[name].command
        facts |= _BUSY
        if isinstance(command, CreatePod):
            facts |= command.revision == state.revision and _COMING
        elif isinstance(command, DeletePod):
            facts |= _LEAVING
    if state.failures:  # seldom
        for name in state.failures_on.get(key, ()):
            pending = state.failures[name].pending
            if pending.done and isinstance(pending.command, DeletePod):
                facts |= _LEAVING
        cooling = state.cooling_on(key)
        if cooling is not None:
            facts |= _TROUBLED | (cooling.retry_ms > now_ms and _COOLING)
    if state.failing_on(key, now_ms):
        facts |= _FAILING
    return facts


def _tables(state: SetState) -> tuple[Collection[NodeKey], ...]:
    """Return what names the nodes of which a set knows anything."""
    return (
        state.pods_on,
        state.pending_on,
        state.failures_on,
        state.orphans_on,
        state.last_gone_on,
    )


def _began_before(node: Node, state: SetState, pod: Pod) -> bool:
    """Say whether the set began to change something on a node before that was lost, or as far as anybody knows."""
    lost_ms = node.unready_since_ms or NEVER_MS
    if pod.deleting:
        return pod.deleting_since_ms <= lost_ms
    return pod.revision == state.revision and pod.created_ms <= lost_ms
