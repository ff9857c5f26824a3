"""What the adapter makes of a cluster: rule by rule. Whole histories are in tests/property/test_kubernetes_cluster.py."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
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
from everynode.core.values import Node, NodeKey, Owner, Pod, PodKey, SetKey
from everynode.manifest import BACKEND_ANNOTATION
from everynode.ports import ListBegun, ListEnded, Observation
from everynode_kubernetes.cluster import DELETED_THERE, NOT_OURS, TROUBLED_SETS_MAX, Cluster
from everynode_kubernetes.objects import PROBE_LABEL, REVISION_LABEL, ApiDaemonSet, ApiPod
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


class TestNodes:
    """Nodes pass through, in the host's brackets."""

    def test_a_list(self) -> None:
        """A list is bracketed, and what it does not name any more is no longer there."""
        fixture = complete()
        said = listed(api_node(metadata={"name": "n1"}), api_node(metadata={"name": "n2"}))
        assert ["[nodes", "node n1", "node n2", "nodes]"] == brief(fixture.nodes(*said))
        assert {"n1": "u", "n2": "u"} == fixture.cluster.node_uids

        fixture.nodes(*listed(api_node(metadata={"name": "n2", "uid": "anew"})))

        assert {"n2": "anew"} == fixture.cluster.node_uids

    def test_one_goes(self) -> None:
        """A node that is deleted is told of with its uid; one that was never heard of, too."""
        fixture = complete()
        node = api_node(metadata={"name": "n"})
        fixture.nodes(Changed("ADDED", node))

        told = [*fixture.nodes(deleted(node)), *fixture.nodes(deleted(node))]

        assert [NodeGone(backend=BACKEND, name="n", uid="u", why=DELETED_THERE)] * 2 == told
        assert {} == fixture.cluster.node_uids

    def test_unreadable(self) -> None:
        """L3: a node that cannot be read stays as the log has it, and is not taken for gone."""
        fixture = complete()
        fixture.nodes(*listed(api_node(metadata={"name": "n"})))
        fixture.known.nodes = {
            NodeKey(BACKEND, name): Node(backend=BACKEND, name=name, uid="u") for name in "nm"
        }

        told = fixture.nodes(*listed(Unreadable("", "n", "")))

        assert ["[nodes", "node n", "nodes]"] == brief(told)
        assert {"n": "u"} == fixture.cluster.node_uids

    def test_unreadable_and_nameless(self) -> None:
        """L3: if not even a name can be read, a list takes nothing away; the next one does again."""
        fixture = complete()
        fixture.nodes(*listed(api_node(metadata={"name": "n"})))
        fixture.known.nodes = {
            NodeKey(BACKEND, name): Node(backend=BACKEND, name=name, uid="u") for name in "nm"
        }

        told = fixture.nodes(*listed(Unreadable("", "", "")))
        assert ["[nodes", "node n", "node m", "nodes]"] == brief(told)
        assert {"n": "u"} == fixture.cluster.node_uids

        fixture.nodes(*listed())
        assert {} == fixture.cluster.node_uids

    def test_unreadable_before_all(self) -> None:
        """Where no log is known, nothing can stand for what cannot be read."""
        assert [] == Cluster(BACKEND).take_node(Unreadable("", "n", ""))
        assert [] == Cluster(BACKEND).take_pod(Unreadable("ns", "p", ""))


class TestNames:
    """B1: what a list has named is remembered while the list is read, and no longer."""

    @pytest.mark.parametrize("kind", ["nodes", "pods", "sets", "versions"])
    def test_changes_are_not_remembered(self, kind: str) -> None:
        """B1: however many objects come and go between two lists, none of their names is kept."""
        fixture = complete()
        make: Any = {
            "nodes": lambda name: api_node(metadata={"name": name}),
            "pods": lambda name: a_pod(name, **owned_by()),
            "sets": a_set,
            "versions": a_version,
        }[kind]
        hear = getattr(fixture, kind)
        for number in range(10):
            hear(Changed("ADDED", make(f"x{number}")))
            hear(Unreadable("ns", f"y{number}", ""))
            hear(deleted(make(f"x{number}")))

        assert set() == getattr(fixture.cluster, f"_{kind}")._named


