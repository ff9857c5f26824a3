"""What is to be done for one set now: ``propose`` looks at the whole state of a set and says so, with reasons.

Called by ``machine``. Level, not edge: it does not matter what happened, only how things are. At the fixed point it
proposes nothing. Reasons of deletes that come from a node are the codes of ``eligibility``; the others are below.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.commands import (
    BATCH_MESSAGES_MAX,
    Command,
    Counts,
    CreatePod,
    Decision,
    DeletePod,
    ReasonCount,
)
from everynode.core.eligibility import verdict
from everynode.core.events import RevisionGone, RevisionRecorded, StatusGone
from everynode.core.identity import command_id, pod_name
from everynode.core.index import EMPTY
from everynode.core.setstate import SetState, seniority
from everynode.core.state import FleetState
from everynode.core.values import Node, NodeKey, Pod, Revision, SetKey
from everynode.errors import InvariantError

NODE_HAS_NO_POD = "NodeHasNoPod"
NODE_GONE = "NodeGone"
SET_DELETED = "SetDeleted"
OWNER_REPLACED = "OwnerReplaced"
POD_FAILED = "PodFailed"
POD_SUCCEEDED = "PodSucceeded"
DUPLICATE = "Duplicate"


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


def propose(fleet: FleetState, key: SetKey, worker: str) -> Proposal | None:
    """Decide for one set.

    Args:
        fleet: Its state; nothing in it is changed but caches.
        key: The set.
        worker: Who decides; recorded in the decision.

    Returns:
        What to write to the log, or ``None`` if nothing is to be done, or not now.
    """
    state = fleet.refreshed(key)
    if state.blocked_until > fleet.sequence:
        return None  # a decision's commands are still on their way in
    if state.daemonset is None:
        return _propose_for_deleted(fleet, state, worker)
    record = _record_revision(state)
    creates = _creates(fleet, state)
    deletes = _deletes(fleet, state)
    if record is None and not creates and not deletes:
        return None
    commands = sorted((*creates, *deletes), key=_command_order)
    others = (*(() if record is None else (record,)), *commands)
    return Proposal(key, state.fence, _decision(fleet, state, worker, others), others)


def _command_order(command: Command) -> tuple[str, str, str]:
    return (command.backend, command.node, command.pod)


def _propose_for_deleted(fleet: FleetState, state: SetState, worker: str) -> Proposal | None:
    """Take away what a deleted set has left, then what is on record about it."""
    if state.gone is None:
        return None
    orphan = state.gone.cascade == "orphan"
    commands = [] if orphan else _deletes(fleet, state)
    others: tuple[_Other, ...] = (*sorted(commands, key=_command_order),)
    if not others and (orphan or not state.pods):
        others = _forget_records(state)
    if not others:
        return None
    return Proposal(state.key, state.fence, _decision(fleet, state, worker, others), others)


def _forget_records(state: SetState) -> tuple[_Other, ...]:
    namespace, name = state.key
    records: list[_Other] = [
        RevisionGone(namespace=namespace, daemonset=name, hash=revision, why=SET_DELETED)
        for revision in sorted(state.revisions)[: BATCH_MESSAGES_MAX - 2]
    ]
    if state.status is not None:
        uid = state.status.daemonset_uid
        records.append(
            StatusGone(namespace=namespace, daemonset=name, daemonset_uid=uid, why=SET_DELETED)
        )
    return tuple(records)


def _record_revision(state: SetState) -> RevisionRecorded | None:
    """Put the wanted template on record, before pods are made from it."""
    daemonset = state.daemonset
    if daemonset is None or state.revision in state.revisions:
        return None
    last = max((revision.number for revision in state.revisions.values()), default=0)
    revision = Revision(
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        hash=state.revision,
        number=last + 1,
        template=daemonset.template,
    )
    return RevisionRecorded(revision=revision)


def _creates(fleet: FleetState, state: SetState) -> list[Command]:
    creates: list[Command] = []
    for backend, window in _windows(fleet, state).items():
        room = window - state.creates_pending[backend]
        room = min(room, fleet.limits.creates_max - len(creates))
        if room > 0:
            candidates = _on_backend(fleet, backend, state.missing)
            ids = state.creates_backlogs[backend].first(candidates, room, fleet.index.key)
            creates += [_create(fleet, state, fleet.index.node(node_id)) for node_id in ids]
    return creates


def _windows(fleet: FleetState, state: SetState) -> dict[str, int]:
    """Return how many creates may be pending on each backend that has nodes."""
    return {
        backend: state.slow_starts[backend].window(fleet.limits, fleet.now_ms)
        for backend in sorted(fleet.index.by_backend)
    }


def _on_backend(fleet: FleetState, backend: str, nodes: BitMap) -> BitMap:
    """Return those of some nodes that belong to a backend; most fleets have only one."""
    by_backend = fleet.index.by_backend
    if len(by_backend) == 1 and backend in by_backend:
        return nodes
    return nodes & by_backend.get(backend, EMPTY)


def _create(fleet: FleetState, state: SetState, node: Node) -> CreatePod:
    daemonset = state.daemonset
    if daemonset is None:
        raise InvariantError(f"set {state.key} is not wanted; no pod may be made for it")
    replaces = state.replaced_uid(node.key, fleet.now_ms, fleet.limits)
    pod = pod_name(daemonset.name, daemonset.uid, node.uid, state.revision, replaces, slot=0)
    cooling = state.failure_on(node.key)
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
        revision=state.revision,
        expires_ms=fleet.now_ms + fleet.limits.pending_ms,
        attempt=attempt,
        reason=NODE_HAS_NO_POD,
    )


def _deletes(fleet: FleetState, state: SetState) -> list[Command]:
    deletes: list[Command] = []
    stranded = [key for key in state.stranded if _may_touch(fleet, state, key)]
    for backend in sorted({*fleet.index.by_backend, *(key.backend for key in stranded)}):
        room = fleet.limits.deletes_max - state.deletes_pending[backend]
        room = min(room, fleet.limits.deletes_max - len(deletes))
        if room > 0:
            gone = heapq.nsmallest(room, (key for key in stranded if key.backend == backend))
            candidates = _on_backend(fleet, backend, state.surplus)
            ids = state.deletes_backlogs[backend].first(candidates, room, fleet.index.key)
            keys = [*gone, *map(fleet.index.key, ids)]
            doomed = [(key, *pair) for key in keys for pair in victims(fleet, state, key)]
            deletes += [_delete(fleet, state, *each) for each in doomed[:room]]
    return deletes


def _may_touch(fleet: FleetState, state: SetState, key: NodeKey) -> bool:
    """Say whether a node that is not in the fleet (and so in no bitmap) is not being worked on."""
    cooling = state.failure_on(key)
    return key not in state.pending_on and (cooling is None or cooling.retry_ms <= fleet.now_ms)


def victims(fleet: FleetState, state: SetState, key: NodeKey) -> list[tuple[Pod, str]]:
    """Return the pods of one node that must go, oldest first, each with the reason.

    Source: pkg/controller/daemon/daemon_controller.go, podsShouldBeOnNode; and pods of a node or of a set
    that is not the one of that name any more, which Kubernetes leaves to others.
    """
    pods = sorted((state.pods[pod].pod for pod in state.pods_on.get(key, ())), key=seniority)
    pods = [pod for pod in pods if not pod.deleting]
    node = fleet.index.get(key)
    doomed, here = [], []
    for pod in pods:
        if state.daemonset is None:
            doomed.append((pod, SET_DELETED))
        elif not state.ours(pod):
            doomed.append((pod, OWNER_REPLACED))
        elif node is None:
            doomed.extend([(pod, NODE_GONE)] if key in fleet.index.departed else [])
        elif pod.node_uid not in {"", node.uid}:
            doomed.append((pod, NODE_GONE))
        else:
            here.append(pod)
    if node is None or state.constraints is None:
        return doomed
    judged = verdict(state.constraints, node)
    if not judged.may_stay:
        return [*doomed, *((pod, judged.reasons[0].code) for pod in here)]
    live = [pod for pod in here if pod.live]
    finished = [pod for pod in here if not pod.live]
    doomed.extend((pod, POD_FAILED if pod.phase == "Failed" else POD_SUCCEEDED) for pod in finished)
    doomed.extend((pod, DUPLICATE) for pod in live[1:])
    return doomed


def _delete(fleet: FleetState, state: SetState, key: NodeKey, pod: Pod, reason: str) -> DeletePod:
    cooling = state.failure_on(key)
    attempt = 0 if cooling is None else cooling.attempt
    place = f"{key.backend}/{key.name}"
    return DeletePod(
        id=command_id(
            pod.owner.uid, state.generation, place, f"delete {pod.uid}", pod.name, attempt
        ),
        backend=pod.backend,
        node=pod.node,
        node_uid=pod.node_uid,
        namespace=pod.namespace,
        daemonset=pod.owner.name,
        daemonset_uid=pod.owner.uid,
        generation=state.generation,
        pod=pod.name,
        pod_uid=pod.uid,
        expires_ms=fleet.now_ms + fleet.limits.pending_ms,
        attempt=attempt,
        reason=reason,
    )


def _decision(
    fleet: FleetState,
    state: SetState,
    worker: str,
    others: tuple[_Other, ...],
) -> Decision:
    daemonset = state.daemonset
    uid = daemonset.uid if daemonset else state.gone.uid if state.gone else ""
    commands = [item for item in others if isinstance(item, CreatePod | DeletePod)]
    creates = sum(1 for command in commands if isinstance(command, CreatePod))
    reasons = Counter(command.reason for command in commands)
    return Decision(
        namespace=state.key.namespace,
        daemonset=state.key.name,
        daemonset_uid=uid,
        generation=state.generation,
        revision=state.revision,
        basis=fleet.sequence,
        at_ms=fleet.now_ms,
        worker=worker,
        size=len(others),
        windows=_windows(fleet, state),
        counts=Counts(
            eligible=len(state.eligible),
            occupied=len(state.occupied),
            missing=len(state.missing),
            surplus=len(state.surplus) + len(state.stranded),
            pending=len(state.pending),
            creates=creates,
            deletes=len(commands) - creates,
        ),
        reasons=tuple(
            ReasonCount(reason=reason, count=count) for reason, count in sorted(reasons.items())
        ),
    )
