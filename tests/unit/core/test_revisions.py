"""The history of a set's template: what is recorded, in which order, and what is let go of."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode.core.events import RevisionGone, RevisionRecorded, Tick
from everynode.core.identity import revision_hash
from everynode.core.pacing import RECORDS_MAX
from everynode.core.revisions import REVISIONS_REMOVED_MAX, to_forget, to_record
from everynode.core.setstate import SetState
from everynode.core.values import DaemonSet, NodeKey, Revision, Selector, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod, taint
from everynode.testing.situations import SET, alike, asked, situation, warmed
from everynode.testing.world import World

ROLLING = UpdateStrategy(type="RollingUpdate")


def version(number: int, limit: int = 10, **strategy: Any) -> DaemonSet:
    """Make one version of a set: its template and generation follow from the number."""
    wanted = daemonset(
        {"version": number},
        generation=number,
        update_strategy=structs.replace(ROLLING, **strategy),
    )
    return structs.replace(wanted, revision_history_limit=limit)


def hash_of(number: int) -> str:
    """Return the revision of a version."""
    return revision_hash(version(number).template)


def known(world: World) -> SetState:
    """Let the worker read, and return what it knows of the set."""
    world.read(world.worker)
    return world.worker.fleet.sets[SET]


def recorded(name: str, number: int, owner_uid: str = "uid-agent") -> RevisionRecorded:
    """A revision is on record."""
    return RevisionRecorded(
        revision=Revision(
            namespace=SET.namespace,
            daemonset=SET.name,
            daemonset_uid=owner_uid,
            hash=name,
            number=number,
            template=msgspec.Raw(b"{}"),
            created_ms=7,
            change_cause="because",
        )
    )


def history(limit: int, numbers: list[int], **strategy: Any) -> World:
    """Make a world where revisions of these numbers are on record beside the wanted one, which is the latest."""
    world = situation(version(1, limit, **strategy), [], [])
    for number in numbers:
        world.write(recorded(f"r{number}", number))
    world.write(recorded(hash_of(1), max(numbers, default=0) + 1))
    return world


def forgotten(state: SetState, in_use: set[str] | None = None) -> list[str]:
    """Name the revisions that are let go of."""
    return [message.hash for message in to_forget(state, in_use or ())]


# What is recorded


def test_the_first_template_is_revision_1() -> None:
    """What is recorded says whose template it is, when it came and why."""
    wanted = structs.replace(version(1), annotations={"kubernetes.io/change-cause": "rollout"})
    world = situation(wanted, [], [])

    assert to_record(known(world), 5_000) == RevisionRecorded(
        revision=Revision(
            namespace="default",
            daemonset="agent",
            daemonset_uid="uid-agent",
            hash=hash_of(1),
            number=1,
            template=wanted.template,
            created_ms=5_000,
            change_cause="rollout",
        )
    )


def test_the_next_template_gets_the_next_number() -> None:
    """Numbers count up from the highest there is, and nobody who gave no reason is given one."""
    world = situation(version(1), [], [])
    for name, number in (("zz", 2), ("a", 9), ("z", 5)):
        world.write(recorded(name, number))

    found = to_record(known(world), 0)

    assert found is not None
    assert (10, "") == (found.revision.number, found.revision.change_cause)


def test_the_latest_template_is_not_recorded_again() -> None:
    """L2: what is on record with the highest number needs nothing."""
    world = history(10, [1, 2, 8])

    assert to_record(known(world), 0) is None


def test_a_template_that_was_returned_to_gets_the_next_number() -> None:
    """A rollback keeps when and why the revision was first made, and belongs to the set as it is now."""
    world = situation(version(1), [], [])
    world.write(recorded(hash_of(1), 3, "earlier"))
    world.write(recorded("later", 4))

    found = to_record(known(world), 99)

    again = recorded(hash_of(1), 5).revision
    assert RevisionRecorded(revision=again) == found


@pytest.mark.parametrize("other", ["0", "z"])
def test_of_two_revisions_of_one_number_the_wanted_one_ends_up_last(other: str) -> None:
    """L2: two workers that recorded different templates under one number are no reason to record for ever."""
    world = situation(version(1), [], [])
    world.write(recorded(hash_of(1), 1))
    world.write(recorded(other, 1))

    for _ in range(3):
        world.decide()

    numbers = {name: item.number for name, item in known(world).revisions.items()}
    assert {other: 1, hash_of(1): 2 if other == "z" else 1} == numbers


def test_nothing_is_recorded_for_a_set_that_is_not_wanted() -> None:
    """A deleted set has no template; what it had goes with it."""
    world = history(0, [1])
    world.delete(SET)
    state = known(world)

    assert to_record(state, 0) is None
    assert [] == to_forget(state)


# What is let go of


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (0, ["r1", "r2", "r9", "r10"]),
        (1, ["r1", "r2", "r9"]),
        (3, ["r1"]),
        (4, []),
        (10, []),
    ],
)
def test_the_oldest_revisions_go_first(limit: int, wanted: list[str]) -> None:
    """B1: as many old ones stay as the history limit says, the latest; the wanted one does not count."""
    assert wanted == forgotten(known(history(limit, [10, 1, 9, 2])))


def test_a_revision_goes_with_its_name_and_the_reason() -> None:
    """The tombstone says which set's revision it was, and why it went."""
    assert to_forget(known(history(0, [1]))) == [
        RevisionGone(namespace="default", daemonset="agent", hash="r1", why="HistoryLimitExceeded")
    ]


