"""What time alone brings about, and what is forgotten when."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode.core.commands import DeletePod, ReleasePod, outcome_of
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusReported,
    Tick,
)
from everynode.core.pacing import Limits
from everynode.core.state import NO_NODE, Due, FleetState, Record
from everynode.core.values import (
    Condition,
    Message,
    NodeKey,
    Pod,
    Revision,
    Selector,
    SetKey,
    Status,
    UpdateStrategy,
)
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, situation
from everynode.testing.world import World

HORIZON_MS = Limits().horizon_ms
ONE = node("node-0")


def read(*messages: Message, at_ms: int = 1) -> FleetState:
    """Read a log of these messages, all of one time."""
    fleet = FleetState(Limits())
    for message in messages:
        fold(fleet, message, at_ms)
    return fleet


def fold(fleet: FleetState, message: Message, at_ms: int) -> None:
    """Read the next message."""
    fleet.fold(Record(fleet.sequence + 1, at_ms, message))


def status(reason: str = "RolloutProgressing", *, moved_ms: int = 1_000) -> Status:
    """Make a report of a rollout that stands so."""
    condition = Condition(type="Progressing", status="True", reason=reason, last_update_ms=moved_ms)
    return Status(
        namespace="default",
        daemonset="agent",
        daemonset_uid="uid-agent",
        observed_generation=1,
        conditions=(condition,),
    )


def orphan(name: str = "orphan", labels: dict[str, str] | None = None, **changes: Any) -> Pod:
    """Make a pod that nobody controls; by default the set selects it."""
    known = {"app": "agent"} if labels is None else labels
    return structs.replace(pod(AGENT, ONE, name), owner=None, labels=known, **changes)


# The deadline of a rollout


def deadline(seconds: int) -> DaemonSetObserved:
    """Want the set with this deadline."""
    strategy = UpdateStrategy(progress_deadline_seconds=seconds)
    return DaemonSetObserved(daemonset=daemonset(update_strategy=strategy))


@pytest.mark.parametrize(
    ("seconds", "report", "due_ms"),
    [
        (7, status(), 8_000),
        (600, status(moved_ms=5), 600_005),
        (0, status(), None),
        (7, status("RolloutComplete"), None),
        (7, status("ProgressDeadlineExceeded"), None),
        (7, status("RolloutZ"), None),
        (7, structs.replace(status(), conditions=()), None),
    ],
)
def test_a_rollout_is_looked_at_when_its_time_is_over(
    seconds: int, report: Status, due_ms: int | None
) -> None:
    """L1: that a rollout has stalled is found although nothing happens; a rollout that is at rest is not waited for."""
    fleet = read(deadline(seconds), StatusReported(status=report))

    assert (None if due_ms is None else Due(due_ms, SET, NO_NODE, "")) == fleet.due()


def test_the_time_of_a_rollout_passes() -> None:
    """The set is marked at the very time; then nothing is due, and no node is looked at again."""
    fleet = read(NodeObserved(node=ONE), deadline(7), StatusReported(status=status()))
    fleet.refreshed(SET)
    fleet.dirty.clear()
    fold(fleet, Tick(shard=0, due_ms=7_999), 7_999)
    assert not fleet.dirty

    fold(fleet, Tick(shard=0, due_ms=8_000), 8_000)

    assert fleet.dirty == {SET}
    assert not fleet.sets[SET].touched
    assert fleet.due() is None


@pytest.mark.parametrize("later", [status("RolloutComplete"), status(moved_ms=2_000)])
def test_a_rollout_that_goes_on_has_another_deadline(later: Status) -> None:
    """L2: the time that was over is not named any more when the rollout has moved or ended."""
    fleet = read(deadline(7), StatusReported(status=status()), StatusReported(status=later))
    found = fleet.due()
    fleet.dirty.clear()

    fold(fleet, Tick(shard=0, due_ms=8_000), 8_000)

    assert not fleet.dirty
    assert (found is None) == (later.conditions[0].reason == "RolloutComplete")
    assert found is None or found.time_ms == 9_000


def test_a_deadline_that_has_passed_is_not_waited_for() -> None:
    """A report that is older than the deadline asks for nothing: the set was looked at when it was written."""
    fleet = read(deadline(7), StatusReported(status=status()), at_ms=8_000)

    assert fleet.due() is None


def test_a_set_that_is_gone_has_no_deadline() -> None:
    """L2: nothing is waited for on behalf of a rollout that nobody wants."""
    gone = DaemonSetGone(namespace="default", name="agent", uid="uid-agent")
    fleet = read(deadline(7), StatusReported(status=status()), gone)
    assert fleet.due() is None

    assert read(StatusReported(status=status())).due() is None


def test_a_report_asks_for_nothing() -> None:
    """L2: that a worker has reported is no reason to look at the set; one that nobody knew is."""
    fleet = read(deadline(7))
    fleet.dirty.clear()
    fold(fleet, StatusReported(status=status()), 2)
    assert not fleet.dirty

    assert read(StatusReported(status=status())).dirty == {SET}


# What is due


def test_a_pod_after_one_that_ended_is_looked_at_when_it_has_lasted() -> None:
    """L1: both turns of a pod are awaited: when it is available, and when it has lasted as long as it would rest."""
    slow = daemonset(min_ready_seconds=5)
    successor = pod(slow, ONE, generation=1, failures=2, created_ms=1_000, ready_since_ms=2_000)
    fleet = read(DaemonSetObserved(daemonset=slow), PodObserved(pod=successor), at_ms=1_000)
    times = []
    while (due := fleet.due()) is not None:
        times.append(due.time_ms)
        fleet.dirty.clear()
        fold(fleet, Tick(shard=0, due_ms=due.time_ms), due.time_ms)
        assert fleet.dirty == {SET}
        assert fleet.sets[SET].touched == {ONE.key}

    assert times == [3_000, 7_000]


@pytest.mark.parametrize("at_ms", [3_000, 3_001])
def test_what_is_over_when_it_is_heard_of_is_not_awaited(at_ms: int) -> None:
    """L2: a pod that has lasted by the time it is observed is looked at once, not again."""
    successor = pod(AGENT, ONE, generation=1, failures=2, created_ms=1_000)

    fleet = read(DaemonSetObserved(daemonset=AGENT), PodObserved(pod=successor), at_ms=at_ms)

    assert fleet.due() is None


def test_several_things_come_due_in_one_step() -> None:
    """L1: whatever was due up to a message is done with it, also behind something that is not due any more."""
    slow = daemonset(min_ready_seconds=10)
    nodes = alike(4)
    fleet = read(DaemonSetObserved(daemonset=slow))
    for number, each in enumerate(nodes):
        running = pod(slow, each, each.name, ready_since_ms=100 + number)
        fold(fleet, PodObserved(pod=running), 200)
    first = pod(slow, nodes[0], nodes[0].name, ready=False, ready_since_ms=0)
    fold(fleet, PodObserved(pod=first), 300)
    fleet.refreshed(SET)
    fleet.sets[SET].touched.clear()

    fold(fleet, Tick(shard=0, due_ms=10_102), 10_102)

    assert fleet.sets[SET].touched == {nodes[1].key, nodes[2].key}
    assert Due(10_103, SET, nodes[3].key, "") == fleet.due()


def test_the_list_of_what_is_due_is_cleared_when_it_is_full() -> None:
    """B1: of 1,024 times that are over for a pod that starts to be ready again and again, one is left."""
    fleet = read(DaemonSetObserved(daemonset=daemonset(min_ready_seconds=10**6)))
    counts = []
    for number in range(1_025):
        ready = pod(AGENT, ONE, ready_since_ms=number + 1)
        fold(fleet, PodObserved(pod=ready), 1)
        counts.append(len(fleet._due))

    assert [1_024, 1] == counts[-2:]
    assert counts == [*range(1, 1_025), 1]


def test_what_was_due_long_before_it_was_heard_of_is_done_at_once() -> None:
    """L1: an outcome that the log took in before messages that were read already has its wait behind it."""
    world = situation(AGENT, [ONE], [])
    world.decide()
    (command,) = world.queue
    fleet = world.worker.fleet
    fold(fleet, Tick(shard=0, due_ms=1), world.now_ms + 5_000)
    fleet.refreshed(SET)
    fleet.dirty.clear()

    fold(fleet, outcome_of(command, "failed"), world.now_ms)

    assert fleet.sets[SET].touched == {ONE.key}
    due = fleet.due()
    assert due is not None
    assert due.node == NO_NODE, "only the rollout's deadline is left"
    assert list(fleet.refreshed(SET).coverage.missing) == [0]


# What is forgotten


def test_so_many_deleted_sets_are_known() -> None:
    """B1, L1: pods of the last 2,000 sets that were deleted are known to be unwanted whenever they turn up."""
    fleet = FleetState(Limits())
    for number in range(2_003):
        fold(fleet, DaemonSetGone(namespace="default", name=f"set-{number}", uid="u"), 1)

    fold(fleet, Tick(shard=0, due_ms=1), 2 + HORIZON_MS)

    assert len(fleet.sets) == 2_000
    assert SetKey("default", "set-2") not in fleet.sets
    assert SetKey("default", "set-3") in fleet.sets


def test_a_revision_that_went_is_forgotten_after_the_horizon() -> None:
    """B1: a set whose template changes again and again remembers what it has on record, and what went lately."""
    world = situation(structs.replace(AGENT, revision_history_limit=2), [ONE], [])
    for number in range(12):
        world.now_ms += HORIZON_MS
        changed = daemonset({"version": number}, generation=number + 2)
        world.apply(structs.replace(changed, revision_history_limit=2))
        world.run()
        while world.pods:
            world.remove_pod(next(iter(world.pods)))
        world.run()
    state = world.worker.fleet.sets[SET]
    assert len(state.revisions) == 3

    world.now_ms += HORIZON_MS + 1
    world.write(Tick(shard=0, due_ms=world.now_ms))
    world.read(world.worker)

    assert sorted(state.revisions) == sorted(state.revision_sequences)


REVISION = Revision(
    namespace="default",
    daemonset="agent",
    daemonset_uid="uid-agent",
    hash="h1",
    number=1,
    template=msgspec.Raw(b"{}"),
)
REVISION_GONE = RevisionGone(namespace="default", daemonset="agent", hash="h1")


def test_a_revision_that_has_come_back_is_not_forgotten() -> None:
    """S4: an old tombstone that is read again after the horizon does not take it away."""
    fleet = read(DaemonSetObserved(daemonset=AGENT), REVISION_GONE)
    fold(fleet, RevisionRecorded(revision=REVISION), 2)
    fold(fleet, Tick(shard=0, due_ms=9), 9 + HORIZON_MS)

    fleet.fold(Record(2, 1, REVISION_GONE))

    assert list(fleet.sets[SET].revisions) == ["h1"]


# Pods that nobody controls


def pod_gone(gone: Pod) -> PodGone:
    """Make the tombstone of a pod."""
    return PodGone(
        backend=gone.backend, namespace=gone.namespace, name=gone.name, uid=gone.uid,
        node=gone.node, owner=gone.owner,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "namespace", "concerned"),
    [
        ({"app": "agent"}, "default", True),
        ({"app": "other"}, "default", False),
        ({}, "default", False),
        ({"app": "agent"}, "a-namespace", False),
        ({"app": "agent"}, "z-namespace", False),
    ],
)
def test_an_orphan_is_offered_to_the_sets_that_select_it(
    labels: dict[str, str], namespace: str, concerned: bool
) -> None:
    """L1, L2: sets of its namespace whose selector selects it are marked, whichever of them is heard of first."""
    stray = orphan(labels=labels, namespace=namespace)
    for order in (1, -1):
        messages = [DaemonSetObserved(daemonset=AGENT), PodObserved(pod=stray)][::order]
        fleet = read(messages[0])
        fleet.dirty.clear()
        fold(fleet, messages[1], 1)

        assert concerned == (stray.key in fleet.sets[SET].orphans)
        if order == 1:
            assert ({SET} if concerned else set()) == fleet.dirty
        assert fleet.orphan(stray.key) == stray
    assert fleet.orphan(orphan("unheard").key) is None


def test_an_orphan_without_labels_is_nobodys() -> None:
    """S8: what a backend does not say is not guessed: a set may not adopt a pod of which it knows no labels."""
    fleet = read(DaemonSetObserved(daemonset=AGENT))
    fold(fleet, PodObserved(pod=structs.replace(orphan(), labels=None)), 1)

    assert not fleet.sets[SET].orphans


def test_an_orphan_that_goes_or_is_labelled_otherwise_is_taken_back() -> None:
    """L2: what a set would adopt follows the pod's labels and its end, and the selector."""
    ends: tuple[Message, ...] = (
        PodObserved(pod=orphan(labels={"app": "other"})),
        pod_gone(orphan()),
        DaemonSetObserved(
            daemonset=structs.replace(AGENT, selector=Selector(match_labels={"app": "other"}))
        ),
        DaemonSetGone(namespace="default", name="agent", uid="uid-agent"),
    )
    for end in ends:
        fleet = read(NodeObserved(node=ONE), DaemonSetObserved(daemonset=AGENT))
        fold(fleet, PodObserved(pod=orphan()), 1)
        assert list(fleet.refreshed(SET).coverage.adoptable) == [0]
        fleet.dirty.clear()

        fold(fleet, end, 1)

        assert not fleet.sets[SET].orphans
        assert not fleet.refreshed(SET).coverage.adoptable
        assert fleet.dirty == {SET}


