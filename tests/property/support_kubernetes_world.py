"""A cluster that changes at random, told as reflectors tell it, and what a host makes of what comes out.

Used by test_kubernetes_cluster. ``World`` is the truth: its objects appear, change and vanish, and what happens to them
waits in a queue for each kind. ``Observed`` hands the queues on as ``adapter.observe`` does. ``Log`` folds as the host
does, by the docstrings of ``everynode.ports``.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.unit.support_kubernetes_objects import api_node, api_pod, api_revision, api_set

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionRecorded,
)
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, PodKey, Revision, SetKey
from everynode.manifest import BACKEND_ANNOTATION
from everynode.ports import ListBegun, ListEnded, Observation
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.objects import REVISION_LABEL
from everynode_kubernetes.reflector import Begun, Changed, Ended, Present, Unreadable

BACKEND = "b"
KINDS = ("revisions", "sets", "nodes", "pods")
STAGES = (("revisions", "sets"), ("nodes",), ("pods",))
"""What is listed when (``KubernetesAdapter.observe``)."""

T = "2024-05-06T07:08:09Z"

Name = tuple[str, str]
"""Namespace and name; the namespace of a node is empty."""


def template(app: str, version: int) -> dict[str, Any]:
    """The template of a pod: its content is its labels and a version."""
    image = {"name": "c", "image": f"i:{version}"}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [image]}}


def label_of(app: str, version: int) -> str:
    """What pods that are made from a template carry: as in Kubernetes, it is a matter of the content alone."""
    return f"h-{app}-{version}"


@dataclass
class Thing:
    """An object of the cluster; what it says depends on its kind (``parsed``)."""

    uid: str
    says: dict[str, Any] = field(default_factory=dict)


def parsed(kind: str, name: Name, thing: Thing) -> Any:
    """An object as a reflector reads it."""
    named = {"namespace": name[0], "name": name[1], "uid": thing.uid}
    return _PARSE[kind](named, thing.says)


def _node(named: dict[str, Any], says: dict[str, Any]) -> Any:
    return api_node(metadata={**named, "labels": {"zone": says["zone"]}})


def _set(named: dict[str, Any], says: dict[str, Any]) -> Any:
    app = says["app"]
    spec = {
        "selector": {"matchLabels": {"app": app}},
        "template": template(app, says["version"]),
    }
    metadata = {
        **named,
        "generation": says["generation"],
        "deletionTimestamp": T if says["deleting"] else None,
    }
    annotations = None if says["usable"] else {BACKEND_ANNOTATION: "elsewhere"}
    return api_set(spec, annotations, **metadata)


def _owners(owner: str) -> list[dict[str, Any]]:
    if not owner:
        return []
    kind, name, uid = owner.split("/")
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid}
    return [{**reference, "controller": True}]


def _revision(named: dict[str, Any], says: dict[str, Any]) -> Any:
    app, version = says["app"], says["version"]
    labels = {"app": app}
    if says["labelled"]:
        labels[REVISION_LABEL] = label_of(app, version)
    metadata = {**named, "labels": labels, "ownerReferences": _owners(says["owner"])}
    data = {"spec": {"template": {**template(app, version), "$patch": "replace"}}}
    return api_revision(metadata=metadata, revision=says["number"], data=data)


def _pod(named: dict[str, Any], says: dict[str, Any]) -> Any:
    labels = {"app": says["app"], REVISION_LABEL: says["label"]}
    metadata = {
        **named,
        "labels": {key: value for key, value in labels.items() if value},
        "ownerReferences": _owners(says["owner"]),
    }
    spec = {"nodeName": says["node"]} if says["node"] else {}
    return api_pod(metadata=metadata, spec=spec, status={"phase": says["phase"]})


_PARSE = {"nodes": _node, "sets": _set, "revisions": _revision, "pods": _pod}


class World:
    """What is there, and of each kind what a reflector is going to say.

    A kind whose reflector has not begun has no queue.
    """

    def __init__(self) -> None:
        """Nothing is there."""
        self.things: dict[str, dict[Name, Thing]] = {kind: {} for kind in KINDS}
        self.queues: dict[str, deque[Any]] = {}
        self.unreadable: set[tuple[str, Name]] = set()
        self.doubtful: set[str] = set()
        """Kinds of which a list named something that has no name: what was gone then is only seen by another list."""
        self.is_nameless = False
        self.numbers = itertools.count(1)
        self.selectors: dict[str, str] = {}
        """By the uid of a set, whichever it was: the ``app`` that it selects. It never changes."""
        self.meanings: dict[tuple[str, str], set[tuple[str, int]]] = {}
        """By namespace and label: the contents that ControllerRevisions, whichever, gave it."""
        self.labels: dict[str, set[str]] = {}
        """By the uid of a pod: the labels of revisions that it has carried."""
        self.forgotten_labels: dict[str, set[str]] = {}
        """Those that it carried in the days of processes that are gone."""

    def put(self, kind: str, name: Name, **says: Any) -> None:
        """Something appears, or changes; only what is named changes."""
        things = self.things[kind]
        is_new = name not in things
        if is_new:
            things[name] = Thing(f"{kind}-{next(self.numbers)}")
        thing = things[name]
        thing.says = {**thing.says, **says}
        if kind == "sets":
            self.selectors[thing.uid] = thing.says["app"]
        if kind == "pods":
            self.labels.setdefault(thing.uid, set()).add(thing.says["label"])
        if kind == "revisions":
            content = (thing.says["app"], thing.says["version"])
            label = label_of(*content) if thing.says["labelled"] else name[1]
            self.meanings.setdefault((name[0], label), set()).add(content)
        if kind in self.queues:
            change = "ADDED" if is_new else "MODIFIED"
            self.queues[kind].append(self._told(kind, name, change))

    def remove(self, kind: str, name: Name) -> None:
        """Something vanishes; one that cannot be read can only be missed by a list."""
        thing = self.things[kind].pop(name)
        if (kind, name) in self.unreadable:
            self.unreadable.discard((kind, name))
            self.relist(kind)
        elif kind in self.queues:
            self.queues[kind].append(Changed("DELETED", parsed(kind, name, thing)))

    def relist(self, kind: str) -> None:
        """What was not heard until now is lost; a list says what is there."""
        if kind not in self.queues:
            return
        listed = [self._told(kind, name, "") for name in self.things[kind]]
        self.queues[kind] = deque([Begun(), *listed, Ended()])

    def _told(self, kind: str, name: Name, change: str) -> Any:
        thing = self.things[kind][name]
        if (kind, name) in self.unreadable:
            if self.is_nameless:
                self.doubtful.add(kind)
                return Unreadable("", "", "")
            return Unreadable(*name, thing.uid)
        item = parsed(kind, name, thing)
        return Changed(change, item) if change else Present(item)  # type: ignore[arg-type]  # ADDED or MODIFIED

    def collect_garbage(self) -> None:
        """What belonged to a set that is gone goes too."""
        for kind in ("revisions", "pods"):
            for name, thing in list(self.things[kind].items()):
                owner = thing.says["owner"]
                if owner.startswith("DaemonSet/") and not self._is_there(owner):
                    self.remove(kind, name)

    def _is_there(self, owner: str) -> bool:
        return owner.split("/")[2] in {thing.uid for thing in self.things["sets"].values()}

    def recover(self) -> None:
        """All faults end: everything can be read and used, and nothing belongs to what is gone."""
        for kind, name in sorted(self.unreadable):
            self.unreadable.discard((kind, name))
            self.put(kind, name)
        for name in list(self.things["sets"]):
            self.put("sets", name, usable=True)
        self.collect_garbage()
        for kind in sorted(self.doubtful):
            self.relist(kind)


class Log:
    """What a host writes down: the last word on everything, and nothing that a complete list did not name."""

    def __init__(self) -> None:
        """Nothing was said."""
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.sets: dict[SetKey, DaemonSet] = {}
        self.revisions: dict[tuple[SetKey, str, str], Revision] = {}
        self._named: dict[str, set[Any]] = {}

    def interrupted(self) -> None:
        """Observing ended: lists that had begun will not end."""
        self._named.clear()

    def fold(self, said: Observation) -> None:
        """Take in what an adapter says."""
        match said:
            case ListBegun(kind=kind):
                self._named[kind] = set()
            case ListEnded(kind=kind):
                tables: dict[str, dict[Any, Any]] = {
                    "nodes": self.nodes,
                    "pods": self.pods,
                    "daemonsets": self.sets,
                }
                known = tables[kind]
                for key in known.keys() - self._named.pop(kind):
                    del known[key]
            case NodeObserved(node=node):
                self.nodes[node.key] = node
                self._name("nodes", node.key)
            case NodeGone():
                self.nodes.pop(said.key, None)
            case PodObserved(pod=pod):
                self.pods[pod.key] = pod
                self._name("pods", pod.key)
            case PodGone():
                self.pods.pop(said.key, None)  # the host adds the owner that it knows
            case DaemonSetObserved(daemonset=daemonset):
                self._name("daemonsets", daemonset.key)
                known_set = self.sets.get(daemonset.key)
                if (
                    known_set is None
                    or known_set.uid != daemonset.uid
                    or known_set.generation <= daemonset.generation
                ):
                    self.sets[daemonset.key] = daemonset
            case DaemonSetGone():
                if said.key in self.sets and self.sets[said.key].uid == said.uid:
                    del self.sets[said.key]
            case RevisionRecorded(revision=revision):
                place = (revision.set_key, revision.daemonset_uid, revision.hash)
                before = self.revisions.get(place)
                if before is None or before.number < revision.number:
                    self.revisions[place] = revision

    def _name(self, kind: str, key: Any) -> None:
        if kind in self._named:
            self._named[kind].add(key)


class Step(NamedTuple):
    """What one word of a reflector led to."""

    said: Any
    observations: list[Observation]


class Observed:
    """An adapter that observes a world, without the network in between.

    Args:
        world: What it looks at.
        log: Where what it says goes.
    """

    def __init__(self, world: World, log: Log) -> None:
        """Begin to observe."""
        self.world = world
        self.log = log
        self.cluster: Cluster
        self.begin(is_new_process=True)

    def begin(self, *, is_new_process: bool) -> None:
        """Observing ended, for whatever reason, and begins again; a new process has no memory."""
        self.log.interrupted()
        self.world.queues.clear()
        if is_new_process:
            labels = self.world.labels
            self.world.forgotten_labels = {uid: set(labels[uid]) for uid in labels}
            self.cluster = Cluster(BACKEND)
        self.cluster.begin_anew(self.log)
        self._stages = list(STAGES)
        self._awaited: set[str] = set()
        self.pods_listed = False
        self._begin_stage()

    def _begin_stage(self) -> None:
        if not self._awaited and self._stages:
            self._awaited = set(self._stages[0])
            for kind in self._stages.pop(0):
                self.world.queues[kind] = deque()
                self.world.relist(kind)

    def hear(self, kind: str) -> Step | None:
        """Take in the next word of one kind; ``None`` if there is none."""
        queue = self.world.queues.get(kind)
        if not queue:
            return None
        said = queue.popleft()
        observations = self._take(kind, said)
        self._check(observations)
        if isinstance(said, Ended):
            self._awaited.discard(kind)
            self._begin_stage()
        return Step(said, observations)

    def _take(self, kind: str, said: Any) -> list[Observation]:
        cluster = self.cluster
        take: Mapping[str, Any] = {
            "nodes": cluster.take_node,
            "pods": cluster.take_pod,
            "sets": cluster.take_set,
            "revisions": cluster.take_revision,
        }
        observations: list[Observation] = take[kind](said)
        return observations

    def _check(self, observations: list[Observation]) -> None:
        """Fold what came out, and see that it comes in an order that a host can use."""
        for one in observations:
            self.log.fold(one)
            if isinstance(one, ListEnded) and one.kind == "pods":
                self.pods_listed = True
            if isinstance(one, DaemonSetObserved):
                assert self.pods_listed, "a set was told of before the pods that it has"
                known = self.cluster.sets[one.daemonset.key]
                places = {
                    (one.daemonset.key, known.api.uid, version.hash)
                    for version in self.cluster.versions_of(one.daemonset.key)
                }
                assert places <= self.log.revisions.keys(), "a set came before its revisions"

    def hear_all(self) -> None:
        """Take in everything that is waiting, and what that leads to."""
        while any(self.world.queues.values()):
            for kind in KINDS:
                self.hear(kind)
