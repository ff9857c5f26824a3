"""API objects for unit tests, as a server sends them, with everything filled in that a test is not about."""

from __future__ import annotations

import json
from typing import Any

from everynode_kubernetes.objects import (
    ApiControllerRevision,
    ApiDaemonSet,
    ApiNode,
    ApiPod,
    parse_controller_revision,
    parse_daemonset,
    parse_node,
    parse_pod,
)

T = "2024-05-06T07:08:09Z"
T_MS = 1_714_979_289_000


def encoded(**fields: Any) -> bytes:
    """An object with a name and a uid, and what else is given."""
    metadata = {"name": "x", "uid": "u", **fields.pop("metadata", {})}
    return json.dumps({"metadata": metadata, **fields}).encode()


def api_node(**fields: Any) -> ApiNode:
    """A node as the server sends it."""
    return parse_node(encoded(**fields))


def api_pod(**fields: Any) -> ApiPod:
    """A pod as the server sends it."""
    return parse_pod(encoded(**fields))


def api_revision(**fields: Any) -> ApiControllerRevision:
    """A ControllerRevision as the server sends it."""
    return parse_controller_revision(encoded(**fields))


def api_set(
    spec: dict[str, Any] | None = None, annotations: dict[str, str] | None = None, **metadata: Any
) -> ApiDaemonSet:
    """A set as it stands in a list: with a status, without a kind."""
    whole: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {
            "metadata": {"creationTimestamp": None, "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
        },
        "revisionHistoryLimit": 10,
        **(spec or {}),
    }
    named = {"namespace": "ns", "generation": 3, "annotations": annotations, **metadata}
    return parse_daemonset(encoded(metadata=named, spec=whole, status={"numberReady": 2}))


def ready(status: str, since: str | None = T) -> dict[str, Any]:
    """A status with a condition Ready."""
    others = {"type": "MemoryPressure", "status": "True", "lastTransitionTime": T}
    return {
        "conditions": [others, {"type": "Ready", "status": status, "lastTransitionTime": since}]
    }
