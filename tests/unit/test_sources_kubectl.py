"""What kubectl wrote, read as a stream: the order, the times, which template pods have, and what counts."""

from __future__ import annotations

import json

from tests.unit.support_sources import (
    Reading,
    api_list,
    api_object,
    at,
    at_ms,
    daemonset,
    kubectl,
    node,
    node_names,
    pod,
    watch,
)

from everynode.core.events import PodGone
from everynode.core.identity import revision_of
from everynode.core.values import NodeKey, SetKey

BACKEND = "cluster"
AGENT = SetKey("default", "agent")


def kinds(reading: Reading) -> list[str]:
    """What kinds of messages a stream has."""
    return [type(message).__name__ for message in reading.messages]


def is_up_to_date(reading: Reading, name: str) -> bool:
    """Whether a pod has its set's template, at the end."""
    (found,) = (each for each in reading.view.pods.values() if each.name == name)
    return found.revision == revision_of(reading.view.daemonsets[AGENT])


class TestOrderAndTime:
    """First what was there, as old as it was; then what changed, in the cluster's order, at the newest time told."""

    def test_a_list(self) -> None:
        """Objects of a list come at the times at which they were made; of one second, nodes, sets, pods."""
        reading = kubectl(
            api_list(
                pod("p", 5, made=9),
                daemonset("agent", 6, made=9),
                node("b", 7, made=9),
                node("a", 8, made=3),
            )
        )

        assert kinds(reading) == [
            "NodeObserved",
            "NodeObserved",
            "DaemonSetObserved",
            "RevisionRecorded",
            "PodObserved",
        ]
        assert [at_ms(3), at_ms(9)] == sorted(set(reading.times_ms))
        assert (reading.faults, reading.error) == ([], "")

    def test_the_files_of_several_watches(self) -> None:
        """Changes are taken in the order of their versions, whichever file they are in."""
        nodes = watch(
            ("ADDED", node("a", 1)),
            ("MODIFIED", node("a", 4, labels={"disk": "ssd"}, changed=60)),
            ("ADDED", node("b", 6, made=70)),
        )
        sets = watch(
            ("ADDED", daemonset("agent", 2)),
            ("MODIFIED", daemonset("agent", 5, number=2, image="i:2", changed=65)),
        )
        pods = watch(
            ("ADDED", pod("p", 3, made=1)),
            ("DELETED", pod("p", 7, made=1)),
        )

        for files in ((nodes, sets, pods), (pods, nodes, sets)):
            reading = kubectl(*files)
            assert kinds(reading) == [
                *("NodeObserved", "DaemonSetObserved", "RevisionRecorded", "PodObserved"),
                *("NodeObserved", "DaemonSetObserved", "NodeObserved", "PodGone"),
            ]
            seconds = [0, 0, 1, 1, 60, 65, 70, 70]
            assert list(map(at_ms, seconds)) == reading.times_ms

    def test_what_is_added_while_others_change_is_a_change(self) -> None:
        """A file that only adds has no change; what it has after the first change of another comes in its place."""
        reading = kubectl(
            watch(("ADDED", node("a", 1)), ("ADDED", node("b", 9, made=90))),
            watch(("ADDED", daemonset("agent", 2)), ("MODIFIED", daemonset("agent", 5, number=2))),
        )

        assert kinds(reading) == [
            *("NodeObserved", "DaemonSetObserved", "DaemonSetObserved", "NodeObserved"),
        ]
        assert at_ms(90) == reading.times_ms[-1]
        assert at_ms(0) == reading.times_ms[-2]

    def test_times_without_managed_fields(self) -> None:
        """Then what nodes, kubelets and deletions say must do; it never goes back."""
        ended = {"terminated": {"startedAt": at(1), "finishedAt": at(30)}}
        status = {"phase": "Failed", "containerStatuses": [{"state": ended}]}
        going = {"deletionTimestamp": at(70), "deletionGracePeriodSeconds": 30}
        beat = {"lastHeartbeatTime": at(20)}
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("ADDED", node("a", 2)),
                ("MODIFIED", node("a", 3, labels={"x": "1"}, condition=beat)),
                ("ADDED", pod("p", 4, made=10)),
                ("MODIFIED", pod("p", 5, made=10, status=status)),
                ("MODIFIED", pod("p", 6, made=10, status=status, metadata=going)),
                ("MODIFIED", node("a", 7)),
            )
        )

        changes = [at_ms(second) for second in (20, 20, 30, 40, 40)]
        assert changes == reading.times_ms[-5:]

    def test_a_kubelet_with_a_wrong_clock(self) -> None:
        """Where the API server has stamped a change, no other clock counts."""
        wrong = {"lastHeartbeatTime": "2034-01-01T00:00:00Z"}
        reading = kubectl(
            watch(
                ("ADDED", node("a", 1)),
                ("MODIFIED", node("a", 2, labels={"x": "1"}, changed=5, condition=wrong)),
            )
        )

        assert at_ms(5) == reading.times_ms[-1]

    def test_times_that_nobody_can_read(self) -> None:
        """They tell nothing, and hide nothing."""
        odd = node("a", 2, labels={"x": "1"})
        odd["metadata"]["managedFields"] = "odd"
        reading = kubectl(watch(("ADDED", node("a", 1, made=7)), ("MODIFIED", odd)))

        assert [at_ms(7), at_ms(7)] == reading.times_ms

    def test_what_changes_nothing_is_left_out(self) -> None:
        """Heartbeats, bookmarks and a list that is read once more are no news."""
        first = node("a", 1)
        reading = kubectl(
            watch(
                ("ADDED", first),
                ("MODIFIED", node("a", 2, condition={"lastHeartbeatTime": at(9)})),
                ("BOOKMARK", {"kind": "Node", "metadata": {"resourceVersion": "3"}}),
                ("ADDED", first),
            )
        )

        assert ["NodeObserved"] == kinds(reading)
        assert [] == reading.passed_over

    def test_a_list_that_is_older(self) -> None:
        """A watch that was begun again lists everything; what is older than what was heard of is no news."""
        newer = node("a", 4, labels={"x": "1"})
        reading = kubectl(
            watch(
                ("ADDED", node("a", 1)),
                ("MODIFIED", newer),
                ("ADDED", node("a", 1)),
                ("MODIFIED", node("a", 3)),
            )
        )

        assert {"x": "1"} == reading.view.nodes[NodeKey(BACKEND, "a")].labels


