"""What the shards of a replay share, and what each has for itself: its own clock, and its own view of pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs
from tests.property.test_replay import assert_same, recorded, replayed

from everynode import wire
from everynode.core.commands import CreatePod, Decision
from everynode.core.events import NodeGone, NodeObserved, Tick
from everynode.core.pacing import RETRY_FIRST_MS
from everynode.core.values import SetKey
from everynode.ports import Received
from everynode.replay import replaying
from everynode.replay.recording import Entry
from everynode.replay.replaying import Replay
from everynode.testing.builders import BACKEND, daemonset, node, pod
from everynode.testing.world import World

NAMES = ("agent", "another", "third", "fourth", "fifth")


def lived() -> World:
    """Several sets, of several shards, on a few nodes."""
    world = World()
    for name in NAMES:
        world.apply(daemonset(name=name))
    for name in "abc":
        world.put_node(node(name))
    world.run()
    return world


def test_nodes_are_shared() -> None:
    """However many shards there are, there is one index of nodes; each decides as it did."""
    world = lived()
    replay = Replay(world.subjects, world.limits)

    found = list(replay.run(recorded(world)))

    states = [replay.state_of(SetKey("default", name)) for name in NAMES]
    assert len({id(state) for state in states}) > 1
    assert {id(states[0].nodes)} == {id(state.nodes) for state in states}
    assert [3] * len(states) == [len(state.index) for state in states]
    assert [None] * len(found) == [each.difference() for each in found]
    assert_same(world)


def test_a_node_that_was_never_heard_of() -> None:
    """When it is said to be gone, each shard looks again at its pods there."""
    world = lived()
    for name in NAMES:
        world.put_pod(pod(daemonset(name=name), node("ghost"), f"{name}-1"))
    world.put_node(node("d"))  # and for that each set is looked at
    world.run()
    world.write(NodeGone(backend=BACKEND, name="ghost"))
    world.run()

    deletes = sum(each.decision.counts.deletes for each in replayed(world))

    assert len(NAMES) == deletes
    assert_same(world)


@pytest.mark.parametrize("limit", ["AHEAD_MESSAGES_MAX", "AHEAD_BYTES_MAX"])
def test_out_of_reach(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """B1: what is read ahead is bounded, by number and by size; what lies further back is said and not decided."""
    monkeypatch.setattr(replaying, limit, 1)
    world = lived()
    replay = Replay(world.subjects, world.limits)

    found = list(replay.run(recorded(world)))

    assert 0 < replay.counts.out_of_reach == sum(bool(each.why_not) for each in found)
    assert [None] * len(found) == [each.difference() for each in found]
    assert world.log[-1].sequence == replay.sequence


def test_what_is_held_of_what_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: however large a message is, and whether that is its subject or its body."""
    monkeypatch.setattr(replaying, "AHEAD_BYTES_MAX", 10_000)
    world = World()
    replay = Replay(world.subjects, world.limits)
    subject, held = f"{world.subjects.prefix}.node.", []

    def entries() -> Iterator[Entry]:
        small, large = (subject, b""), [(subject, b"x" * 9_000), (subject + "x" * 9_000, b"")]
        for number, (name, payload) in enumerate(9 * [*30 * [small], *large], 1):
            yield Entry(Received(number, number, name, payload), is_kept=False)
            held.append(sum(len(each.subject) + len(each.payload) for each in replay._ahead))

    assert [] == list(replay.run(entries()))
    assert 9_000 < max(held) <= 10_000


def test_a_decision_that_knew_what_came_later() -> None:
    """Anybody may have written it: it is said, and nothing is held until what it names has come (B1)."""
    world = lived()
    entries = recorded(world)
    (place, said) = next(
        (place, wire.decode(each.received.payload))
        for place, each in enumerate(entries)
        if ".decision." in each.received.subject
    )
    assert isinstance(said, Decision)
    payload = wire.encode(structs.replace(said, basis=10**9))
    received = structs.replace(entries[place].received, payload=payload)
    entries[place] = structs.replace(entries[place], received=received)
    replay = Replay(world.subjects, world.limits)

    found = list(replay.run(entries))

    assert [each.why_not for each in found if each.decision.basis == 10**9] == [
        "it says that it knew of what was stored after it"
    ]
    assert found[0].decision.basis == 10**9  # it is not kept for the end


def test_a_tick_of_a_shard_that_is_none() -> None:
    """Nobody decides for it, so there is no state of it."""
    world = lived()
    for number in range(world.subjects.shards, world.subjects.shards + 3):
        world.write(Tick(shard=number, due_ms=1))
    replay = Replay(world.subjects, world.limits)

    for _ in replay.run(recorded(world)):
        pass

    assert set(map(str, range(world.subjects.shards))) >= set(replay._shards)


def test_nodes_move_every_clock() -> None:
    """A command expires by what a node's message says of the time, although the log's clock was set back after it."""
    world = lived()
    world.put_node(node("d"))
    world.decide()
    world.now_ms += world.limits.pending_ms
    world.write(NodeObserved(node=node("a", zone="b")))
    world.now_ms -= RETRY_FIRST_MS // 2
    world.carry_out(works=False)  # it has expired, whatever the time is now
    world.now_ms += RETRY_FIRST_MS
    world.put_node(node("e"))
    world.run()

    attempts = [
        message.attempt
        for each in replayed(world)
        for message in each.again or ()
        if isinstance(message, CreatePod) and message.node == "d"
    ]

    assert {0, 1} == set(attempts)
    assert_same(world)
