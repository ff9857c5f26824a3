"""The past with another spec: the same where nothing was changed, and another only from the change on."""

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.support_rehearsal import (
    BEGIN_MS,
    ROLLING,
    SHARDS,
    Fleet,
    gone,
    renumbered,
    stream_of_records,
    wanted,
    what_if,
)

from everynode import wire
from everynode.core.commands import CreatePod, Decision, DeletePod
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodObserved,
    StatusReported,
)
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Message, Selector, SetKey, Status, UpdateStrategy
from everynode.errors import InvalidObjectError
from everynode.manifest import read_daemonsets
from everynode.replay.durations import Durations
from everynode.replay.recording import Reader
from everynode.replay.rehearsed import RehearsedStream
from everynode.replay.streams import stream_of
from everynode.replay.what_if import Change, Survey, compared, rehearse, wanted_instead
from everynode.replay.what_if_course import Course
from everynode.runtime.applying import KnownSet
from everynode.runtime.byhand import paused, restarted, resumed
from everynode.testing.builders import node, pod

SLOW = UpdateStrategy(type="RollingUpdate", max_unavailable=1)
KEY = wanted().key
RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"


def rolled_out(nodes: int = 8) -> Fleet:
    """A fleet that was covered and rolled out, with pods that take long and differ."""
    fleet = Fleet(nodes, Durations(start_ms=300, stop_ms=100))
    fleet.applied(wanted(), after_ms=100)
    fleet.settles()
    fleet.applied(wanted("2", 2), after_ms=5_000)
    fleet.settles()
    fleet.passes(2_000)
    return fleet


def numbers(course: Course) -> tuple[object, ...]:
    """Say how it went."""
    unavailable = course.timeline.curves["unavailable"]
    return (
        course.decisions,
        course.pods_made,
        course.pods_removed,
        course.pods_replaced,
        course.rolled_out_ms,
        unavailable.points,
        course.timeline.curves["updated"].points,
        course.actions,
    )


class TestUnchanged:
    """Nothing was changed: nothing is different."""

    def test_a_rollout(self) -> None:
        """To the message: the same pods at the same time."""
        fleet = rolled_out()
        _, was, run = what_if(fleet.log, wanted("2"))

        assert numbers(was.of[KEY]) == numbers(run.courses.of[KEY])
        assert 8 == was.of[KEY].pods_replaced
        assert was.of[KEY].rolled_out_ms is not None
        found = compared(was.of[KEY], run.courses.of[KEY])
        assert (16, 0, 0, (), ()) == found

    def test_covering(self) -> None:
        """A set that was made in the recording."""
        fleet = Fleet(8)
        fleet.applied(wanted(), after_ms=50)
        fleet.settles()
        survey, was, run = what_if(fleet.log, wanted())

        assert 8 == was.of[KEY].pods_made
        assert numbers(was.of[KEY]) == numbers(run.courses.of[KEY])
        assert survey.changes[KEY].known.daemonset is None

    def test_nodes_and_pods_have_their_troubles(self) -> None:
        """Nodes come, go and fail, a pod ends and one is deleted by a person, after the change: all of it again."""
        fleet = Fleet(8)
        fleet.applied(wanted(), after_ms=50)
        fleet.settles()
        fleet.happens(NodeGone(backend="east", name="node-3"), 1_000)
        fleet.happens(NodeObserved(node=node("node-99")), 1_000)
        fleet.happens(NodeObserved(node=replace(node("node-1"), ready=False)), 1_000)
        fleet.settles()
        fleet.happens(NodeObserved(node=node("node-1")), 1_000)
        fleet.settles()
        broken, lost = fleet.pods[4], fleet.pods[5]
        fleet.happens(PodObserved(pod=replace(broken, phase="Failed", ready=False)), 1_000)
        fleet.happens(gone(lost), 1_000)
        fleet.settles()
        _, was, run = what_if(fleet.log, wanted())

        assert 11 == was.of[KEY].pods_made
        assert numbers(was.of[KEY])[1:] == numbers(run.courses.of[KEY])[1:]


