"""All that a worker's decisions depend on, in terms that can be compared between workers.

For properties that say that two workers know the same: one that has just started and one that has run on, or two that
heard the same in another order.
"""

from __future__ import annotations

from pyroaring import BitMap

from everynode.core.decision import propose
from everynode.core.rollout import next_step, rollout_of
from everynode.core.state import FleetState
from everynode.core.status import compute_status
from everynode.core.values import NodeKey
from everynode.testing import strategies


def names(fleet: FleetState, ids: BitMap | list[int]) -> list[NodeKey]:
    """Name nodes: ids depend on who came first, names do not."""
    return sorted(fleet.index.key(node_id) for node_id in ids)


def fingerprint(fleet: FleetState) -> dict[object, object]:
    """Describe all that decisions depend on, in terms that do not depend on the order of arrival."""
    found: dict[object, object] = {"now": fleet.now_ms, "nodes": sorted(fleet.index.ids)}
    for key in sorted(fleet.sets):
        state = fleet.refreshed(key)
        if state.empty:
            continue  # about to be forgotten, with its old failures
        proposal = propose(fleet, key, "worker")
        known: dict[str, object] = {
            name: names(fleet, bitmap)
            for name, bitmap in vars(state.coverage).items()
            if isinstance(bitmap, BitMap)
        }
        if state.daemonset is not None:
            rollout = rollout_of(state, fleet.index)._asdict()
            known["rollout"] = {
                name: names(fleet, value) if isinstance(value, BitMap) else value
                for name, value in rollout.items()
            }
            step = next_step(state, fleet.index, fleet.index.everything, fleet.limits.changes_max)
            known["step"] = [[fleet.index.key(item) for item in ids] for ids in step]
        found[key] = known | {
            "pods": sorted((key, known.pod) for key, known in state.pods.items()),
            "orphans": sorted((key, known.pod) for key, known in state.orphans.items()),
            "pending": sorted(state.pending),
            "stranded": sorted(state.coverage.stranded),
            "revisions": sorted(state.revisions.items()),
            "used revisions": sorted(state.revision_counts.items()),
            "windows": {
                backend: state.slow_starts[backend].window(fleet.limits, fleet.now_ms)
                for backend in strategies.BACKENDS
            },
            "status": compute_status(fleet, state.key),
            "reported": state.status,
            "proposal": proposal and (proposal.decision, proposal.others),
        }
    return found


def differences(ours: dict[object, object], theirs: dict[object, object]) -> list[object]:
    """List what two fingerprints differ in, for everything that the first one knows."""
    found: list[object] = []
    for key, mine in ours.items():
        other = theirs.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += [
                (key, field, mine[field], other.get(field))
                for field in mine
                if mine[field] != other.get(field)
            ]
        elif mine != other:
            found.append((key, mine, other))
    return found
