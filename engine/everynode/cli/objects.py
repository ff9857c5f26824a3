"""The engine's values as the objects that Kubernetes would show, for `-o json` and `-o yaml`.

Used by `get` and `describe`. What is printed for a DaemonSet can be applied again and then changes nothing. Knows the
core's values and nothing of where they were read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from everynode.core.values import DaemonSet, Node, Pod, Status


def timestamp(time_ms: int) -> str:
    """Write a point in time as Kubernetes does: RFC 3339 in UTC, in whole seconds."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_empty(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value not in (None, "", (), [], {})}


def daemonset_object(daemonset: DaemonSet, status: Status | None) -> dict[str, Any]:
    """Write a set as an apps/v1 DaemonSet."""
    strategy: dict[str, Any] = {"type": daemonset.update_strategy.type}
    if daemonset.update_strategy.type == "RollingUpdate":
        strategy["rollingUpdate"] = {
            "maxSurge": daemonset.update_strategy.max_surge,
            "maxUnavailable": daemonset.update_strategy.max_unavailable,
        }
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
            "updateStrategy": strategy,
        },
    }
    if status is not None:
        document["status"] = status_object(status)
    return document


def status_object(status: Status) -> dict[str, int]:
    """Write a status as an apps/v1 DaemonSetStatus; numbers that are 0 are there too."""
    return {
        "currentNumberScheduled": status.current_number_scheduled,
        "desiredNumberScheduled": status.desired_number_scheduled,
        "numberAvailable": status.number_available,
        "numberMisscheduled": status.number_misscheduled,
        "numberReady": status.number_ready,
        "numberUnavailable": status.number_unavailable,
        "observedGeneration": status.observed_generation,
        "updatedNumberScheduled": status.updated_number_scheduled,
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
    """Write a pod as a v1 Pod, as far as the log knows it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _without_empty(
            {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.uid,
                "creationTimestamp": timestamp(pod.created_ms) if pod.created_ms else None,
                "labels": {"controller-revision-hash": pod.revision},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "DaemonSet",
                        "name": pod.owner.name,
                        "uid": pod.owner.uid,
                        "controller": True,
                    }
                ],
            }
        ),
        "spec": {"backend": pod.backend, "nodeName": pod.node},
        "status": {"phase": pod.phase, "conditions": [_condition("Ready", holds=pod.ready)]},
    }


def list_object(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Write several objects as one, as kubectl does."""
    return {"apiVersion": "v1", "kind": "List", "items": items}