class TestLists:
    """Lists without a watch, one after the other, and what API servers write themselves."""

    def test_a_later_list_says_what_is_gone(self) -> None:
        """Only of the kinds that it has, and at the newest time that it tells."""
        reading = kubectl(
            api_list(node("a", 1), node("b", 2), daemonset("agent", 3))
            + api_list(node("b", 2), node("c", 9, made=50))
        )

        assert ["b", "c"] == node_names(reading)
        assert [AGENT] == list(reading.view.daemonsets)
        assert ["NodeObserved", "NodeGone"] == kinds(reading)[-2:]
        assert [at_ms(50), at_ms(50)] == reading.times_ms[-2:]

    def test_what_cannot_be_read_is_not_gone(self) -> None:
        """L3: an object that a later list has, and that cannot be read, stays as it was."""
        broken = node("a", 5)
        broken["status"] = 1
        reading = kubectl(api_list(node("a", 1)) + api_list(broken, node("b", 6)))

        assert ["a", "b"] == node_names(reading)
        (fault,) = reading.faults
        assert fault.startswith("file: line 30: Node a cannot be read: ")

    def test_a_list_with_something_nameless(self) -> None:
        """L3: it may be anything, so nothing is taken for gone."""
        nameless = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": 1}}
        reading = kubectl(api_list(node("a", 1)) + api_list(node("b", 2), nameless))

        assert ["a", "b"] == node_names(reading)
        assert 1 == len(reading.faults)

    def test_lists_of_one_kind(self) -> None:
        """`kubectl get --raw` gives objects without kinds; an empty list of a kind says that all are gone."""
        bare = {key: value for key, value in node("a", 1).items() if key in {"metadata", "status"}}
        text = json.dumps({"kind": "NodeList", "apiVersion": "v1", "items": [bare]})
        empty = json.dumps({"kind": "NodeList", "apiVersion": "v1", "items": None})

        assert ["a"] == node_names(kubectl(text))
        assert [] == node_names(kubectl(text + empty))

    def test_single_objects(self) -> None:
        """One is fine; the second time, a watch was recorded that does not say what was deleted."""
        one, again = json.dumps(node("a", 1)), json.dumps(node("a", 2))

        assert [] == kubectl(one).faults
        (fault,) = kubectl(f"{one}\n{again}").faults
        assert "line 2: Node a is there again" in fault
        assert "--output-watch-events" in fault


