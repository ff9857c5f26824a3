"""What is to be done for one set now: ``propose`` looks at the whole state of a set and says so, with reasons.

Called by ``machine``. Level, not edge: it does not matter what happened, only how things are. At the fixed point it
proposes nothing. Which pods are the set's is decided in ``claims``, which old ones are replaced in ``rollout``; here
all of it becomes commands, within the limits. Reasons of deletes that come from a node are the codes of
``eligibility``.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.claims import (
    DUPLICATE,
    NODE_GONE,
    OUTDATED,
    POD_FAILED,
    POD_SUCCEEDED,
    RELEASED,
    SET_DELETED,
    Unwanted,
    claim,
)
from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    Command,
    Counts,
    CreatePod,
    Decision,
    DeletePod,
    ReasonCount,
    ReleasePod,
)
from everynode.core.eligibility import verdict
from everynode.core.events import RevisionGone, RevisionRecorded, StatusGone
from everynode.core.identity import command_id, pod_name
from everynode.core.index import EMPTY
from everynode.core.lately import failures_before, replaced_uid
from everynode.core.revisions import REVISIONS_REMOVED_MAX, to_forget, to_record
from everynode.core.rollout import NewPods, next_step, rollout_of
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import DaemonSet, Node, NodeKey, PodKey, SetKey
from everynode.errors import InvariantError

NODE_HAS_NO_POD = "NodeHasNoPod"
SELECTOR_MATCHES = "SelectorMatches"

_OF_THE_NODES_POD = frozenset({DUPLICATE, OUTDATED, POD_FAILED, POD_SUCCEEDED})
"""Reasons that do not matter where the node is no place for the set at all."""

_Other = RevisionRecorded | RevisionGone | StatusGone | Command


class Proposal(NamedTuple):
    """A decision that is not on the log yet, and what stands or falls with it.

    Attributes:
        fence: Sequence of the last decision about the set that this one is based on.
        decision: What was decided.
        others: What follows it in its batch: a revision or tombstones, then the commands.
    """

    key: SetKey
    fence: int
    decision: Decision
    others: tuple[_Other, ...]

    @property
    def commands(self) -> list[Command]:
        """What is to be done."""
        return [item for item in self.others if isinstance(item, COMMANDS)]


def propose(fleet: FleetState, key: SetKey, worker: str) -> Proposal | None:
    """Decide for one set.

    Args:
        fleet: Its state; nothing in it is changed but caches.
        key: The set.
        worker: Who decides; recorded in the decision.

    Returns:
        What to write to the log, or ``None`` if nothing is to be done, or not now.
    """
    if fleet.sets[key].blocked_until > fleet.sequence:
        return None  # a decision's commands are still on their way in
    state = fleet.refreshed(key)
    if state.daemonset is None:
        return _propose_for_deleted(fleet, state, worker)
    if left_alone(state.daemonset):
        return None
    step = next_step(state, fleet.index, _open_backends(fleet, state), fleet.limits.changes_max)
    creates = _creates(fleet, state, step.add_on)
    changes = _changes(fleet, state, step.take_down)
    record = to_record(state, fleet.now_ms)
    records = [
        *(() if record is None else (record,)),
        *to_forget(state, {command.revision for command in creates}),
    ]
    if not records and not creates and not changes:
        return None
    commands = sorted((*creates, *changes), key=_command_order)
    others = (*records, *commands)
    return Proposal(key, state.fence, _decision(fleet, state, worker, others), others)


def _open_backends(fleet: FleetState, state: SetState) -> BitMap:
    """Return the nodes of those backends that take another command of the kind that the rollout begins with.

    Else one that gives no answer would hold up the others although the budget is not used up.
    """
    by_backend = fleet.index.by_backend
    if state.surges:
        windows, uid = _windows(fleet, state), state.uid
        full = [name for name in by_backend if state.creates_pending[name, uid] >= windows[name]]
    else:
        limit = fleet.limits.changes_max
        full = [name for name in by_backend if state.changes_pending[name] >= limit]
    return fleet.index.everything - BitMap.union(EMPTY, *(by_backend[name] for name in full))


def left_alone(daemonset: DaemonSet) -> bool:
    """Say whether nothing is to be done for a set, whatever it has.

    Its deletion has begun in a backend that takes care of its pods; or its selector selects everything, so that every
    pod would be its own (pkg/controller/daemon/daemon_controller.go, syncDaemonSet).
    """
    return daemonset.deleting or selects_everything(daemonset)


def selects_everything(daemonset: DaemonSet) -> bool:
    """Say whether a set's selector is the empty one."""
    selector = daemonset.selector
    return not (selector.match_labels or selector.match_expressions)