class TestOrder:
    """Pods come before sets, revisions before their set, and all sets in one list."""

    def test_first_lists(self) -> None:
        """Nothing is told of sets before all pods are known; then all of them with their revisions."""
        fixture = Fixture(
            sets=(a_set("t", uid="u-t"), a_set()),
            versions=(
                a_version("two", image="j", number=2, label="l2", **owned_by()),
                a_version("one", **owned_by()),
            ),
        )
        assert [] == fixture.sets(modified(a_set()))
        assert [] == fixture.versions(modified(a_version("one", **owned_by())))

        assert [
            "[pods",
            "pod p of s",
            "pods]",
            "[daemonsets",
            "revision 1 of s",
            "revision 2 of s",
            "set ns/s u-s",
            "set ns/t u-t",
            "daemonsets]",
        ] == brief(fixture.pods(*listed(a_pod(**owned_by()))))

    def test_the_first_list_of_pods_begins_again(self) -> None:
        """A list that did not end says nothing of sets; the one that ends does."""
        fixture = Fixture(sets=(a_set(),))
        begun = fixture.pods(Begun(), Present(a_pod(**owned_by())))
        assert ["[pods", "pod p of s"] == brief(begun)

        told = fixture.pods(*listed())

        assert ["[pods", "pods]", "[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)
        assert [] == fixture.pods(deleted(a_pod(**owned_by())))

    def test_pods_listed_again(self) -> None:
        """A second list of pods says nothing of sets."""
        assert ["[pods", "pods]"] == brief(complete().pods(*listed()))

    @pytest.mark.parametrize("kind", ["sets", "versions"])
    def test_sets_listed_again(self, kind: str) -> None:
        """Another list of sets, or of revisions, tells all sets in one list, and nothing before it is complete."""
        fixture = complete(versions=(a_version(**owned_by()),))
        item: Any = a_set() if kind == "sets" else a_version(**owned_by())
        begun, present, ended = listed(item)
        hear = getattr(fixture, kind)

        assert [] == [*hear(begun), *hear(present)]
        assert [
            "[daemonsets",
            "revision 1 of s",
            "set ns/s u-s",
            "daemonsets]",
        ] == brief(hear(ended))

    def test_begins_anew(self) -> None:
        """When everything begins anew, sets wait for the pods again, and what is not there any more is not told."""
        fixture = complete(a_pod("old"))
        fixture.cluster.begin_anew(fixture.known)

        assert [] == fixture.versions(*listed())
        assert [] == fixture.sets(*listed(a_set()))
        assert ["set ns/s gone"] == brief(fixture.sets(deleted(a_set())))
        assert ["[pods", "pods]", "[daemonsets", "daemonsets]"] == brief(fixture.pods(*listed()))


class TestPods:
    """Pods of sets, and orphans that a set selects; no others."""

    def test_of_a_set(self) -> None:
        """A pod of a set is told with its owner, and without the labels that its set selects anyway."""
        pod = only_pod(complete().pods(modified(a_pod(**owned_by()))))

        assert (Owner(name="s", uid="u-s"), None) == (pod.owner, pod.labels)

    @pytest.mark.parametrize(
        ("metadata", "labels"),
        [
            (owned_by("u-former"), {"app": "a"}),
            (owned_by("u-t", "t"), {"app": "a"}),
            (owned_by(), {"app": "b"}),
            (owned_by(), {}),
        ],
        ids=["of a former set", "of an unknown set", "not selected", "no labels"],
    )
    def test_labels_that_matter(self, metadata: dict[str, Any], labels: dict[str, str]) -> None:
        """Labels are told where they are not known to be what the pod's set selects."""
        pod = only_pod(complete().pods(modified(a_pod(labels=labels, **metadata))))

        assert labels == pod.labels

    def test_of_a_set_that_was_never_usable(self) -> None:
        """Nobody knows what such a set selects: the labels of its pods are told."""
        fixture = complete(sets=(a_set(annotations=NOWHERE),))

        assert {"app": "a"} == only_pod(fixture.pods(modified(a_pod(**owned_by())))).labels

    def test_an_orphan(self) -> None:
        """A pod that nobody controls is told if a set of its namespace selects it."""
        fixture = complete()

        pod = only_pod(fixture.pods(modified(a_pod())))

        assert (None, {"app": "a"}) == (pod.owner, pod.labels)
        assert [] == fixture.pods(modified(a_pod("q", labels={"app": "b"})))
        assert [] == fixture.pods(modified(a_pod("q", namespace="other")))
        assert [] == fixture.pods(modified(a_pod("q", labels={})))

    @pytest.mark.parametrize(
        "changed",
        [
            a_pod(**owned_by("u-r", "r", "ReplicaSet")),
            a_pod(labels={"app": "b"}),
            a_pod(labels={}),
            a_pod(node="", **owned_by()),
            a_pod(node=""),
        ],
        ids=[
            "adopted by others",
            "an orphan of nobody",
            "without labels",
            "unbound",
            "unbound orphan",
        ],
    )
    def test_ceases_to_be_ours(self, changed: ApiPod) -> None:
        """A pod that does not concern the fleet any more ends as it was told; a repeat says nothing."""
        fixture = complete(a_pod(**owned_by()))

        gone = only_gone(fixture.pods(modified(changed)))

        assert (NOT_OURS, "u-p", "n", Owner(name="s", uid="u-s")) == (
            gone.why,
            gone.uid,
            gone.node,
            gone.owner,
        )
        assert [] == fixture.pods(modified(changed))
        assert [] == fixture.pods(deleted(changed))

    def test_changes_hands(self) -> None:
        """A pod that is released is an orphan, and then its next owner's."""
        fixture = complete(a_pod(**owned_by()))

        told = fixture.pods(modified(a_pod()), modified(a_pod(**owned_by("u-t", "t"))))

        assert ["pod p of nobody", "pod p of t"] == brief(told)

    def test_is_deleted(self) -> None:
        """A pod that is deleted ends with the uid that it had, where and whose it was."""
        fixture = complete(a_pod(**owned_by()))

        gone = only_gone(fixture.pods(deleted(a_pod(**owned_by()))))

        assert (DELETED_THERE, "u-p", Owner(name="s", uid="u-s")) == (
            gone.why,
            gone.uid,
            gone.owner,
        )
        assert [] == fixture.pods(deleted(a_pod(**owned_by())))

    def test_another_one_has_its_name(self) -> None:
        """A list that names another pod of that name, which is not ours, ends the one that was."""
        fixture = complete(a_pod(**owned_by()))

        told = fixture.pods(*listed(a_pod(uid="anew", **owned_by("u-r", "r", "ReplicaSet"))))

        assert ["[pods", "pod p gone", "pods]"] == brief(told)
        assert "u-p" == only_gone([told[1]]).uid

    def test_not_in_the_list(self) -> None:
        """What a list does not name is forgotten: the host ends it, and nothing tells of it again."""
        fixture = complete(a_pod(), a_pod("q", labels={"app": "z"}))

        assert ["[pods", "pods]"] == brief(fixture.pods(*listed()))

        assert ["set ns/t u-t"] == brief(fixture.sets(Changed("ADDED", a_set("t", uid="u-t"))))
        assert [] == fixture.pods(deleted(a_pod()))

    def test_unreadable(self) -> None:
        """L3: a pod that cannot be read stays as the log has it, and its end is told all the same."""
        fixture = complete(a_pod(**owned_by()), a_pod("q", **owned_by()))
        fixture.known.pods = {POD: only_pod(fixture.pods(modified(a_pod(**owned_by()))))}

        told = fixture.pods(*listed(Unreadable("ns", "p", "")))

        assert ["[pods", "pod p of s", "pods]"] == brief(told)
        assert ["pod p gone"] == brief(fixture.pods(deleted(a_pod(**owned_by()))))
        assert [] == fixture.pods(deleted(a_pod("q", **owned_by())))

    def test_unreadable_to_a_new_adapter(self) -> None:
        """L3: so does one that only the log knows; it ends when it is deleted, or turns out to be somebody else's."""
        pod = only_pod(complete().pods(modified(a_pod(**owned_by()))))
        for after in (deleted(a_pod()), modified(a_pod(**owned_by("u-r", "r", "ReplicaSet")))):
            fixture = Fixture(sets=(a_set(),))
            fixture.known.pods = {POD: pod}
            told = fixture.pods(*listed(Unreadable("ns", "p", "")))
            assert ["[pods", "pod p of s", "pods]"] == brief(told)[:3]

            assert ["pod p gone"] == brief(fixture.pods(after))

    def test_unreadable_and_nameless(self) -> None:
        """L3: if not even a name can be read, all that the log has stays."""
        fixture = complete(a_pod(**owned_by()))
        pod = only_pod(fixture.pods(modified(a_pod(**owned_by()))))
        fixture.known.pods = {POD: pod, POD._replace(name="q"): structs.replace(pod, name="q")}

        told = fixture.pods(*listed(Unreadable("", "", "")))

        assert ["[pods", "pod p of s", "pod q of s", "pods]"] == brief(told)
        assert ["pod p gone"] == brief(fixture.pods(deleted(a_pod(**owned_by()))))


class TestOrphans:
    """Which orphans are told follows the sets that there are."""

    def test_a_new_set(self) -> None:
        """A new set is told first, then the orphans that it selects."""
        fixture = complete(a_pod(), a_pod("q", labels={"app": "b"}), sets=())

        told = fixture.sets(Changed("ADDED", a_set()))

        assert ["set ns/s u-s", "pod p of nobody"] == brief(told)

    def test_a_set_that_becomes_usable(self) -> None:
        """So are those of a set that can be used only now."""
        fixture = complete(a_pod(), sets=(a_set(annotations=NOWHERE),))

        assert ["set ns/s u-s", "pod p of nobody"] == brief(fixture.sets(modified(a_set())))

    def test_a_change_is_no_news(self) -> None:
        """A set that only changes selects what it did: its orphans are not told again."""
        fixture = complete(a_pod())

        assert ["set ns/s u-s"] == brief(fixture.sets(modified(a_set(generation=4))))

    def test_no_set_any_more(self) -> None:
        """An orphan that no set selects any more ends; it is told again when one does."""
        fixture = complete(a_pod())

        assert ["set ns/s gone", "pod p gone"] == brief(fixture.sets(deleted(a_set())))
        told = fixture.sets(Changed("ADDED", a_set(uid="anew")))

        assert ["set ns/s anew", "pod p of nobody"] == brief(told)

    def test_no_set_in_the_list(self) -> None:
        """So it does if a list does not name the set any more, even if it was the namespace's last."""
        fixture = complete(a_pod())

        told = fixture.sets(*listed(a_set(namespace="other")))

        assert ["[daemonsets", "set other/s u-s", "daemonsets]", "pod p gone"] == brief(told)

    @pytest.mark.parametrize("by", ["sets", "new set"])
    def test_not_in_a_list_that_is_being_read(self, by: str) -> None:
        """While pods are listed, only those are told again that the list has named: the others may be gone."""
        fixture = complete(a_pod(), a_pod("q"))
        fixture.pods(Begun(), Present(a_pod("q")))

        if by == "sets":
            told = fixture.sets(*listed(a_set()))[3:]
        else:
            told = fixture.sets(Changed("ADDED", a_set("t", uid="u-t")))[1:]

        assert ["pod q of nobody"] == brief(told)

    def test_not_before_pods_are_listed_anew(self) -> None:
        """What was there before everything began anew is not told before it is seen again."""
        fixture = complete(a_pod(), sets=(a_set(), a_set("t", uid="u-t")))
        fixture.cluster.begin_anew(fixture.known)
        fixture.versions(*listed())
        fixture.sets(*listed(a_set(), a_set("t", uid="u-t")))

        assert ["set ns/t gone"] == brief(fixture.sets(deleted(a_set("t", uid="u-t"))))


class TestSets:
    """Sets as the cluster has them."""

    def test_as_an_object_of_the_cluster(self) -> None:
        """A set is for this cluster's nodes, and this cluster says what it is."""
        (told,) = complete(sets=()).sets(Changed("ADDED", a_set()))

        assert isinstance(told, DaemonSetObserved)
        assert (BACKEND, BACKEND, "u-s", 3) == (
            told.daemonset.backend,
            told.daemonset.origin,
            told.daemonset.uid,
            told.daemonset.generation,
        )

    def test_goes(self) -> None:
        """A set that is deleted leaves its pods to the cluster."""
        told = complete().sets(deleted(a_set()))

        assert [
            DaemonSetGone(namespace="ns", name="s", uid="u-s", cascade="backend", why=DELETED_THERE)
        ] == told

    def test_is_being_deleted(self) -> None:
        """A set whose deletion has begun is told with that."""
        (told,) = complete().sets(modified(a_set(deletionTimestamp="2024-01-01T00:00:00Z")))

        assert isinstance(told, DaemonSetObserved)
        assert told.daemonset.deleting

    def test_made_anew_under_its_name(self) -> None:
        """A set that a list finds made anew is told as another one; the former one's labels mean nothing any more."""
        fixture = complete(
            a_pod(**owned_by("u-new")),
            versions=(a_version(**owned_by()),),
        )
        fixture.versions(deleted(a_version(**owned_by())))
        assert hash_of("i") == fixture.cluster.history.explain("ns", "u-s", "l1")

        told = fixture.sets(*listed(a_set(uid="u-new")))

        assert ["[daemonsets", "set ns/s u-new", "daemonsets]"] == brief(told)
        assert fixture.cluster.history.explain("ns", "u-s", "l1") is None

    def test_not_usable(self) -> None:
        """L3: a set that cannot be used any more stays as it last could, and people are to be told why, once."""
        fixture = complete()
        before = fixture.sets(modified(a_set()))

        told = fixture.sets(modified(a_set(annotations=NOWHERE, generation=9)))
        again = fixture.sets(modified(a_set(annotations=NOWHERE, generation=9)))

        assert before == told == again
        (known,) = fixture.cluster.troubled
        assert 9 == known.api.metadata.generation
        assert "It is left as it was" in known.problem

    def test_another_one_that_is_not_usable(self) -> None:
        """The last usable state of a former set is nothing to a set that was made anew under its name."""
        fixture = complete(a_pod())

        told = fixture.sets(*listed(a_set(uid="anew", annotations=NOWHERE)))

        assert ["[daemonsets", "daemonsets]", "pod p gone"] == brief(told)
        assert [] == fixture.cluster.versions_of(SET)

    def test_usable_again(self) -> None:
        """A set that can be used again is told, and nobody is told of trouble."""
        fixture = complete(sets=(a_set(annotations=NOWHERE),))
        fixture.cluster.troubled.clear()

        assert ["set ns/s u-s"] == brief(fixture.sets(modified(a_set())))
        assert [] == list(fixture.cluster.troubled)

    def test_a_strategy_with_a_mistake(self) -> None:
        """A set whose rollout cannot be read is told, paused, and people are to be told why."""
        fixture = complete(sets=())
        broken = {"everynode.dev/partition": "many"}

        (told,) = fixture.sets(Changed("ADDED", a_set(annotations=broken)))

        assert isinstance(told, DaemonSetObserved)
        assert told.daemonset.update_strategy.paused
        assert "rollout is paused" in fixture.cluster.troubled[0].problem

    def test_trouble_is_bounded(self) -> None:
        """B1: sets that people are to be told of do not pile up without end; the oldest are passed over."""
        fixture = complete(sets=())
        for number in range(TROUBLED_SETS_MAX + 1):
            fixture.sets(Changed("ADDED", a_set(f"s{number}", annotations=NOWHERE)))

        assert TROUBLED_SETS_MAX == len(fixture.cluster.troubled)
        assert "s1" == fixture.cluster.troubled[0].api.metadata.name

    def test_a_probe(self) -> None:
        """A set that only finds out whether DaemonSets have an owner is not told, and selects no orphans."""
        probe = a_set(labels={PROBE_LABEL: "true"})
        fixture = complete(a_pod(), sets=(probe,))

        assert [] == fixture.sets(modified(probe))
        assert {} == fixture.cluster.sets
        assert [] == fixture.pods(modified(a_pod()))

    def test_unreadable(self) -> None:
        """L3: a set that cannot be read stays as it was; others go if a list does not name them."""
        fixture = complete(sets=(a_set(), a_set("t", uid="u-t")))

        told = fixture.sets(*listed(Unreadable("ns", "s", "")))

        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)

    def test_unreadable_and_nameless(self) -> None:
        """L3: if not even a name can be read, all sets stay; the next list is believed again."""
        fixture = complete()

        told = fixture.sets(*listed(Unreadable("", "", "")))
        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)

        assert ["[daemonsets", "daemonsets]"] == brief(fixture.sets(*listed()))

    def test_a_list_that_begins_again(self) -> None:
        """What a list named that did not end is compared with the one that does."""
        fixture = complete()
        fixture.sets(Begun(), Present(a_set("t", uid="u-t")))

        told = fixture.sets(*listed(a_set()))

        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)


