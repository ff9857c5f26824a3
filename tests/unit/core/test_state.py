"""Folding the log: what is remembered, for how long, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode.core.commands import Decision, DeletePod, Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.pacing import Limits
from everynode.core.state import DUE_ENTRIES_MIN, Due, FleetState, Record
from everynode.core.values import Message, NodeKey, Pod, Revision, SetKey, Status
from everynode.errors import ConfigurationError, InvalidObjectError
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, asked, situation

HORIZON_MS = Limits().horizon_ms
ONE = node("node-0")
STATUS = Status(
    namespace="default", daemonset="agent", daemonset_uid="uid-agent", observed_generation=1
)
REVISION = Revision(
    namespace="default",
    daemonset="agent",
    daemonset_uid="uid-agent",
    hash="h1",
    number=1,
    template=msgspec.Raw(b"{}"),
)


class Reader:
    """A state that reads a log as it is written."""

    def __init__(self) -> None:
        """Start before the first message."""
        self.fleet = FleetState(Limits())
        self.sequence = 0

    def read(self, *messages: Message, at_ms: int = 1) -> None:
        """Read the next messages, all of one time."""
        for message in messages:
            self.sequence += 1
            self.fleet.fold(Record(self.sequence, at_ms, message))

    def again(self, sequence: int, message: Message, at_ms: int = 1) -> None:
        """Read a message that has been read before, or that comes late."""
        self.fleet.fold(Record(sequence, at_ms, message))

    def pass_time(self, at_ms: int) -> None:
        """Time passes."""
        self.read(Tick(shard=0, due_ms=at_ms), at_ms=at_ms)


def gone(running: Pod, uid: str = "") -> PodGone:
    """Make the tombstone of a pod."""
    return PodGone(
        backend=running.backend,
        namespace=running.namespace,
        name=running.name,
        uid=uid or running.uid,
        node=running.node,
        node_uid=running.node_uid,
        owner=running.owner,
    )


def outcome(command_id: str, result: Any = "failed", verb: Any = "create") -> Outcome:
    """Make an outcome of a command of the set."""
    about = {"backend": "east", "namespace": "default", "daemonset": "agent"}
    return Outcome(id=command_id, **about, verb=verb, result=result)


def decision(size: int = 1, window: int = 1) -> Decision:
    """Make a decision about the set."""
    about: dict[str, Any] = {"namespace": "default", "daemonset": "agent"}
    about |= {"daemonset_uid": "uid-agent", "revision": "r", "worker": "w"}
    return Decision(**about, generation=1, basis=0, at_ms=0, size=size, windows={"east": window})


SET_GONE = DaemonSetGone(namespace="default", name="agent", uid="uid-agent")


def test_limits_are_checked() -> None:
    """B1: a state with limits that would not hold is not made."""
    with pytest.raises(ConfigurationError):
        FleetState(Limits(creates_max=0))


@pytest.mark.parametrize(
    "template", [b"null", b'{"spec": 1}', b'{"x": 1e999}', b'{"x": "\xff"}', b'{"x": ']
)
def test_a_set_that_cannot_be_read_changes_nothing(template: bytes) -> None:
    """S8: the set stays as it was, the others too; only the clock has moved."""
    reader = Reader()
    reader.read(NodeObserved(node=ONE), DaemonSetObserved(daemonset=AGENT))
    bad = structs.replace(AGENT, generation=2, template=msgspec.Raw(template))
    unknown = structs.replace(bad, name="other")

    for refused in (bad, unknown):
        with pytest.raises(InvalidObjectError, match=r"spec\.template"):
            reader.read(DaemonSetObserved(daemonset=refused), at_ms=9)

    assert list(reader.fleet.sets) == [SET]
    assert reader.fleet.sets[SET].daemonset == AGENT
    assert (4, 9) == (reader.fleet.sequence, reader.fleet.now_ms)


@pytest.fixture
def no_deleted_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no room for sets that were deleted, so that they are forgotten when they are old."""
    monkeypatch.setattr("everynode.core.state.DELETED_SETS_MAX", 0)


