"""What the adapter makes of a cluster: nodes, pods and the order of things, rule by rule.

Sets and orphans are in test_kubernetes_cluster_sets.py, whole histories in tests/property/test_kubernetes_cluster.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from tests.unit.support_kubernetes_cluster import (
    BACKEND,
    NOWHERE,
    POD,
    Fixture,
    a_pod,
    a_set,
    a_version,
    brief,
    complete,
    deleted,
    listed,
    modified,
    only_gone,
    only_pod,
    owned_by,
)
from tests.unit.support_kubernetes_objects import api_node

from everynode.core.events import (
    NodeGone,
)
from everynode.core.values import Node, NodeKey, Owner
from everynode_kubernetes.cluster import DELETED_THERE, NOT_OURS, Cluster
from everynode_kubernetes.objects import ApiPod
from everynode_kubernetes.reflector import Begun, Changed, Present, Unreadable


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