class TestRevisions:
    """ControllerRevisions are the versions of a set's template, and say what the labels of pods mean."""

    def test_explains_a_pod(self) -> None:
        """S4: a pod carries a label; told is the content of the template that the label stands for."""
        fixture = complete(a_pod(label="l1", **owned_by()), versions=(a_version(**owned_by()),))

        pod = only_pod(fixture.pods(modified(a_pod(label="l1", **owned_by()))))

        assert hash_of("i") == pod.revision

    def test_a_label_that_nothing_explains(self) -> None:
        """A label that no ControllerRevision explains is taken for the hash itself, until one does."""
        fixture = complete(a_pod(label="l1", **owned_by()))
        assert "l1" == only_pod(fixture.pods(modified(a_pod(label="l1", **owned_by())))).revision

        told = fixture.versions(Changed("ADDED", a_version(**owned_by())))

        assert ["pod p of s", "revision 1 of s", "set ns/s u-s"] == brief(told)
        assert hash_of("i") == only_pod(told[:1]).revision
        again = fixture.versions(modified(a_version(**owned_by())))
        assert ["revision 1 of s", "set ns/s u-s"] == brief(again)

    def test_explained_while_pods_are_first_listed(self) -> None:
        """A pod that the first list has named before its label was explained is told again, others not yet."""
        fixture = Fixture(sets=(a_set(),))
        fixture.pods(Begun(), Present(a_pod(label="l1", **owned_by())))

        told = fixture.versions(Changed("ADDED", a_version(**owned_by())))

        assert hash_of("i") == only_pod(told).revision

    def test_explained_while_pods_are_listed_again(self) -> None:
        """A pod that the list has not named yet may be gone, and is not told; if it is there, it is told then."""
        fixture = complete(a_pod(label="l1", **owned_by()))
        fixture.pods(Begun())

        told = fixture.versions(Changed("ADDED", a_version(**owned_by())))
        assert ["revision 1 of s", "set ns/s u-s"] == brief(told)

        present = fixture.pods(Present(a_pod(label="l1", **owned_by())))
        assert hash_of("i") == only_pod(present).revision

    @pytest.mark.parametrize(
        "after",
        [
            modified(a_pod(**owned_by())),
            modified(a_pod(label="l2", **owned_by())),
            modified(a_pod(label="l1", **owned_by("u-r", "r", "ReplicaSet"))),
            deleted(a_pod(label="l1", **owned_by())),
        ],
        ids=["no label", "another label", "another owner", "gone"],
    )
    def test_explained_too_late(self, after: Any) -> None:
        """S8: a pod that carries the label no more is not told as it was when it did."""
        fixture = complete(a_pod(label="l1", **owned_by()))
        fixture.pods(after)

        told = fixture.versions(Changed("ADDED", a_version(**owned_by())))

        assert ["revision 1 of s", "set ns/s u-s"] == brief(told)

    def test_several_wait(self) -> None:
        """All pods that carry a label are told once it means something; another one's end changes nothing."""
        pods = [a_pod(name, label="l1", **owned_by()) for name in "pqr"]
        fixture = complete(*pods)
        fixture.pods(deleted(pods[0]))

        told = fixture.versions(Changed("ADDED", a_version(**owned_by())))

        assert ["pod q of s", "pod r of s"] == brief(told)[:2]

    def test_without_a_label(self) -> None:
        """A ControllerRevision that has no label is meant by its name."""
        fixture = complete(versions=(a_version(label="", **owned_by()),))

        pod = only_pod(fixture.pods(modified(a_pod(label="cr", **owned_by()))))

        assert hash_of("i") == pod.revision
        assert "cr" == fixture.cluster.label_of(SET, hash_of("i"))

    def test_several_of_one_content(self) -> None:
        """Of several with the same content, new pods carry the label of the latest; older labels mean the same."""
        versions = (
            a_version("old", number=2, label="l2", **owned_by()),
            a_version("older", number=1, label="l1", **owned_by()),
        )
        fixture = complete(versions=versions)

        assert "l2" == fixture.cluster.label_of(SET, hash_of("i"))
        assert "other" == fixture.cluster.label_of(SET, "other")
        assert {hash_of("i")} == {
            only_pod(fixture.pods(modified(a_pod(label=label, **owned_by())))).revision
            for label in ("l1", "l2")
        }

    def test_nobody_controls_it(self) -> None:
        """One that nobody controls counts for every set that selects it, and for no other."""
        fixture = complete(sets=(a_set(), a_set("t", uid="u-t"), a_set("x", namespace="other")))

        told = fixture.versions(Changed("ADDED", a_version()))
        others = fixture.versions(Changed("ADDED", a_version("b", labels={"app": "b"})))

        assert ["revision 1 of s", "set ns/s u-s", "revision 1 of t", "set ns/t u-t"] == brief(told)
        assert [] == others

    def test_changes_hands(self) -> None:
        """One that a set adopts is its own; one that another set's adopts is no longer."""
        fixture = complete(versions=(a_version(),))

        told = fixture.versions(modified(a_version(**owned_by("u-t", "t"))))

        assert [] == told
        assert [] == fixture.cluster.versions_of(SET)

    def test_goes(self) -> None:
        """One that is removed was the set's: that is noted, for it to be made again; its label keeps its meaning."""
        fixture = complete(versions=(a_version(**owned_by()), a_version("orphan")))

        for _repeat in range(2):
            assert [] == fixture.versions(deleted(a_version(**owned_by())))
        fixture.versions(deleted(a_version("orphan")))

        assert {SET} == fixture.cluster.history_lost
        assert [] == fixture.cluster.versions_of(SET)
        pod = only_pod(fixture.pods(modified(a_pod(label="l1", **owned_by()))))
        assert hash_of("i") == pod.revision

    def test_not_in_the_list(self) -> None:
        """One that a list does not name is gone, unless something in the list has no name."""
        fixture = complete(versions=(a_version(**owned_by()),))

        stays = fixture.versions(*listed(Unreadable("", "", "")))
        named = fixture.versions(*listed(Unreadable("ns", "cr", "")))
        goes = fixture.versions(*listed())

        assert stays == named
        assert ["[daemonsets", "revision 1 of s", "set ns/s u-s", "daemonsets]"] == brief(named)
        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(goes)
        assert {SET} == fixture.cluster.history_lost

    def test_of_something_else(self) -> None:
        """A ControllerRevision of a StatefulSet, or of nonsense, is none of ours; a set is told of no such thing."""
        for data in ({"spec": {"template": {}}}, {"spec": None}, {}):
            fixture = complete(versions=(a_version(data=data, **owned_by()),))
            assert [] == fixture.versions(modified(a_version(data=data, **owned_by())))
            assert [] == fixture.cluster.versions_of(SET)

    def test_of_a_set_that_is_not_usable(self) -> None:
        """A set that was never usable is not told of, whatever history it has."""
        fixture = complete(sets=(a_set(annotations=NOWHERE),))

        assert [] == fixture.versions(Changed("ADDED", a_version(**owned_by())))
        assert [] == fixture.cluster.versions_of(SetKey("ns", "none"))

    def test_a_set_that_goes(self) -> None:
        """What labels meant is forgotten with the set; one that the cluster leaves to nobody explains them again."""
        fixture = complete(a_pod(label="l1", **owned_by()), versions=(a_version(**owned_by()),))
        fixture.sets(deleted(a_set()), Changed("ADDED", a_set(uid="anew")))
        assert "l1" == only_pod(fixture.pods(modified(a_pod(label="l1")))).revision

        told = fixture.versions(modified(a_version()))

        assert ["pod p of nobody", "revision 1 of s", "set ns/s anew"] == brief(told)
        assert hash_of("i") == only_pod(told[:1]).revision
