"""What one decision holds: records, limits, pace, and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import COMMANDS, Counts, CreatePod, DeletePod, ReasonCount
from everynode.core.decision import (
    _create,
    left_alone,
    propose,
    selects_everything,
    unwanted,
)
from everynode.core.events import RevisionGone, RevisionRecorded, Tick
from everynode.core.pacing import RECORDS_MAX, Limits
from everynode.core.values import Node, Pod, Requirement, Selector, UpdateStrategy
from everynode.errors import InvariantError
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import (
    AGENT,
    NOTHING,
    SET,
    Asked,
    alike,
    asked,
    pods_on,
    situation,
)
from everynode.testing.world import World

ONE = node("node-0")
ZONED = {"nodeSelector": {"zone": "a"}}
TOLERANT = {"tolerations": [{"key": "k", "operator": "Exists"}]}


# Deleted sets


def test_a_deleted_set_takes_its_pods_and_then_its_records_along() -> None:
    """L1, L2: pods first; when they are gone, revisions and status; then nothing is left to say."""
    world = situation(AGENT, alike(3), [])
    world.run()
    world.delete(SET)

    assert {reason for _, reason in asked(world).deletes} == {"SetDeleted"}
    while world.queue:
        world.carry_out()
    (proposal,) = world.decide()
    kinds = [type(message).__name__ for message in proposal.others]
    assert kinds == ["RevisionGone", "StatusGone"]
    assert ("uid-agent", 0) == (proposal.decision.daemonset_uid, proposal.decision.generation)
    assert asked(world) == NOTHING
    assert not world.pods


def test_records_stay_while_a_pod_is_on_its_way_out() -> None:
    """A pod that has not left yet may still be asked about: its template stays on record."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (running,) = world.pods.values()
    world.put_pod(structs.replace(running, deleting=True))
    world.delete(SET)

    assert world.decide() == []

    world.remove_pod(running.key)
    assert len(world.decide()) == 1


def test_an_orphaning_delete_leaves_the_pods() -> None:
    """The pods are released, then the records go; the pods stay, unmanaged."""
    world = situation(AGENT, alike(2), [])
    world.run()
    world.delete(SET, cascade="orphan")

    (releases,) = world.decide()
    while world.queue:
        world.carry_out()
    (records,) = world.decide()

    assert ["ReleasePod"] * 2 == [type(message).__name__ for message in releases.others]
    assert {type(message).__name__ for message in records.others} == {"RevisionGone", "StatusGone"}
    assert asked(world) == NOTHING
    assert [None, None] == [pod.owner for pod in world.pods.values()]


def test_a_set_deleted_before_anything_was_done_needs_nothing() -> None:
    """L2: no pods, no records, no decision."""
    world = situation(AGENT, [], [])
    world.delete(SET)

    assert asked(world) == NOTHING


def test_pods_of_a_set_that_was_never_heard_of_are_left_alone() -> None:
    """Without a set and without its tombstone nobody has asked for anything."""
    world = situation(None, [ONE], pods_on(ONE, 3))

    assert asked(world) == NOTHING


