"""The worker as a state machine: what it tells people of, and that one set's bug is its own."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import COMMANDS, CreatePod, outcome_of
from everynode.core.events import NoticeReported, StatusReported, Tick
from everynode.core.machine import AWAITED_COMMANDS_MAX, WorkerMachine
from everynode.core.values import DaemonSet, Notice, Selector, SetKey, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node
from everynode.testing.situations import AGENT, SET, alike, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
ROLLING = UpdateStrategy(type="RollingUpdate")
OTHER = SetKey("default", "other")


def told(world: World) -> list[tuple[str, int]]:
    """Return the reasons and counts of what people were told so far."""
    notices = [r.message.notice for r in world.log if isinstance(r.message, NoticeReported)]
    return [(notice.reason, notice.count) for notice in notices]


def image(name: str, generation: int, **strategy: Any) -> DaemonSet:
    """Make the set with this image."""
    changed = structs.replace(ROLLING, **strategy)
    return daemonset({"image": name}, generation=generation, update_strategy=changed)


def pass_time(world: World, duration_ms: int) -> None:
    """Time passes, and the log says so."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=world.now_ms))
    world.read(world.worker)


# Commands


def test_only_who_decided_tells_what_became_of_it() -> None:
    """A refused proposal's commands are another worker's: this one does not tell of them, so nothing is told twice."""
    world = situation(AGENT, [ONE], [])
    second = world.new_worker("second")
    world.read(world.worker)
    (ours,), (theirs,) = world.worker.proposals(10), second.proposals(10)
    assert [item.id for item in ours.others if isinstance(item, CreatePod)] == [
        item.id for item in theirs.others if isinstance(item, CreatePod)
    ]
    assert world.offer(world.worker, ours)
    assert not world.offer(second, theirs)

    world.carry_out()
    for machine in (world.worker, second):
        world.decide(machine)

    assert [("SuccessfulCreate", 1)] == [each for each in told(world) if "Create" in each[0]]


def test_an_outcome_may_come_before_the_answer() -> None:
    """What became of a command is told also if it is heard before the worker knows that its decision was taken."""
    world = situation(AGENT, [ONE], [])
    world.read(world.worker)
    (proposal,) = world.worker.proposals(10)
    for message in (proposal.decision, *proposal.others):
        world.write(message)
    (command,) = (item for item in proposal.others if isinstance(item, COMMANDS))
    world.write(outcome_of(command, "failed", "no room"))
    world.read(world.worker)
    world.worker.accepted(SET, len(world.log))

    assert "FailedCreate" in {notice.reason for notice in world.worker.notices()}


def test_an_outcome_is_told_once() -> None:
    """A message that comes twice tells nothing new."""
    world = situation(AGENT, [ONE], [])
    world.decide()
    (command,) = world.queue
    for _ in range(2):
        world.write(outcome_of(command, "failed", "no room"))
    world.decide()

    assert ("FailedCreate", 1) in told(world)


def test_a_worker_whom_nobody_hears_says_nothing_of_outcomes() -> None:
    """A worker that is only rehearsed decides the same, and does not keep what people would have to hear."""
    world = situation(AGENT, [ONE], [])
    world.worker = WorkerMachine("quiet", world.worker.shards, world.limits, tells=False)
    world.decide()
    (command,) = world.queue
    world.write(outcome_of(command, "failed", "no room"))
    world.decide()

    assert not [reason for reason, _ in told(world) if "Create" in reason]
    assert not world.worker.told.awaited


def test_a_pod_that_has_ended_is_told_when_its_delete_is_taken() -> None:
    """What was proposed and refused is not told of, as it may never be done."""
    ended = pods_on(ONE, 1, phase="Failed", ready=False, generation=1)
    world = situation(AGENT, [ONE], ended)
    world.read(world.worker)
    (proposal,) = world.worker.proposals(10)
    world.worker.refused(SET, None)
    assert world.worker.notices() == []

    assert [proposal] == world.worker.proposals(10)
    assert world.offer(world.worker, proposal)

    assert ["FailedDaemonPod"] == [notice.reason for notice in world.worker.notices()]