def _command_order(command: Command) -> tuple[str, str, str]:
    return (command.backend, command.node, command.pod)


def _propose_for_deleted(fleet: FleetState, state: SetState, worker: str) -> Proposal | None:
    """Take away what a deleted set has left, then what is on record about it."""
    if state.gone is None:
        return None
    commands = sorted(_changes(fleet, state, []), key=_command_order)
    others: tuple[_Other, ...] = (*commands,)
    if not others and not state.pods:
        others = _forget_records(state)
    if not others:
        return None
    return Proposal(state.key, state.fence, _decision(fleet, state, worker, others), others)


def _forget_records(state: SetState) -> tuple[_Other, ...]:
    namespace, name = state.key
    left = sorted(each for each in state.revisions if not _is_of_the_next_set(state, each))
    records: list[_Other] = [
        RevisionGone(namespace=namespace, daemonset=name, hash=revision, why=SET_DELETED)
        for revision in left[:REVISIONS_REMOVED_MAX]
    ]
    if state.status is not None:
        uid = state.status.daemonset_uid
        records.append(
            StatusGone(namespace=namespace, daemonset=name, daemonset_uid=uid, why=SET_DELETED)
        )
    return tuple(records)


def _is_of_the_next_set(state: SetState, revision: str) -> bool:
    """Say whether a revision was recorded since the set went, for one of that name that is still to be heard of.

    A backend that keeps history says so before it says that the set is there, or the set would begin without it.
    """
    since = state.revision_sequences[revision] > state.sequence
    gone_uid = "" if state.gone is None else state.gone.uid
    return since and state.revisions[revision].daemonset_uid != gone_uid


def _creates(fleet: FleetState, state: SetState, add_on: list[int]) -> list[CreatePod]:
    """Make pods where there are none, then where the rollout adds one beside an old one."""
    creates: list[CreatePod] = []
    new_pods = NewPods(state, fleet.index, fleet.now_ms, fleet.limits)
    nodes = state.coverage
    for backend, window in _windows(fleet, state).items():
        room = window - state.creates_pending[backend, state.uid]
        room = min(room, fleet.limits.creates_max - len(creates))
        if room <= 0:
            continue
        candidates = _on_backend(fleet, backend, nodes.missing)
        ids = nodes.creates_backlogs[backend].first(candidates, room, fleet.index.key)
        for node_id in ids:
            node = fleet.index.node(node_id)
            revision = new_pods.revision(node_id, node.key)
            creates.append(_create(fleet, state, node, revision, NODE_HAS_NO_POD))
        beside = [fleet.index.node(node_id) for node_id in add_on]
        beside = [node for node in beside if node.backend == backend][: room - len(ids)]
        creates += [_create(fleet, state, node, state.revision, OUTDATED) for node in beside]
    return creates


def _windows(fleet: FleetState, state: SetState) -> dict[str, int]:
    """Return how many creates may be pending on each backend that has nodes."""
    return {
        backend: state.slow_starts[backend].window(fleet.limits, fleet.now_ms)
        for backend in sorted(fleet.index.by_backend)
    }


def _on_backend(fleet: FleetState, backend: str, nodes: BitMap) -> BitMap:
    """Return those of some nodes that belong to a backend."""
    return nodes & fleet.index.by_backend.get(backend, EMPTY)


