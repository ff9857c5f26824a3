"""What the adapter makes of a cluster's sets, their revisions and orphans: rule by rule."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support_kubernetes_cluster import (
    BACKEND,
    NOWHERE,
    SET,
    Fixture,
    a_pod,
    a_set,
    a_version,
    brief,
    complete,
    deleted,
    hash_of,
    listed,
    modified,
    only_pod,
    owned_by,
)

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
)
from everynode.core.values import SetKey
from everynode_kubernetes.cluster import DELETED_THERE, TROUBLED_SETS_MAX
from everynode_kubernetes.objects import PROBE_LABEL, PROBE_PREFIX
from everynode_kubernetes.reflector import Begun, Changed, Present, Unreadable


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

        told = fixture.sets(modified(a_set()))

        assert ["[daemonsets", "set ns/s u-s", "daemonsets]", "pod p of nobody"] == brief(told)

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

        assert ["[daemonsets", "pod p gone"] == brief(told)  # what else is gone is not said
        assert [] == fixture.cluster.versions_of(SET)

    def test_usable_again(self) -> None:
        """A set that can be used again is told, with the end of the list that it held up; nobody is told of trouble."""
        fixture = complete(sets=(a_set(annotations=NOWHERE),))
        fixture.cluster.troubled.clear()

        told = fixture.sets(modified(a_set()))
        again = fixture.sets(modified(a_set(generation=4)))

        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)
        assert ["set ns/s u-s"] == brief(again)
        assert [] == list(fixture.cluster.troubled)

    def test_one_that_held_the_list_up_is_gone(self) -> None:
        """What was deleted while nobody looked is gone from the log as soon as no set is in doubt any more."""
        fixture = complete(sets=(a_set(annotations=NOWHERE), Unreadable("ns", "other", "")))

        first = fixture.sets(deleted(a_set(annotations=NOWHERE)))
        last = fixture.sets(modified(a_set("other")))

        assert ["set ns/s gone"] == brief(first)
        assert ["[daemonsets", "set ns/other u-s", "daemonsets]"] == brief(last)

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
        probe = a_set(f"{PROBE_PREFIX}1", labels={PROBE_LABEL: "true"})
        fixture = complete(a_pod(), sets=(probe,))

        assert [] == fixture.sets(modified(probe))
        assert {} == fixture.cluster.sets
        assert [] == fixture.pods(modified(a_pod()))

    def test_what_only_has_the_label_of_a_probe(self) -> None:
        """A label that anybody can give to a set takes it away from nobody."""
        fixture = complete(sets=())

        assert ["set ns/s u-s"] == brief(
            fixture.sets(Changed("ADDED", a_set(labels={PROBE_LABEL: "true"})))
        )

    def test_one_that_was_never_readable(self) -> None:
        """L3: the log keeps what it has of a set that this process has never been able to read."""
        fixture = complete()

        told = fixture.sets(*listed(Unreadable("ns", "other", ""), a_set()))

        assert ["[daemonsets", "set ns/s u-s"] == brief(told)

    def test_unreadable(self) -> None:
        """L3: a set that cannot be read stays as it was; others go if a list does not name them."""
        fixture = complete(sets=(a_set(), a_set("t", uid="u-t")))

        told = fixture.sets(*listed(Unreadable("ns", "s", "")))

        assert ["[daemonsets", "set ns/s u-s", "daemonsets]"] == brief(told)

    def test_unreadable_and_nameless(self) -> None:
        """L3: if not even a name can be read, all sets stay; the next list is believed again."""
        fixture = complete()

        told = fixture.sets(*listed(Unreadable("", "", "")))
        assert ["[daemonsets", "set ns/s u-s"] == brief(told)

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
        kinds: tuple[dict[str, Any], ...] = ({"spec": {"template": {}}}, {"spec": None}, {})
        for data in kinds:
            fixture = complete(versions=(a_version(data=data, **owned_by()),))
            assert [] == fixture.versions(modified(a_version(data=data, **owned_by())))
            assert [] == fixture.cluster.versions_of(SET)

    def test_of_a_set_that_is_not_usable(self) -> None:
        """A set that was never usable is not told of, whatever history it has."""
        fixture = complete(sets=(a_set(annotations=NOWHERE),))

        assert [] == fixture.versions(Changed("ADDED", a_version(**owned_by())))
        assert [] == fixture.cluster.versions_of(SetKey("ns", "none"))

    def test_a_set_that_goes(self) -> None:
        """What a label means stays known while a version is there, whoever controls it."""
        fixture = complete(a_pod(label="l1", **owned_by()), versions=(a_version(**owned_by()),))
        fixture.sets(deleted(a_set()), Changed("ADDED", a_set(uid="anew")))
        assert hash_of("i") == only_pod(fixture.pods(modified(a_pod(label="l1")))).revision

        told = fixture.versions(modified(a_version()))

        assert ["revision 1 of s", "set ns/s anew"] == brief(told)
