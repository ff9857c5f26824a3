"""What would change if manifests were applied: to the sets, to each node, and in which order.

Used by the command line, on a live fleet or a recording; ``planning_fleet`` holds what is known. What apply would write
is asked of ``runtime.applying``, what follows from it of the core: nothing is decided here by rules of its own. A plan
is what happens if nothing else does, and if pods get ready where their node is.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from everynode import wire
from everynode.core.claims import OUTDATED
from everynode.core.eligibility import Reason, compile_constraints, verdict
from everynode.core.events import DaemonSetObserved
from everynode.core.identity import derived_uid
from everynode.core.setstate import SetState
from everynode.core.values import DaemonSet, NodeKey, SetKey
from everynode.replay.differing import FieldDifference
from everynode.replay.planning_changes import changes_of
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_nodes import Foreseen, Happening, foresee
from everynode.replay.planning_warnings import Warned, warnings_of
from everynode.replay.planning_waves import Waves, waves_of
from everynode.runtime.applying import Action, Applied, KnownSet, what_apply_writes

UP_TO_DATE = "UpToDate"
NOT_ELIGIBLE = "NotEligible"


class Group(NamedTuple):
    """Nodes to which the same happens.

    Attributes:
        reasons: How many nodes for each reason, the most frequent first.
        nodes: All of them, in order.
    """

    happening: Happening
    reasons: dict[str, int]
    nodes: list[NodeKey]


class PlannedSet(NamedTuple):
    """What would become of one set.

    Attributes:
        daemonset: As it would be.
        changes: What is another way than it was.
        nodes: How many nodes the fleet has; ``eligible``: how many of them should have a pod.
        excluded: Why the others should not; a node counts for each of its reasons.
        groups: What happens to which nodes; every kind, also those that happen to none.
        waves: How the rollout goes.
    """

    action: Action
    daemonset: DaemonSet
    changes: list[FieldDifference]
    nodes: int
    eligible: int
    excluded: list[tuple[Reason, int]]
    groups: list[Group]
    waves: Waves
    warnings: list[Warned]

    def group(self, happening: Happening) -> Group:
        """Return the nodes to which this happens."""
        return next(each for each in self.groups if each.happening is happening)


class Planner:
    """Applies manifests to what is known of a fleet, and says what would follow.

    Args:
        fleet: What is known.
        now_ms: When it would be applied, in ms since 1970.

    Attributes:
        on_their_way: How many commands were on their way and are taken to have arrived.
    """

    def __init__(self, fleet: PlannedFleet, now_ms: int) -> None:
        """Let arrive what is on its way."""
        self._fleet, self._now_ms = fleet, now_ms
        self._before: dict[SetKey, DaemonSet | None] = {}
        self._after: dict[SetKey, Applied] = {}
        self.on_their_way = fleet.arrive(now_ms)

    def apply(self, daemonset: DaemonSet) -> Applied:
        """Apply a manifest; several of one set are applied one after the other.

        Raises:
            InvalidObjectError: It changes what cannot be changed.
            RefusedError: A backend keeps the set; it is changed there.
            MalformedMessageError: It is too large.
        """
        key = daemonset.key
        state = self._fleet.known(key)
        known = KnownSet(None, None, 0)
        if state is not None:
            known = KnownSet(state.daemonset, state.gone, state.sequence)
        uid = derived_uid("plan", *key)
        applied = what_apply_writes(daemonset, known, uid, self._now_ms)
        if applied.action != "unchanged":
            message = DaemonSetObserved(daemonset=applied.daemonset)
            wire.encode(message)
            self._fleet.write(message)
        earlier = self._after.get(key)
        self._before.setdefault(key, known.daemonset)
        if earlier is not None and earlier.action != "unchanged":
            applied = applied._replace(action=earlier.action)
        self._after[key] = applied
        return applied

    def plans(self) -> list[PlannedSet]:
        """Say what would become of the sets that were applied, in that order."""
        return [self._plan(key, applied) for key, applied in self._after.items()]

    def _plan(self, key: SetKey, applied: Applied) -> PlannedSet:
        fleet, daemonset = self._fleet.state, applied.daemonset
        state = fleet.refreshed(key)
        found = foresee(fleet, state)
        waves = waves_of(fleet, state, found)
        return PlannedSet(
            action=applied.action,
            daemonset=daemonset,
            changes=changes_of(self._before[key], daemonset),
            nodes=len(fleet.index),
            eligible=len(state.coverage.eligible),
            excluded=self._excluded(daemonset, state),
            groups=self._groups(state, found, waves),
            waves=waves,
            warnings=warnings_of(state, fleet.index, waves),
        )

    def _excluded(self, daemonset: DaemonSet, state: SetState) -> list[tuple[Reason, int]]:
        """Count as ``explain`` does."""
        index, constraints = self._fleet.state.index, compile_constraints(daemonset)
        counts: Counter[Reason] = Counter()
        for node_id in index.everything - state.coverage.eligible:
            counts.update(verdict(constraints, index.node(node_id)).reasons)
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def _groups(self, state: SetState, found: Foreseen, waves: Waves) -> list[Group]:
        index, nodes = self._fleet.state.index, state.coverage
        happens = dict(found.happens)
        for wave in waves.waves:
            for key in wave:
                what = happens.get(key, (Happening.STAY, ""))[0]
                if what in {Happening.STAY, Happening.TRIM}:
                    happens[key] = (Happening.REPLACE, OUTDATED)
        for node_id in nodes.occupied | nodes.ended:
            key = index.key(node_id)
            if key not in happens:
                why = UP_TO_DATE
                if node_id in nodes.outdated:
                    why = waves.held.get(key, NOT_ELIGIBLE)
                happens[key] = (Happening.STAY, why)
        return [_group(each, happens) for each in Happening]


def _group(happening: Happening, happens: dict[NodeKey, tuple[Happening, str]]) -> Group:
    found = sorted(key for key, (what, _) in happens.items() if what is happening)
    reasons = Counter(happens[key][1] for key in found)
    return Group(happening, dict(sorted(reasons.items(), key=lambda it: (-it[1], it[0]))), found)
