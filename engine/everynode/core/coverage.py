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
from everynode.core.commands import CreatePod
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
        for key in keys:
            self._review(state, key, index, now_ms)
        if changes is None:
            self._conclude(index.everything)
        elif changes or keys:
            ids = [node_id for _, node_id in changes]
            ids.extend(index.ids[key] for key in keys if key in index.ids)
            self._conclude(BitMap(ids))

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

    def _review(self, state: SetState, key: NodeKey, index: NodeIndex, now_ms: int) -> None:
        node = index.get(key)
        claims = claim(state, key, node, now_ms)
        if node is None:
            # What is pending for it settles or expires. A node that was never heard of is not one that has left:
            # its message may have been unreadable or be on its way, and its pods may be running.
            departed = key in index.departed
            stranded = any(departed or item.reason != NODE_GONE for item in claims.unwanted)
            (self.stranded.add if stranded else self.stranded.discard)(key)
            return
        self.stranded.discard(key)
        node_id = index.ids[key]
        for name, belongs in self._facts(state, node, claims, now_ms).items():
            bitmap: BitMap = getattr(self, name)
            (bitmap.add if belongs else bitmap.discard)(node_id)

    def _facts(self, state: SetState, node: Node, claims: Claims, now_ms: int) -> dict[str, bool]:
        counted = [pod for pod in claims.pods if not (pod.finished and pod.deleting)]
        pod = counted[0] if counted else None
        live = [pod for pod in counted if pod.live]
        new = [pod for pod in live if pod.revision == state.revision]
        pending = [state.pending[name].command for name in state.pending_on.get(node.key, ())]
        creates = [command for command in pending if isinstance(command, CreatePod)]
        failures = [state.failures[name].pending for name in state.failures_on.get(node.key, ())]
        unseen = [failure.command for failure in failures if failure.done]
        cooling = state.cooling_on(node.key)

        def is_available(pod: Pod) -> bool:
            return state.available_ms(pod) <= now_ms

        return {
            "present": bool(counted),
            "obstructed": claims.obstructed,
            "occupied": bool(live),
            "excess": bool(claims.unwanted),
            "adoptable": claims.adopted is not None,
            "busy": bool(pending),
            "cooling": cooling is not None and cooling.retry_ms > now_ms,
            "ready": pod is not None and pod.ready,
            "available": pod is not None and is_available(pod),
            "updated": pod is not None and pod.revision == state.revision,
            "current": bool(new),
            "outdated": len(new) < len(live),
            "serving": any(map(is_available, live)),
            "replaced": any(map(is_available, new)),
            "renewing": any(pod.ready for pod in new),
            "coming": any(command.revision == state.revision for command in creates),
            "leaving": any(command.verb == "delete" for command in (*pending, *unseen)),
            "terminating": any(pod.deleting for pod in counted),
            "ended": any(pod.finished for pod in counted),
            "failing": state.failing_on(node.key, now_ms),
            "troubled": cooling is not None,
            "blamed": any(_began_before(node, state, pod) for pod in claims.pods),
        }

    def _conclude(self, ids: BitMap) -> None:
        """Say what is missing and what must go among these nodes; what it costs goes with their number."""
        idle = ids - self.busy - self.cooling
        self.missing -= ids
        self.missing |= (idle & self.eligible) - self.obstructed
        self.surplus -= ids
        self.surplus |= (idle & (self.occupied | self.ended)) - self.tolerated
        self.surplus |= idle & self.excess


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
    if node.ready:
        return False
    lost_ms = node.unready_since_ms or NEVER_MS
    if pod.deleting:
        return pod.deleting_since_ms <= lost_ms
    return pod.revision == state.revision and pod.created_ms <= lost_ms
