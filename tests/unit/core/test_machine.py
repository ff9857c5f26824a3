"""The worker as a state machine: whose decision is heard, and what is reported."""

from __future__ import annotations

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod
from everynode.core.decision import Proposal
from everynode.core.events import NodeObserved, PodObserved, StatusReported
from everynode.core.identity import shard_of
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import SetKey, Status
from everynode.errors import StaleError
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, pods_on, situation
from everynode.testing.world import SHARDS, World

ONE = node("node-0")


def proposed(world: World, machine: WorkerMachine | None = None) -> Proposal:
    """Let a worker read the log and return the one thing that it proposes."""
    machine = machine or world.worker
    world.read(machine)
    (proposal,) = machine.proposals(10)
    return proposal


def test_one_proposal_per_set_is_on_its_way() -> None:
    """S6: until it was answered, whatever happens, there is no second one."""
    world = situation(AGENT, alike(3), [])
    proposed(world)
    world.put_node(node("node-9"))
    world.read(world.worker)

    assert world.worker.proposals(10) == []
    assert not world.worker.settled


def test_proposals_come_in_order_and_in_portions() -> None:
    """B1: sets that have something to decide wait for their turn; each has it."""
    world = World()
    for number in (3, 1, 2, 0):
        world.apply(daemonset(name=f"set-{number}"))
    world.read(world.worker)

    found = [[item.key.name for item in world.worker.proposals(3)] for _ in range(3)]

    assert found == [["set-0", "set-1", "set-2"], ["set-3"], []]


def test_a_worker_waits_for_its_own_batch() -> None:
    """S6: after its decision was taken, a worker decides again only when it has read the whole batch."""
    world = situation(AGENT, alike(3), [])
    assert world.offer(world.worker, proposed(world))
    assert world.worker.proposals(10) == []
    assert SET in world.worker.fleet.dirty

    for record in world.log[world.worker.fleet.sequence : -1]:
        world.worker.fold(record)
        assert world.worker.proposals(10) == []
    world.read(world.worker)

    assert world.worker.proposals(10) == []
    assert SET not in world.worker.fleet.dirty


def test_a_worker_waits_for_another_ones_batch() -> None:
    """S6: a decision that was read in part blocks its set until all of it was read."""
    world = situation(AGENT, alike(3), [])
    other = world.new_worker("other")
    proposal = proposed(world, other)
    at = len(world.log) + 1
    world.offer(other, proposal)
    end = len(world.log)
    world.put_node(node("node-9"))

    for record in world.log[: end - 1]:
        world.worker.fold(record)
        if record.sequence >= at:
            assert world.worker.proposals(10) == []
    world.read(world.worker)

    (next_one,) = world.worker.proposals(10)
    assert at == next_one.fence
    assert ["node-9"] == [item.node for item in next_one.others if isinstance(item, CreatePod)]


def test_of_two_workers_one_is_heard() -> None:
    """S6, S1: both decide on the same view; the second is refused, reads on, and has nothing left to do."""
    world = situation(AGENT, [ONE], [])
    second = world.new_worker("second")
    ours, theirs = proposed(world), proposed(world, second)

    assert world.offer(world.worker, ours)
    assert not world.offer(second, theirs)

    assert second.proposals(10) == []
    world.read(second)
    assert second.proposals(10) == []
    assert len(world.queue) == 1


def test_refused_for_a_decision_that_it_has_not_read() -> None:
    """S6: the set waits until the log was read up to the decision that the server named."""
    world = situation(AGENT, [ONE], [])
    proposal = proposed(world)
    ahead = world.worker.fleet.sequence + 2

    world.worker.refused(proposal.key, ahead)

    assert world.worker.proposals(10) == []
    world.worker.fold(Record(ahead - 1, 1, NodeObserved(node=node("node-7"))))
    assert world.worker.proposals(10) == []
    world.worker.fold(Record(ahead, 1, NodeObserved(node=node("node-8"))))
    (again,) = world.worker.proposals(10)
    assert again.fence == 0


def test_refused_for_a_decision_that_it_has_read_past() -> None:
    """S6: a decision that is no longer in what a worker reads is taken as the fence; 0 if the log has none left."""
    world = situation(AGENT, [ONE], [])
    proposal = proposed(world)
    for named in (3, world.worker.fleet.sequence, 0):
        world.worker.refused(proposal.key, named)
        (again,) = world.worker.proposals(10)

        assert named == again.fence
        assert proposal.others == again.others


def test_refused_for_a_decision_before_the_one_it_knew() -> None:
    """S6: a log that names an older decision has lost its end; whoever read that end has to begin anew."""
    world = situation(AGENT, [ONE], [])
    proposal = proposed(world)
    world.worker.refused(proposal.key, 3)
    world.worker.proposals(10)

    with pytest.raises(StaleError, match="was 3: the log lost its end"):
        world.worker.refused(proposal.key, 2)


def test_refused_for_a_decision_that_is_older_by_now() -> None:
    """S6: an answer that comes late does not take a later decision back that was read meanwhile."""
    world = situation(AGENT, [ONE], [])
    proposal = proposed(world)
    world.worker.fleet.sets[SET].fence = 4

    world.worker.refused(proposal.key, 3)

    assert 4 == world.worker.proposals(10)[0].fence


def test_refused_without_a_name() -> None:
    """S6: a worker that was not told why looks again at once; the driver decides how soon that is."""
    world = situation(AGENT, [ONE], [])
    proposal = proposed(world)

    world.worker.refused(proposal.key, None)

    assert [proposal] == world.worker.proposals(10)