class TestRevisions:
    """Which template a pod was made from."""

    def test_without_controllerrevisions(self) -> None:
        """The number of the template explains the hash, also of pods that are older than the set's last change."""
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("ADDED", pod("old", 2)),
                ("MODIFIED", daemonset("agent", 3, number=2, image="i:2")),
                ("ADDED", pod("new", 4, number=2)),
            )
        )

        assert is_up_to_date(reading, "new")
        assert not is_up_to_date(reading, "old")
        assert {1, 2} == {each.number for each in reading.view.revisions.values()}
        assert {each.revision for each in reading.view.pods.values()} == {
            each.hash for each in reading.view.revisions.values()
        }

    def test_a_pod_that_is_heard_of_before_its_template(self) -> None:
        """It is told once more when its set says what it was made from."""
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("MODIFIED", pod("p", 2, number=2)),
                ("MODIFIED", daemonset("agent", 3, number=2, image="i:2")),
            )
        )

        assert is_up_to_date(reading, "p")

    def test_a_pod_of_a_template_that_nobody_knows(self) -> None:
        """It is not up to date."""
        reading = kubectl(api_list(daemonset("agent", 1, number=2), pod("p", 2, number=1)))

        assert not is_up_to_date(reading, "p")

    def test_a_pod_that_has_no_number(self) -> None:
        """Nor can what has no number be explained, or a number that is none."""
        without, odd, wanted = pod("without", 2), pod("odd", 3), daemonset("agent", 1)
        del without["metadata"]["labels"]["pod-template-generation"]
        odd["metadata"]["labels"]["pod-template-generation"] = "one"
        wanted["metadata"]["annotations"] = {"deprecated.daemonset.template.generation": "one"}
        reading = kubectl(api_list(wanted, without, odd))

        assert not is_up_to_date(reading, "without")
        assert not is_up_to_date(reading, "odd")

    def test_templates_that_are_remembered(self) -> None:
        """Of a set that changes often, the last ones are."""
        changes = [
            ("MODIFIED", daemonset("agent", number + 1, number=number, image=f"i:{number}"))
            for number in range(2, 20)
        ]
        first, late = pod("first", 30), pod("late", 31, number=18)
        reading = kubectl(
            watch(("ADDED", daemonset("agent", 1)), *changes, ("ADDED", first), ("ADDED", late))
        )

        assert ["hash-1"] == [
            each.revision for each in reading.view.pods.values() if each.name == "first"
        ]
        assert [18] == [each.number for each in reading.view.revisions.values()]

    def test_with_controllerrevisions(self) -> None:
        """They count; the same pods have the same revisions."""
        wanted = daemonset("agent", 1)
        data = {"spec": {"template": {**wanted["spec"]["template"], "$patch": "replace"}}}
        owners = pod("p", 1)["metadata"]["ownerReferences"]
        metadata = {"labels": {"controller-revision-hash": "hash-1"}, "ownerReferences": owners}
        version = api_object(
            "ControllerRevision", "agent-hash-1", 2, metadata=metadata, data=data, revision=7
        )
        reading = kubectl(api_list(wanted, version, pod("p", 3)))

        assert is_up_to_date(reading, "p")
        assert [7] == [each.number for each in reading.view.revisions.values()]

    def test_a_set_that_is_made_anew(self) -> None:
        """What the hashes of the first one meant is forgotten with it."""
        again = {"uid": "another", "resourceVersion": "4"}
        second = daemonset("agent", 4, image="i:2")
        second["metadata"].update(again)
        p = pod("p", 5)
        p["metadata"]["ownerReferences"][0]["uid"] = "another"
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("ADDED", pod("first", 2)),
                ("DELETED", pod("first", 3)),
                ("DELETED", daemonset("agent", 3)),
                ("ADDED", second),
                ("ADDED", p),
            )
        )

        assert is_up_to_date(reading, "p")
        assert "StatusGone" not in kinds(reading)


