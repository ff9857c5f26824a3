"""A rehearsed fleet behaves like one: pods come and go as commands, nodes and the stream say, and take their time."""

import pytest
from msgspec.structs import replace
from tests.unit.support_rehearsal import (
    BEGIN_MS,
    SET,
    Fleet,
    adopt,
    create,
    delete,
    gone,
    renumbered,
    wanted,
)

from everynode.core.commands import CreatePod, Decision, DeletePod, Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    StatusReported,
    Tick,
)
from everynode.core.values import Message, Owner, Pod
from everynode.replay.durations import APPLY_MS, DECIDE_MS, START_MS, Durations, Fate
from everynode.replay.outside import Outside
from everynode.replay.rehearsal import Rehearsal
from everynode.testing.builders import daemonset, node, pod

NODE = node("node-0")


def starting(name: str = "pod-1", **changes: object) -> Pod:
    """Make a pod that has not started."""
    return replace(pod(SET, NODE, name), phase="Pending", ready=False, ready_since_ms=0, **changes)


class TestFleet:
    """Nodes, a set, and pods."""

    def test_is_covered_and_comes_to_rest(self) -> None:
        """Each node gets a pod that is ready; then there is silence (L2)."""
        fleet = Fleet(nodes=5)
        fleet.applied(SET)
        fleet.settles()
        count = len(fleet.log)
        fleet.passes(86_400_000)

        assert [f"node-{number}" for number in range(5)] == [each.node for each in fleet.pods]
        assert all(each.ready for each in fleet.pods)
        assert count == len(fleet.log)
        statuses = fleet.messages(StatusReported)
        assert isinstance(statuses[-1], StatusReported)
        assert 5 == statuses[-1].status.number_ready

    def test_takes_its_time(self) -> None:
        """A decision, a command and a pod take as long as is measured if nothing is known."""
        fleet = Fleet(nodes=1)
        fleet.applied(SET)
        fleet.settles()

        [decided_ms, *_] = [
            each.time_ms for each in fleet.log if isinstance(each.message, CreatePod)
        ]
        made_ms, ready_ms = [
            each.time_ms for each in fleet.log if isinstance(each.message, PodObserved)
        ]
        assert (DECIDE_MS, APPLY_MS, START_MS) == (
            decided_ms - BEGIN_MS,
            made_ms - decided_ms,
            ready_ms - made_ms,
        )

    def test_rolls_out_within_its_budget(self) -> None:
        """A new template replaces all pods; never more than two are missing."""
        fleet = Fleet(nodes=7)
        fleet.applied(SET)
        fleet.settles()
        fleet.applied(wanted("2", 2), after_ms=1_000)
        least = len(fleet.pods)
        for record in fleet.rehearsal.settle():
            least = min(least, sum(each.ready for each in fleet.pods))
            fleet.log.append(record)

        assert 5 == least
        assert 1 == len({each.revision for each in fleet.pods})
        assert 7 == len(fleet.messages(DeletePod))

    def test_a_node_leaves(self) -> None:
        """Its pod stays, not ready, until the worker deletes it."""
        fleet = Fleet(nodes=2)
        fleet.applied(SET)
        fleet.settles()
        [lost, kept] = fleet.pods
        fleet.happens(NodeGone(backend=lost.backend, name=lost.node, uid=NODE.uid), 500)
        left = fleet.pods
        fleet.settles()

        assert [False, True] == [each.ready for each in left]
        assert [kept] == fleet.pods
        assert [lost.name] == [each.pod for each in fleet.messages(DeletePod)]  # type: ignore[attr-defined]

    def test_a_node_is_not_ready_for_a_while(self) -> None:
        """Nor is its pod, and nor does a new one start there before the node is ready again."""
        fleet = Fleet(nodes=1)
        fleet.applied(SET)
        fleet.settles()
        fleet.happens(NodeObserved(node=replace(NODE, ready=False, unready_since_ms=1)), 500)
        assert [False] == [each.ready for each in fleet.pods]
        fleet.applied(wanted("2", 2))
        fleet.settles()
        assert [False] == [each.ready for each in fleet.pods]
        fleet.happens(NodeObserved(node=NODE), 500)
        since_ms = [each.ready_since_ms for each in fleet.pods]
        assert [fleet.rehearsal.now_ms] == since_ms
        fleet.settles()
        assert [True] == [each.ready for each in fleet.pods]

    def test_a_node_comes_anew(self) -> None:
        """One of the same name and another identity gets another pod."""
        fleet = Fleet(nodes=1)
        fleet.applied(SET)
        fleet.settles()
        [before] = fleet.pods
        fleet.happens(NodeObserved(node=replace(NODE, uid="another")), 500)
        fleet.settles()
        [after] = fleet.pods
        assert before.uid != after.uid
        assert "another" == after.node_uid
        assert after.ready

    def test_a_set_goes(self) -> None:
        """A set that is deleted takes its pods with it, in the time that stopping takes."""
        fleet = Fleet(nodes=2, durations=Durations(stop_ms=700))
        fleet.applied(SET)
        fleet.settles()
        fleet.happens(DaemonSetGone(namespace="default", name=SET.name, uid=SET.uid))
        fleet.settles()
        last = [each.time_ms for each in fleet.log if isinstance(each.message, PodGone)]
        asked = [each.time_ms for each in fleet.log if isinstance(each.message, DeletePod)]
        assert [] == fleet.pods
        assert {700 + APPLY_MS} == {
            gone_ms - asked_ms for gone_ms, asked_ms in zip(last, asked, strict=True)
        }

    def test_what_befalls_a_pod(self) -> None:
        """A pod that ends by itself is replaced; what befalls a pod that is not there, befalls nobody."""
        fleet = Fleet(nodes=1)
        fleet.applied(SET)
        fleet.settles()
        [before] = fleet.pods
        fleet.happens(PodObserved(pod=replace(before, name="other", uid="other", ready=False)))
        fleet.happens(replace(gone(before), uid="of an earlier one"))
        assert [before] == fleet.pods
        fleet.happens(PodObserved(pod=replace(before, phase="Failed", ready=False)))
        fleet.settles()
        [after] = fleet.pods
        assert before.name != after.name
        assert after.ready
        fleet.happens(gone(after))
        fleet.settles()
        assert after.uid not in {each.uid for each in fleet.pods}
        assert 1 == len(fleet.pods)

    def test_orphans_are_adopted(self) -> None:
        """A pod that nobody controls and that the selector selects becomes the node's."""
        fleet = Fleet(nodes=1)
        orphan = replace(pod(SET, NODE, "stray"), owner=None, labels={"app": SET.name})
        fleet.happens(PodObserved(pod=orphan))
        fleet.applied(SET)
        fleet.settles()
        assert [Owner(name=SET.name, uid=SET.uid)] == [each.owner for each in fleet.pods]
        assert ["stray"] == [each.name for each in fleet.pods]

    def test_begins_in_the_middle(self) -> None:
        """What was on its way when it begins goes on: a command that was not carried out, and a pod that starts."""
        rehearsal = Rehearsal(4)
        second, third = node("node-1"), node("node-2")
        begun = replace(starting("begun"), created_ms=BEGIN_MS)
        leaving = replace(pod(SET, third, "leaving"), deleting=True, ready=False, ready_since_ms=0)
        messages: list[Message] = [
            *(NodeObserved(node=each) for each in (NODE, second, third)),
            DaemonSetObserved(daemonset=SET),
            PodObserved(pod=begun),
            PodObserved(pod=leaving),
            create(replace(starting("sent"), node=second.name, node_uid=second.uid)),
        ]
        for record in renumbered((0, message) for message in messages):
            rehearsal.follow(record)
        rehearsal.begin(BEGIN_MS + 1)
        log = list(rehearsal.settle())

        found = {each.node: each for each in rehearsal.pods.pods.values()}
        assert {"node-0": "begun", "node-1": "sent"} == {
            name: each.name for name, each in found.items() if name != "node-2"
        }
        assert all(each.ready for each in found.values())
        assert ["leaving"] == [
            each.message.name for each in log if isinstance(each.message, PodGone)
        ]
        assert len(messages) + 1 == log[0].sequence

    def test_what_had_begun_is_done_when_it_would_have_been(self) -> None:
        """A command that was decided before takes no longer for that."""
        times_ms = []
        for waited_ms in (0, 4):
            rehearsal = Rehearsal(4)
            sent = create(starting("sent"))
            first = [NodeObserved(node=NODE), DaemonSetObserved(daemonset=SET), sent]
            for record in renumbered((0, message) for message in first):
                rehearsal.follow(record)
            rehearsal.begin(BEGIN_MS + waited_ms)
            times_ms.append(
                next(
                    each.time_ms
                    for each in rehearsal.settle()
                    if isinstance(each.message, PodObserved)
                )
            )
        assert [BEGIN_MS + APPLY_MS] * 2 == times_ms

    def test_begins_while_a_node_is_not_ready(self) -> None:
        """Its pod is ready again when the node is."""
        fleet = Fleet()
        down = replace(pod(SET, NODE), ready=False, ready_since_ms=0)
        first = [NodeObserved(node=replace(NODE, ready=False)), PodObserved(pod=down)]
        for record in renumbered((0, message) for message in first):
            fleet.rehearsal.follow(record)
        fleet.rehearsal.begin(BEGIN_MS)
        fleet.happens(NodeObserved(node=NODE), 500)
        assert [True] == [each.ready for each in fleet.pods]

    def test_what_comes_due_is_noticed_ten_times_a_second(self) -> None:
        """As a worker's clock does; what comes due meanwhile is noticed at once."""
        fleet = Fleet(nodes=2, durations=Durations(start_ms=33))
        fleet.applied(replace(SET, min_ready_seconds=1), 7)
        fleet.settles()
        ticks = [each.time_ms for each in fleet.log if isinstance(each.message, Tick)]
        assert [BEGIN_MS + 1_100] == ticks


