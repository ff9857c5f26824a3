"""A simulated log for tests, and a way to run a coroutine on it."""

import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from everynode.ports import Delivery, Outgoing, Received
from everynode.testing.simulation.bus import SimulatedBus
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.process import Process
from everynode.testing.simulation.server import SimulatedServer

STEPS_MAX = 200_000
VIRTUAL_MS_MAX = 3_600_000


class Simulation:
    """A loop with a server, and one process that is there from the start.

    Attributes:
        bus: That of ``process``.
    """

    def __init__(self, loop: VirtualLoop, faults: BusFaults | None) -> None:
        """Connect the first process."""
        self.loop = loop
        self.server = SimulatedServer(loop, faults=faults)
        self.process = loop.process("first")
        self.bus = self.server.bus(self.process)

    def another(self, name: str = "other") -> tuple[Process, SimulatedBus]:
        """Connect another process."""
        process = self.loop.process(name)
        return process, self.server.bus(process)

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the first process to its end; returns or raises what it does."""
        task = self.process.spawn(main)
        end_ms = self.loop.now_ms + VIRTUAL_MS_MAX
        ended = self.loop.run_until(task.done, steps_max=STEPS_MAX, until_ms=end_ms)
        assert ended == "done"
        return task.result()

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Run until something is so."""
        end_ms = self.loop.now_ms + VIRTUAL_MS_MAX
        assert self.loop.run_until(is_so, steps_max=STEPS_MAX, until_ms=end_ms) == "done"

    def let_pass(self, duration_ms: int) -> None:
        """Run for so long."""
        end_ms = self.loop.now_ms + duration_ms
        self.loop.run_until(lambda: False, steps_max=STEPS_MAX, until_ms=end_ms)

    def nodes(self, count: int, *, start: int = 0) -> list[Outgoing]:
        """So many messages on subjects of nodes; the log does not look into them."""
        prefix = self.server.subjects.prefix
        return [
            Outgoing(f"{prefix}.node.b.n{number}", b"%d" % number)
            for number in range(start, start + count)
        ]

    def commands(self, count: int, *, start: int = 0, backend: str = "b") -> list[Outgoing]:
        """So many messages on subjects of commands."""
        prefix = self.server.subjects.prefix
        return [
            Outgoing(f"{prefix}.command.{backend}.node.1.c{number}", b"%d" % number)
            for number in range(start, start + count)
        ]

    @property
    def node_subjects(self) -> list[str]:
        """What ``nodes`` writes to."""
        return [self.server.subjects.of_kind("node")]

    def decision(self, name: str = "a") -> str:
        """A subject that decisions are fenced by."""
        return f"{self.server.subjects.prefix}.decision.1.ns.{name}"


@contextmanager
def simulation(seed: int = 1, faults: BusFaults | None = None) -> Iterator[Simulation]:
    """Make a simulation; at its end nobody may have overlooked an exception."""
    with VirtualLoop(random.Random(seed)) as loop:
        yield Simulation(loop, faults)
        assert loop.failures() == []


async def take(chunks: AsyncIterator[list[Received]], count: int) -> list[int]:
    """Read the sequences of so many messages."""
    sequences: list[int] = []
    while len(sequences) < count:
        sequences += [received.sequence for received in await anext(chunks)]
    return sequences


async def take_commands(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    """Take so many commands without acknowledging them."""
    return [await anext(deliveries) for _ in range(count)]


async def take_acknowledged(deliveries: AsyncIterator[Delivery], count: int) -> list[int]:
    """Take and acknowledge commands, one after the other; returns which."""
    numbers: list[int] = []
    while len(numbers) < count:
        delivery = await anext(deliveries)
        numbers.append(int(delivery.received.payload))
        await delivery.ack()
    return numbers