class TestWhatCounts:
    """Pods of sets, orphans that a set selects, and what the cluster's own controller reported."""

    def test_other_pods(self) -> None:
        """Pods that nobody controls count if a set selects them; those of others do not."""
        orphan, stray, other = pod("orphan", 2), pod("stray", 3, of="else"), pod("other", 4)
        for each in (orphan, stray):
            del each["metadata"]["ownerReferences"]
        other["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet"
        reading = kubectl(api_list(daemonset("agent", 1), orphan, stray, other))

        assert ["orphan"] == [key.name for key in reading.view.pods]

    def test_a_pod_that_changes_hands(self) -> None:
        """It ends where it stood before."""
        orphan = pod("p", 2)
        del orphan["metadata"]["ownerReferences"]
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("ADDED", orphan),
                ("MODIFIED", pod("p", 3)),
            )
        )

        assert ["PodObserved", "PodGone"] == kinds(reading)[-2:]
        assert [AGENT] == [each.set_key for each in reading.view.pods.values()]

    def test_the_status(self) -> None:
        """A set's status is what its controller said then; it goes with the set."""
        told = daemonset("agent", 1)
        told["status"] = {"desiredNumberScheduled": 3, "numberReady": 2, "observedGeneration": 1}
        reading = kubectl(watch(("ADDED", told)))
        gone = kubectl(watch(("ADDED", told), ("DELETED", daemonset("agent", 2))))

        status = reading.view.statuses[AGENT]
        assert (3, 2) == (status.desired_number_scheduled, status.number_ready)
        assert ["DaemonSetGone", "StatusGone"] == kinds(gone)[-2:]
        assert {} == gone.view.statuses

    def test_a_set_that_cannot_be_used(self) -> None:
        """It is named with what is wrong, and the others are there."""
        wrong = daemonset("wrong", 2)
        wrong["status"] = {"numberReady": 1}
        wrong["spec"]["template"]["spec"]["affinity"] = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": 1}
            }
        }
        reading = kubectl(api_list(daemonset("agent", 1), wrong))

        assert [AGENT] == list(reading.view.daemonsets)
        assert {} == reading.view.statuses
        (fault,) = reading.faults
        assert "DaemonSet default/wrong" in fault
        assert "nodeSelectorTerms" in fault

    def test_what_no_reader_could_use(self) -> None:
        """Values that no server would have sent are named, and hide nothing."""
        nameless, deep = node("a", 1), daemonset("deep", 2, image="DEEP")
        nameless["metadata"]["uid"] = ""
        text = api_list(nameless, deep, node("b", 3))
        reading = kubectl(text.replace('"DEEP"', "[" * 9_000 + "]" * 9_000))

        assert ["b"] == node_names(reading)
        assert {} == reading.view.daemonsets
        first, second = reading.faults
        assert "DaemonSet default/deep cannot be read" in first
        assert "everynode.kind.node.cluster.a" in second

    def test_half_a_surrogate_pair(self) -> None:
        """It is replaced, as API servers do, in lists, events and objects."""
        half = json.dumps(daemonset("agent", 2, image="HALF")).replace("HALF", r"\ud800")
        for text in (
            half,
            f'{{"kind": "List", "items": [{half}]}}',
            f'{{"type": "ADDED", "object": {half}}}',
        ):
            reading = kubectl(text)
            assert [] == reading.faults
            assert "\ufffd".encode() in bytes(reading.view.daemonsets[AGENT].template)

    def test_a_pod_that_goes(self) -> None:
        """Its end says what was known of it, so that it counts as one of a row."""
        ended = pod("p", 3, made=5, status={"phase": "Failed"})
        reading = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)), ("ADDED", pod("p", 2, made=5)), ("DELETED", ended)
            )
        )
        failed = kubectl(
            watch(
                ("ADDED", daemonset("agent", 1)),
                ("ADDED", pod("p", 2, made=5)),
                ("MODIFIED", ended),
                ("DELETED", pod("p", 4, made=5)),
            )
        )

        gone, after = reading.messages[-1], failed.messages[-1]
        assert isinstance(gone, PodGone)
        assert isinstance(after, PodGone)
        wanted = revision_of(reading.view.daemonsets[AGENT])
        assert (wanted, at_ms(5), 0) == (gone.revision, gone.created_ms, gone.failures)
        assert 1 == after.failures

    def test_other_kinds_are_counted(self) -> None:
        """It is said how many objects were of no concern, and that is no fault."""
        service = api_object("Service", "s", 1)
        foreign = {**daemonset("agent", 2), "apiVersion": "apps.example.com/v1"}
        reading = kubectl(api_list(service, foreign, node("a", 3)))

        assert [] == reading.faults
        assert ["objects of no concern: 1 DaemonSet, 1 Service"] == [
            each.why for each in reading.passed_over
        ]
        assert ["a"] == node_names(reading)
