"""The simulated log keeps JetStream's promises, as the real one does in tests/integration: following, and commands."""

import asyncio
from contextlib import aclosing

import pytest
from tests.unit.support_simulation import (
    Simulation,
    simulation,
    take,
    take_acknowledged,
    take_commands,
)

from everynode.errors import StaleError
from everynode.ports import Delivery, Outgoing
from everynode.runtime.delivering import ACK_WAIT_MS
from everynode.runtime.following import CHECK_INTERVAL_MS, CHUNK_MESSAGES_MAX, SILENCE_MS_MAX
from everynode.testing.simulation.faults import SILENT, BusFaults
from everynode.testing.simulation.marks import collecting


async def first_chunk(sim: Simulation, from_sequence: int) -> list[int]:
    """Follow the nodes; returns the sequences of the first messages."""
    async with aclosing(sim.bus.follow(sim.node_subjects, from_sequence)) as chunks:
        return await take(chunks, 1)


class TestFollow:
    """What `follow` promises while nothing goes wrong."""

    def test_past_and_present(self) -> None:
        """What was there comes first, then what is written, each once, in chunks of at most 1,000 (B1)."""
        with simulation() as sim:

            async def main() -> list[int]:
                await sim.bus.publish(sim.nodes(3_000))
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    assert await take(chunks, 3_000) == list(range(1, 3_001))
                    await sim.bus.publish(sim.nodes(2_500))
                    sizes: list[int] = []
                    while sum(sizes) < 2_500:
                        sizes.append(len(await anext(chunks)))
                    return sizes

            assert max(sim.run(main())) <= CHUNK_MESSAGES_MAX

    def test_from_the_middle(self) -> None:
        """It begins at the sequence that was asked for, the next one to come included."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(10)))
            assert sim.run(first_chunk(sim, 8)) == [8, 9, 10]
            waiting = sim.process.spawn(first_chunk(sim, 11))
            sim.let_pass(100)
            sim.run(sim.bus.publish(sim.nodes(1)))
            sim.wait(waiting.done)
            assert waiting.result() == [11]

    def test_only_these_subjects(self) -> None:
        """Only what was asked for comes, from several subjects in the log's order."""
        with simulation() as sim:
            prefix = sim.server.subjects.prefix
            kinds = ("node", "pod", "tick", "pod", "node")
            sim.run(sim.bus.publish([Outgoing(f"{prefix}.{kind}.1.ns.x", b"") for kind in kinds]))

            async def main() -> list[int]:
                subjects = [f"{prefix}.pod.>", f"{prefix}.tick.>"]
                async with aclosing(sim.bus.follow(subjects, 1)) as chunks:
                    return await take(chunks, 3)

            assert sim.run(main()) == [2, 3, 4]

    def test_sign_of_life(self) -> None:
        """When there is nothing to read, an empty list says so, and that all there was has been read."""
        slow = BusFaults(chunk_cut=1, latency_ms_min=1_500, latency_ms_max=3_000)
        with simulation(faults=slow) as sim:
            sim.run(sim.bus.publish(sim.nodes(50)))

            async def main() -> list[int]:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    sizes: list[int] = []
                    while len(sizes) < 2 or sizes[-2:] != [0, 0]:
                        sizes.append(len(await anext(chunks)))
                    return sizes

            sizes = sim.run(main())
            assert sizes.index(0) > 1
            assert sum(sizes[: sizes.index(0)]) == 50

    def test_closing(self) -> None:
        """Closing the iterator ends the subscription."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(1)))
            sim.run(first_chunk(sim, 1))
            sim.let_pass(100)
            assert not sim.server.pushes


class TestFollowFaults:
    """What `follow` promises when something goes wrong."""

    def test_outage(self) -> None:
        """Following goes on when the server is back: nothing twice, nothing left out (L1)."""
        with simulation() as sim:

            async def main() -> list[int]:
                sequences: list[int] = []
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    for _ in range(3):
                        while not sim.bus.connected:  # noqa: ASYNC110 - nobody tells
                            await asyncio.sleep(0.1)
                        await sim.bus.publish(sim.nodes(100))
                        sequences += await take(chunks, 100)
                        sim.server.outage(5_000)
                return sequences

            assert sim.run(main()) == list(range(1, 301))

    def test_consumer_gone(self) -> None:
        """Who waits for nothing finds out after a silence, and begins anew where it was (L1)."""
        with simulation() as sim, collecting() as marks:
            sim.run(sim.bus.publish(sim.nodes(5)))

            async def main() -> list[int]:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    sequences = await take(chunks, 5)
                    sim.server.drop_consumers()
                    await sim.bus.publish(sim.nodes(5))
                    before_ms = sim.loop.now_ms
                    sequences += await take(chunks, 5)
                    assert sim.loop.now_ms - before_ms > SILENCE_MS_MAX // 2
                    return sequences

            assert sim.run(main()) == list(range(1, 11))
            assert marks.counts[SILENT] == 1

    @pytest.mark.parametrize("written_since", [0, 50])
    def test_lost_end(self, written_since: int) -> None:
        """A log that lost its end after it was read is refused, also when it has grown past it again."""
        with simulation() as sim:
            other, bus = sim.another()

            async def main() -> None:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    await take(chunks, 15)
                    if written_since:  # who reads is the last to be back
                        sim.server.cut(sim.process, 5_000)
                    sim.server.truncate(10)
                    other.spawn(write())
                    await take(chunks, 1)

            async def write() -> None:
                while not bus.connected:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
                if written_since:
                    await bus.publish(sim.nodes(written_since))

            sim.run(bus.publish(sim.nodes(15)))
            with pytest.raises(
                StaleError, match="another message" if written_since else "ends at 5"
            ):
                sim.run(main())

    def test_ends_before(self) -> None:
        """Following from beyond the end of the log is refused: it is not the log that was read."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(5)))
            with pytest.raises(StaleError) as stale:
                sim.run(first_chunk(sim, 7))
            assert stale.value.last_sequence == 5

    def test_made_anew(self) -> None:
        """A log that was deleted and made anew is refused, however long it is."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(5)))

            async def main() -> None:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    await take(chunks, 5)
                    sim.server.log.make_anew()
                    sim.server.drop_consumers()
                    await sim.bus.publish(sim.nodes(20))
                    await take(chunks, 1)

            with pytest.raises(StaleError, match="made anew"):
                sim.run(main())

    def test_lost_beginning(self) -> None:
        """A new reader begins with what LOG still has; one whose next message LOG has let go of is refused."""
        with simulation() as sim:

            async def main() -> None:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    await take(chunks, 10)
                    sim.server.drop_consumers()
                    await sim.bus.publish(sim.nodes(10))
                    sim.server.log.age_out(16)
                    await take(chunks, 1)

            sim.run(sim.bus.publish(sim.nodes(10)))
            with pytest.raises(StaleError, match="begins at 16"):
                sim.run(main())
            assert sim.run(first_chunk(sim, 11)) == [16, 17, 18, 19, 20]

    def test_overtaken(self) -> None:
        """A reader that LOG lets go of messages for before they were sent to it is told so."""
        with simulation() as sim:
            _, bus = sim.another()

            async def main() -> None:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    await take(chunks, 1)
                    for push in sim.server.pushes:  # so slow that nothing is sent to it
                        push._is_scheduled = True
                    await bus.publish(sim.nodes(100))
                    sim.server.log.age_out(90)
                    await asyncio.sleep(CHECK_INTERVAL_MS / 1000)
                    for push in sim.server.pushes:
                        push._arrive()
                    await take(chunks, 100)

            sim.run(sim.bus.publish(sim.nodes(1)))
            with pytest.raises(StaleError, match="begins at 90"):
                sim.run(main())

    @pytest.mark.parametrize("seed", range(20))
    def test_whatever_happens(self, seed: int) -> None:
        """Through faults of every kind a follower reads what the log has, each message once, in order."""
        faults = BusFaults(
            latency_ms_max=500,
            slow=0.1,
            answer_lost=0.2,
            request_lost=0.2,
            request_refused=0.1,
            request_late=0.2,
            consumer_vanished=0.1,
            chunk_cut=0.5,
        )
        with simulation(seed, faults) as sim:
            writer, bus = sim.another()
            read: list[int] = []

            async def follow() -> None:
                async with aclosing(sim.bus.follow(sim.node_subjects, 1)) as chunks:
                    async for chunk in chunks:
                        read.extend(received.sequence for received in chunk)

            async def write() -> None:
                while len(sim.server.history) < 500:
                    await asyncio.gather(bus.publish(sim.nodes(10)), return_exceptions=True)
                    await asyncio.sleep(0.5)

            following = sim.process.spawn(follow())
            writing = writer.spawn(write())
            for _ in range(5):
                sim.let_pass(sim.loop.random.randrange(20_000))
                sim.server.outage(sim.loop.random.randrange(5_000))
                sim.server.cut(sim.process, sim.loop.random.randrange(30_000))
                sim.server.cut(writer, sim.loop.random.randrange(30_000), "from")
                sim.process.pause()
                sim.let_pass(sim.loop.random.randrange(20_000))
                sim.process.resume()
            sim.server.heal()
            sim.wait(writing.done)
            sim.let_pass(60_000)
            assert not following.done()
            assert read == list(range(1, len(sim.server.history) + 1))
            assert len(read) >= 500


class TestCommands:
    """What `commands` promises."""

    def test_in_order(self) -> None:
        """Commands for this backend come in the log's order, and those for others do not come."""
        with simulation() as sim:
            sim.run(sim.bus.publish([*sim.commands(5), *sim.commands(5, backend="other")]))

            async def main() -> Delivery:
                async with aclosing(sim.bus.commands("b", 4)) as deliveries:
                    assert await take_acknowledged(deliveries, 5) == [0, 1, 2, 3, 4]
                    await sim.bus.publish(sim.commands(1, start=9))
                    return await anext(deliveries)

            delivery = sim.run(main())
            assert delivery.received == sim.server.history[-1]
            assert delivery.delivery_count == 1

    def test_in_flight(self) -> None:
        """No more than so many are out at once, over all who ask; an acknowledgement makes room (B1)."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.commands(10)))

            async def main() -> None:
                async with aclosing(sim.bus.commands("b", 3)) as deliveries:
                    first = await take_commands(deliveries, 3)
                    fourth = asyncio.create_task(take_commands(deliveries, 1))
                    await asyncio.sleep(1)
                    assert not fourth.done()
                    assert sim.server.queue("b").in_flight == 3
                    await first[1].ack()
                    assert [one.received.payload for one in await fourth] == [b"3"]

            sim.run(main())

    def test_again(self) -> None:
        """What is refused for now comes again after its delay, and says how often it came."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.commands(1)))

            async def main() -> list[tuple[int, bool]]:
                found = []
                async with aclosing(sim.bus.commands("b", 1)) as deliveries:
                    delay_ms = 0
                    for next_ms in (0, 5_000, 0):
                        before_ms = sim.loop.now_ms
                        delivery = await anext(deliveries)
                        in_time = sim.loop.now_ms - before_ms >= delay_ms
                        found.append((delivery.delivery_count, in_time))
                        await delivery.nak(next_ms)
                        delay_ms = next_ms
                return found

            assert sim.run(main()) == [(1, True), (2, True), (3, True)]

    def test_refused_twice(self) -> None:
        """What is refused twice comes again once."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.commands(1)))

            async def main() -> None:
                async with aclosing(sim.bus.commands("b", 2)) as deliveries:
                    delivery = await anext(deliveries)
                    await delivery.nak(1_000)
                    await delivery.nak(3_000)
                    await anext(deliveries)
                    third = asyncio.create_task(take_commands(deliveries, 1))
                    await asyncio.sleep(ACK_WAIT_MS / 1000 - 1)
                    assert not third.done()
                    third.cancel()
                    await asyncio.wait([third])

            sim.run(main())

    def test_not_acknowledged(self) -> None:
        """What nobody acknowledges comes again; what is said to be in progress does not (S4)."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.commands(2)))

            async def main() -> None:
                async with aclosing(sim.bus.commands("b", 2)) as deliveries:
                    slow, lost = await take_commands(deliveries, 2)
                    again = asyncio.create_task(take_commands(deliveries, 1))
                    before_ms = sim.loop.now_ms
                    while not again.done():
                        await slow.in_progress()
                        await asyncio.sleep(1)
                    assert ACK_WAIT_MS - 1_000 <= sim.loop.now_ms - before_ms
                    assert sim.loop.now_ms - before_ms <= ACK_WAIT_MS + 2_000
                    (delivery,) = again.result()
                    assert delivery.received == lost.received
                    await slow.ack()
                    await lost.ack()  # late, and of the delivery before: it counts all the same
                    await asyncio.sleep(1)
                    assert sim.server.queue("b").in_flight == 0

            sim.run(main())

    def test_shared(self) -> None:
        """Two who ask share the commands: each goes to one of them (S4)."""
        with simulation() as sim:
            other, bus = sim.another()
            numbers: list[list[int]] = [[], []]

            async def work(which: int) -> None:
                one = (sim.bus, bus)[which]
                async with aclosing(one.commands("b", 10)) as deliveries:
                    async for delivery in deliveries:
                        numbers[which].append(int(delivery.received.payload))
                        await delivery.ack()

            sim.process.spawn(work(0))
            other.spawn(work(1))
            sim.run(sim.bus.publish(sim.commands(500)))
            sim.wait(lambda: len(numbers[0]) + len(numbers[1]) == 500)
            assert sorted(numbers[0] + numbers[1]) == list(range(500))
            assert min(len(numbers[0]), len(numbers[1])) > 50

    def test_closing(self) -> None:
        """Who stops gives back what was not handed out yet, so that others have it at once."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.commands(10)))

            async def main() -> list[int]:
                async with aclosing(sim.bus.commands("b", 10)) as deliveries:
                    assert await take_acknowledged(deliveries, 1) == [0]
                    await asyncio.sleep(1)
                before_ms = sim.loop.now_ms
                async with aclosing(sim.bus.commands("b", 10)) as deliveries:
                    rest = await take_acknowledged(deliveries, 9)
                assert sim.loop.now_ms - before_ms < ACK_WAIT_MS / 2
                return rest

            assert sorted(sim.run(main())) == list(range(1, 10))

    def test_killed(self) -> None:
        """What was handed to a process that was killed comes to another one later (S4)."""
        with simulation() as sim:
            victim, bus = sim.another()
            sim.run(sim.bus.publish(sim.commands(5)))

            async def hold() -> None:
                async with aclosing(bus.commands("b", 10)) as deliveries:
                    await take_commands(deliveries, 5)
                    await asyncio.Event().wait()

            victim.spawn(hold())
            sim.let_pass(100)
            victim.kill()

            async def main() -> list[int]:
                async with aclosing(sim.bus.commands("b", 10)) as deliveries:
                    return await take_acknowledged(deliveries, 5)

            assert sorted(sim.run(main())) == [0, 1, 2, 3, 4]

    def test_lost_end(self) -> None:
        """What takes the place of lost commands is handed out, unless the consumer stays ahead of the log."""
        for stays_ahead, expected in ((False, [10, 11, 12]), (True, [12])):
            with simulation() as sim:
                sim.run(sim.bus.publish(sim.commands(5)))

                async def main(
                    sim: Simulation, stays_ahead: bool, expected: list[int]
                ) -> list[int]:
                    async with aclosing(sim.bus.commands("b", 10)) as deliveries:
                        await take_acknowledged(deliveries, 5)
                        await asyncio.sleep(1)
                        sim.server.truncate(2, consumers_stay_ahead=stays_ahead)
                        while not sim.bus.connected:  # noqa: ASYNC110 - nobody tells
                            await asyncio.sleep(0.1)
                        await sim.bus.publish(sim.commands(3, start=10))
                        return await take_acknowledged(deliveries, len(expected))

                assert sim.run(main(sim, stays_ahead, expected)) == expected

    @pytest.mark.parametrize("seed", range(20))
    def test_whatever_happens(self, seed: int) -> None:
        """Through faults of every kind each command comes at least once, and in the end all are settled (S4)."""
        faults = BusFaults(
            latency_ms_max=500,
            slow=0.1,
            answer_lost=0.1,
            request_lost=0.1,
            consumer_vanished=0.1,
            command_again=0.2,
            command_lost=0.2,
            command_late=0.2,
            command_twice=0.2,
        )
        with simulation(seed) as sim:
            other, bus = sim.another()
            seen: list[int] = []

            async def work(one: int) -> None:
                async with aclosing((sim.bus, bus)[one].commands("b", 7)) as deliveries:
                    async for delivery in deliveries:
                        seen.append(int(delivery.received.payload))
                        await asyncio.sleep(sim.loop.random.random() * 0.2)
                        await delivery.ack()

            sim.run(sim.bus.publish(sim.commands(100)))
            sim.server.faults = faults
            sim.process.spawn(work(0))
            other.spawn(work(1))
            for _ in range(3):
                sim.let_pass(sim.loop.random.randrange(10_000))
                sim.server.outage(sim.loop.random.randrange(5_000))
                sim.server.cut(sim.process, sim.loop.random.randrange(30_000))
                other.pause()
                sim.let_pass(sim.loop.random.randrange(20_000))
                other.resume()
                sim.server.drop_consumers()
            sim.server.heal()
            sim.let_pass(120_000)
            assert set(seen) == set(range(100))
            assert len(seen) > 100
            assert sim.server.queue("b").in_flight == 0
