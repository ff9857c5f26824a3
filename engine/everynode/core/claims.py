"""Which pods on a node are the set's own, which of them must go whatever the rollout does, and which orphan joins.

Asked by ``coverage`` for its bitmaps and by ``decision`` for its commands, so that both follow one rule. Whether the
node should have a pod at all is ``eligibility``'s business, replacing old ones ``rollout``'s. Source:
pkg/controller/controller_ref_manager.go (claimObject) and pkg/controller/daemon/daemon_controller.go
(podsShouldBeOnNode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from everynode.core.pacing import rest_ms
from everynode.core.selectors import selects
from everynode.core.values import DaemonSet, Node, NodeKey, Pod

if TYPE_CHECKING:
    from everynode.core.setstate import SetState

NODE_GONE = "NodeGone"
SET_DELETED = "SetDeleted"
SET_ORPHANED = "SetDeletedPodsStay"
PREDECESSOR_ORPHANED = "PredecessorDeletedPodsStay"
SELECTOR_MISMATCH = "SelectorMismatch"
OWNER_REPLACED = "OwnerReplaced"
POD_FAILED = "PodFailed"
POD_SUCCEEDED = "PodSucceeded"
DUPLICATE = "Duplicate"
OUTDATED = "OutdatedRevision"

RELEASED = frozenset({SET_ORPHANED, PREDECESSOR_ORPHANED, SELECTOR_MISMATCH})
"""Reasons for which a pod is let go of instead of deleted."""


class Unwanted(NamedTuple):
    """A pod that must go from the set, and why."""

    pod: Pod
    reason: str


class Claims(NamedTuple):
    """The pods on one node, as far as they concern the set.

    Attributes:
        pods: The set's own on this very node, by seniority; those on their way out and those that must go included.
        unwanted: Pods that must be deleted or released, whether or not the node is tolerated.
        obstructed: A new pod would not be alone, or the name of another may be found here.
        adopted: The orphan that is to become the node's pod; ``None`` if there is none.
    """

    pods: list[Pod]
    unwanted: list[Unwanted]
    obstructed: bool
    adopted: Pod | None


def seniority(pod: Pod) -> tuple[bool, bool, int, str]:
    """Order the pods of one node: the first is the one that stays, and that counts.

    Live before others, ready before not ready, then by age and name. Kubernetes looks at age and name alone
    (podByCreationTimestampAndPhase), so that there an old pod that does not work stays instead of a new one that does.
    """
    return (not pod.live, not pod.ready, pod.created_ms, pod.name)


def claim(state: SetState, key: NodeKey, node: Node | None, now_ms: int) -> Claims:
    """Sort the pods on a node.

    Args:
        state: The set.
        key: The node.
        node: The same, as it is; ``None`` if it has left the fleet.
        now_ms: Log time.
    """
    daemonset = state.daemonset
    on_it = state.pods_on.get(key, ())
    if len(on_it) == 1:  # nearly always
        known = [state.pods[on_it[0]].pod]
    else:
        known = sorted((state.pods[pod].pod for pod in on_it), key=seniority)
    ours: list[Pod] = []
    unwanted: list[Unwanted] = []
    obstructed = ended = False
    for pod in known:
        reason = _disowned(state, pod, node)
        if not reason:
            ours.append(pod)
            ended |= pod.finished
            obstructed |= not pod.deleting or _stands_in_the_way(state, pod)
        elif not pod.deleting:
            unwanted.append(Unwanted(pod, reason))
            obstructed |= reason in RELEASED
    if daemonset is not None and (ended or len(ours) > 1):
        unwanted += _surplus(state, ours, now_ms)
    adopted = None
    if not on_it and key in state.orphans_on:
        orphans = (state.orphans[orphan].pod for orphan in state.orphans_on[key])
        candidates = [orphan for orphan in orphans if _adoptable(daemonset, orphan, node)]
        adopted = min(candidates, key=seniority, default=None)
    # For each node that is looked at: a call of the class takes twice as long.
    return tuple.__new__(Claims, (ours, unwanted, obstructed or adopted is not None, adopted))


def _disowned(state: SetState, pod: Pod, node: Node | None) -> str:
    """Say why a pod is not the set's, or not this node's; empty if it is."""
    daemonset, owner = state.daemonset, pod.owner
    if daemonset is None:
        return _left_by_deleted_set(state)
    if owner is None or owner.uid != daemonset.uid:
        of_predecessor = owner is not None and owner.uid in daemonset.predecessor_uids
        return PREDECESSOR_ORPHANED if of_predecessor else OWNER_REPLACED
    if node is None or pod.node_uid not in {"", node.uid}:
        return NODE_GONE
    if pod.labels is not None and not selects(daemonset.selector, pod.labels):
        return SELECTOR_MISMATCH
    return ""


def _left_by_deleted_set(state: SetState) -> str:
    cascade = "" if state.gone is None else state.gone.cascade
    if cascade == "backend":
        return ""
    return SET_ORPHANED if cascade == "orphan" else SET_DELETED


def _stands_in_the_way(state: SetState, pod: Pod) -> bool:
    """Say whether a pod that is on its way out keeps another from being made, as all others do.

    One that has ended does not. One that still runs does, unless two at a time are allowed (getNodesToDaemonPods,
    podsShouldBeOnNode).
    """
    return not (pod.finished or state.surges)


def _surplus(state: SetState, ours: list[Pod], now_ms: int) -> list[Unwanted]:
    staying = [pod for pod in ours if not pod.deleting]
    # What serves stays, whatever else speaks for the others: a surplus is no reason to be without.
    live = sorted(
        (pod for pod in staying if pod.live), key=lambda pod: state.available_ms(pod) > now_ms
    )
    surplus = [
        Unwanted(pod, POD_FAILED if pod.phase == "Failed" else POD_SUCCEEDED)
        for pod in staying
        if pod.finished and rests_until_ms(state, pod) <= now_ms
    ]
    if not state.surges:
        return [*surplus, *(Unwanted(pod, DUPLICATE) for pod in live[1:])]
    new = [pod for pod in live if pod.revision == state.revision]
    old = [pod for pod in live if pod.revision != state.revision]
    surplus += [Unwanted(pod, DUPLICATE) for pod in (*new[1:], *old[1:])]
    if new and old and (not old[0].ready or state.available_ms(new[0]) <= now_ms):
        surplus.append(Unwanted(old[0], OUTDATED))
    return surplus


def _adoptable(daemonset: DaemonSet | None, orphan: Pod, node: Node | None) -> bool:
    if daemonset is None or node is None or orphan.deleting:
        return False
    return orphan.node_uid in {"", node.uid}


def rests_until_ms(state: SetState, pod: Pod) -> int:
    """Return until when a pod that has ended is left as it is, so that people can look at it.

    The first one of a generation goes at once. Each of those that follow stays longer: see ``pacing.rest_ms``.
    """
    if not pod.failures or pod.generation != state.generation:
        return 0
    return pod.created_ms + rest_ms(pod.failures)
