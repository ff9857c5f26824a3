"""More than can be done at once: what waits is bounded, nothing is lost, and all is right in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from tests.integration.support_world import World, make_set

from everynode.ports import Outgoing
from everynode.runtime import delivering, following
from everynode.runtime.delivering import INBOX_MESSAGES_MAX, CommandConsumer
from everynode.runtime.following import Follower
from everynode.runtime.jetstream import JetStreamBus, _from_log

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Messages = Callable[..., list[Outgoing]]

DEADLINE_SECONDS = 30
NODES = 100
ROUNDS = 100
HEARTBEATS = 10


@pytest.mark.slow
async def test_a_burst_of_ten_thousand_changes_of_nodes(world: World) -> None:
    """Of changes that come faster than the log takes them, the last one of each node counts (B1, L1, L2)."""
    world.wait_seconds = 60
    world.add_nodes(NODES)
    await world.start_worker()
    host = (await world.start_host()).host
    await world.apply(make_set())
    await world.covered()

    published, fullest = host.counts.published, 0
    names = sorted(world.backend.nodes)
    for number in range(ROUNDS):
        for name in names:
            world.backend.update_labels(name, {"round": str(number)}, ())
        await asyncio.sleep(0)
        fullest = max(fullest, host.queues()["outbox"].length)
    world.backend.cordon(names[0])
    await world.covered()

    assert fullest <= NODES  # one for each node, however often it changed
    assert NODES <= host.counts.published - published <= ROUNDS * NODES + 1
    assert world.backend.nodes[names[-1]].labels["round"] == str(ROUNDS - 1)


async def test_a_reader_that_waits_collects_no_heartbeats(
    bus: JetStreamBus, node_messages: Messages, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody reads, what the server says of itself takes no room; then reading goes on (B1)."""
    monkeypatch.setattr(following, "HEARTBEAT_MS", 100)
    await bus.publish(node_messages(bus, 3))
    follower = Follower(
        bus._link, bus._log, [bus.subjects.of_kind("node")], 1, _from_log, complete=True
    )
    await follower.begin()
    intake = follower._intake
    assert intake is not None

    async def heartbeats_came() -> bool:
        return intake.taken >= 3 + HEARTBEATS

    await until(heartbeats_came)
    assert follower.waiting <= 3 + 1
    await bus.publish(node_messages(bus, 1))
    async with aclosing(follower.chunks()) as chunks, asyncio.timeout(DEADLINE_SECONDS):
        read = 0
        while read < 4:
            read += len(await anext(chunks))


async def test_a_reader_with_no_room_reads_what_it_missed(
    bus: JetStreamBus, node_messages: Messages, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages for which there was no room are read again, in their place, each once (B1, L1)."""
    monkeypatch.setattr(following, "BUFFER_MESSAGES_MAX", 50)
    monkeypatch.setattr(following, "HEARTBEAT_MS", 100)  # which say how many there should have been
    follower = Follower(
        bus._link, bus._log, [bus.subjects.of_kind("node")], 1, _from_log, complete=True
    )
    await follower.begin()
    intake = follower._intake
    assert intake is not None
    count = 0
    for _ in range(5):
        await bus.publish(node_messages(bus, 30))
        count += 30

        async def came(count: int = count) -> bool:
            return intake.taken >= count

        await until(came)
    assert follower.waiting == 50
    sequences: list[int] = []
    async with aclosing(follower.chunks()) as chunks, asyncio.timeout(DEADLINE_SECONDS):
        while len(sequences) < count:
            sequences += [received.sequence for received in await anext(chunks)]
    assert sequences == list(range(1, count + 1))


async def test_commands_that_nobody_takes_collect_no_heartbeats(
    bus: JetStreamBus, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a host takes no commands, what the server says of itself takes no room (B1)."""
    monkeypatch.setattr(delivering, "HEARTBEAT_MS", 100)
    consumer = CommandConsumer(bus._link, bus._log, "adapter-b", bus.subjects.commands_for("b"), 10)
    await consumer._begin()
    await consumer._ask()
    subscription = consumer._subscription
    assert subscription is not None

    async def heartbeats_came() -> bool:
        return subscription.delivered >= HEARTBEATS

    await until(heartbeats_came)
    assert len(consumer._inbox) == 0
    await consumer._end()


async def test_a_stranger_who_floods_a_reader_of_commands(bus: JetStreamBus, until: Until) -> None:
    """What nobody asked for is dropped when there is no more room, and commands come all the same (B1, S4)."""
    consumer = CommandConsumer(bus._link, bus._log, "adapter-b", bus.subjects.commands_for("b"), 10)
    await consumer._begin()
    subscription = consumer._subscription
    assert subscription is not None
    for _ in range(3 * INBOX_MESSAGES_MAX):
        await bus.announce(consumer._deliver_to, b"x")

    async def all_came() -> bool:
        return subscription.delivered == 3 * INBOX_MESSAGES_MAX and not subscription.pending_msgs

    await until(all_came)
    assert len(consumer._inbox) == INBOX_MESSAGES_MAX
    await bus.publish([Outgoing(f"{bus.subjects.prefix}.command.b.node.1.c1", b"1")])
    async with aclosing(consumer.deliveries()) as deliveries, asyncio.timeout(DEADLINE_SECONDS):
        delivery = await anext(deliveries)
        assert delivery.received.payload == b"1"
        await delivery.ack()