def _create(
    fleet: FleetState, state: SetState, node: Node, revision: str, reason: str
) -> CreatePod:
    daemonset = state.daemonset
    if daemonset is None:
        raise InvariantError(f"set {state.key} is not wanted; no pod may be made for it")
    key = node.key
    replaces = replaced_uid(state, key, fleet.now_ms, fleet.limits)
    # Beside a pod that still runs, whether it stays or is on its way out.
    slot = 1 if state.surges and key in state.pods_on else 0
    pod = _free_name(fleet, daemonset, node, revision, replaces, slot)
    cooling = state.cooling_on(key)
    attempt = 0 if cooling is None else cooling.attempt
    place = f"{node.backend}/{node.name}"
    return CreatePod(
        id=command_id(daemonset.uid, daemonset.generation, place, "create", pod, attempt),
        backend=node.backend,
        node=node.name,
        node_uid=node.uid,
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        generation=daemonset.generation,
        pod=pod,
        revision=revision,
        expires_ms=fleet.now_ms + fleet.limits.pending_ms,
        slot=slot,
        failures=failures_before(state, key, fleet.now_ms, fleet.limits),
        attempt=attempt,
        reason=reason,
    )


def _free_name(
    fleet: FleetState, daemonset: DaemonSet, node: Node, revision: str, replaces: str, slot: int
) -> str:
    """Name a pod; one that the set has let go of may have kept its name, and counts as replaced."""
    while True:
        name = pod_name(daemonset.name, daemonset.uid, node.uid, revision, replaces, slot)
        orphan = fleet.orphan(PodKey(node.backend, daemonset.namespace, name))
        if orphan is None:
            return name
        replaces = orphan.uid


def _changes(fleet: FleetState, state: SetState, take_down: list[int]) -> list[Command]:
    """Delete, release and adopt: what is surplus, what the rollout takes down, what joins."""
    changes: list[Command] = []
    nodes, index = state.coverage, fleet.index
    stranded = [key for key in nodes.stranded if _may_touch(fleet, state, key)]
    for backend in sorted({*index.by_backend, *(key.backend for key in stranded)}):
        room = fleet.limits.changes_max - state.changes_pending[backend]
        room = min(room, fleet.limits.changes_max - len(changes))
        if room <= 0:
            continue
        here = index.by_backend.get(backend, EMPTY)
        gone = heapq.nsmallest(room, (key for key in stranded if key.backend == backend))
        ids = nodes.deletes_backlogs[backend].first(nodes.surplus & here, room, index.key)
        keys = (*gone, *map(index.key, ids))
        doomed = ((key, item) for key in keys for item in unwanted(fleet, state, key))
        old_on = (index.key(node_id) for node_id in take_down if node_id in here)
        old = ((key, item) for key in old_on for item in _outdated(state, key))
        found = [
            _removal(fleet, state, key, item)
            for key, item in itertools.islice(itertools.chain(doomed, old), room)
        ]
        orphans_on = _on_backend(fleet, backend, _adoptable(state))
        found += _adopt(fleet, state, heapq.nsmallest(room, map(index.key, orphans_on)))
        changes += found[:room]
    return changes


def _outdated(state: SetState, key: NodeKey) -> list[Unwanted]:
    pods = (state.pods[pod].pod for pod in state.pods_on[key])
    return [Unwanted(pod, OUTDATED) for pod in pods if pod.live and pod.revision != state.revision]


def _adoptable(state: SetState) -> BitMap:
    """Return the nodes whose orphan is to join; what would have to be deleted at once is left alone."""
    nodes = state.coverage
    return (nodes.adoptable & nodes.tolerated) - nodes.busy - nodes.cooling


def _adopt(fleet: FleetState, state: SetState, keys: Iterable[NodeKey]) -> list[Command]:
    claimed = (claim(state, key, fleet.index.get(key), fleet.now_ms).adopted for key in keys)
    return [
        _on_pod(AdoptPod, fleet, state, pod.node_key, Unwanted(pod, SELECTOR_MATCHES))
        for pod in claimed
        if pod is not None
    ]