OLDER_AFTER_NEWER: list[tuple[Message, Message]] = [
    (NodeObserved(node=node("node-0", zone="new")), NodeObserved(node=ONE)),
    (NodeGone(backend="east", name="node-0"), NodeObserved(node=ONE)),
    (NodeObserved(node=ONE), NodeGone(backend="east", name="node-0")),
    (DaemonSetObserved(daemonset=daemonset({"a": 1})), DaemonSetObserved(daemonset=AGENT)),
    (SET_GONE, DaemonSetObserved(daemonset=AGENT)),
    (DaemonSetObserved(daemonset=AGENT), SET_GONE),
    (PodObserved(pod=pod(AGENT, ONE)), PodObserved(pod=pod(AGENT, ONE, phase="Failed"))),
    (gone(pod(AGENT, ONE)), PodObserved(pod=pod(AGENT, ONE))),
    (PodObserved(pod=pod(AGENT, ONE)), gone(pod(AGENT, ONE))),
    (RevisionRecorded(revision=REVISION), RevisionGone(namespace="default", daemonset="agent", hash="h1")),
    (RevisionGone(namespace="default", daemonset="agent", hash="h1"), RevisionRecorded(revision=REVISION)),
    (StatusReported(status=STATUS), StatusReported(status=structs.replace(STATUS, revision="old"))),
    (decision(window=9), decision(window=5)),
    (StatusReported(status=STATUS), StatusGone(namespace="default", daemonset="agent", daemonset_uid="u")),
]  # fmt: skip


def facts(fleet: FleetState) -> object:
    """Copy what is known."""
    return (
        {key: fleet.index.node(node_id) for key, node_id in fleet.index.ids.items()},
        [
            (
                *(state.daemonset, state.gone, state.status, state.fence, state.blocked_until),
                state.slow_starts["east"].window(fleet.limits, fleet.now_ms),
                *(sorted(state.pods.items()), sorted(state.revisions.items())),
                *(sorted(state.pending), sorted(state.cooling_nodes.items())),
            )
            for _, state in sorted(fleet.sets.items())
        ],
    )


@pytest.mark.parametrize(("newer", "older"), OLDER_AFTER_NEWER)
def test_an_older_message_does_not_undo_a_newer_one(newer: Message, older: Message) -> None:
    """S4: each fact carries its place in the log: what comes late or twice changes nothing."""
    reader = Reader()
    reader.again(7, newer)
    before = facts(reader.fleet)

    reader.again(7, newer)
    reader.again(5, older)

    assert before == facts(reader.fleet)
    assert reader.fleet.sequence == 7


@pytest.mark.parametrize(("newer", "older"), OLDER_AFTER_NEWER)
def test_a_newer_message_replaces_an_older_one(newer: Message, older: Message) -> None:
    """The last word about each thing counts."""
    first, only = Reader(), Reader()
    first.again(5, older)
    first.again(7, newer)
    only.again(7, newer)

    assert facts(only.fleet) == facts(first.fleet)


def test_reading_state_says_nothing_about_the_time() -> None:
    """What STATE kept may be old or new; the clock and the place in the log are the log's."""
    fleet = FleetState(Limits())
    fleet.load(Record(70, 9_000, NodeObserved(node=ONE)))

    assert (0, 0) == (fleet.sequence, fleet.now_ms)
    assert fleet.index.get(ONE.key) == ONE


def test_what_went_is_forgotten_after_the_horizon() -> None:
    """B1: nodes, pods and failures that come and go leave nothing behind."""
    reader = Reader()
    reader.read(DaemonSetObserved(daemonset=AGENT))
    for number in range(50):
        on = node(f"node-{number}")
        running = pod(AGENT, on, f"pod-{number}")
        reader.read(NodeObserved(node=on), PodObserved(pod=running), gone(running))
        reader.read(NodeGone(backend="east", name=on.name))
    state = reader.fleet.sets[SET]
    assert (50, 50) == (len(state.gone_pods), len(state.last_gone_on))

    reader.pass_time(1 + HORIZON_MS)
    assert len(state.gone_pods) == 50
    reader.pass_time(2 + HORIZON_MS)

    assert (0, 0) == (len(state.gone_pods), len(state.last_gone_on))
    assert not reader.fleet.nodes._sequences
    assert not reader.fleet._remembered
    assert state.memories == 0


