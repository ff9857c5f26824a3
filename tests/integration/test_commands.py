"""Handing out commands on a real server: each at least once, to one of those who ask, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from everynode.ports import Delivery, Outgoing, Received
from everynode.runtime import delivering
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection

DEADLINE_SECONDS = 30

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def commands(
    bus: JetStreamBus, count: int, *, start: int = 0, backend: str = "b"
) -> list[Outgoing]:
    """So many commands; the bus does not look into them."""
    return [
        Outgoing(f"{bus.subjects.prefix}.command.{backend}.node.1.c{number}", b"%d" % number)
        for number in range(start, start + count)
    ]


def number(delivery: Delivery) -> int:
    """Which command it is."""
    return int(delivery.received.payload)


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    """Take so many, without acknowledging; what hangs fails."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [await anext(deliveries) for _ in range(count)]


async def take_acknowledged(deliveries: AsyncIterator[Delivery], count: int) -> list[int]:
    """Take and acknowledge one after the other; what hangs fails."""
    numbers: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(numbers) < count:
            delivery = await anext(deliveries)
            numbers.append(number(delivery))
            await delivery.ack()
    return numbers


async def unsettled(bus: JetStreamBus, backend: str = "b") -> int:
    """How many commands the server has yet to hand out or to hear of."""
    consumer = await bus._link.call(f"CONSUMER.INFO.{bus._log}.adapter-{backend}")
    return int(consumer["num_pending"]) + int(consumer["num_ack_pending"])


