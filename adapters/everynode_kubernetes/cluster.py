"""A cluster as its API server tells of it, and what the fleet is told of that.

Used by ``adapter``: it hands in what four reflectors say, and passes on what comes out. No I/O, no clock. What does not
concern the fleet (pods of others, heartbeats) ends here.

Sets are told after the pods, all of them in one list with their revisions, because a set that is heard of before the
pods that it has would be given new ones.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionRecorded,
)
from everynode.core.selectors import selects
from everynode.core.values import DaemonSet, Owner, PodKey, SetKey
from everynode.ports import ListBegun, ListEnded, Observation, View
from everynode_kubernetes.history import History, Version, number_order
from everynode_kubernetes.objects import (
    PROBE_LABEL,
    PROBE_PREFIX,
    REVISION_LABEL,
    ApiControllerRevision,
    ApiDaemonSet,
    ApiNode,
    ApiPod,
)
from everynode_kubernetes.reflector import Begun, Changed, Ended, Said, Unreadable
from everynode_kubernetes.seen import Names, Unexplained
from everynode_kubernetes.translate import (
    Rejection,
    controller_of,
    daemonset_of,
    is_daemonset_controller,
    node_name_of,
    node_of,
    pod_of,
    strategy_problems,
)

TROUBLED_SETS_MAX = 1_000
"""Sets that are waiting for people to be told of them; of more, the oldest are not."""

DELETED_THERE = "deleted from the cluster"
NOT_OURS = "no set of the cluster controls it or selects it any more"


class KnownSet(NamedTuple):
    """A set of the cluster.

    Attributes:
        api: The object.
        daemonset: What it asks for; of an object that cannot be used, the last usable state of the same; ``None`` if
            there was none.
        problem: Why the object cannot be used as it is; empty if it can.
    """

    api: ApiDaemonSet
    daemonset: DaemonSet | None
    problem: str = ""


class _Told(NamedTuple):
    """A pod that the fleet was told of."""

    uid: str
    owner: Owner | None
    node: str
    label: str | None  # of the revision; ``None`` if only the log knows the pod


class Cluster:
    """What is in one cluster.

    Args:
        backend: Name of the backend in the fleet.
    """

    def __init__(self, backend: str) -> None:
        """Know nothing yet."""
        self.sets: dict[SetKey, KnownSet] = {}
        self.history = History()
        self.history_lost: set[SetKey] = set()  # sets of which a ControllerRevision has gone
        self.node_uids: dict[str, str] = {}
        self.troubled: deque[KnownSet] = deque(maxlen=TROUBLED_SETS_MAX)
        """Sets that people are to be told of, because they cannot be used as they are; whoever tells takes them out."""
        self._backend = backend
        self._known: View | None = None
        self._nodes = Names[str]()
        self._pods = Names[PodKey]()
        self._sets = Names[SetKey]()
        self._unread_sets: set[SetKey] = set()  # the name is empty if not even that can be read
        self._is_owed_an_end = (
            False  # the list of sets that was told last could not say what is gone
        )
        self._versions = Names[tuple[str, str]]()
        self._pods_listed = False
        self._told: dict[PodKey, _Told] = {}
        self._orphans: dict[PodKey, ApiPod] = {}
        self._unexplained = Unexplained()

    def begin_anew(self, known: View) -> None:
        """All reflectors begin again.

        Args:
            known: What the log has: it stands for what cannot be read.
        """
        self._known = known
        self._pods_listed = False
        self._nodes.void()
        self._pods.void()
        self._sets.void()
        self._versions.void()

    # --- nodes --------------------------------------------------------------------------------------------------------

    def take_node(self, said: Said[ApiNode]) -> list[Observation]:
        """Take in what is said of nodes."""
        match said:
            case Begun():
                self._nodes.begin()
                return [ListBegun("nodes")]
            case Ended():
                for name in self._nodes.end(list(self.node_uids)):
                    del self.node_uids[name]
                return [ListEnded("nodes")]
            case Unreadable():
                self._nodes.add(said.name, is_name=said.name)
                return self._known_nodes(said.name)
            case Changed(kind="DELETED", item=api):
                self.node_uids.pop(api.metadata.name, None)
                name = api.metadata.name
                gone = NodeGone(backend=self._backend, name=name, uid=api.uid, why=DELETED_THERE)
                return [gone]
            case _:
                api = said.item
                self._nodes.add(api.metadata.name)
                self.node_uids[api.metadata.name] = api.uid
                return [NodeObserved(node=node_of(api, self._backend))]

    def _known_nodes(self, name: str) -> list[Observation]:
        """Tell of a node that cannot be read, as it was; of every node if nobody knows which one it is."""
        nodes = () if self._known is None else self._known.nodes.values()
        return [NodeObserved(node=node) for node in nodes if name in {"", node.name}]

    # --- pods ---------------------------------------------------------------------------------------------------------

    def take_pod(self, said: Said[ApiPod]) -> list[Observation]:
        """Take in what is said of pods; the end of their first list is when sets are told of."""
        match said:
            case Begun():
                self._pods.begin()
                return [ListBegun("pods")]
            case Ended():
                for key in self._pods.end(self._told.keys() | self._orphans.keys()):
                    self._forget_pod(key)
                first, self._pods_listed = not self._pods_listed, True
                return [ListEnded("pods"), *(self._declare_all() if first else ())]
            case Changed(kind="DELETED", item=api):
                return self._end_pod(self._key(api), api.uid, DELETED_THERE)
            case Unreadable():
                key = PodKey(self._backend, said.namespace, said.name)
                self._pods.add(key, is_name=said.name)
                return self._known_pods(key)
            case _:
                self._pods.add(self._key(said.item))
                return self._observe_pod(said.item)

    def _known_pods(self, key: PodKey) -> list[Observation]:
        """Tell of a pod that cannot be read, as it was; of every pod if nobody knows which one it is."""
        known = () if self._known is None else self._known.pods.values()
        pods = [pod for pod in known if not key.name or pod.key == key]
        for pod in pods:  # its end is to be told, too, whoever told of it first
            self._told.setdefault(pod.key, _Told(pod.uid, pod.owner, pod.node, None))
        return [PodObserved(pod=pod) for pod in pods]

    def _is_current(self, key: PodKey) -> bool:
        """Say whether what was last heard of a pod holds: of what a list has not named yet, nobody knows."""
        return self._pods.has(key) if self._pods.listing else self._pods_listed

    def _key(self, api: ApiPod) -> PodKey:
        return PodKey(self._backend, api.metadata.namespace, api.metadata.name)

    def _observe_pod(self, api: ApiPod) -> list[Observation]:
        key = self._key(api)
        controller = controller_of(api.metadata)
        self._orphans.pop(key, None)
        if controller is None:
            if not api.metadata.labels:
                return self._end_pod(key, api.uid, NOT_OURS)
            self._orphans[key] = api
            return self._observe_orphan(key, api)
        if not is_daemonset_controller(controller):
            return self._end_pod(key, api.uid, NOT_OURS)
        return self._tell_pod(key, api, Owner(name=controller.name, uid=controller.uid))

    def _observe_orphan(self, key: PodKey, api: ApiPod) -> list[Observation]:
        if not self._is_selected(key.namespace, api.metadata.labels or {}):
            return self._end_pod(key, api.uid, NOT_OURS)
        return self._tell_pod(key, api, None)

    def _is_selected(self, namespace: str, labels: dict[str, str]) -> bool:
        wanted = (known.daemonset for key, known in self.sets.items() if key.namespace == namespace)
        return any(each is not None and selects(each.selector, labels) for each in wanted)

    def _tell_pod(self, key: PodKey, api: ApiPod, owner: Owner | None) -> list[Observation]:
        """Tell of a pod that has a place; one that has none yet is nobody's (nodesToDaemonPods)."""
        node = node_name_of(api)
        if not node:
            return self._end_pod(key, api.uid, NOT_OURS)
        revision = self._revision_of(key, api, "" if owner is None else owner.uid)
        labels = api.metadata.labels or {}
        self._told[key] = _Told(api.uid, owner, node, labels.get(REVISION_LABEL, ""))
        pod = pod_of(
            api,
            self._backend,
            owner=owner,
            revision=revision,
            labels=None if owner is not None and self._selected_by(key, owner, labels) else labels,
        )
        return [PodObserved(pod=pod)]

    def _selected_by(self, key: PodKey, owner: Owner, labels: dict[str, str]) -> bool:
        """Say whether a pod has the labels that its set selects: then nobody need know them."""
        known = self.sets.get(SetKey(key.namespace, owner.name))
        if known is None or known.daemonset is None:
            return False
        return known.api.uid == owner.uid and selects(known.daemonset.selector, labels)

    def _revision_of(self, key: PodKey, api: ApiPod, owner_uid: str) -> str:
        label = api.metadata.label(REVISION_LABEL)
        explained = self.history.explain(key.namespace, owner_uid, label) if label else ""
        if explained is None:
            self._unexplained.put(key, label, api)
            return self._meant_before(key, api.uid, label) or label
        self._unexplained.drop(key)
        return explained

    def _meant_before(self, key: PodKey, uid: str, label: str) -> str:
        """Return what the log has of a pod that carries a label: a version that is gone explained it once."""
        known = None if self._known is None else self._known.pods.get(key)
        if known is None or known.uid != uid:
            return ""
        told = self._told.get(key)
        before = None if told is None or told.uid != uid else told.label
        if before is None and known.labels is not None:
            before = known.labels.get(REVISION_LABEL, "")
        return known.revision if before in {None, label} else ""

    def _end_pod(self, key: PodKey, uid: str, why: str) -> list[Observation]:
        told = self._told.get(key)
        self._forget_pod(key, but_orphan=why == NOT_OURS)
        if told is None:
            return []
        gone = PodGone(
            backend=key.backend,
            namespace=key.namespace,
            name=key.name,
            uid=told.uid if why == NOT_OURS else uid,
            node=told.node,
            owner=told.owner,
            why=why,
        )
        return [gone]

    def _forget_pod(self, key: PodKey, *, but_orphan: bool = False) -> None:
        self._told.pop(key, None)
        if not but_orphan:
            self._orphans.pop(key, None)
        self._unexplained.drop(key)

    # --- sets and their revisions -------------------------------------------------------------------------------------

    def take_set(self, said: Said[ApiDaemonSet]) -> list[Observation]:
        """Take in what is said of DaemonSets."""
        match said:
            case Begun():
                self._sets.begin()
                self._unread_sets.clear()
                return []
            case Ended():
                for key in self._sets.end(list(self.sets)):
                    self._forget_set(key)
                return self._declare_all() if self._pods_listed else []
            case Changed(kind="DELETED", item=api):
                key = SetKey(api.metadata.namespace, api.metadata.name)
                self._forget_set(key)
                gone = DaemonSetGone(
                    namespace=key.namespace,
                    name=key.name,
                    uid=api.uid,
                    cascade="backend",
                    why=DELETED_THERE,
                )
                return [gone, *(self._list_owed() or self._orphans_again(key.namespace))]
            case Unreadable():
                key = SetKey(said.namespace, said.name)
                self._sets.add(key, is_name=said.name)
                if self._sets.listing and key not in self.sets:
                    self._unread_sets.add(key)
                return []
            case _:
                told = self._observe_set(said.item)
                return self._list_owed() or told

    def _list_owed(self) -> list[Observation]:
        """Tell of all sets again as soon as a list of them can say what is gone, if the last one could not."""
        is_due = self._is_owed_an_end and self._pods_listed and not self._sets.listing
        return self._declare_all() if is_due and not self._is_any_unknown() else []

    def _observe_set(self, api: ApiDaemonSet) -> list[Observation]:
        if api.metadata.label(PROBE_LABEL) and api.metadata.name.startswith(PROBE_PREFIX):
            return []
        key = SetKey(api.metadata.namespace, api.metadata.name)
        self._sets.add(key)
        self._unread_sets.discard(key)
        before = self.sets.get(key)
        known = self.sets[key] = self._read_set(api, before)
        is_new = before is None or before.api.uid != api.uid
        if before is not None and is_new:
            self.history.forget(before.api.uid)
        if not self._pods_listed or self._sets.listing:
            return []  # it is told with all others
        is_old = before is not None and known.daemonset is before.daemonset
        # A new status; versions that a list has named are not told before its end, but for this.
        if known.daemonset is not None and is_old and not self._versions.listing:
            return [DaemonSetObserved(daemonset=known.daemonset)]
        told = self._declare(key, known)
        if is_new or (before and before.daemonset is None):
            told = [*told, *self._orphans_again(key.namespace)]
        return told

    def _read_set(self, api: ApiDaemonSet, before: KnownSet | None) -> KnownSet:
        """Read a set; most of what comes is a new status, which changes nothing that it asks for."""
        if before is not None and _asks_the_same(before.api, api):
            return before._replace(api=api)
        read = daemonset_of(api, self._backend)
        if isinstance(read, Rejection):
            usable = before.daemonset if before and before.api.uid == api.uid else None
            known = KnownSet(api, usable, f"It is left as it was: {read}")
        else:
            problems = "; ".join(map(str, strategy_problems(api)))
            known = KnownSet(api, read, problems and f"Its rollout is paused: {problems}")
        if known.problem:
            self.troubled.append(known)
        return known

    def _forget_set(self, key: SetKey) -> None:
        self._unread_sets.discard(key)
        known = self.sets.pop(key, None)
        if known is not None:
            self.history.forget(known.api.uid)

    def _declare_all(self) -> list[Observation]:
        declared: list[Observation] = [ListBegun("daemonsets")]
        for key, known in sorted(self.sets.items()):
            declared += self._declare(key, known)
        # Of what cannot be read or used, the log keeps what it has: then the list does not say what is gone.
        self._is_owed_an_end = self._is_any_unknown()
        if not self._is_owed_an_end:
            declared.append(ListEnded("daemonsets"))
        return [*declared, *self._orphans_again()]

    def _is_any_unknown(self) -> bool:
        unusable = any(known.daemonset is None for known in self.sets.values())
        return unusable or bool(self._unread_sets)

    def _declare(self, key: SetKey, known: KnownSet) -> list[Observation]:
        if known.daemonset is None:
            return []
        revisions = (version.revision(key.name, known.api.uid) for version in self.versions_of(key))
        return [
            *(RevisionRecorded(revision=found) for found in revisions),
            DaemonSetObserved(daemonset=known.daemonset),
        ]

    def _orphans_again(self, namespace: str = "") -> list[Observation]:
        """Tell of pods that nobody controls, if a set selects them now; of others no more.

        Args:
            namespace: Only those of this one; empty for all.
        """
        found = [
            (key, api)
            for key, api in self._orphans.items()
            if namespace in {"", key.namespace} and self._is_current(key)
        ]
        return [one for key, api in found for one in self._observe_orphan(key, api)]

    def versions_of(self, key: SetKey) -> list[Version]:
        """Return the ControllerRevisions of a set in the order of their numbers.

        One that nobody controls and that the set's selector selects counts: it is about to be adopted.
        """
        known = self.sets.get(key)
        if known is None:
            return []
        owned = self.history.owned_by(key.namespace, known.api.uid)
        orphans = self.history.owned_by(key.namespace, "")
        found = [version for version in (*owned, *orphans) if _is_of(version, known)]
        return sorted(found, key=number_order)

    def label_of(self, key: SetKey, revision: str) -> str:
        """Return what pods of a set carry that are made from a template; the template's hash if nothing else has it."""
        found = [version for version in self.versions_of(key) if version.hash == revision]
        return found[-1].label if found else revision

    def take_revision(self, said: Said[ApiControllerRevision]) -> list[Observation]:
        """Take in what is said of ControllerRevisions."""
        match said:
            case Begun():
                self._versions.begin()
                return []
            case Ended():
                for name in self._versions.end(self.history.names()):
                    self._lose(self.history.drop(*name))
                return self._declare_all() if self._pods_listed else []
            case Changed(kind="DELETED", item=api):
                self._lose(self.history.drop(api.metadata.namespace, api.metadata.name))
                return []
            case Unreadable():
                self._versions.add((said.namespace, said.name), is_name=said.name)
                return []
            case _:
                api = said.item
                self._versions.add((api.metadata.namespace, api.metadata.name))
                version = self.history.put(api)
                if version is None:
                    return []
                return [*self._explained_by(version), *self._declare_owners(version)]

    def _lose(self, version: Version | None) -> None:
        """Note whose history has one version less than it had."""
        owner = None if version is None else controller_of(version.api.metadata)
        if version is not None and owner is not None:
            self.history_lost.add(SetKey(version.api.metadata.namespace, owner.name))

    def _explained_by(self, version: Version) -> list[Observation]:
        """Tell once more of pods whose label means something only now."""
        waiting = self._unexplained.with_label(version.api.metadata.namespace, version.label)
        current = [api for key, api in waiting if self._is_current(key)]
        return [one for api in current for one in self._observe_pod(api)]

    def _declare_owners(self, version: Version) -> list[Observation]:
        """Tell once more of the set whose history has changed, or of all that select it.

        While ControllerRevisions are listed it does not: at the end, all sets are told.
        """
        if not self._pods_listed or self._versions.listing:
            return []
        namespace = version.api.metadata.namespace
        return [
            one
            for key, known in sorted(self.sets.items())
            if key.namespace == namespace and _is_of(version, known)
            for one in self._declare(key, known)
        ]


def _is_of(version: Version, known: KnownSet) -> bool:
    """Say whether a ControllerRevision is one of a set: the set's own, or nobody's that the set selects."""
    if known.daemonset is None:
        return False
    if version.owner_uid:
        return version.owner_uid == known.api.uid
    return selects(known.daemonset.selector, version.api.metadata.labels or {})


def _asks_the_same(before: ApiDaemonSet, after: ApiDaemonSet) -> bool:
    """Say whether two states of a set differ in nothing that the fleet reads; the spec is told by its generation."""
    old, new = before.metadata, after.metadata
    return (old.uid, old.generation, old.labels, old.annotations, old.deletion_timestamp) == (
        new.uid,
        new.generation,
        new.labels,
        new.annotations,
        new.deletion_timestamp,
    )