def test_the_end_of_an_orphan_is_forgotten_after_the_horizon() -> None:
    """B1, S4: until then an older message about it is no news; afterwards nothing of it is left."""
    fleet = read(DaemonSetObserved(daemonset=AGENT), PodObserved(pod=orphan()))
    fold(fleet, pod_gone(orphan()), 1)
    fleet.fold(Record(2, 1, PodObserved(pod=orphan())))
    assert fleet.orphan(orphan().key) is None

    fold(fleet, Tick(shard=0, due_ms=1), 2 + HORIZON_MS)

    assert not fleet._remembered
    assert not fleet._orphans._sequences
    fleet.fold(Record(2, 1, PodObserved(pod=orphan())))
    assert fleet.orphan(orphan().key) == orphan()
    fleet.fold(Record(1, 1, pod_gone(orphan())))
    assert fleet.orphan(orphan().key) == orphan()


# Sets that are deleted and made anew


def _deleted_and_made_anew(world: World, generation: int) -> None:
    """Delete the set so that its pods stay, and make it anew, while nobody carries anything out."""
    before = world.sets[SET]
    predecessors = (*before.predecessor_uids, before.uid)
    world.delete(SET, cascade="orphan")
    world.decide()
    world.queue.clear()
    anew = structs.replace(AGENT, uid=f"uid-{generation}", predecessor_uids=predecessors)
    world.now_ms += 400_000
    world.apply(anew)
    world.decide()
    world.queue.clear()
    world.now_ms += 400_000