class TestDelivery:
    """What `commands` promises while nothing goes wrong."""

    async def test_in_order(self, bus: JetStreamBus) -> None:
        """Commands for this backend come in the log's order, and those for others do not come."""
        await bus.publish(commands(bus, 5))
        await bus.publish(commands(bus, 5, backend="other"))
        async with aclosing(bus.commands("b", 4)) as deliveries:
            assert await take_acknowledged(deliveries, 5) == [0, 1, 2, 3, 4]
            more = asyncio.create_task(take(deliveries, 1))
            await bus.publish(commands(bus, 1, start=9))
            (delivery,) = await more
        assert delivery.received == Received(
            11,
            delivery.received.time_ms,
            commands(bus, 1, start=9)[0].subject,
            b"9",
        )
        assert delivery.received.time_ms == await bus.time_of(11)
        assert delivery.delivery_count == 1

    async def test_backend_with_dots(self, bus: JetStreamBus) -> None:
        """A backend may have any name."""
        command = Outgoing(f"{bus.subjects.prefix}.command.a%2Eb%2F%2A.node.1.c1", b"1")
        await bus.publish([command])
        async with aclosing(bus.commands("a.b/*", 1)) as deliveries:
            assert await take_acknowledged(deliveries, 1) == [1]

    async def test_in_flight(self, bus: JetStreamBus) -> None:
        """No more than so many are out at once, over all who ask; an acknowledgement makes room (B1)."""
        await bus.publish(commands(bus, 10))
        async with aclosing(bus.commands("b", 3)) as deliveries:
            first = await take(deliveries, 3)
            fourth = asyncio.create_task(take(deliveries, 1))
            consumer = await bus._link.call(f"CONSUMER.INFO.{bus._log}.adapter-b")
            assert consumer["num_ack_pending"] == 3
            assert not fourth.done()
            await first[1].ack()
            assert [number(delivery) for delivery in await fourth] == [3]

    async def test_again(self, bus: JetStreamBus) -> None:
        """What is refused for now comes again after its delay, and says how often it came."""
        await bus.publish(commands(bus, 1))
        async with aclosing(bus.commands("b", 1)) as deliveries:
            counts = []
            for delay_ms in (0, 20, 0):
                (delivery,) = await take(deliveries, 1)
                counts.append(delivery.delivery_count)
                await delivery.nak(delay_ms)
            assert counts == [1, 2, 3]

    async def test_not_acknowledged(
        self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What nobody acknowledges comes again; what is said to be in progress does not (S4)."""
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 400)
        await bus.publish(commands(bus, 2))
        async with aclosing(bus.commands("b", 2)) as deliveries:
            slow, lost = await take(deliveries, 2)
            again = asyncio.create_task(take(deliveries, 1))
            while not again.done():
                await slow.in_progress()
                await asyncio.sleep(0.05)
            assert [number(delivery) for delivery in again.result()] == [number(lost)]
            await slow.ack()

    def test_who_works_long_says_so_in_time(self) -> None:
        """A host says that it is still working at least twice before the log gives up waiting (S4)."""
        assert ExecutionLimits().progress_interval_ms * 2 < delivering.ACK_WAIT_MS

    async def test_shared(self, bus: JetStreamBus, connection: Connection) -> None:
        """Two who ask share the commands: each goes to one of them (S4)."""
        async with await connect(connection, bus.subjects.fleet) as other:
            numbers: list[int] = []

            async def work(one: JetStreamBus) -> None:
                async with aclosing(one.commands("b", 10)) as deliveries:
                    async for delivery in deliveries:
                        numbers.append(number(delivery))
                        await delivery.ack()
                        if len(numbers) == 500:
                            done.set()

            done = asyncio.Event()
            workers = [asyncio.create_task(work(bus)), asyncio.create_task(work(other))]
            await bus.publish(commands(bus, 500))
            async with asyncio.timeout(DEADLINE_SECONDS):
                await done.wait()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            assert sorted(numbers) == list(range(500))

    async def test_closing(self, bus: JetStreamBus) -> None:
        """Who stops gives back what was not handed out yet, so that others have it at once."""
        await bus.publish(commands(bus, 10))
        async with aclosing(bus.commands("b", 10)) as deliveries:
            (first,) = await take(deliveries, 1)
            await first.ack()
        async with aclosing(bus.commands("b", 10)) as deliveries:
            async with asyncio.timeout(delivering.ACK_WAIT_MS / 1000 / 2):
                assert sorted(await take_acknowledged(deliveries, 9)) == list(range(1, 10))


class TestFaults:
    """What `commands` promises when something goes wrong."""

    async def test_killed_server(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Commands keep coming when a killed server is back; none is lost (S4, L1)."""

        async def back() -> bool:
            return own_bus.connected

        # What was on its way to us when the server died comes again only after this.
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 1_000)
        monkeypatch.setattr(delivering, "SILENCE_MS_MAX", 3_600_000)  # the new connection is enough
        seen: set[int] = set()
        async with aclosing(own_bus.commands("b", 50)) as deliveries:
            for start in (0, 100, 200):
                await own_bus.publish(commands(own_bus, 100, start=start))
                while not seen >= set(range(start, start + 50)):
                    seen |= set(await take_acknowledged(deliveries, 1))
                await own_server.restart(kill=True)
                await until(back)
            while not seen >= set(range(300)):
                seen |= set(await take_acknowledged(deliveries, 1))

    async def test_server_away(
        self, own_server: EmbeddedServer, own_bus: JetStreamBus, until: Until
    ) -> None:
        """Answers that cannot be sent are no error: the command comes again (S4)."""
        await own_bus.publish(commands(own_bus, 1))
        async with aclosing(own_bus.commands("b", 1)) as deliveries:
            (delivery,) = await take(deliveries, 1)
            await own_server.stop()

            async def away() -> bool:
                return not own_bus.connected

            await until(away)
            await delivery.ack()
            await delivery.nak(0)
            await delivery.in_progress()
            await own_server.start()

            async def back() -> bool:
                return own_bus.connected

            await until(back)
            await delivery.nak(0)
            assert await take_acknowledged(deliveries, 1) == [0]

    async def test_consumer_gone(self, bus: JetStreamBus) -> None:
        """A consumer that somebody deleted is made anew; repeats are harmless, losses are not (S4)."""
        await bus.publish(commands(bus, 5))
        async with aclosing(bus.commands("b", 10)) as deliveries:
            assert await take_acknowledged(deliveries, 5) == [0, 1, 2, 3, 4]
            await bus._link.call(f"CONSUMER.DELETE.{bus._log}.adapter-b")
            await bus.publish(commands(bus, 5, start=5))
            seen = set(await take_acknowledged(deliveries, 5))
            while not seen >= set(range(5, 10)):
                seen |= set(await take_acknowledged(deliveries, 1))

    async def test_asked_for_long(self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request that ends without commands is followed by another one (L1)."""
        monkeypatch.setattr(delivering, "PULL_EXPIRES_MS", 100)
        monkeypatch.setattr(delivering, "HEARTBEAT_MS", 40)
        monkeypatch.setattr(delivering, "SILENCE_MS_MAX", 3_600_000)  # the end itself is enough
        async with aclosing(bus.commands("b", 10)) as deliveries:
            waiting = asyncio.create_task(take_acknowledged(deliveries, 1))
            await asyncio.sleep(0.5)
            await bus.publish(commands(bus, 1))
            assert await waiting == [0]

    async def test_all_settled(self, bus: JetStreamBus, until: Until) -> None:
        """Once all are acknowledged the server has nothing left to hand out (S4)."""
        await bus.publish(commands(bus, 300))
        async with aclosing(bus.commands("b", 20)) as deliveries:
            await take_acknowledged(deliveries, 300)

            async def settled() -> bool:
                return await unsettled(bus) == 0

            await until(settled)
