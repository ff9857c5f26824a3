"""The engine's values as the objects that Kubernetes would show, for `-o json` and `-o yaml`.

Used by `get`, `describe`, `rollout` and `events`. What is printed for a DaemonSet can be applied again and then changes
nothing. Knows the core's values and nothing of where they were read.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everynode.cli.event_folding import Told
from everynode.core.identity import derived_uid
from everynode.core.revisions import CHANGE_CAUSE_ANNOTATION
from everynode.core.values import (
    PROGRESS_DEADLINE_SECONDS,
    ROLLING_UPDATE,
    Condition,
    DaemonSet,
    Node,
    Pod,
    Revision,
    Status,
    UpdateStrategy,
)
from everynode.runtime.clock import timestamp


def _without_empty(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value not in (None, "", (), [], {})}


def daemonset_object(daemonset: DaemonSet, status: Status | None) -> dict[str, Any]:
    """Write a set as an apps/v1 DaemonSet."""
    document = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _without_empty(
            {
                "name": daemonset.name,
                "namespace": daemonset.namespace,
                "uid": daemonset.uid,
                "generation": daemonset.generation,
                "creationTimestamp": timestamp(daemonset.created_ms),
                "labels": daemonset.labels,
                "annotations": daemonset.annotations,
            }
        ),
        "spec": {
            "minReadySeconds": daemonset.min_ready_seconds,
            "revisionHistoryLimit": daemonset.revision_history_limit,
            "selector": msgspec.to_builtins(daemonset.selector),
            "template": msgspec.json.decode(daemonset.template),
            "updateStrategy": strategy_object(daemonset.update_strategy),
        },
    }
    if status is not None:
        document["status"] = status_object(status)
    return document


def strategy_object(strategy: UpdateStrategy) -> dict[str, Any]:
    """Write an update strategy as apps/v1 does; what apps/v1 lacks is there only if it is not as it is by default."""
    if strategy.type != ROLLING_UPDATE:
        return {"type": strategy.type}
    written = {name: value for name, value in msgspec.to_builtins(strategy).items() if value}
    always = {"maxSurge": strategy.max_surge, "maxUnavailable": strategy.max_unavailable}
    if strategy.progress_deadline_seconds != PROGRESS_DEADLINE_SECONDS:  # 0 is none at all
        always["progressDeadlineSeconds"] = strategy.progress_deadline_seconds
    return {"type": written.pop("type"), "rollingUpdate": always | written}


def status_object(status: Status) -> dict[str, Any]:
    """Write a status as an apps/v1 DaemonSetStatus; numbers that are 0 are there too.

    `updateRevision` is what a StatefulSet calls so; nodes by reason are ours.
    """
    counters = {
        "currentNumberScheduled": status.current_number_scheduled,
        "desiredNumberScheduled": status.desired_number_scheduled,
        "numberAvailable": status.number_available,
        "numberMisscheduled": status.number_misscheduled,
        "numberReady": status.number_ready,
        "numberUnavailable": status.number_unavailable,
        "observedGeneration": status.observed_generation,
        "updatedNumberScheduled": status.updated_number_scheduled,
    }
    rest = {
        "updateRevision": status.revision,
        "conditions": [_condition_object(condition) for condition in status.conditions],
        "excludedNodes": status.excluded_nodes,
        "waitingNodes": status.waiting_nodes,
    }
    return counters | _without_empty(rest)


def _condition_object(condition: Condition) -> dict[str, Any]:
    return _without_empty(
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastUpdateTime": _timestamp_or_none(condition.last_update_ms),
            "lastTransitionTime": _timestamp_or_none(condition.last_transition_ms),
        }
    )


def _timestamp_or_none(time_ms: int) -> str | None:
    return timestamp(time_ms) if time_ms else None


def revision_object(revision: Revision) -> dict[str, Any]:
    """Write a revision as an apps/v1 ControllerRevision."""
    cause = {CHANGE_CAUSE_ANNOTATION: revision.change_cause} if revision.change_cause else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": _without_empty(
            {
                "name": f"{revision.daemonset}-{revision.hash}",
                "namespace": revision.namespace,
                "creationTimestamp": _timestamp_or_none(revision.created_ms),
                "labels": {"controller-revision-hash": revision.hash},
                "annotations": cause,
                "ownerReferences": [_controller(revision.daemonset, revision.daemonset_uid)],
            }
        ),
        "revision": revision.number,
        "data": {"spec": {"template": msgspec.json.decode(revision.template)}},
    }


def event_object(told: Told) -> dict[str, Any]:
    """Write what people were told as a v1 Event."""
    notice = told.notice
    about = derived_uid(notice.daemonset_uid, notice.type, notice.reason, told.message)
    related = {"kind": "Node", "name": notice.node} if notice.node else None
    if notice.pod:
        related = {"kind": "Pod", "namespace": notice.namespace, "name": notice.pod}
    return _without_empty(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{notice.daemonset}.{about}", "namespace": notice.namespace},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "namespace": notice.namespace,
                "name": notice.daemonset,
                "uid": notice.daemonset_uid,
            },
            "type": notice.type,
            "reason": notice.reason,
            "message": told.message,
            "related": related,
            "count": told.count,
            "firstTimestamp": timestamp(told.first_ms),
            "lastTimestamp": timestamp(told.last_ms),
            "source": {"component": "everynode"},
        }
    )


def _controller(name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "name": name,
        "uid": uid,
        "controller": True,
    }


def _condition(kind: str, *, holds: bool) -> dict[str, str]:
    return {"type": kind, "status": "True" if holds else "False"}


def node_object(node: Node) -> dict[str, Any]:
    """Write a node as a v1 Node; its backend, which Kubernetes has no word for, is `spec.backend`."""
    taints = [_without_empty(msgspec.to_builtins(taint)) for taint in node.taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _without_empty({"name": node.name, "uid": node.uid, "labels": node.labels}),
        "spec": _without_empty(
            {
                "backend": node.backend,
                "taints": taints,
                "unschedulable": node.unschedulable or None,
            }
        ),
        "status": {"conditions": [_condition("Ready", holds=node.ready)]},
    }


def pod_object(pod: Pod) -> dict[str, Any]:
    """Write a pod as a v1 Pod, as far as the log knows it; an orphan has no owner."""
    revision = {"controller-revision-hash": pod.revision} if pod.revision else {}
    owner = pod.owner
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _without_empty(
            {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.uid,
                "creationTimestamp": _timestamp_or_none(pod.created_ms),
                "deletionTimestamp": _timestamp_or_none(pod.deleting_since_ms),
                "labels": (pod.labels or {}) | revision,
                "ownerReferences": [] if owner is None else [_controller(owner.name, owner.uid)],
            }
        ),
        "spec": {"backend": pod.backend, "nodeName": pod.node},
        "status": {"phase": pod.phase, "conditions": [_condition("Ready", holds=pod.ready)]},
    }


def list_object(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Write several objects as one, as kubectl does."""
    return {"apiVersion": "v1", "kind": "List", "items": items}