class TestDurations:
    """What is learned."""

    def learned(self, *messages: tuple[int, Message]) -> Durations:
        """Learn from a log."""
        durations = Durations()
        for record in renumbered(messages):
            durations.learn(record.time_ms, record.message)
        return durations

    def test_the_same_pod(self) -> None:
        """It is made, starts, ends and goes in the time that it took."""
        one = starting()
        durations = self.learned(
            (0, create(one)),
            (30, PodObserved(pod=one)),
            (70, PodObserved(pod=replace(one, ready=True, phase="Running"))),
            (900, PodObserved(pod=replace(one, phase="Failed"))),
            (1_000, delete(one)),
            (1_020, PodObserved(pod=replace(one, phase="Failed", deleting=True))),
            (1_090, gone(one)),
        )

        assert Fate(40, 870, "Failed", one.uid) == durations.of(one)
        assert (30, 20) == (durations.apply_ms(create(one)), durations.apply_ms(delete(one)))
        assert 70 == durations.stop_ms(one)

    def test_its_like(self) -> None:
        """Another pod takes what the last one on its node took, else what most of its set take, else what is usual."""
        messages: list[tuple[int, Message]] = []
        for number, start_ms in enumerate((10, 500, 20)):
            one = replace(starting(f"pod-{number}", uid=f"uid-{number}"), node=f"node-{number}")
            messages += [
                (1_000 * number, create(one)),
                (1_000 * number + start_ms, PodObserved(pod=one)),
                (
                    1_000 * number + 2 * start_ms,
                    PodObserved(pod=replace(one, ready=True, phase="Running")),
                ),
            ]
        durations = self.learned(*messages)
        new = starting("new", uid="new")

        for place, expected_ms in (("node-1", 500), ("node-7", 20)):
            other = replace(new, node=place)
            assert expected_ms == durations.of(other).ready_ms
            assert expected_ms == durations.apply_ms(create(other))
        foreign = replace(new, owner=Owner(name="other", uid="other"))
        assert START_MS == durations.of(foreign).ready_ms

    def test_one_that_never_is_ready(self) -> None:
        """A pod that was there for a minute without being ready does not get ready; one that went before is unknown."""
        stuck, short = starting("stuck", uid="stuck"), starting("short", uid="short")
        durations = self.learned(
            (0, PodObserved(pod=stuck)),
            (0, PodObserved(pod=short)),
            (5_000, gone(short)),
            (60_001, PodObserved(pod=starting("other", uid="other"))),
        )
        assert Fate(None, uid="stuck") == durations.of(stuck)
        assert Fate(START_MS, uid="short") == durations.of(short)

    def test_not_all_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of more pods than there is room for, the oldest are taken like their like (B1)."""
        monkeypatch.setattr("everynode.replay.durations.PODS_MAX", 1)
        pods = [starting(name, uid=name) for name in ("old", "new")]
        durations = self.learned(*((0, PodObserved(pod=each)) for each in pods))
        assert ["", "new"] == [durations.of(each).uid for each in pods]

    def test_deciding(self) -> None:
        """It takes the mean of what it took, since one decision waits for the other; outliers count for a second."""
        decision = Decision(
            namespace="default",
            daemonset=SET.name,
            daemonset_uid=SET.uid,
            generation=1,
            revision="",
            basis=0,
            at_ms=BEGIN_MS,
            worker="w",
            size=0,
            windows={},
        )
        durations = self.learned((10, decision), (50, decision), (9_999_999, decision))
        assert DECIDE_MS == Durations().decide_ms
        assert 353 == durations.decide_ms


class TestOutside:
    """What happened by itself."""

    def outside(self, *messages: Message, is_decided: bool = True) -> list[bool]:
        """Say of each whether it did."""
        told = Outside(is_decided=is_decided)
        return [told.is_outside(message) for message in messages]

    def test_nodes_and_sets(self) -> None:
        """Nodes and sets do; decisions, commands, outcomes, ticks and reports do not."""
        one = starting()
        outcome = Outcome(
            id="x",
            backend="east",
            namespace="default",
            daemonset="agent",
            verb="create",
            result="done",
        )
        assert [True, True, False, False, False, True] == self.outside(
            NodeObserved(node=NODE),
            DaemonSetObserved(daemonset=SET),
            create(one),
            outcome,
            Tick(shard=0, due_ms=1),
            NodeGone(backend="east", name="node-0"),
        )

    def test_pods_of_ours(self) -> None:
        """That one is made, starts, and goes for a command is no news; that it breaks or goes by itself is."""
        one = starting()
        ready = replace(one, phase="Running", ready=True)
        wanted_first = DaemonSetObserved(daemonset=SET)
        assert [True, False, False, True, True] == self.outside(
            wanted_first,
            PodObserved(pod=one),
            PodObserved(pod=ready),
            PodObserved(pod=replace(ready, ready=False)),
            gone(one),
        )
        assert [True, False, False, False, False] == self.outside(
            wanted_first,
            PodObserved(pod=ready),
            delete(one),
            PodObserved(pod=replace(ready, ready=False, deleting=True)),
            gone(one),
        )

    def test_pods_of_others(self) -> None:
        """Those that nobody of ours made come from outside; that one changes hands for a command is none."""
        stray = replace(pod(SET, NODE, "stray"), owner=None, labels={"app": SET.name})
        adopted = replace(stray, owner=Owner(name=SET.name, uid=SET.uid))
        assert [True, True, False, False, False, True] == self.outside(
            DaemonSetObserved(daemonset=SET),
            PodObserved(pod=stray),
            adopt(stray),
            PodObserved(pod=adopted),
            gone(stray),
            gone(adopted),
        )

    def test_a_world_without_us(self) -> None:
        """There, somebody else's decisions are behind what becomes of the pods of a set."""
        one = pod(SET, NODE)
        stray = replace(one, name="stray", uid="stray", owner=None)
        assert [True, False, False, True, True] == self.outside(
            DaemonSetObserved(daemonset=daemonset()),
            PodObserved(pod=one),
            gone(one),
            PodObserved(pod=stray),
            gone(stray),
            is_decided=False,
        )