def test_what_has_come_back_is_not_forgotten() -> None:
    """A node that left and returned keeps its place in the log when the old tombstone is forgotten."""
    reader = Reader()
    reader.read(NodeObserved(node=ONE), NodeGone(backend="east", name="node-0"))
    reader.read(NodeObserved(node=ONE), at_ms=2)
    reader.pass_time(9 + HORIZON_MS)

    reader.again(2, NodeGone(backend="east", name="node-0"), at_ms=1)

    assert reader.fleet.index.get(ONE.key) == ONE


def test_a_pod_that_moved_leaves_nothing_on_its_old_node() -> None:
    """B1: a name that is used on one node after the other is remembered once."""
    reader = Reader()
    for number in range(20):
        running = pod(AGENT, node(f"node-{number}"), "wanderer")
        reader.read(PodObserved(pod=running), gone(running))

    state = reader.fleet.sets[SET]
    assert [NodeKey("east", "node-19")] == list(state.last_gone_on)
    reader.pass_time(9 + HORIZON_MS)
    assert not reader.fleet.sets


def test_a_pod_observed_on_another_node_has_moved() -> None:
    """A pod is on one node: the last one that it was observed on."""
    reader = Reader()
    other = node("node-1")
    companion = pod(AGENT, ONE, "companion")
    reader.read(PodObserved(pod=companion), PodObserved(pod=pod(AGENT, ONE)))
    reader.read(PodObserved(pod=pod(AGENT, other)))

    state = reader.fleet.sets[SET]
    assert {ONE.key: (companion.key,), other.key: (pod(AGENT, other).key,)} == state.pods_on


