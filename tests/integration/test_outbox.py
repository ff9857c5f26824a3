"""An adapter host's outbox on a real server: order, room, and messages that the log does not take."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.ports import Outgoing, Received
from everynode.runtime.clock import SystemClock
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.outbox import Outbox
from everynode.runtime.settings import Connection, StreamSettings

DEADLINE_S = 20
SMALL = StreamSettings(log_max_bytes=64 * 1024**2)


@contextlib.asynccontextmanager
async def storing(outbox: Outbox) -> AsyncIterator[None]:
    """While it stores."""
    task = asyncio.create_task(outbox.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def message(bus: JetStreamBus, name: str, payload: bytes = b"x") -> Outgoing:
    """A message about a node; the outbox does not look into it."""
    return Outgoing(f"{bus.subjects.prefix}.node.b.{name}", payload)


async def stored(bus: JetStreamBus, count: int) -> list[Received]:
    """What is on the log, in order."""
    found: list[Received] = []
    async with aclosing(bus.follow([bus.subjects.of_kind("node")], 1)) as chunks:
        async for chunk in chunks:
            found += chunk
            if len(found) >= count:
                break
    return found


async def test_order_and_sequences(bus: JetStreamBus) -> None:
    """Messages are stored in the order in which they were put in, and each one hears its own sequence."""
    outbox = Outbox(bus, SystemClock())
    heard: dict[str, int] = {}
    names = [f"n{number}" for number in range(2 * BATCH_MESSAGES_MAX + 5)]
    async with storing(outbox):
        for name in names:
            outbox.put(message(bus, name), partial(heard.__setitem__, name))
        await outbox.wait_stored()
    assert heard == {name: number for number, name in enumerate(names, start=1)}
    found = await stored(bus, len(names))
    assert [one.subject.rpartition(".")[2] for one in found] == names
    assert (outbox.stored_count, outbox.last_sequence) == (len(names), len(names))


async def test_the_last_value_of_a_subject_counts(bus: JetStreamBus) -> None:
    """B1: what waits on one subject is replaced, in its place; who waited for the old value hears of the new one."""
    outbox = Outbox(bus, SystemClock())
    heard: list[tuple[str, int]] = []
    outbox.put(message(bus, "a", b"1"), lambda sequence: heard.append(("old", sequence)))
    outbox.put(message(bus, "b", b"2"))
    outbox.put(message(bus, "a", b"3"), lambda sequence: heard.append(("new", sequence)))
    async with storing(outbox):
        await outbox.wait_stored()
    assert [one.payload for one in await stored(bus, 2)] == [b"3", b"2"]
    assert heard == [("old", 1), ("new", 1)]


async def test_it_says_when_it_is_full(bus: JetStreamBus) -> None:
    """B1: whoever can wait is told to, and goes on when there is room."""
    outbox = Outbox(bus, SystemClock(), waiting_max=2)
    outbox.put(message(bus, "a"))
    outbox.put(message(bus, "b"))
    outbox.put(message(bus, "b", b"again"))
    assert outbox.is_full
    waiting = asyncio.create_task(outbox.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    async with storing(outbox):
        await waiting
        await outbox.wait_stored()
    assert len(await stored(bus, 2)) == 2


async def test_one_message_that_the_server_does_not_take(tmp_path: Path) -> None:
    """L3: a message that is too large for this server is left out and reported; the others of its batch are stored."""
    server = EmbeddedServer(tmp_path / "nats", 0, extra="max_payload: 65536\n")
    async with server:
        connection = Connection(servers=(server.url,))
        async with await connect(connection, "test", create=SMALL) as bus:
            outbox = Outbox(bus, SystemClock())
            async with storing(outbox):
                for name, payload in (("a", b"1"), ("huge", b"x" * 100_000), ("b", b"2")):
                    outbox.put(message(bus, name, payload))
                await outbox.wait_stored()
                assert [one.payload for one in await stored(bus, 2)] == [b"1", b"2"]
                assert (outbox.stored_count, outbox.refused_count) == (2, 1)


async def test_what_must_come_last_does(bus: JetStreamBus) -> None:
    """A message that replaces a waiting one comes after all that wait now, if it must; both hear where it is."""
    outbox = Outbox(bus, SystemClock())
    heard: list[int] = []
    outbox.put(message(bus, "a", b"1"), heard.append)
    outbox.put(message(bus, "b"))
    outbox.put(message(bus, "a", b"2"), heard.append, last=True)
    outbox.put(message(bus, "c"))
    outbox.put(message(bus, "d"), last=True)
    async with storing(outbox):
        await outbox.wait_stored()
    found = [(one.subject[-1], one.payload) for one in await stored(bus, 4)]
    assert found == [("b", b"x"), ("a", b"2"), ("c", b"x"), ("d", b"x")]
    assert heard == [2, 2]