def test_a_set_made_anew_under_its_name_starts_clean() -> None:
    """S1: the new set's pod and the old set's pod are told apart by the set's uid; the old one goes."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (old,) = world.pods.values()
    world.delete(SET)
    world.apply(daemonset(uid="second"))

    assert asked(world) == Asked(["node-0"], [(old.name, "OwnerReplaced")])
    world.run()
    assert [running.owner and running.owner.uid for running in world.pods.values()] == ["second"]


def test_more_revisions_than_a_batch_holds_go_in_turn() -> None:
    """B1: records of a deleted set are removed a batch at a time."""
    world = World()
    world.apply(AGENT)
    world.decide()
    (record,) = (item.message for item in world.log if isinstance(item.message, RevisionRecorded))
    for number in range(1_500):
        changed = structs.replace(record.revision, hash=f"hash-{number:04}", number=number + 2)
        world.write(RevisionRecorded(revision=changed))
    world.delete(SET)

    sizes = [proposal.decision.size for _ in range(4) for proposal in world.decide()]

    assert sizes == [RECORDS_MAX] + 3 * [RECORDS_MAX - 1]


def test_the_history_of_a_set_that_is_made_anew_is_not_the_former_ones() -> None:
    """L2: a backend tells of a set's history before the set; it waits on record until the set is heard of."""
    world = situation(AGENT, [], [])
    world.run()
    (first,) = (item.message for item in world.log if isinstance(item.message, RevisionRecorded))
    anew = structs.replace(AGENT, uid="uid-anew")
    world.delete(SET)
    world.decide()
    for number in (7, 8):
        kept = structs.replace(first.revision, hash=f"hash-{number}", number=number)
        world.write(RevisionRecorded(revision=structs.replace(kept, daemonset_uid=anew.uid)))
    late = structs.replace(first.revision, hash="hash-late", number=2)
    world.write(RevisionRecorded(revision=late))  # of the one that went, by a worker that was late

    (proposal,) = world.decide()
    assert ["hash-late"] == [
        each.hash for each in proposal.others if isinstance(each, RevisionGone)
    ]
    assert world.decide() == []

    world.apply(anew)
    (proposal,) = world.decide()
    recorded = [each for each in proposal.others if isinstance(each, RevisionRecorded)]
    assert [9] == [each.revision.number for each in recorded]


# Sets that are left alone


@pytest.mark.parametrize(
    ("changes", "everything"),
    [
        ({"selector": Selector()}, True),
        ({"selector": Selector(match_labels={"app": "agent"})}, False),
        (
            {"selector": Selector(match_expressions=(Requirement(key="a", operator="Exists"),))},
            False,
        ),
    ],
)
def test_which_selector_selects_everything(changes: dict[str, Any], everything: bool) -> None:
    """S1: only the empty one does, and a set that has it is left alone, as is one that is being deleted."""
    wanted = structs.replace(AGENT, **changes)

    assert (everything, everything) == (selects_everything(wanted), left_alone(wanted))
    assert left_alone(structs.replace(wanted, deleting=True))


# How much at once


@pytest.mark.parametrize(("limits", "wanted"), [(Limits(), 250), (Limits(creates_max=7), 7)])
def test_creates_have_a_limit(limits: Limits, wanted: int) -> None:
    """B1: no more creates are pending for a set than its limit; the rest follow as they settle."""
    world = situation(AGENT, alike(400), [], limits)

    assert len(asked(world).creates) == wanted
    assert asked(world) == NOTHING
    for _ in range(3):
        world.carry_out()
    assert len(asked(world).creates) == 3


@pytest.mark.parametrize(("limits", "wanted"), [(Limits(), 250), (Limits(changes_max=7), 7)])
def test_deletes_have_a_limit(limits: Limits, wanted: int) -> None:
    """B1: no more deletes are pending for a set than its limit; the rest follow as they settle."""
    nodes = alike(300)
    pods = [running for on in nodes for running in pods_on(on, 1)]
    world = situation(daemonset(ZONED), nodes, pods, limits)

    assert len(asked(world).deletes) == wanted
    assert asked(world) == NOTHING
    for _ in range(3):
        world.carry_out()
    assert len(asked(world).deletes) == 3


def test_a_node_with_more_duplicates_than_fit_is_finished_later() -> None:
    """B1: the limit is on commands, not on nodes."""
    world = situation(AGENT, [ONE], pods_on(ONE, 6), Limits(changes_max=2))
    found = []
    for _ in range(3):
        found.append(len(asked(world).deletes))
        while world.queue:
            world.carry_out()

    assert found == [2, 2, 1]
    assert [running.name for running in world.pods.values()] == ["node-0-0"]


def test_creates_start_slowly() -> None:
    """One create, then twice as many with each round that goes well."""
    world = World()
    world.apply(AGENT)
    for item in alike(100):
        world.put_node(item)
    sizes = []
    while len(world.pods) < 100:
        sizes.append(len(asked(world).creates))
        while world.queue:
            world.carry_out()

    assert sizes == [1, 2, 4, 8, 16, 32, 37]