def _may_touch(fleet: FleetState, state: SetState, key: NodeKey) -> bool:
    """Say whether a node that is not in the fleet (and so in no bitmap) is not being worked on."""
    cooling = state.cooling_on(key)
    return key not in state.pending_on and (cooling is None or cooling.retry_ms <= fleet.now_ms)


def unwanted(fleet: FleetState, state: SetState, key: NodeKey) -> list[Unwanted]:
    """Return the pods of one node that must go from the set whatever the rollout does, each with the reason.

    Source: pkg/controller/daemon/daemon_controller.go, podsShouldBeOnNode; and pods of a node or of a set
    that is not the one of that name any more, which Kubernetes leaves to others.
    """
    node = fleet.index.get(key)
    claims = claim(state, key, node, fleet.now_ms)
    if node is None:
        departed = key in fleet.index.departed
        return [item for item in claims.unwanted if departed or item.reason != NODE_GONE]
    judged = None if state.constraints is None else verdict(state.constraints, node)
    if judged is None or judged.may_stay:
        return claims.unwanted
    firm = [item for item in claims.unwanted if item.reason not in _OF_THE_NODES_POD]
    known = {item.pod.uid for item in firm}
    rest = [pod for pod in claims.pods if not pod.deleting and pod.uid not in known]
    return [*firm, *(Unwanted(pod, judged.reasons[0].code) for pod in rest)]


def _removal(fleet: FleetState, state: SetState, key: NodeKey, item: Unwanted) -> Command:
    verb = ReleasePod if item.reason in RELEASED else DeletePod
    return _on_pod(verb, fleet, state, key, item)


def _on_pod(
    kind: type[DeletePod | ReleasePod | AdoptPod],
    fleet: FleetState,
    state: SetState,
    key: NodeKey,
    item: Unwanted,
) -> Command:
    """Make a command about one very pod, for the set that controls it, or is to."""
    pod = item.pod
    uid = state.uid if pod.owner is None else pod.owner.uid
    cooling = state.cooling_on(key)
    attempt = 0 if cooling is None else cooling.attempt
    place = f"{key.backend}/{key.name}"
    verb = f"{kind.verb} {pod.uid}"
    return kind(
        id=command_id(uid, state.generation, place, verb, pod.name, attempt),
        backend=pod.backend,
        node=pod.node,
        node_uid=pod.node_uid,
        namespace=pod.namespace,
        daemonset=state.key.name,
        daemonset_uid=uid,
        generation=state.generation,
        pod=pod.name,
        pod_uid=pod.uid,
        expires_ms=fleet.now_ms + fleet.limits.pending_ms,
        attempt=attempt,
        reason=item.reason,
    )


def _decision(
    fleet: FleetState,
    state: SetState,
    worker: str,
    others: tuple[_Other, ...],
) -> Decision:
    commands = [item for item in others if isinstance(item, COMMANDS)]
    verbs = Counter(command.verb for command in commands)
    reasons = Counter(command.reason for command in commands)
    nodes = state.coverage
    return Decision(
        namespace=state.key.namespace,
        daemonset=state.key.name,
        daemonset_uid=state.uid,
        generation=state.generation,
        revision=state.revision,
        basis=fleet.sequence,
        at_ms=fleet.now_ms,
        worker=worker,
        size=len(others),
        windows=_windows(fleet, state),
        counts=Counts(
            eligible=len(nodes.eligible),
            occupied=len(nodes.occupied),
            missing=len(nodes.missing),
            surplus=len(nodes.surplus) + len(nodes.stranded),
            pending=len(state.pending),
            unavailable=len(rollout_of(state, fleet.index).unavailable),
            updated=nodes.eligible.intersection_cardinality(nodes.updated),
            creates=verbs["create"],
            deletes=verbs["delete"],
            adopts=verbs["adopt"],
            releases=verbs["release"],
        ),
        reasons=tuple(
            ReasonCount(reason=reason, count=count) for reason, count in sorted(reasons.items())
        ),
    )