@pytest.mark.parametrize(
    "messages",
    [
        [PodObserved(pod=pod(AGENT, ONE)), gone(pod(AGENT, ONE))],
        [outcome("unknown", "done")],
        [StatusReported(status=STATUS), StatusGone(namespace="default", daemonset="agent", daemonset_uid="u")],
        [RevisionRecorded(revision=REVISION), RevisionGone(namespace="default", daemonset="agent", hash="h1")],
        [DaemonSetObserved(daemonset=AGENT), SET_GONE],
        [DaemonSetObserved(daemonset=daemonset({"nodeSelector": {"a": "b"}})), SET_GONE],
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_deleted_sets")
def test_sets_that_are_no_more_are_forgotten(messages: list[Message]) -> None:
    """B1: whatever made a set known, when nothing is left of it, it is forgotten after the horizon."""
    reader = Reader()
    reader.read(*messages)
    reader.pass_time(1 + HORIZON_MS)
    assert list(reader.fleet.sets) == [SET]

    reader.pass_time(2 + HORIZON_MS)

    assert not reader.fleet.sets
    assert not reader.fleet.dirty
    assert not reader.fleet._mentions


@pytest.mark.usefixtures("no_deleted_sets")
def test_a_tombstone_is_remembered_for_the_whole_horizon() -> None:
    """L1: a pod that shows up some time after its set was deleted is still known to be unwanted."""
    reader = Reader()
    reader.read(PodObserved(pod=pod(AGENT, ONE)), gone(pod(AGENT, ONE)), at_ms=1)
    reader.read(SET_GONE, at_ms=HORIZON_MS)

    reader.pass_time(HORIZON_MS + 2)
    assert reader.fleet.sets[SET].gone == SET_GONE

    reader.pass_time(2 * HORIZON_MS + 1)
    assert not reader.fleet.sets


@pytest.mark.usefixtures("no_deleted_sets")
def test_a_set_with_something_left_is_not_forgotten() -> None:
    """A deleted set whose pod has not left is kept until it has."""
    reader = Reader()
    running = pod(AGENT, ONE)
    reader.read(PodObserved(pod=running), SET_GONE)
    reader.pass_time(9 + HORIZON_MS)
    assert list(reader.fleet.sets) == [SET]

    reader.read(gone(running), at_ms=9 + HORIZON_MS)
    reader.pass_time(99 + 2 * HORIZON_MS)

    assert not reader.fleet.sets


def test_the_list_of_what_is_due_stays_small() -> None:
    """B1: a pod that is ready and not ready again and again does not fill the list with times that are over."""
    reader = Reader()
    reader.read(DaemonSetObserved(daemonset=daemonset(min_ready_seconds=10**6)))
    for number in range(3 * DUE_ENTRIES_MIN):
        ready = pod(AGENT, ONE, ready_since_ms=number + 1)
        reader.read(PodObserved(pod=ready), at_ms=number + 1)

    assert len(reader.fleet._due) <= DUE_ENTRIES_MIN
    last_ms = 3 * DUE_ENTRIES_MIN + 10**9
    assert Due(last_ms, SET, ONE.key, "") == reader.fleet.due()


@pytest.mark.usefixtures("no_deleted_sets")
def test_what_is_not_due_any_more_is_not_named() -> None:
    """L2: no tick is asked for on behalf of a pod that has gone or is not ready any more."""
    reader = Reader()
    reader.read(DaemonSetObserved(daemonset=daemonset(min_ready_seconds=10)))
    assert reader.fleet.due() is None
    reader.read(PodObserved(pod=pod(AGENT, ONE)))
    assert Due(10_001, SET, ONE.key, "") == reader.fleet.due()

    reader.read(PodObserved(pod=pod(AGENT, ONE, ready=False, ready_since_ms=0)))
    assert reader.fleet.due() is None

    reader.read(PodObserved(pod=pod(AGENT, ONE, ready_since_ms=500)), at_ms=500)
    assert Due(10_500, SET, ONE.key, "") == reader.fleet.due()
    reader.read(SET_GONE, gone(pod(AGENT, ONE)), at_ms=600)
    reader.pass_time(9 + HORIZON_MS)
    reader.pass_time(99 + 2 * HORIZON_MS)
    assert reader.fleet.due() is None
    assert not reader.fleet.sets


@pytest.mark.usefixtures("no_deleted_sets")
def test_what_is_due_for_a_forgotten_set_is_dropped() -> None:
    """B1: a set that was forgotten leaves nothing that would be waited for."""
    reader = Reader()
    slow = daemonset(min_ready_seconds=10**6)
    reader.read(DaemonSetObserved(daemonset=slow), PodObserved(pod=pod(slow, ONE)))
    reader.read(gone(pod(slow, ONE)), SET_GONE)
    reader.pass_time(9 + HORIZON_MS)
    assert not reader.fleet.sets

    assert reader.fleet.due() is None


def test_time_that_has_come_looks_at_the_set_again() -> None:
    """A set is marked when a pod of it has been ready for long enough, by any message that moves the clock."""
    reader = Reader()
    reader.read(DaemonSetObserved(daemonset=daemonset(min_ready_seconds=10)))
    reader.read(PodObserved(pod=pod(AGENT, ONE)), PodObserved(pod=pod(AGENT, ONE, "pod-2")))
    reader.read(gone(pod(AGENT, ONE, "pod-2")), PodObserved(pod=pod(AGENT, ONE, ready_since_ms=5)))
    reader.fleet.dirty.clear()

    reader.pass_time(10_004)
    assert not reader.fleet.dirty
    reader.pass_time(10_005)

    assert reader.fleet.dirty == {SET}


def test_longer_waiting_applies_to_pods_that_are_there() -> None:
    """A changed minReadySeconds is waited for by pods that were observed before it."""
    reader = Reader()
    reader.read(PodObserved(pod=pod(AGENT, ONE)), DaemonSetObserved(daemonset=AGENT))
    assert reader.fleet.due() is None

    reader.read(DaemonSetObserved(daemonset=daemonset(min_ready_seconds=10, generation=2)))

    assert Due(10_001, SET, ONE.key, "") == reader.fleet.due()


def test_a_set_that_is_far_behind_looks_at_all_nodes() -> None:
    """B1: changes of nodes are remembered up to a limit; beyond it a set is placed afresh, with the same result."""
    reader = Reader()
    reader.read(
        NodeObserved(node=ONE), DaemonSetObserved(daemonset=daemonset({"nodeSelector": {"a": "1"}}))
    )
    assert not reader.fleet.refreshed(SET).coverage.eligible
    for number in range(65_538):
        reader.read(NodeObserved(node=node("node-0", a=str(number % 2))))

    assert len(reader.fleet.nodes._journal) == 3
    assert set(reader.fleet.refreshed(SET).coverage.eligible) == {0}


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (node("node-0", zone="b"), True),
        (node("node-0", arch="x"), False),
        (node("node-0", ready=False), False),
        (node("node-0", "k:NoSchedule"), True),
        (node("node-0", "node.kubernetes.io/not-ready:NoExecute"), False),
        (node("node-0", "k:PreferNoSchedule"), False),
        (node("node-0", uid="another"), True),
        (node("node-1"), True),
    ],
)
def test_a_node_concerns_the_sets_that_depend_on_the_change(change: Any, concerned: bool) -> None:
    """A label wakes the sets that mention it, a taint those that do not tolerate it, a new node all."""
    reader = Reader()
    reader.read(PodObserved(pod=pod(daemonset(name="unknown"), ONE)), NodeObserved(node=ONE))
    for name in ("agent", "second"):
        mentions = daemonset({"nodeSelector": {"zone": "b"}}, name=name)
        reader.read(DaemonSetObserved(daemonset=mentions))
    reader.fleet.dirty.clear()

    reader.read(NodeObserved(node=change))

    keys = {SetKey("default", "agent"), SetKey("default", "second")}
    assert (keys if concerned else set()) == reader.fleet.dirty - {SetKey("default", "unknown")}


