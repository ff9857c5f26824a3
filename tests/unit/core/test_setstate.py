"""Commands of a set from issue to end: pending, taken effect, failed, expired, tried again."""

from __future__ import annotations

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod, DeletePod, outcome_of
from everynode.core.events import Tick
from everynode.core.pacing import RETRY_FIRST_MS, Limits
from everynode.core.setstate import SetState
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, NOTHING, SET, alike, asked, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
LIMITS = Limits()


def known(world: World) -> SetState:
    """Let the worker read, and return what it knows of the set."""
    world.read(world.worker)
    return world.worker.fleet.refreshed(SET)


def pass_time(world: World, duration_ms: int) -> None:
    """Time passes, and the log says so."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=world.now_ms))
    world.read(world.worker)


def created(world: World) -> CreatePod:
    """Let the worker decide, and return the one create that this gives."""
    assert asked(world).creates == ["node-0"]
    command = world.queue[-1]
    assert isinstance(command, CreatePod)
    return command


def test_a_create_is_pending_until_its_pod_is_observed() -> None:
    """S4: the adapter's word is not enough; the pod must have been seen."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    assert list(known(world).pending) == [command.id]
    assert asked(world) == NOTHING

    world.carry_out()

    state = known(world)
    assert not state.pending
    assert (0, 0) == (state.creates_pending.total(), state.changes_pending.total())
    assert asked(world) == NOTHING


def test_a_create_whose_pod_came_and_went_is_settled() -> None:
    """S4: a pod that has gone again by the time it is looked for was made; the next one has another name."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    world.carry_out()
    world.remove_pod(command.pod_key)

    assert not known(world).pending
    again = created(world)
    assert (command.pod, command.id) != (again.pod, again.id)


def test_a_create_of_which_only_the_end_was_seen_is_settled() -> None:
    """S4: a tombstone that is younger than the command shows that the pod was made; an older one does not."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    made = pod(AGENT, ONE, command.pod)
    world.put_pod(made)
    world.remove_pod(made.key)
    assert not known(world).pending
    assert asked(world).creates == ["node-0"]
    world.queue.clear()
    pass_time(world, 1)

    again = structs.replace(command, id="again")
    world.write(again)
    assert "again" in known(world).pending
    world.pods[made.key] = made
    world.remove_pod(made.key)

    assert "again" not in known(world).pending


@pytest.mark.parametrize("leaves_slowly", [True, False])
def test_a_delete_is_pending_until_the_pod_is_on_its_way_out(leaves_slowly: bool) -> None:
    """S4: seeing the pod leave settles the command; what has left is not deleted again."""
    world = situation(AGENT, [ONE], pods_on(ONE, 2))
    assert asked(world).deletes == [("node-0-1", "Duplicate")]
    assert known(world).changes_pending.total() == 1
    young = pods_on(ONE, 2)[1]

    if leaves_slowly:
        world.put_pod(structs.replace(young, deleting=True))
    else:
        world.remove_pod(young.key)

    assert not known(world).pending
    assert known(world).changes_pending.total() == 0
    assert asked(world) == NOTHING


def test_a_delete_whose_pod_was_replaced_under_its_name_is_settled() -> None:
    """S4: a pod of the same name and another uid shows that the one that was meant has gone."""
    world = situation(AGENT, [ONE], pods_on(ONE, 2))
    asked(world)

    world.put_pod(structs.replace(pods_on(ONE, 2)[1], uid="another"))

    assert not known(world).pending
    assert asked(world).deletes == [("node-0-1", "Duplicate")]
    assert isinstance(world.queue[-1], DeletePod)
    assert world.queue[-1].pod_uid == "another"


def test_a_change_that_is_no_effect_settles_nothing() -> None:
    """S4: a pod that is to go and becomes ready is still to go."""
    world = situation(AGENT, [ONE], pods_on(ONE, 2))
    asked(world)

    world.put_pod(structs.replace(pods_on(ONE, 2)[1], ready=False))

    assert known(world).changes_pending.total() == 1
    assert asked(world) == NOTHING


def test_several_commands_on_a_node_settle_one_by_one() -> None:
    """S4: a node is busy until the last of its commands has ended."""
    world = situation(AGENT, [ONE], pods_on(ONE, 3))
    assert len(asked(world).deletes) == 2

    world.carry_out()
    assert known(world).coverage.busy
    world.carry_out()

    assert not known(world).coverage.busy
    assert not known(world).pending_on


