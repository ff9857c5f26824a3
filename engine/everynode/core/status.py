"""How far a set has come, in the counters of apps/v1.

Called by ``machine`` after a set was looked at. Reads bitmaps that are up to date; decides nothing.
"""

from __future__ import annotations

from everynode.core.setstate import SetState
from everynode.core.values import Status


def compute_status(state: SetState) -> Status | None:
    """Count; ``None`` for a set that is not wanted.

    Source: pkg/controller/daemon/daemon_controller.go, updateDaemonSetStatus. A pod that is on its way out
    still counts as there.
    """
    daemonset = state.daemonset
    if daemonset is None:
        return None
    desired = len(state.eligible)
    available = state.eligible.intersection_cardinality(state.available)
    return Status(
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        observed_generation=daemonset.generation,
        revision=state.revision,
        desired_number_scheduled=desired,
        current_number_scheduled=state.eligible.intersection_cardinality(state.held),
        number_misscheduled=state.held.difference_cardinality(state.eligible),
        number_ready=state.eligible.intersection_cardinality(state.ready),
        number_available=available,
        number_unavailable=desired - available,
        updated_number_scheduled=state.eligible.intersection_cardinality(state.updated),
    )