def test_a_failure_slows_down_and_the_others_go_on() -> None:
    """L3: one node whose create fails is left alone; the others are served, slowly at first."""
    world = situation(AGENT, alike(30), [])
    assert len(asked(world).creates) == 30
    while world.queue:
        world.carry_out(works=world.queue[0].node == "node-5")
    found = asked(world)
    assert len(found.creates) == 0  # every node is cooling, or has its pod

    world.now_ms += 1_000
    world.write(Tick(shard=0, due_ms=0))

    assert asked(world).creates == ["node-0"]


# What a decision says


def test_a_decision_says_what_it_saw_and_why() -> None:
    """Counts and reasons are those of the moment; a decision is the first message of its batch."""
    world = situation(
        AGENT,
        alike(4),
        [*pods_on(alike(4)[0], 2), *pods_on(alike(4)[1], 1), *pods_on(node("node-9"), 1)],
    )
    world.put_node(node("node-9"))
    world.remove_node(node("node-9").key)
    world.read(world.worker)
    before = len(world.log)

    (proposal,) = world.worker.proposals(10)

    decision = proposal.decision
    assert ("first", before, world.now_ms) == (decision.worker, decision.basis, decision.at_ms)
    assert (SET, 0) == (proposal.key, proposal.fence)
    assert decision.counts == Counts(
        eligible=4, occupied=2, missing=2, surplus=2, unavailable=2, updated=2, creates=2, deletes=2
    )
    assert decision.reasons == (
        ReasonCount(reason="Duplicate", count=1),
        ReasonCount(reason="NodeGone", count=1),
        ReasonCount(reason="NodeHasNoPod", count=2),
    )
    assert decision.size == len(proposal.others) == 5
    assert isinstance(proposal.others[0], RevisionRecorded)
    commands = [item for item in proposal.others if isinstance(item, CreatePod | DeletePod)]
    assert [item.node for item in commands] == ["node-0", "node-2", "node-3", "node-9"]
    assert {item.expires_ms for item in commands} == {world.now_ms + Limits().pending_ms}
    assert {item.generation for item in commands} == {1}


def test_the_template_is_recorded_once() -> None:
    """A revision is written before pods are made from it, once; one that is returned to gets the next number."""
    world = situation(AGENT, [], [])
    world.run()
    changed = daemonset({"image": "v2"}, generation=2)
    world.apply(changed)
    world.run()
    world.apply(structs.replace(AGENT, generation=3))
    world.run()

    recorded = [item.message for item in world.log if isinstance(item.message, RevisionRecorded)]

    assert [message.revision.number for message in recorded] == [1, 2, 3]
    assert [message.revision.template for message in recorded] == [
        AGENT.template,
        changed.template,
        AGENT.template,
    ]
    assert len({message.revision.hash for message in recorded}) == 2


def test_a_changed_template_does_not_replace_pods_by_itself() -> None:
    """OnDelete: what runs stays; what is made next is of the new revision."""
    world = situation(AGENT, alike(2), [])
    world.run()
    world.apply(daemonset({"image": "v2"}, generation=2))
    assert asked(world) == NOTHING

    world.remove_pod(next(iter(world.pods)))
    world.run()

    assert len({running.revision for running in world.pods.values()}) == 2


def test_nothing_may_be_made_for_a_set_that_is_not_wanted() -> None:
    """S5: asking for it is a bug, and says so."""
    world = situation(None, [ONE], pods_on(ONE, 1))
    world.read(world.worker)
    fleet_state = world.worker.fleet

    with pytest.raises(InvariantError, match="default/agent is not wanted"):
        _create(fleet_state, fleet_state.refreshed(SET), ONE, "", "")


def test_unwanted_pods_of_a_node_without_pods() -> None:
    """A node without pods has nothing to delete."""
    world = situation(AGENT, [ONE], [])
    world.read(world.worker)
    fleet_state = world.worker.fleet

    assert unwanted(fleet_state, fleet_state.refreshed(SET), ONE.key) == []


