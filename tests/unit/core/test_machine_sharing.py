"""A worker machine that knows more sets than it decides for."""

from __future__ import annotations

from everynode.core.commands import CreatePod, Outcome, outcome_of
from everynode.core.events import StatusReported
from everynode.core.identity import shard_of
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import SetKey
from everynode.testing.builders import daemonset, node
from everynode.testing.world import SHARDS, World

MINE = SetKey("default", "set-0")
EVERYTHING = frozenset(range(SHARDS))


def of(key: SetKey) -> frozenset[int]:
    """The shard of a set."""
    return frozenset({shard_of(key, SHARDS)})


def world_of_sets(count: int = 6) -> World:
    """A fleet with one node and some sets, of which nothing was decided yet."""
    world = World()
    world.put_node(node("node-0"))
    for number in range(count):
        world.apply(daemonset(name=f"set-{number}"))
    world.read(world.worker)
    return world


def names(machine: WorkerMachine) -> list[str]:
    """The sets that a machine proposes something for."""
    return [proposal.key.name for proposal in machine.proposals(100)]


def test_it_decides_only_for_what_it_owns() -> None:
    """Each set is decided for by the owner of its shard, and by nobody else."""
    world = world_of_sets()
    other = world.new_worker("other")
    world.worker.own(of(MINE))
    other.own(EVERYTHING - of(MINE))

    ours, theirs = names(world.worker), names(other)

    assert "set-0" in ours
    assert [f"set-{number}" for number in range(6)] == sorted(ours + theirs)


def test_who_owns_nothing_is_silent() -> None:
    """L2: it reads everything and neither decides, reports nor asks for the time."""
    world = world_of_sets()
    machine = world.worker
    machine.own(frozenset())

    assert ([], [], []) == (machine.proposals(100), machine.reports(), machine.notices())
    assert machine.settled
    assert frozenset() == machine.engaged


def test_what_is_gained_is_looked_at_afresh() -> None:
    """L1: whatever has happened to a set while it was another worker's."""
    world = world_of_sets()
    machine = world.worker
    machine.own(frozenset())
    assert [] == names(machine)

    machine.own(of(MINE))

    assert not machine.settled
    assert "set-0" in names(machine)


def test_what_is_lost_is_let_go_of_when_nothing_is_on_its_way() -> None:
    """Others are told that it is still engaged until the log has answered."""
    world = world_of_sets(1)
    machine = world.worker
    (proposal,) = machine.proposals(10)
    machine.own(frozenset())
    assert of(MINE) == machine.engaged

    assert world.offer(machine, proposal)

    assert frozenset() == machine.engaged
    world.read(machine)
    assert ([], []) == (machine.proposals(10), machine.reports())


def test_a_status_of_a_lost_set_is_not_reported() -> None:
    """One that waited to be reported, or could not be written, is the next owner's to report."""
    world = world_of_sets(1)
    machine = world.worker
    machine.proposals(10)
    (status,) = machine.reports()
    machine.unreported(status)

    machine.own(frozenset())
    assert [] == machine.reports()
    machine.unreported(status)
    assert [] == machine.reports()


def test_a_status_is_compared_with_the_log_after_a_return() -> None:
    """What it reported before it lost the set is forgotten: another worker may have said something since."""
    world = world_of_sets(1)
    machine = world.worker
    machine.proposals(10)
    (status,) = machine.reports()
    machine.refused(MINE, None)
    machine.own(frozenset())
    machine.own(EVERYTHING)
    machine.proposals(10)

    assert [status] == machine.reports()


def test_time_is_told_by_the_owner() -> None:
    """What is due first is another worker's: that one says so, and then it is due no longer."""
    world = world_of_sets(1)
    machine = world.worker
    (proposal,) = machine.proposals(10)
    world.offer(machine, proposal)
    world.read(machine)
    assert machine.due() is not None

    machine.own(EVERYTHING - of(MINE))

    assert machine.due() is None


def create_in(machine: WorkerMachine, world: World) -> CreatePod:
    """Let a machine decide for its only set; return the first create."""
    (proposal,) = machine.proposals(10)
    world.offer(machine, proposal)
    return next(command for command in proposal.commands if isinstance(command, CreatePod))


def test_a_successor_tells_people_what_became_of_it() -> None:
    """Of a command's outcome people are told once, by the one of two machines of a worker that hears it first."""
    world = world_of_sets(1)
    before = world.worker
    create = create_in(before, world)
    after = WorkerMachine(before.name, SHARDS, Limits(), before)
    record = world.write(outcome_of(create, "refused", "no"))
    assert isinstance(record.message, Outcome)

    after.fold(record)
    before.fold(record)

    assert ["FailedCreate"] == [notice.reason for notice in after.notices()]
    assert [] == before.notices()


def test_a_status_by_somebody_else_of_a_set_that_is_not_ours() -> None:
    """It is taken in, and nothing is said against it."""
    world = world_of_sets(1)
    machine = world.worker
    machine.proposals(10)
    (status,) = machine.reports()
    machine.own(frozenset())

    machine.fold(Record(len(world.log) + 1, 1_000, StatusReported(status=status)))

    assert status == machine.fleet.sets[MINE].status
    assert ([], []) == (machine.proposals(10), machine.reports())