def test_a_failed_create_is_tried_again_under_the_same_name_and_another_id() -> None:
    """S1, S4: the wait doubles with each failure; the pod's name stays, so that a create that did work is met."""
    world = situation(AGENT, [ONE], [])
    seen, waits = [], []
    for _ in range(9):
        seen.append(created(world))
        assert [0] == list(known(world).coverage.busy)
        world.carry_out(works=False)
        assert asked(world) == NOTHING
        assert ([], [0]) == (list(known(world).coverage.busy), list(known(world).coverage.cooling))
        due = world.worker.due()
        assert due is not None
        waits.append(due.time_ms - world.now_ms)
        pass_time(world, waits[-1] - 1)
        assert asked(world) == NOTHING
        pass_time(world, 1)

    assert [1, 2, 4, 8, 16, 32, 64, 120, 120] == [wait // 1_000 for wait in waits]
    assert len({command.id for command in seen}) == 9
    assert len({command.pod for command in seen}) == 1
    assert [command.attempt for command in seen] == list(range(9))


def test_a_failed_delete_is_tried_again_under_another_id() -> None:
    """S4, L1: a pod that could not be deleted is tried again after the wait."""
    world = situation(AGENT, [ONE], pods_on(ONE, 2))
    asked(world)
    (first,) = world.queue
    world.carry_out(works=False)
    assert asked(world) == NOTHING

    pass_time(world, RETRY_FIRST_MS)

    assert asked(world).deletes == [("node-0-1", "Duplicate")]
    assert first.id != world.queue[0].id


def test_a_new_generation_does_not_wait_for_an_old_failure() -> None:
    """A change of the set may be the cure: it is tried at once."""
    world = situation(AGENT, [ONE], [])
    created(world)
    world.carry_out(works=False)
    assert asked(world) == NOTHING

    world.apply(daemonset({"image": "v2"}, generation=2))

    assert created(world).attempt == 0


def test_a_late_outcome_is_no_news() -> None:
    """S4: when the pod has been seen, a failure that is reported later changes nothing."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    world.put_pod(pod(AGENT, ONE, command.pod))

    world.carry_out(works=False)

    assert not known(world).cooling_nodes
    assert asked(world) == NOTHING


def test_a_command_heard_again_after_its_failure_is_not_pending_again() -> None:
    """S4: a message that comes twice does not bring back what has ended; issued anew it would."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    (record,) = (item for item in world.log if item.message == command)
    world.carry_out(works=False)
    assert not known(world).pending

    world.worker.fold(record)
    assert not known(world).pending
    world.write(command)

    assert list(known(world).pending) == [command.id]


def test_the_latest_command_decides_how_long_a_node_is_left_alone() -> None:
    """Of two failures on a node the later command counts, in whatever order they are heard of."""
    waits = []
    for order in ((0, 1), (1, 0)):
        world = situation(AGENT, [ONE], pods_on(ONE, 3))
        asked(world)
        queue = list(world.queue)
        for position in order:
            world.queue = [queue[position]]
            world.carry_out(works=False)
        waits.append(known(world).cooling_nodes[ONE.key])

    assert waits[0] == waits[1]


def test_a_command_that_is_not_heard_of_expires() -> None:
    """S4, L1: after its time the command is not pending any more, and the node is looked at afresh after a wait."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    pass_time(world, LIMITS.pending_ms - 1)
    assert asked(world) == NOTHING
    assert list(known(world).pending) == [command.id]

    pass_time(world, 1)
    assert not known(world).pending
    assert asked(world) == NOTHING

    pass_time(world, RETRY_FIRST_MS)
    again = created(world)
    assert command.pod == again.pod
    assert command.id != again.id


def test_a_command_expires_at_its_own_time() -> None:
    """S4: one that was issued again is not ended by the time at which it would have expired the first time."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    world.carry_out(works=False)
    world.write(structs.replace(command, expires_ms=command.expires_ms + 9))

    pass_time(world, LIMITS.pending_ms)
    assert list(known(world).pending) == [command.id]
    pass_time(world, 9)

    assert not known(world).pending


def test_one_node_that_never_answers_does_not_starve_the_others() -> None:
    """L3: a create that nobody answers is put behind the others when it has expired."""
    world = World()
    for item in alike(5):
        world.put_node(item)
    world.apply(AGENT)
    for _ in range(20):
        world.decide()
        world.queue = [command for command in world.queue if command.node != "node-0"]
        while world.queue:
            world.carry_out()
        world.read(world.worker)
        due = world.worker.due()
        if due is not None and not world.worker.fleet.dirty:
            pass_time(world, due.time_ms - world.now_ms)

    assert {f"node-{number}" for number in range(1, 5)} == {
        item.node for item in world.pods.values()
    }


def test_an_expired_command_is_known_to_a_worker_that_starts_later() -> None:
    """A worker that starts from STATE and the horizon of the log decides as one that was there."""
    world = situation(AGENT, [ONE], [])
    created(world)
    pass_time(world, LIMITS.pending_ms - 1)
    world.carry_out(works=False)
    pass_time(world, LIMITS.horizon_ms - LIMITS.pending_ms + 1)
    fresh = world.new_worker("fresh")

    ours, theirs = world.worker.proposals(1), fresh.proposals(1)

    assert [item.others for item in ours] == [item.others for item in theirs]
    assert [1] == [item.attempt for item in ours[0].others if isinstance(item, CreatePod)]


def test_a_failure_is_forgotten_with_the_command_that_it_belongs_to() -> None:
    """B1: after the horizon nobody knows of it, whether it was there or not."""
    world = situation(AGENT, [ONE], [])
    created(world)
    world.carry_out(works=False)
    pass_time(world, LIMITS.horizon_ms + 1)

    state = known(world)
    assert (not state.cooling_nodes, not state.failures) == (True, True)
    assert created(world).attempt == 0


def test_an_older_failure_does_not_take_a_newer_one_along() -> None:
    """B1: of two failures on a node, forgetting the first leaves the second."""
    world = situation(AGENT, [ONE], [])
    created(world)
    world.carry_out(works=False)
    pass_time(world, LIMITS.horizon_ms - 10)
    created(world)
    world.carry_out(works=False)

    pass_time(world, 11)

    assert known(world).cooling_on(ONE.key) is not None
    assert len(known(world).failures) == 1


def test_the_same_command_issued_and_failed_again_is_remembered_anew() -> None:
    """B1: the first failure's age does not end the second one's memory."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    world.carry_out(works=False)
    pass_time(world, LIMITS.horizon_ms - 10)
    world.write(structs.replace(command, expires_ms=world.now_ms + 1_000))
    world.queue = [command]
    world.carry_out(works=False)

    pass_time(world, 11)

    assert list(known(world).failures) == [command.id]


def test_failures_on_a_node_of_commands_that_are_forgotten_leave_the_latest() -> None:
    """B1: a node with two failed deletes is left alone for the later one, and both are forgotten."""
    world = situation(AGENT, [ONE], pods_on(ONE, 3))
    asked(world)
    while world.queue:
        world.carry_out(works=False)
    assert (2, 1) == (len(known(world).failures), len(known(world).cooling_nodes))

    pass_time(world, LIMITS.horizon_ms + 1)

    assert (0, 0) == (len(known(world).failures), len(known(world).cooling_nodes))


def test_a_node_that_comes_back_finds_its_pending_command() -> None:
    """S1: a command for a node that has left and returned is still pending: nothing is made twice."""
    world = situation(AGENT, [ONE], [])
    command = created(world)
    world.remove_node(ONE.key)
    assert asked(world) == NOTHING

    world.put_node(ONE)

    assert asked(world) == NOTHING
    assert list(known(world).pending) == [command.id]


def test_the_name_of_what_was_replaced_long_ago_is_free() -> None:
    """How long a replaced pod's identity is part of the next name depends on the log alone."""
    world = situation(AGENT, [ONE], [])
    first = created(world)
    world.carry_out()
    world.remove_pod(first.pod_key)
    pass_time(world, LIMITS.horizon_ms + 1)

    assert created(world).pod == first.pod


def test_the_last_pod_that_went_is_the_one_that_is_replaced() -> None:
    """The next pod's name follows from the last tombstone in the log, in whatever order they are heard of."""
    names = []
    for order in ((0, 1), (1, 0)):
        world = situation(AGENT, [ONE], pods_on(ONE, 2))
        world.read(world.worker)
        world.remove_pod(pods_on(ONE, 2)[0].key)
        world.remove_pod(pods_on(ONE, 2)[1].key)
        late = world.log[-2:]
        for position in order:
            world.worker.fold(late[position])
        assert {"uid-node-0-1"} == {item.uid for item in known(world).last_gone_on.values()}
        names.append(created(world).pod)
        pass_time(world, LIMITS.horizon_ms + 1)
        assert not known(world).last_gone_on

    assert names[0] == names[1]


def test_a_create_that_is_done_waits_for_its_pod() -> None:
    """S4: "done" without a pod in sight settles nothing and cools nothing."""
    world = situation(AGENT, [ONE], [])
    command = created(world)

    world.write(outcome_of(command, "done", pod_uid="somewhere"))

    assert list(known(world).pending) == [command.id]
    assert not known(world).cooling_nodes


def test_a_node_that_joins_means_nothing_to_a_deleted_set() -> None:
    """L1: what a deleted set has left is deleted; new nodes get nothing of it."""
    world = situation(AGENT, [ONE], pods_on(ONE, 1))
    asked(world)
    world.delete(SET)
    assert asked(world).deletes == [("node-0-0", "SetDeleted")]

    world.put_node(node("node-1"))

    assert asked(world) == NOTHING
    assert not known(world).coverage.eligible


def test_nothing_is_empty_that_has_something() -> None:
    """A set without anything is empty; one of each kind of thing makes it count."""
    assert SetState(SET).empty
    world = situation(AGENT, [ONE], [])
    assert not known(world).empty
    world.delete(SET)
    assert known(world).empty