def test_answers_about_a_set_that_was_forgotten() -> None:
    """S8: they change nothing."""
    machine = WorkerMachine("w", SHARDS, Limits())
    machine.accepted(SET, 5)
    machine.refused(SET, 5)

    assert machine.proposals(10) == []
    assert machine.settled
    assert machine.due() is None


def test_reading_past_what_concerns_others() -> None:
    """What was not folded on the way counts as read; the place in the log never goes back."""
    machine = WorkerMachine("w", SHARDS, Limits())
    machine.passed(9)
    machine.passed(5)

    assert machine.fleet.sequence == 9


def test_a_worker_that_starts_from_state_decides_as_one_that_was_there() -> None:
    """It has read the last message about each thing and the last minutes of the log."""
    world = situation(AGENT, alike(4), pods_on(ONE, 2))
    fresh = WorkerMachine("first", SHARDS, world.limits)
    for record in world.kept.values():
        fresh.load(record)
    for record in world.log:
        fresh.fold(record)

    assert proposed(world) == fresh.proposals(10)[0]


def test_a_worker_that_has_read_nothing_but_state_decides() -> None:
    """L1: a log of which nothing is left but the last word about each thing is enough to go on from."""
    world = World()
    world.put_node(ONE)
    world.apply(AGENT)
    fresh = WorkerMachine("fresh", SHARDS, world.limits)
    for record in world.kept.values():
        fresh.load(record)

    (proposal,) = fresh.proposals(10)

    assert [ONE.name] == [item.node for item in proposal.others if isinstance(item, CreatePod)]


def test_a_status_is_reported_once() -> None:
    """L2: what has been said is not said again, before and after it was read back."""
    world = situation(AGENT, [ONE], [])
    assert world.offer(world.worker, proposed(world))
    world.read(world.worker)
    world.worker.proposals(10)

    (status,) = world.worker.reports()

    assert status.desired_number_scheduled == 1
    world.worker.fleet.dirty.add(SET)
    assert world.worker.proposals(10) == []
    assert world.worker.reports() == []
    world.write(StatusReported(status=status))
    world.read(world.worker)
    assert SET not in world.worker.fleet.dirty


def test_a_status_that_the_log_has_already_is_not_reported() -> None:
    """L2: a worker that starts says nothing new about sets that have not changed."""
    world = situation(AGENT, [ONE], [])
    world.run()
    fresh = world.new_worker("fresh")
    assert fresh.proposals(10) == []

    assert fresh.reports() == []


def test_a_status_that_could_not_be_written_is_reported_again() -> None:
    """L1: in the end the log says how far the set has come."""
    world = situation(AGENT, [ONE], [])
    world.read(world.worker)
    world.worker.proposals(10)
    (status,) = world.worker.reports()

    world.worker.unreported(status)

    assert not world.worker.settled
    assert [status] == world.worker.reports()


def test_a_slow_workers_status_does_not_stay() -> None:
    """L1: if another worker reports an older state of things, the right one is reported again."""
    world = situation(AGENT, [ONE], [])
    world.run()
    right = world.worker.fleet.sets[SET].status
    assert right is not None
    world.write(StatusReported(status=structs.replace(right, number_ready=0)))

    world.run()

    assert right == world.worker.fleet.sets[SET].status


def test_a_deleted_set_is_not_reported_on() -> None:
    """When the set is gone, so is what was said of it: under its name another one starts anew."""
    world = situation(AGENT, [ONE], [])
    world.run()
    world.delete(SET)
    world.run()
    assert world.worker.reports() == []
    assert world.worker.fleet.sets[SET].status is None

    world.apply(daemonset(uid="second"))
    world.run()

    found = world.worker.fleet.sets[SET].status
    assert isinstance(found, Status)
    assert found.daemonset_uid == "second"


def test_settled_means_nothing_is_left() -> None:
    """L2: something to decide, something on its way or something to report is not settled."""
    world = situation(AGENT, [ONE], [])
    steps = (
        lambda: None,
        lambda: world.read(world.worker),
        lambda: world.worker.proposals(10),
        lambda: world.worker.refused(SET, None),
        world.run,
    )
    settled = []
    for step in steps:
        step()
        settled.append(world.worker.settled)

    assert settled == [True, False, False, False, True]


def test_a_pending_command_is_not_settled() -> None:
    """L2: a command whose effect was not seen keeps a worker waiting, and its expiry is what is due."""
    world = situation(AGENT, [ONE], [])
    world.decide()
    world.worker.proposals(10)
    world.worker.reports()
    assert not world.worker.fleet.dirty

    assert not world.worker.settled
    due = world.worker.due()
    assert due is not None
    assert (SET, world.now_ms + Limits().pending_ms) == (due.set_key, due.time_ms)


def test_the_shard_of_a_set() -> None:
    """Every worker says the same."""
    machine = WorkerMachine("w", 16, Limits())

    assert shard_of(SET, 16) == machine.shard(SET)


def test_pods_without_a_set_are_looked_at_and_left_alone() -> None:
    """L3: a pod whose set is unknown gives no decision and no status."""
    world = World()
    stray = pod(daemonset(name="stray"), ONE)
    world.write(PodObserved(pod=stray))
    world.read(world.worker)

    assert world.worker.proposals(10) == []
    assert world.worker.reports() == []
    assert SetKey("default", "stray") not in world.worker.fleet.dirty
