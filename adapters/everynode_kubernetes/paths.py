"""Where objects are in the API: paths of core/v1, apps/v1 and events.k8s.io/v1.

Names come from the log and are not trusted: whatever they contain, a path names one object of the kind that it is for.
"""

from __future__ import annotations

from urllib.parse import quote

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
DAEMONSETS = "/apis/apps/v1/daemonsets"
CONTROLLER_REVISIONS = "/apis/apps/v1/controllerrevisions"


def node_path(name: str) -> str:
    """One node."""
    return f"{NODES}/{_name(name)}"


def namespace_path(name: str) -> str:
    """One namespace."""
    return f"/api/v1/namespaces/{_name(name)}"


def pods_path(namespace: str) -> str:
    """The pods of a namespace."""
    return f"{namespace_path(namespace)}/pods"


def pod_path(namespace: str, name: str) -> str:
    """One pod."""
    return f"{pods_path(namespace)}/{_name(name)}"


def daemonsets_path(namespace: str) -> str:
    """The DaemonSets of a namespace."""
    return f"/apis/apps/v1/namespaces/{_name(namespace)}/daemonsets"


def daemonset_path(namespace: str, name: str) -> str:
    """One DaemonSet."""
    return f"{daemonsets_path(namespace)}/{_name(name)}"


def status_path(namespace: str, name: str) -> str:
    """The status of one DaemonSet."""
    return f"{daemonset_path(namespace, name)}/status"


def revisions_path(namespace: str) -> str:
    """The ControllerRevisions of a namespace."""
    return f"/apis/apps/v1/namespaces/{_name(namespace)}/controllerrevisions"


def revision_path(namespace: str, name: str) -> str:
    """One ControllerRevision."""
    return f"{revisions_path(namespace)}/{_name(name)}"


def events_path(namespace: str) -> str:
    """The events of a namespace."""
    return f"/apis/events.k8s.io/v1/namespaces/{_name(namespace)}/events"


def _name(text: str) -> str:
    quoted = quote(text, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")  # `..` would be another path