def test_there_is_a_limit_to_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: of more commands than are remembered people are not told of the oldest."""
    assert AWAITED_COMMANDS_MAX == 20_000
    monkeypatch.setattr("everynode.core.machine.AWAITED_COMMANDS_MAX", 2)
    world = situation(AGENT, alike(3), [])
    world.decide()
    assert ["node-0", "node-1", "node-2"] == [command.node for command in world.queue]
    while world.queue:
        world.carry_out()
    world.read(world.worker)

    (created,) = (item for item in world.worker.notices() if item.reason == "SuccessfulCreate")
    assert (2, "node-2") == (created.count, created.node)


def test_a_notice_that_could_not_be_written_is_told_later() -> None:
    """L1: what is not on the log was not said; until then the worker is not done."""
    world = situation(AGENT, [ONE], [])
    world.decide()
    world.carry_out()
    world.read(world.worker)
    first = world.worker.notices()
    assert first

    for notice in first:
        world.worker.untold(notice)

    assert not world.worker.settled
    assert first == world.worker.notices()


def test_a_notice_that_waits_keeps_a_worker_from_rest() -> None:
    """L2: a worker is at rest when nothing is left to be told."""
    world = situation(AGENT, [ONE], [])
    world.run()
    settled = [world.worker.settled]
    notice = Notice(
        namespace="default",
        daemonset="agent",
        daemonset_uid="uid-agent",
        type="Normal",
        reason="RolloutComplete",
        message="done",
    )

    world.worker.untold(notice)
    settled.append(world.worker.settled)
    assert [notice] == world.worker.notices()
    settled.append(world.worker.settled)

    assert settled == [True, False, True]


# Rollouts


@pytest.mark.parametrize("strategy", [UpdateStrategy(), ROLLING], ids=["OnDelete", "Rolling"])
@pytest.mark.parametrize("happens", ["a pod is not ready", "a node joins", "a pod goes"])
def test_what_happens_after_a_rollout_is_no_rollout(strategy: UpdateStrategy, happens: str) -> None:
    """An hour after it was complete, a rollout is neither stalled nor told again, whatever becomes of the pods."""
    world = situation(daemonset(update_strategy=strategy), alike(3), [])
    world.run()
    before = told(world)
    assert [1] == [count for reason, count in before if reason == "RolloutComplete"]
    pass_time(world, 3_600_000)
    world.run()
    world.start_ready = False

    key = next(iter(world.pods))
    if happens == "a pod is not ready":
        world.change_pod(key, phase="Running", ready=False)
    elif happens == "a node joins":
        world.put_node(node("node-9"))
    else:
        world.remove_pod(key)
    said = []
    for _ in range(4):
        world.decide()
        while world.queue:
            world.carry_out()
        pass_time(world, 700_000)
        status = world.worker.fleet.sets[SET].status
        assert status is not None
        said += [(each.type, each.reason) for each in status.conditions]
    world.run()

    assert {"RolloutComplete"} == {reason for kind, reason in said if kind == "Progressing"}
    assert {"AsExpected"} == {reason for kind, reason in said if kind == "Degraded"}
    assert not [each for each in told(world)[len(before) :] if each[0].startswith("Rollout")]


@pytest.mark.parametrize("held", [{"paused": True}, {"partition": 3}], ids=["paused", "held"])
def test_the_time_for_which_a_rollout_was_held_does_not_count(held: dict[str, Any]) -> None:
    """A rollout that is let go on after hours has its whole time again; then its deadline counts."""
    world = situation(image("v1", 1), alike(3), [])
    world.run()
    world.apply(image("v2", 2, **held))
    world.run()
    pass_time(world, 7_200_000)
    world.run()
    world.start_ready = False
    world.apply(image("v2", 3))
    for wait_ms, reason in ((599_999, "RolloutProgressing"), (1, "ProgressDeadlineExceeded")):
        world.decide()
        pass_time(world, wait_ms)
        world.decide()

        status = world.worker.fleet.sets[SET].status
        assert status is not None
        progressing = status.condition("Progressing")
        assert progressing is not None
        assert reason == progressing.reason

    assert ("RolloutStalled", 1) in told(world)


def test_a_rollout_is_told_from_start_to_end() -> None:
    """People can follow a rollout in what they are told: each turn once, in its order."""
    world = situation(image("v1", 1), alike(2), [])
    world.run()
    before = len(told(world))
    world.apply(image("v2", 2, paused=True))
    world.run()
    world.apply(image("v2", 3, partition=1))
    world.run()
    world.apply(image("v2", 4))
    world.run()

    turns = [reason for reason, _ in told(world)[before:] if reason.startswith("Rollout")]
    assert turns[0] == "RolloutStarted"
    assert [each for each in turns if each != "RolloutProgressing"] == [
        "RolloutStarted",
        "RolloutPaused",
        "RolloutHeld",
        "RolloutComplete",
    ]


# Sets that are looked at no more


def test_a_set_that_is_forgotten_meanwhile_is_not_reported_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B1: between looking at a set and reporting on it, it may be forgotten."""
    monkeypatch.setattr("everynode.core.state.DELETED_SETS_MAX", 0)
    world = World()
    world.apply(AGENT)
    world.delete(SET)
    world.read(world.worker)
    assert world.worker.proposals(10) == []
    pass_time(world, 2 * world.limits.horizon_ms)
    assert not world.worker.fleet.sets

    assert world.worker.reports() == []
    assert world.worker.notices() == []