class TestAnotherSpec:
    """Something else was asked for."""

    def test_a_slower_strategy(self) -> None:
        """The same pods are replaced, later, and fewer at once; what was before is the same."""
        fleet = rolled_out()
        survey, was, run = what_if(fleet.log, wanted("2", strategy=SLOW))
        recorded, instead = was.of[KEY], run.courses.of[KEY]

        assert recorded.actions == instead.actions
        assert (2, 1) == tuple(
            each.timeline.curves["unavailable"].high for each in (recorded, instead)
        )
        assert recorded.rolled_out_ms is not None
        assert instead.rolled_out_ms is not None
        assert recorded.rolled_out_ms < instead.rolled_out_ms <= run.ends_ms
        assert recorded.changed_ms == instead.changed_ms == survey.changes[KEY].time_ms
        found = compared(recorded, instead)
        assert (3, 3) == (len(found.first_was), len(found.first_is))
        assert [2, 1] == [
            len(each[0].actions) for each in (found.first_was, found.first_is) if each
        ]

    def test_without_the_change(self) -> None:
        """What was wanted before stays: nothing happens, and all is rolled out from the beginning on."""
        _, was, run = what_if(rolled_out().log, wanted())
        instead = run.courses.of[KEY]

        assert (0, 0, 0) == (instead.decisions, instead.pods_made, instead.pods_removed)
        assert instead.changed_ms == instead.rolled_out_ms
        assert was.of[KEY].actions.total() == compared(was.of[KEY], instead).only_was

    def test_nowhere(self) -> None:
        """A set that is for no node loses its pods."""
        _, _, run = what_if(rolled_out().log, wanted(nodeSelector={"no": "where"}))
        assert 0 == run.courses.of[KEY].timeline.curves["current"].last
        assert 8 == run.courses.of[KEY].pods_removed
        assert 0 == run.courses.of[KEY].pods_replaced

    def test_a_set_that_did_not_change(self) -> None:
        """It changes where the stream begins."""
        fleet = Fleet(4)
        fleet.applied(wanted())
        fleet.settles()
        begins = fleet.rehearsal.sequence + 1
        fleet.happens(NodeObserved(node=node("node-9")), 10_000)
        fleet.settles()
        survey = Survey([KEY])
        survey.read(stream_of_records(fleet.log, from_sequence=begins))

        change = survey.changes[KEY]
        assert (begins, None) == (change.sequence, change.recorded)
        found = wanted_instead(wanted("2"), change).daemonset
        assert found is not None
        assert (2, wanted().uid) == (found.generation, found.uid)

    def test_a_set_that_there_was_not(self) -> None:
        """It is made where the stream begins."""
        fleet = Fleet(4)
        other = replace(wanted(), name="other")
        survey, _, run = what_if(fleet.log, other)

        assert survey.changes[other.key].known == KnownSet(None, None, 0)
        assert 4 == run.courses.of[other.key].pods_made
        assert 4 == run.courses.of[other.key].timeline.curves["ready"].last

    def test_other_sets_are_left_out(self) -> None:
        """What is not asked about costs nothing, even if it is of the same shard."""
        fleet = rolled_out(4)
        for number in range(2 * SHARDS):
            fleet.applied(replace(wanted(), name=f"other-{number}", uid=f"other-{number}"))
        fleet.settles()
        survey, was, run = what_if(fleet.log, wanted("3"))
        assert {KEY} == set(survey.changes) == set(was.of)
        assert {KEY} == {each.set_key for each in run.rehearsal.pods.pods.values()}

    def test_of_several_sets_one(self) -> None:
        """Sets that were surveyed and are not wanted otherwise are left out, too."""
        fleet = rolled_out(4)
        fleet.applied(replace(wanted(), name="other", uid="other"))
        fleet.settles()
        _, _, alone = what_if(fleet.log, wanted("3"))
        survey = Survey([KEY, SetKey("default", "other")])
        survey.read(stream_of_records(fleet.log))
        _, run = rehearse(survey, {KEY: wanted_instead(wanted("3"), survey.changes[KEY])}, ())
        assert alone.courses.of[KEY].actions == run.courses.of[KEY].actions
        assert alone.rehearsal.sequence == run.rehearsal.sequence
        assert {KEY} == {each.set_key for each in run.rehearsal.pods.pods.values()}

    @pytest.mark.parametrize("limit", ["HELD_MESSAGES_MAX", "HELD_BYTES_MAX"])
    @pytest.mark.parametrize("is_decided", [True, False])
    def test_what_is_too_much_is_read_again(
        self, monkeypatch: pytest.MonkeyPatch, limit: str, *, is_decided: bool
    ) -> None:
        """B1: no more messages or bytes are held than a limit says; but for time it makes no difference."""
        fleet = rolled_out(4)
        fleet.happens(NodeGone(backend="east", name="node-1"), 1_000)
        fleet.applied(replace(wanted(), name="other", uid="other"))
        fleet.settles()
        _, was, run = what_if(fleet.log, wanted("3"), is_decided=is_decided)
        monkeypatch.setattr(f"everynode.replay.what_if.{limit}", 10)
        _, was_again, run_again = what_if(fleet.log, wanted("3"), is_decided=is_decided)
        assert numbers(was.of[KEY]) == numbers(was_again.of[KEY])
        assert numbers(run.courses.of[KEY]) == numbers(run_again.courses.of[KEY])
        assert (run.ends_ms, run.rehearsal.sequence) == (
            run_again.ends_ms,
            run_again.rehearsal.sequence,
        )

    def test_what_comes_later(self) -> None:
        """The spec as it was recorded does not come back with new labels; a deletion stays one."""
        fleet = rolled_out(4)
        labelled = replace(wanted("2", 2), labels={"team": "a"})
        fleet.applied(labelled, after_ms=1_000)
        fleet.settles()
        _, was, run = what_if(fleet.log, wanted("3"))
        assert 4 == run.courses.of[KEY].pods_made == was.of[KEY].pods_made
        assert 4 == run.courses.of[KEY].timeline.curves["updated"].last

        fleet.happens(DaemonSetGone(namespace="default", name="agent", uid=labelled.uid), 1_000)
        fleet.settles()
        _, _, run = what_if(fleet.log, wanted("3"))
        assert 8 == run.courses.of[KEY].pods_removed

    def test_a_stream_that_ends_early(self) -> None:
        """A stream that ends before the rollout does is gone on with."""
        fleet = rolled_out()
        [change] = [
            each.sequence
            for each in fleet.log
            if isinstance(each.message, DaemonSetObserved)
            and each.message.daemonset.generation == 2
        ]
        _, was, run = what_if(fleet.log[: change + 5], wanted("2"))
        assert was.of[KEY].rolled_out_ms is None
        assert run.courses.of[KEY].rolled_out_ms is not None
        assert 8 == run.courses.of[KEY].pods_replaced