def _relabel(world: World) -> None:
    world.put_node(node("node-0", arch="x"))


def _heartbeat(world: World) -> None:
    world.put_node(node("node-0", ready=False))


def _other_pod_leaves(world: World) -> None:
    foreign = pod(daemonset(name="other"), ONE, "foreign")
    world.put_pod(foreign)
    world.remove_pod(foreign.key)


@pytest.mark.parametrize("happens", [_relabel, _heartbeat, _other_pod_leaves])
def test_what_does_not_concern_a_set_is_not_looked_at(happens: Callable[[World], None]) -> None:
    """L2: labels that it does not mention, heartbeats and other sets' pods do not wake a set up."""
    world = situation(daemonset(ZONED | {"nodeName": "node-0"}), [ONE], [])
    world.run()

    happens(world)
    world.read(world.worker)

    assert SET not in world.worker.fleet.dirty


def test_an_unwanted_pod_is_named_by_its_owner() -> None:
    """A delete goes to the pod's owner of record, with the pod's uid as its precondition."""
    earlier = daemonset(uid="earlier")
    world = situation(AGENT, [ONE], [pod(earlier, ONE, "old")])
    world.decide()

    (delete,) = (item for item in world.queue if isinstance(item, DeletePod))

    assert ("earlier", "uid-old") == (delete.daemonset_uid, delete.pod_uid)


def test_proposing_changes_nothing() -> None:
    """S6: a proposal counts when it comes back on the log; until then the same is proposed."""
    world = situation(AGENT, alike(3), pods_on(ONE, 2))
    world.read(world.worker)

    assert propose(world.worker.fleet, SET, "w") == propose(world.worker.fleet, SET, "w")


# Whose turn it is


@pytest.mark.parametrize(
    "has",
    [
        pytest.param(lambda on: pods_on(on, 0), id="missing"),
        pytest.param(lambda on: pods_on(on, 2), id="surplus"),
        pytest.param(lambda on: pods_on(on, 1, revision="old"), id="to be replaced"),
        pytest.param(lambda on: pods_on(on, 1, revision="old", ready=False), id="down"),
    ],
)
@pytest.mark.parametrize("changed", [True, False])
def test_a_node_with_the_id_of_another_has_its_own_turn(
    has: Callable[[Node], list[Pod]], changed: bool
) -> None:
    """L3: the first node by name comes first, whatever was there under its id, and whether the set changed too."""
    wanted = structs.replace(AGENT, update_strategy=UpdateStrategy(type="RollingUpdate"))
    nodes = [node(name) for name in ("b", "c", "d")]
    pods = [found for on in nodes for found in has(on)]
    world = situation(wanted, nodes, pods, Limits(creates_max=1, changes_max=1))

    def first() -> str:
        world.read(world.worker)
        proposal = propose(world.worker.fleet, SET, "w")
        assert proposal is not None
        (command,) = (item for item in proposal.others if isinstance(item, COMMANDS))
        return command.node

    assert first() == "b"
    node_id = world.worker.fleet.index.ids[node("b").key]
    world.remove_node(node("b").key)
    for found in has(node("b")):
        world.remove_pod(found.key)
    world.put_node(node("a"))
    for found in has(node("a")):
        world.put_pod(found)
    if changed:
        world.apply(structs.replace(wanted, generation=2))

    assert first() == "a"
    assert node_id == world.worker.fleet.index.ids[node("a").key]


def test_a_set_whose_commands_are_on_their_way_in_is_not_looked_at() -> None:
    """L2: nothing can be decided, so what was touched is left for when something can."""
    world = situation(AGENT, alike(3), [])
    world.read(world.worker)
    fleet = world.worker.fleet
    state = fleet.sets[SET]
    world.put_pod(pod(AGENT, ONE))
    world.read(world.worker)
    assert state.touched
    state.blocked_until = fleet.sequence + 1

    assert propose(fleet, SET, "worker") is None

    assert state.touched