def test_what_was_said_of_a_set_that_is_gone_is_forgotten() -> None:
    """A set made anew that selects everything is told of again; so are the nodes that its rollout skips."""
    empty = structs.replace(AGENT, selector=Selector())
    world = World()
    for _ in range(2):
        world.apply(empty)
        world.decide()
        world.delete(SET)
        world.decide()

    assert [("SelectingAll", 1)] * 2 == told(world)


def test_skipped_nodes_of_a_set_made_anew_are_told_again() -> None:
    """What was told of a set ends with it."""
    strategy = {"unreachable_nodes": "Skip"}
    world = situation(image("v1", 1, **strategy), alike(3), [])
    world.run()
    world.set_node_ready(ONE.key, ready=False)
    world.apply(image("v2", 2, **strategy))
    world.run()
    assert told(world).count(("NodeSkipped", 1)) == 1

    world.delete(SET, cascade="orphan")
    for _ in range(5):
        world.decide()
        while world.queue:
            world.carry_out()
    again = structs.replace(image("v3", 1, **strategy), uid="anew", selector=AGENT.selector)
    world.apply(again)
    for key in list(world.pods):
        world.label_pod(key, {"app": "agent"})
    world.run()

    assert told(world).count(("NodeSkipped", 1)) == 2


# Faults


def broken(world: World, key: SetKey) -> None:
    """Let what the worker knows of a set be what it can never be: nobody can foresee which bug will do this."""
    del world.worker.fleet.sets[key].pods_on


def two_sets() -> World:
    """Make a world with two sets that have something to do."""
    world = situation(AGENT, [ONE], [])
    world.apply(daemonset(name="other"))
    world.read(world.worker)
    return world


def test_a_bug_that_one_set_meets_does_not_stop_the_others() -> None:
    """L3: the others are decided about and reported on; the worker says what went wrong, once."""
    world = two_sets()
    broken(world, SET)

    proposals = world.worker.proposals(10)
    reports = world.worker.reports()

    assert [OTHER] == [proposal.key for proposal in proposals]
    assert [OTHER] == [status.set_key for status in reports]
    faults = world.worker.faults()
    assert [SET] == list(faults)
    assert isinstance(faults[SET], AttributeError)
    assert world.worker.faults() == {}


def test_a_set_is_looked_at_again_after_a_bug() -> None:
    """L1: the next thing that happens to it is another try; what it could not look at it has not observed."""
    world = two_sets()
    whole = world.worker.fleet.sets[SET].pods_on
    broken(world, SET)
    world.worker.proposals(10)
    world.worker.reports()
    world.worker.faults()
    world.worker.fleet.sets[SET].pods_on = whole
    assert world.worker.fleet.sets[SET].decided_generation == 0

    world.put_node(node("node-1"))
    world.read(world.worker)

    assert [SET] == [proposal.key for proposal in world.worker.proposals(10)]
    assert [SET] == [status.set_key for status in world.worker.reports()]
    assert world.worker.faults() == {}