def test_two_deletes_in_a_row_leave_the_pods_alive() -> None:
    """Pods that are to stay when their set is deleted are released, however many sets of its name come after it."""
    world = situation(AGENT, [ONE], [pod(AGENT, ONE)])
    world.decide()
    for generation in (2, 3):
        _deleted_and_made_anew(world, generation)
    world.write(Tick(shard=0, due_ms=world.now_ms))
    world.decide()

    assert [ReleasePod] == [type(command) for command in world.queue]
    assert not [record for record in world.log if isinstance(record.message, DeletePod)]
    (uid,) = {found.uid for found in world.pods.values()}
    for key in world.pods:
        world.label_pod(key, {"app": "agent"})
    world.run()
    assert [uid] == [found.uid for found in world.pods.values()]
    assert ["uid-3"] == [found.owner.uid for found in world.pods.values() if found.owner]


# Which sets a node concerns


def test_a_set_goes_on_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: only nodes that have changed since are looked at, also when the list of changes was begun anew meanwhile."""
    monkeypatch.setattr("everynode.core.nodes.JOURNAL_ENTRIES_MAX", 3)
    fleet = read(DaemonSetObserved(daemonset=daemonset({"nodeSelector": {"zone": "a"}})))
    state = fleet.refreshed(SET)
    bitmap = state.coverage.eligible
    for number in range(1, 12):
        zone = "a" if number % 2 else "b"
        fold(fleet, NodeObserved(node=node(f"node-{number}", zone=zone)), 1)
        fleet.refreshed(SET)

        assert number == state.journal_position
        assert len(state.coverage.eligible) == (number + 1) // 2
        assert state.coverage.eligible is bitmap, "it is brought up to date, not made anew"


def test_a_node_that_nobody_knew_goes() -> None:
    """L1: the sets that have pods there are marked, so that what is stranded goes; the others are not."""
    other = daemonset(name="other")
    fleet = read(DaemonSetObserved(daemonset=AGENT), DaemonSetObserved(daemonset=other))
    fold(fleet, PodObserved(pod=pod(AGENT, ONE)), 1)
    fleet.refreshed(SET)
    fleet.dirty.clear()

    fold(fleet, NodeGone(backend=ONE.backend, name=ONE.name), 1)

    assert fleet.dirty == {SET}
    assert fleet.refreshed(SET).coverage.stranded == {NodeKey(ONE.backend, ONE.name)}


def test_a_label_of_the_rollouts_selector_concerns_the_set() -> None:
    """L1: nodes that are to be updated now are chosen by labels, which the set depends on as on those of placement."""
    chosen = UpdateStrategy(type="RollingUpdate", selector=Selector(match_labels={"canary": "yes"}))
    sets = [daemonset(update_strategy=chosen), daemonset({"nodeSelector": {"zone": "a"}}, name="z")]
    fleet = read(NodeObserved(node=ONE), *(DaemonSetObserved(daemonset=each) for each in sets))
    for label, key in (("canary", SET), ("zone", SetKey("default", "z"))):
        fleet.dirty.clear()
        fold(fleet, NodeObserved(node=structs.replace(ONE, labels={label: "x"})), 1)
        fold(fleet, NodeObserved(node=ONE), 1)
        assert fleet.dirty == {key}