def test_a_revision_that_a_pod_has_stays() -> None:
    """S3: what is in use does not go, and nothing younger goes in its place than the limit asks for."""
    world = history(1, [1, 2, 3])
    world.put_node(node())
    world.put_pod(pod(version(1), node(), revision="r1"))

    assert ["r2", "r3"] == forgotten(known(world))


def test_a_revision_that_a_pod_is_about_to_get_stays() -> None:
    """S3: pods are made from it in the same decision."""
    assert ["r1", "r3"] == forgotten(known(history(0, [1, 2, 3])), {"r2"})


def test_a_revision_of_a_pending_create_stays() -> None:
    """S3: the adapter needs its template; commands of other kinds have none."""
    world = situation(version(1), [node("node-0")], [pod(version(1), node("node-0"))])
    world.run()
    world.apply(version(2, max_surge=0))
    assert [] == asked(world).creates
    world.carry_out()
    (create,) = asked(world).creates
    assert create == "node-0"
    world.apply(version(3, limit=0))
    world.read(world.worker)

    assert [hash_of(1)] == forgotten(known(world))


def test_one_decision_lets_go_of_so_many() -> None:
    """B1: no more than fit beside the revision that is recorded; the others follow."""
    numbers = list(range(1, RECORDS_MAX + 5))
    world = history(2, numbers)

    assert RECORDS_MAX - 1 == REVISIONS_REMOVED_MAX
    assert [f"r{number}" for number in numbers[:100]] == forgotten(known(world))
    world.run()
    assert {"r104", "r105", hash_of(1)} == set(known(world).revisions)


def test_a_long_history_does_not_grow() -> None:
    """B1: sixty versions later there are as many old ones as the limit says, and the wanted one."""
    world = situation(version(1, 3), alike(2), [])
    for number in range(1, 60):
        world.apply(version(number, 3))
        world.run()

    state = known(world)
    assert {hash_of(number) for number in range(56, 60)} == set(state.revisions)


# While the rollout holds nodes on an old revision


@pytest.mark.parametrize(
    "held",
    [
        pytest.param({"paused": True}, id="paused"),
        pytest.param({"partition": 1}, id="partition"),
        pytest.param({"selector": Selector(match_labels={"canary": "yes"})}, id="selector"),
    ],
)
def test_what_a_node_had_stays_on_record_while_it_is_held_there(held: dict[str, Any]) -> None:
    """S3: with no history at all a node whose only pod dies still gets what it had."""
    world = situation(version(1), alike(1), [])
    world.run()
    world.apply(version(2, 0, **held))
    world.run()
    (running,) = world.pods
    world.remove_pod(running)

    assert [] == forgotten(known(world))
    world.run()
    assert [hash_of(1)] == [found.revision for found in world.pods.values()]


def test_what_a_node_had_goes_if_nothing_is_held() -> None:
    """B1: a rollout that replaces everything needs no old revision."""
    world = situation(version(1), alike(1), [])
    world.run()
    world.apply(version(2, 0))
    world.run()

    assert {hash_of(2)} == set(known(world).revisions)


def test_a_node_that_is_away_for_a_while_gets_back_what_it_had() -> None:
    """S3: with three revisions, no history and a pause, a node that gets its place back gets the first one again."""
    world = warmed()
    for item in alike(3):
        world.put_node(item)
    world.apply(version(1))
    world.run()
    world.apply(version(2, 0, partition=1))
    world.run()
    world.apply(version(3, 0, paused=True))
    world.run()
    (first,) = (found for found in world.pods.values() if found.revision == hash_of(1))
    on = world.nodes[NodeKey(first.backend, first.node)]
    world.put_node(structs.replace(on, taints=(taint("k:NoSchedule"),)))
    world.remove_pod(first.key)
    world.run()

    world.put_node(on)
    world.run()

    after = {found.node: found.revision for found in world.pods.values()}
    assert (hash_of(1), [hash_of(2)] * 2) == (after.pop(on.name), list(after.values()))


def test_what_a_node_had_long_ago_goes_at_last() -> None:
    """B1: a revision is kept for a node only as long as it is remembered what it had."""
    world = situation(version(1), alike(1), [])
    world.run()
    world.apply(version(2, 0, paused=True))
    world.run()
    (running,) = world.pods
    on = world.nodes[NodeKey("east", "node-0")]
    world.put_node(structs.replace(on, taints=(taint("k:NoSchedule"),)))
    world.remove_pod(running)
    world.run()
    assert {hash_of(1), hash_of(2)} == set(known(world).revisions)

    world.now_ms += world.limits.horizon_ms + 1
    world.write(Tick(shard=0, due_ms=0))
    world.put_node(node("node-1"))
    world.run()

    assert hash_of(1) not in known(world).revisions