def test_a_deleted_set_is_woken_by_no_label() -> None:
    """What a set mentioned is forgotten with it, and what others mention stays."""
    reader = Reader()
    for name in ("agent", "second"):
        mentions = daemonset({"nodeSelector": {"zone": "b"}}, name=name)
        reader.read(DaemonSetObserved(daemonset=mentions))
    reader.read(SET_GONE, NodeObserved(node=ONE))
    reader.fleet.dirty.clear()

    reader.read(NodeObserved(node=node("node-0", zone="b")))

    assert reader.fleet.dirty == {SetKey("default", "second")}


def test_a_tombstone_of_an_unknown_node_wakes_nobody() -> None:
    """S8: a node that was never there cannot leave."""
    reader = Reader()
    reader.read(DaemonSetObserved(daemonset=AGENT))
    reader.fleet.dirty.clear()

    reader.read(NodeGone(backend="east", name="never"))

    assert not reader.fleet.dirty


def test_an_expired_command_is_not_pending() -> None:
    """S4: a command that came after its time was over has failed: its outcome is not the next one's."""
    reader = Reader()
    command = DeletePod(
        id="late", backend="east", node="node-0", namespace="default",
        daemonset="agent", daemonset_uid="uid-agent", pod="pod-1", pod_uid="u",
        generation=1,
        expires_ms=100,
    )  # fmt: skip

    reader.read(command, at_ms=100)

    (state,) = reader.fleet.sets.values()
    assert ({}, ["late"]) == (state.pending, list(state.failures))
    (failure,) = state.failures.values()
    assert 1 == failure.cooling.attempt


def test_an_unknown_kind_of_message_only_moves_the_clock() -> None:
    """S8: what a later version may write is passed over."""
    reader = Reader()
    reader.read(Message(), at_ms=77)

    assert ({}, 77, 1) == (reader.fleet.sets, reader.fleet.now_ms, reader.fleet.sequence)


def test_asking_twice_costs_nothing_new() -> None:
    """A set whose nodes and pods have not changed is not looked at again."""
    world = situation(AGENT, [ONE], [])
    asked(world)
    state = world.worker.fleet.refreshed(SET)
    position = state.journal_position

    again = world.worker.fleet.refreshed(SET)

    assert (state, position) == (again, again.journal_position)