class TestCourse:
    """How it went."""

    def test_rolled_out(self) -> None:
        """Not while a status speaks of what was wanted before; then the first time counts."""

        def said(time_ms: int, generation: int, updated: int) -> tuple[int, Message]:
            status = Status(
                namespace="default",
                daemonset="agent",
                daemonset_uid=wanted().uid,
                observed_generation=generation,
                desired_number_scheduled=2,
                number_available=2,
                updated_number_scheduled=updated,
            )
            return time_ms, StatusReported(status=status)

        course = Course(KEY, BEGIN_MS, ())
        for record in renumbered(
            [
                (0, DaemonSetObserved(daemonset=wanted("2", 2))),
                said(100, 1, 2),
                said(200, 2, 1),
                said(300, 2, 2),
                said(400, 2, 2),
            ]
        ):
            course.fold(record)
        assert BEGIN_MS + 300 == course.rolled_out_ms


class TestWantedInstead:
    """What would have stood on the log."""

    def change(self, before: DaemonSet | None, recorded: DaemonSet | None = None) -> Change:
        """A change of a set that was so before."""
        return Change(7, BEGIN_MS, KnownSet(before, None, 0), recorded)

    def test_identity(self) -> None:
        """It keeps the identity, and has the generation that was recorded."""
        recorded = wanted("2", generation=7)
        found = wanted_instead(wanted("3"), self.change(wanted(generation=4), recorded)).daemonset
        assert found is not None
        assert (recorded.uid, 7) == (found.uid, found.generation)

    def test_a_new_one(self) -> None:
        """One that was made then is made then, under its identity; one that was not has always the same."""
        recorded = replace(wanted(), uid="then", created_ms=5)
        made = wanted_instead(wanted("3"), self.change(None, recorded)).daemonset
        twice = [wanted_instead(wanted("3"), self.change(None)).daemonset for _ in range(2)]
        assert made is not None
        assert ("then", 5, 1) == (made.uid, made.created_ms, made.generation)
        assert twice[0] == twice[1]
        assert twice[0] is not None
        assert twice[0].uid

    def test_a_selector_cannot_change(self) -> None:
        """It is refused, as `apply` does."""
        other = replace(wanted(), selector=Selector(match_labels={"app": "other"}))
        with pytest.raises(InvalidObjectError, match="cannot be changed"):
            wanted_instead(other, self.change(wanted()))

    def test_what_was_done_by_hand(self) -> None:
        """A restart is one with another strategy, too; a pause stays, and one that was ended there ends."""
        asked = wanted(strategy=SLOW)
        restart = restarted(wanted(generation=2), "2026-01-01T00:00:00Z")
        found = wanted_instead(asked, self.change(wanted(), restart)).daemonset
        assert found is not None
        assert (restart.template, SLOW) == (found.template, found.update_strategy)

        held = paused(wanted(generation=2), "2026-01-01T00:00:00Z")
        pausing = wanted_instead(asked, self.change(wanted(), held)).daemonset
        resuming = wanted_instead(asked, self.change(held, resumed(held))).daemonset
        later = wanted_instead(asked, self.change(held)).daemonset
        assert pausing is not None
        assert resuming is not None
        assert later is not None
        assert [True, False, True] == [
            each.update_strategy.paused for each in (pausing, resuming, later)
        ]

    def test_a_set_of_a_cluster(self) -> None:
        """It would have been changed there, and stays the cluster's."""
        kept = replace(wanted(), origin="prod", backend="prod")
        found = wanted_instead(wanted("3"), self.change(kept)).daemonset
        assert found is not None
        assert ("prod", "prod") == (found.origin, found.backend)


