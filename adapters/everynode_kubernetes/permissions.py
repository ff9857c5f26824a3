"""What the adapter asks an API server for: the verbs and resources, in one table.

The doctor asks the server whether each of them is allowed, and a test holds deploy/kubernetes/rbac.yaml and what the
adapter really does to the same table. It knows nothing of connections.
"""

from __future__ import annotations

from typing import NamedTuple

IDENTITY_NAMESPACE = "kube-system"
"""Its uid stands for the cluster: it is made with it and cannot be deleted."""


class Permission(NamedTuple):
    """What may be done with one resource.

    Attributes:
        group: API group; empty for core.
        resource: In the plural; a subresource after a slash, as RBAC writes it.
        verbs: What is done with it, as RBAC calls it.
        name: The only object that it is done to; empty for all.
        own_namespace: It is done in the adapter's own namespace only; else in the whole cluster.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    name: str = ""
    own_namespace: bool = False

    def __str__(self) -> str:
        """Name the resource as kubectl does: ``daemonsets.apps/status``."""
        resource, _, subresource = self.resource.partition("/")
        named = f"{resource}.{self.group}" if self.group else resource
        return "/".join(part for part in (named, subresource, self.name) if part)


PERMISSIONS = (
    Permission("", "nodes", ("get", "list", "watch")),
    Permission("", "pods", ("get", "list", "watch", "create", "patch", "delete")),
    Permission("", "namespaces", ("get",), name=IDENTITY_NAMESPACE),
    Permission("apps", "daemonsets", ("get", "list", "watch")),
    Permission("apps", "daemonsets/status", ("patch",)),
    Permission(
        "apps",
        "controllerrevisions",
        ("get", "list", "watch", "create", "patch", "delete"),
    ),
    Permission("events.k8s.io", "events", ("create",)),
    Permission("apps", "daemonsets", ("create", "delete"), own_namespace=True),
)
"""All that it does. The last one is for the probe (``probe``), which reads what it made by the permissions above."""
