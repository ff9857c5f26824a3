"""Stopping in order: SIGTERM in the middle of the work, with real processes.

A process that could not stop in order within its limit says so and ends with another code; that is what the tests look
at, not the clock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.integration.support_world import make_node, make_set

from everynode import wire
from everynode.cli.running import STOP_SECONDS_MAX
from everynode.core.events import NodeObserved
from everynode.ports import Outgoing
from everynode.runtime import delivering
from everynode.runtime.applying import apply
from everynode.runtime.embedded import STOP_TIMEOUT_MS, EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.link import CLOSE_TIMEOUT_MS
from everynode.runtime.settings import Connection
from everynode.runtime.worker import Worker

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Start = Callable[..., Awaitable["Started"]]

PROGRAM = Path(sys.executable).parent / "everynode"
DEADLINE_SECONDS = 30
NODES = 40
FOR_EVER = "apply_ms=3600000-3600000"
"""A backend that takes an hour for each call."""


class Started:
    """A command that runs as a process.

    Args:
        process: It.
        output: Where it writes.
    """

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        """It runs."""
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self._output.read_text(encoding="utf-8")

    def says(self, words: str) -> Callable[[], Awaitable[bool]]:
        """Ask whether it has said something; that it ended instead fails."""

        async def said() -> bool:
            assert self.process.returncode is None, self.text
            return words in self.text

        return said

    async def stop(self) -> int:
        """Ask it to stop, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_SECONDS):
            code = await self.process.wait()
        assert "could not stop in order" not in self.text
        assert "Traceback" not in self.text
        return code


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start commands; they end with the test."""
    started: list[Started] = []

    async def run(*arguments: str) -> Started:
        path = tmp_path / f"{len(started)}.log"
        with path.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                PROGRAM, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        started.append(Started(process, path))
        return started[-1]

    yield run
    for each in started:
        if each.process.returncode is None:
            each.process.kill()
            await each.process.wait()


def to(bus: JetStreamBus) -> tuple[str, ...]:
    """Options that name a bus' server and fleet."""
    return "--nats", bus._link.connection.servers[0], "--fleet", bus.subjects.fleet


async def handed_out(bus: JetStreamBus, backend: str) -> int:
    """How many commands were handed out and not acknowledged."""
    try:
        consumer = await bus._link.call(f"CONSUMER.INFO.{bus._log}.adapter-{backend}")
    except Exception:  # noqa: BLE001 - there is none yet
        return 0
    return int(consumer["num_ack_pending"])


async def test_an_adapter_gives_back_what_it_has_in_hand(
    bus: JetStreamBus,
    connection: Connection,
    start: Start,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Commands that an adapter was working on when it was stopped come again at once to another one (S4)."""
    adapter = await start(
        "adapter", "simulated", *to(bus), "--nodes", str(NODES), "--option", FOR_EVER
    )
    await until(adapter.says("adapter starts"))
    await apply(bus, make_set())
    async with await connect(connection, bus.subjects.fleet) as other:
        working = asyncio.create_task(Worker(other, "worker").run())

        async def some() -> bool:
            return await handed_out(bus, "simulated") > 0

        await until(some)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    in_hand = await handed_out(bus, "simulated")

    assert await adapter.stop() == 0

    monkeypatch.setattr(delivering, "ACK_WAIT_MS", 3_600_000)  # only what is given back comes again
    again: set[int] = set()
    async with aclosing(bus.commands("simulated", 1_000)) as deliveries:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(again) < in_hand:
                delivery = await anext(deliveries)
                if delivery.delivery_count > 1:
                    again.add(delivery.received.sequence)


async def test_a_worker_stops_in_the_middle_of_its_work(
    bus: JetStreamBus, start: Start, until: Until
) -> None:
    """A worker that is stopped while it decides ends well, and what it said stands (S4)."""
    nodes = [NodeObserved(node=make_node(f"n{number:04}")) for number in range(2_000)]
    await bus.publish([Outgoing(bus.subjects.of(node), wire.encode(node)) for node in nodes])
    worker = await start("worker", *to(bus))
    await until(worker.says("worker starts"))
    await apply(bus, make_set())

    async def decides() -> bool:
        return (await bus.log_position()).last_sequence > len(nodes) + 2

    await until(decides)
    assert await worker.stop() == 0
    assert "worker stops" in worker.text


@pytest.mark.parametrize("kind", ["worker", "adapter"])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "silent"])
async def test_without_a_server_they_stop_as_well(
    own_server: EmbeddedServer,
    own_bus: JetStreamBus,
    start: Start,
    until: Until,
    kind: str,
    gone: bool,
) -> None:
    """A server that is gone, or does not answer, keeps nobody from stopping (L3)."""
    more = ("simulated", "--nodes", "3") if kind == "adapter" else ()
    part = await start(kind, *more[:1], *to(own_bus), *more[1:])
    await until(part.says(f"{kind} starts"))

    async def works() -> bool:
        return kind == "worker" or (await own_bus.log_position()).last_sequence >= 3

    await until(
        works
    )  # an adapter that has not reached its log yet gives up, which is something else
    if gone:
        await own_server.stop()
        await until(part.says("cannot connect to NATS again yet"))
        assert await part.stop() == 0
        return
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        assert await part.stop() == 0
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


async def test_everything_in_one_process_stops(start: Start, until: Until) -> None:
    """`everynode up` stops its server as well, in the middle of covering a fleet."""
    up = await start("up", "--nodes", "1000", "deploy/examples")
    await until(up.says("created"))
    assert await up.stop() == 0


def test_there_is_time_for_each_part() -> None:
    """What may take its time at the end, one after the other, takes no longer than there is (B1)."""
    assert 2 * CLOSE_TIMEOUT_MS + STOP_TIMEOUT_MS <= STOP_SECONDS_MAX * 1_000