class TestAWorldWithoutUs:
    """A stream that tells of somebody else's decisions."""

    def stream(self) -> list[Record]:
        """Nodes join, a set is made, somebody makes pods, the set changes."""
        nodes = [node(f"node-{number}") for number in range(6)]
        return renumbered(
            [
                *((0, NodeObserved(node=each)) for each in nodes),
                (10, DaemonSetObserved(daemonset=wanted())),
                (60_000, DaemonSetObserved(daemonset=wanted("2", 2))),
                (120_000, NodeGone(backend="east", name="node-0")),
            ]
        )

    def test_is_rehearsed(self) -> None:
        """All is decided; it is told in order."""
        rehearsed = RehearsedStream(stream_of_records(self.stream(), is_decided=False))
        log = list(rehearsed.run())

        counts = {kind: sum(isinstance(each.message, kind) for each in log) for kind in _COUNTED}
        assert {CreatePod: 12, DeletePod: 7} == {
            kind: counts[kind] for kind in (CreatePod, DeletePod)
        }
        assert counts[Decision]
        assert 9 == rehearsed.messages
        assert all(one.sequence < next_.sequence for one, next_ in pairwise(log))
        assert all(one.time_ms <= next_.time_ms for one, next_ in pairwise(log))

    def test_pods_take_as_long_as_they_did(self) -> None:
        """What somebody else's pods took until then, ours take from then on."""
        there = replace(pod(wanted(), node("node-1")), phase="Pending", ready=False)
        stream = [each.message for each in self.stream()]
        events = [(0, message) for message in stream[:7]]
        events += [
            (10, PodObserved(pod=there)),
            (7_010, PodObserved(pod=replace(there, phase="Running", ready=True))),
            (60_000, stream[7]),
        ]
        rehearsed = RehearsedStream(stream_of_records(renumbered(events), is_decided=False))
        log = list(rehearsed.run())

        made = {
            each.message.pod.uid: each.time_ms
            for each in reversed(log)
            if isinstance(each.message, PodObserved) and not each.message.pod.ready
        }
        took = {
            each.time_ms - made[each.message.pod.uid]
            for each in log
            if isinstance(each.message, PodObserved)
            and each.message.pod.ready
            and made[each.message.pod.uid] > BEGIN_MS + 60_000
        }
        assert {7_000} == took

    def test_what_if(self) -> None:
        """How it was is what would have been decided, had nothing been changed."""
        _, was, run = what_if(self.stream(), wanted("2", strategy=SLOW), is_decided=False)
        assert (2, 1) == tuple(
            courses.of[KEY].timeline.curves["unavailable"].high for courses in (was, run.courses)
        )
        assert was.of[KEY].actions == run.courses.of[KEY].actions


_COUNTED = (CreatePod, DeletePod, Decision)


def test_no_strategy_is_on_delete() -> None:
    """A manifest without a strategy replaces nothing by itself, as `apply` has it: the change is not rolled out."""
    text = b"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: main, image: "example.com/agent:3"}]}
"""
    [accepted] = read_daemonsets("m.yaml", text, "default").accepted
    assert ROLLING != accepted.daemonset.update_strategy
    _, _, run = what_if(rolled_out().log, accepted.daemonset)
    assert run.courses.of[KEY].rolled_out_ms is None
    assert 0 == run.courses.of[KEY].pods_made


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.everynode")), ids=lambda path: path.stem)
def test_recordings(path: Path) -> None:
    """With nothing changed, each pod that was made or removed is so again, whatever happened; none else is.

    Commands that failed then work now, and are not repeated.
    """
    last: dict[SetKey, DaemonSet] = {}
    with path.open("rb") as file:
        for entry in Reader(file, path.name).entries():
            if ".daemonset." in entry.received.subject:
                message = wire.decode(entry.received.payload)
                if isinstance(message, DaemonSetObserved):
                    last[message.daemonset.key] = message.daemonset
    assert last
    survey = Survey(last)
    with path.open("rb") as file:
        survey.read(stream_of(Reader(file, path.name)))
    wanted_then = {key: wanted_instead(each, survey.changes[key]) for key, each in last.items()}
    was, run = rehearse(survey, wanted_then, ())
    for key in last:
        recorded, again = was.of[key], run.courses.of[key]
        assert 0 == compared(recorded, again).only_is
        assert (recorded.pods_made, recorded.pods_removed) == (again.pods_made, again.pods_removed)
        assert set(recorded.actions) == set(again.actions)
