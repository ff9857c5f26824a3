"""What a node had lately: the pod that the next one replaces, its revision, and how many have ended there in a row.

Asked by ``decision`` and ``rollout``. It looks at pods that have ended or are on their way out, and at those that went
within the horizon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everynode.core.pacing import Limits
from everynode.core.values import NodeKey, Pod

if TYPE_CHECKING:
    from everynode.core.setstate import GonePod, SetState


def replaced_uid(state: SetState, node: NodeKey, now_ms: int, limits: Limits) -> str:
    """Return the uids of the pods that a new one on this node replaces; empty if there was none lately."""
    leaving = [pod.uid for pod in _pods(state, node)]
    if leaving:  # finished and on their way out: their names are still taken
        return ",".join(sorted(leaving))
    last = _last_gone(state, node, now_ms, limits)
    return "" if last is None else last.uid


def failures_before(state: SetState, node: NodeKey, now_ms: int, limits: Limits) -> int:
    """Return how many pods of this set and generation in a row have ended on this node lately."""
    failures = [
        pod.failures + 1
        for pod in _pods(state, node)
        if pod.finished
        and pod.owner is not None
        and (pod.owner.uid, pod.generation) == (state.uid, state.generation)
    ]
    last = _last_gone(state, node, now_ms, limits)
    if last is not None and (last.owner_uid, last.generation) == (state.uid, state.generation):
        failures.append(last.failures)
    return max(failures, default=0)


def revision_before(state: SetState, node: NodeKey, now_ms: int, limits: Limits) -> str:
    """Return the revision of the pod that this node had last; empty if nobody knows."""
    known = [state.pods[key] for key in state.pods_on.get(node, ())]
    leaving = [item for item in known if not item.pod.live]
    if leaving:
        return max(leaving, key=lambda item: item.sequence).pod.revision
    last = _last_gone(state, node, now_ms, limits)
    return "" if last is None else last.revision


def _pods(state: SetState, node: NodeKey) -> list[Pod]:
    return [state.pods[key].pod for key in state.pods_on.get(node, ())]


def _last_gone(state: SetState, node: NodeKey, now_ms: int, limits: Limits) -> GonePod | None:
    last = state.last_gone_on.get(node)
    return None if last is None or last.time_ms < now_ms - limits.horizon_ms else last