def test_a_bug_in_counting_leaves_what_was_reported() -> None:
    """L3: a set that is decided about but cannot be counted keeps its last report; the others get theirs."""
    world = two_sets()
    world.run()
    before = world.worker.fleet.sets[SET].status
    assert isinstance(before, Status)
    for each in (AGENT, daemonset(name="other")):
        world.apply(structs.replace(each, generation=2, template=daemonset({"a": 1}).template))
    world.read(world.worker)
    world.worker.proposals(10)
    broken(world, SET)
    world.worker.fleet.sets[SET].touched.add(ONE.key)

    reports = world.worker.reports()

    assert [OTHER] == [status.set_key for status in reports]
    assert [SET] == list(world.worker.faults())


# Statuses


@pytest.mark.parametrize("number_ready", [0, 9])
def test_what_another_worker_said_otherwise_is_looked_at_again(number_ready: int) -> None:
    """L1: one's own report that comes back asks for nothing, any other one does."""
    world = situation(AGENT, [ONE], [])
    world.run()
    right = world.worker.fleet.sets[SET].status
    assert right is not None
    assert SET not in world.worker.fleet.dirty

    world.write(StatusReported(status=structs.replace(right, number_ready=number_ready)))
    world.read(world.worker)

    assert SET in world.worker.fleet.dirty
    assert world.worker.proposals(10) == []
    assert [right] == world.worker.reports()


def test_a_log_that_was_read_to_its_end_blocks_nothing() -> None:
    """S6: only a batch that is still on its way in is waited for; sets that wait for none are not looked at again."""
    machine = WorkerMachine("w", 4, World().limits)
    world = two_sets()
    for record in world.log:
        machine.fold(record)
    end = machine.fleet.sequence
    assert [SET, OTHER] == [proposal.key for proposal in machine.proposals(10)]
    machine.accepted(SET, end + 5)
    machine.accepted(OTHER, end - 1)
    machine.fleet.dirty.clear()

    machine.caught_up(end)

    assert machine.fleet.dirty == {SET}
    assert machine.fleet.sets[SET].blocked_until == end


def test_a_set_that_waits_for_its_batch_holds_up_no_other() -> None:
    """L3: sets come in order, but one whose batch is on its way in is passed over."""
    world = two_sets()
    assert [SET, OTHER] == [proposal.key for proposal in world.worker.proposals(10)]
    world.worker.accepted(SET, world.worker.fleet.sequence + 5)
    world.worker.refused(OTHER, None)

    assert [OTHER] == [proposal.key for proposal in world.worker.proposals(10)]
    assert world.worker.fleet.dirty == {SET}


@pytest.mark.parametrize(("ahead", "observed"), [(-1, 2), (0, 2), (1, 1)])
def test_a_generation_is_observed_when_nothing_is_on_its_way(ahead: int, observed: int) -> None:
    """A set that needs no decision has been looked at; one that waits for the rest of a batch has not been yet."""
    world = situation(AGENT, [ONE], [])
    world.run()
    world.apply(structs.replace(AGENT, generation=2, min_ready_seconds=1))
    world.read(world.worker)
    world.worker.accepted(SET, world.worker.fleet.sequence + ahead)

    assert world.worker.proposals(10) == []

    assert observed == world.worker.fleet.sets[SET].decided_generation


def test_a_proposal_on_its_way_keeps_a_worker_from_rest() -> None:
    """L2: until it was answered something may come of it, though there is nothing else to do."""
    world = situation(AGENT, [ONE], [])
    world.read(world.worker)
    assert len(world.worker.proposals(10)) == 1
    assert len(world.worker.reports()) == 1
    assert world.worker.notices()
    assert not world.worker.fleet.dirty

    assert not world.worker.settled
