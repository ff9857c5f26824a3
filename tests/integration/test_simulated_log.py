"""The simulated log and a real one say the same to the same questions: what is stored, refused, read and handed out."""

import random
from contextlib import aclosing

import pytest
from tests.unit.support_simulation import simulation

from everynode.errors import EverynodeError, StaleError
from everynode.ports import Delivery, Outgoing
from everynode.runtime.bus import FleetBus
from everynode.runtime.jetstream import JetStreamBus

ACTIONS = 120
NAMES = ("a", "b", "c")


class Questions:
    """What is asked of a log, drawn from a seed, and what it answers."""

    def __init__(self, bus: FleetBus, seed: int) -> None:
        """Ask nothing yet."""
        self.answers: list[object] = []
        self._bus = bus
        self._random = random.Random(seed)
        self._count = 0

    async def ask_all(self) -> None:
        """Write and read, and note every answer; times are not compared."""
        asks = (
            self._publish,
            self._publish_fenced,
            self._publish_fenced,
            self._last,
            self._measure,
        )
        for _ in range(ACTIONS):
            try:
                await self._random.choice(asks)()
            except StaleError as error:
                self.answers.append(("stale", error.last_sequence))
            except EverynodeError as error:
                self.answers.append(type(error).__name__)
        await self._read()
        await self._work()

    def _message(self) -> Outgoing:
        self._count += 1
        kind = self._random.choice(("node.b", "pod.1.b", "tick", "outcome.1", "elsewhere"))
        subject = f"{self._bus.subjects.prefix}.{kind}.{self._random.choice(NAMES)}"
        return Outgoing(subject, b"%d" % self._count)

    async def _publish(self) -> None:
        messages = [self._message() for _ in range(self._random.randrange(4))]
        self.answers.append(await self._bus.publish(messages))

    async def _publish_fenced(self) -> None:
        prefix = self._bus.subjects.prefix
        subject = f"{prefix}.decision.1.ns.{self._random.choice(NAMES)}"
        last = await self._bus.last(subject)
        expected = last.sequence if last is not None else 0
        expected = max(expected + self._random.choice((0, 0, 0, -1, 1)), 0)
        commands = []
        for _ in range(self._random.randrange(4)):
            self._count += 1
            commands.append(Outgoing(f"{prefix}.command.b.n.1.c{self._count}", b""))
        batch = [Outgoing(subject, b"decided"), *commands]
        self.answers.append(await self._bus.publish_fenced(batch, expected))

    async def _last(self) -> None:
        last = await self._bus.last(self._message().subject)
        self.answers.append(last and (last.sequence, last.subject.rpartition(".")[2], last.payload))

    async def _measure(self) -> None:
        first, last, _ = await self._bus.log_position()
        time_ms = await self._bus.time_of(last)
        at = None if time_ms is None else await self._bus.sequence_at(time_ms) <= last
        after = None if time_ms is None else await self._bus.sequence_at(time_ms + 1)
        self.answers.append((first, last, at, after))

    async def _read(self) -> None:
        """Read everything in each way, once STATE has come to rest."""
        await self._state_at_rest(self._bus.subjects.of_kind("node"))
        end = (await self._bus.log_position()).last_sequence
        kinds = [self._bus.subjects.of_kind(kind) for kind in ("node", "decision")]
        state = [one async for chunk in self._bus.read_state(kinds) for one in chunk]
        log = [one async for chunk in self._bus.read_log(kinds, end // 2) for one in chunk]
        self.answers.append([(one.sequence, one.payload) for one in (*state, *log)])
        followed: list[int] = []
        async with aclosing(self._bus.follow(kinds, 3)) as chunks:
            async for chunk in chunks:
                followed.extend(one.sequence for one in chunk)
                if not chunk:
                    break
        self.answers.append(followed)
        try:
            await anext(self._bus.follow(kinds, end + 2))
        except StaleError as error:
            self.answers.append(("ends before", error.last_sequence))

    async def _state_at_rest(self, kind: str) -> None:
        """Wait until STATE has taken over the last message of a kind."""
        log = [one async for chunk in self._bus.read_log([kind], 1) for one in chunk]
        kept = -1
        while log and kept != log[-1].sequence:
            async for chunk in self._bus.read_state([kind]):
                kept = chunk[-1].sequence

    async def _work(self) -> None:
        """Take commands and refuse some, until all are done."""
        every = self._bus.subjects.commands_for("b")
        log = [one async for chunk in self._bus.read_log([every], 1) for one in chunk]
        left = {one.sequence for one in log}
        handed: list[tuple[int, int]] = []
        async with aclosing(self._bus.commands("b", 5)) as deliveries:
            while left:
                delivery: Delivery = await anext(deliveries)
                handed.append((delivery.received.sequence, delivery.delivery_count))
                if delivery.received.sequence % 3 == 0 and delivery.delivery_count == 1:
                    await delivery.nak(0)
                else:
                    await delivery.ack()
                    left.discard(delivery.received.sequence)
        self.answers.append(sorted(handed))


@pytest.mark.parametrize("seed", range(3))
async def test_same_answers(bus: JetStreamBus, seed: int) -> None:
    """Questions drawn at random get the same answers from both (S4, S6)."""
    real = Questions(bus, seed)
    await real.ask_all()
    with simulation(seed) as sim:
        simulated = Questions(sim.bus, seed)
        sim.run(simulated.ask_all())
    assert real.answers == simulated.answers
    assert len(real.answers) > ACTIONS
