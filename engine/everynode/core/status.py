"""How far a set has come: the counters of apps/v1, nodes by reason, and conditions.

Called by ``machine`` after a set was looked at. Reads bitmaps that are up to date; decides nothing.
"""

from __future__ import annotations

from pyroaring import BitMap

from everynode.core.conditions import Outlook, conditions
from everynode.core.decision import left_alone
from everynode.core.index import NodeIndex
from everynode.core.rollout import Rollout, rollout_of
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import SetKey, Status

OUTDATED = "Outdated"
NOT_READY = "NotReady"
NOT_AVAILABLE_YET = "NotAvailableYet"
UNREACHABLE = "Unreachable"
SKIPPED = "Skipped"
TERMINATING = "Terminating"
BACK_OFF = "BackOff"
COMMAND_FAILED = "CommandFailed"
ADOPTING = "Adopting"
CREATING = "Creating"
NO_POD = "NoPod"


def compute_status(fleet: FleetState, key: SetKey, previous: Status | None = None) -> Status | None:
    """Count; ``None`` for a set that is not wanted or not ours to report on.

    A pod that is on its way out still counts as there (pkg/controller/daemon/daemon_controller.go,
    updateDaemonSetStatus).

    Args:
        fleet: The fleet; nothing in it is changed but caches.
        key: The set.
        previous: What was reported last: conditions go on from there. The one on the log if not given.
    """
    state = fleet.refreshed(key)
    daemonset = state.daemonset
    if daemonset is None or left_alone(daemonset):
        return None
    previous = previous or state.status
    if previous is not None and previous.daemonset_uid != daemonset.uid:
        previous = None
    nodes, rollout = state.coverage, rollout_of(state, fleet.index)
    desired = len(nodes.eligible)
    available = nodes.eligible.intersection_cardinality(nodes.available)
    waiting = _waiting(state, fleet.index, rollout)
    seen = state.decided_generation
    if previous is not None:
        seen = max(seen, previous.observed_generation)
    status = Status(
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        observed_generation=min(seen, daemonset.generation),
        revision=state.revision,
        desired_number_scheduled=desired,
        current_number_scheduled=nodes.eligible.intersection_cardinality(nodes.present),
        number_misscheduled=nodes.present.difference_cardinality(nodes.eligible),
        number_ready=nodes.eligible.intersection_cardinality(nodes.ready),
        number_available=available,
        number_unavailable=desired - available,
        updated_number_scheduled=nodes.eligible.intersection_cardinality(nodes.updated),
        excluded_nodes=nodes.excluded_nodes(state, fleet.index),
        waiting_nodes=waiting,
    )
    outlook = Outlook(
        strategy=daemonset.update_strategy,
        rollout=rollout,
        undone=len((rollout.counting - nodes.replaced) | (rollout.counting & nodes.outdated)),
        outdated=len(rollout.counting & nodes.outdated),
        pods_failing=len(nodes.eligible & (nodes.failing | nodes.ended)),
        commands_failing=len(nodes.troubled & _to_do(state)),
        now_ms=fleet.now_ms,
    )
    return conditions(status, previous, outlook)


def _to_do(state: SetState) -> BitMap:
    """Return the nodes on which something is to be done, or would be if commands for them worked."""
    nodes = state.coverage
    misplaced = (nodes.occupied | nodes.ended) - nodes.tolerated
    lacking = nodes.eligible - nodes.occupied
    old = nodes.eligible & nodes.outdated
    return BitMap.union(lacking, misplaced, nodes.excess, nodes.adoptable, old)


def _waiting(state: SetState, index: NodeIndex, rollout: Rollout) -> dict[str, int]:
    """Count the eligible nodes without an available pod of the wanted revision, each by its first reason."""
    nodes = state.coverage
    live = nodes.occupied
    left = nodes.eligible - nodes.replaced
    reasons = (
        (SKIPPED, rollout.skipped),
        (UNREACHABLE, index.unready - nodes.serving),
        (BACK_OFF, nodes.ended - live),
        (TERMINATING, (nodes.terminating - live) | nodes.leaving),
        (ADOPTING, nodes.adoptable),
        (CREATING, nodes.busy - live),
        (COMMAND_FAILED, nodes.cooling - live),
        (OUTDATED, (nodes.outdated & nodes.serving) - nodes.current),
        (NOT_AVAILABLE_YET, nodes.renewing | (nodes.ready - nodes.current)),
        (NOT_READY, live),
        (NO_POD, nodes.eligible),
    )
    counts: dict[str, int] = {}
    for reason, where in reasons:
        count = left.intersection_cardinality(where)
        if count:
            counts[reason] = count
        left = left - where
    return dict(sorted(counts.items()))
