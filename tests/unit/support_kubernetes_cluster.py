"""A cluster to tell of, piece by piece, and what came out in few words: for the tests of ``Cluster``.

Used by test_kubernetes_cluster*.py; `support_kubernetes_objects` makes the objects.
"""

from __future__ import annotations

from typing import Any

from tests.unit.support_kubernetes_objects import api_pod, api_revision, api_set

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionRecorded,
)
from everynode.core.values import Node, NodeKey, Pod, PodKey, SetKey
from everynode.manifest import BACKEND_ANNOTATION
from everynode.ports import ListBegun, ListEnded, Observation
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.objects import REVISION_LABEL, ApiDaemonSet, ApiPod
from everynode_kubernetes.reflector import Begun, Changed, Ended, Present, Unreadable
from everynode_kubernetes.translate import revision_of

BACKEND = "b"
SET = SetKey("ns", "s")
POD = PodKey(BACKEND, "ns", "p")
OTHERS = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r"}]}
NOWHERE = {BACKEND_ANNOTATION: "elsewhere"}
"""Annotations of a set that cannot be used."""


class Known:
    """What the log has of the backend."""

    def __init__(self) -> None:
        """Nothing."""
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}


def owned_by(uid: str = "u-s", name: str = "s", kind: str = "DaemonSet") -> dict[str, Any]:
    """Metadata: who controls it."""
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}
    return {"ownerReferences": [owner]}


def a_pod(
    name: str = "p",
    *,
    uid: str = "u-p",
    node: str = "n",
    label: str = "",
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    **metadata: Any,
) -> ApiPod:
    """A pod on a node; nobody controls it unless ``owned_by`` is given."""
    marked = {REVISION_LABEL: label} if label else {}
    named = {"namespace": "ns", "name": name, "uid": uid}
    whole = {**({"app": "a"} if labels is None else labels), **marked}
    return api_pod(
        metadata={**named, "labels": whole, **metadata},
        spec={"nodeName": node} if node else {},
        status={"phase": phase},
    )


def a_set(
    name: str = "s", *, uid: str = "u-s", annotations: dict[str, str] | None = None, **metadata: Any
) -> ApiDaemonSet:
    """A set that selects ``app=a``."""
    return api_set(None, annotations, name=name, uid=uid, **metadata)


def a_version(
    name: str = "cr",
    *,
    image: str = "i",
    number: int = 1,
    label: str = "l1",
    data: dict[str, Any] | None = None,
    **metadata: Any,
) -> Any:
    """A ControllerRevision whose template runs an image."""
    template = {
        "$patch": "replace",
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    marked = {REVISION_LABEL: label} if label else {}
    return api_revision(
        metadata={
            "namespace": "ns",
            "name": name,
            "uid": f"u-{name}",
            "labels": {"app": "a", **marked},
            **metadata,
        },
        revision=number,
        data={"spec": {"template": template}} if data is None else data,
    )


def hash_of(image: str) -> str:
    """The content hash of the template that runs an image."""
    read = revision_of(a_version(image=image), "s", "u")
    assert read is not None
    return read.hash


def listed(*items: Any) -> list[Any]:
    """What a reflector says of a list."""
    present = [item if isinstance(item, Unreadable) else Present(item) for item in items]
    return [Begun(), *present, Ended()]


def modified(item: Any) -> Any:
    """What a reflector says of a change."""
    return Changed("MODIFIED", item)


def deleted(item: Any) -> Any:
    """What a reflector says of an end."""
    return Changed("DELETED", item)


class Fixture:
    """A cluster and its log, told of everything in the adapter's order."""

    def __init__(self, *, sets: tuple[Any, ...] = (), versions: tuple[Any, ...] = ()) -> None:
        """Hear the first lists of sets and versions; then ``pods`` is to be heard."""
        self.cluster = Cluster(BACKEND)
        self.known = Known()
        self.cluster.begin_anew(self.known)
        self.versions(*listed(*versions))
        self.sets(*listed(*sets))

    def pods(self, *said: Any) -> list[Observation]:
        """Hear of pods."""
        return [one for each in said for one in self.cluster.take_pod(each)]

    def sets(self, *said: Any) -> list[Observation]:
        """Hear of sets."""
        return [one for each in said for one in self.cluster.take_set(each)]

    def versions(self, *said: Any) -> list[Observation]:
        """Hear of ControllerRevisions."""
        return [one for each in said for one in self.cluster.take_revision(each)]

    def nodes(self, *said: Any) -> list[Observation]:
        """Hear of nodes."""
        return [one for each in said for one in self.cluster.take_node(each)]


def complete(*pods: Any, sets: Any = None, versions: tuple[Any, ...] = ()) -> Fixture:
    """A cluster of which all first lists have been heard; it has one set unless others are given."""
    fixture = Fixture(sets=(a_set(),) if sets is None else sets, versions=versions)
    fixture.pods(*listed(*pods))
    return fixture


def brief(observations: list[Observation]) -> list[str]:
    """Observations, short enough to be compared: what it is, and its name."""
    return [_brief(one) for one in observations]


def _brief(one: Observation) -> str:
    match one:
        case ListBegun(kind=kind):
            return f"[{kind}"
        case ListEnded(kind=kind):
            return f"{kind}]"
        case NodeObserved(node=node):
            return f"node {node.name}"
        case PodObserved(pod=pod):
            return f"pod {pod.name} of {pod.owner.name if pod.owner else 'nobody'}"
        case DaemonSetObserved(daemonset=daemonset):
            return f"set {daemonset.namespace}/{daemonset.name} {daemonset.uid}"
        case RevisionRecorded(revision=revision):
            return f"revision {revision.number} of {revision.daemonset}"
        case PodGone():
            return f"pod {one.name} gone"
        case NodeGone():
            return f"node {one.name} gone"
        case DaemonSetGone():
            return f"set {one.namespace}/{one.name} gone"


def only_pod(observations: list[Observation]) -> Pod:
    """The pod of the only observation."""
    (one,) = observations
    assert isinstance(one, PodObserved)
    return one.pod


def only_gone(observations: list[Observation]) -> PodGone:
    """The end of a pod, which is the only observation."""
    (one,) = observations
    assert isinstance(one, PodGone)
    return one
