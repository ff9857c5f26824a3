"""Several hosts of one backend: one is at work, the others stand by."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from everynode.errors import StaleError
from everynode.runtime import claim
from everynode.runtime.claim import Claim, Holder
from everynode.runtime.clock import SystemClock
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection
from everynode_simulated import SimulatedAdapter, SimulatedFleet, generate_nodes

WAIT_SECONDS = 20


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let those who stand by ask often."""
    monkeypatch.setattr(claim, "INTERVAL_MS", 50)


@pytest_asyncio.fixture
async def other_bus(
    bus: JetStreamBus, connection: Connection, fleet: str
) -> AsyncIterator[JetStreamBus]:
    """Another connection to the same fleet."""
    assert bus.subjects.fleet == fleet
    async with await connect(connection, fleet) as other:
        yield other


@contextlib.asynccontextmanager
async def at_work(bus: JetStreamBus, count: int) -> AsyncIterator[AdapterHost]:
    """Run a host of its own simulated fleet."""
    fleet = SimulatedFleet(generate_nodes(count, 1, "sim"))
    host = AdapterHost(bus, SimulatedAdapter("sim", fleet))
    task = asyncio.create_task(host.run())
    try:
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_second_host_stands_by_until_the_first_is_gone(
    bus: JetStreamBus, other_bus: JetStreamBus
) -> None:
    """L2: two adapters of one backend do not contradict each other on the log; when one goes, the other takes over."""
    async with asyncio.timeout(WAIT_SECONDS):
        async with at_work(bus, 5) as first:
            await first.listed.wait()
            async with at_work(other_bus, 3) as second:
                before = await bus.log_position()
                while second._claim.waits < 3:  # noqa: ASYNC110 - standing by is no event
                    await asyncio.sleep(0.01)
                assert not second.listed.is_set()
                assert before.last_sequence == (await bus.log_position()).last_sequence
        async with at_work(other_bus, 3) as second:
            await second.listed.wait()


async def test_of_two_holders_the_later_one_lets_go(
    bus: JetStreamBus, other_bus: JetStreamBus
) -> None:
    """L2: two that took it without hearing of each other settle it as soon as they do."""
    older = Claim(bus, "everynode.x.host.sim", SystemClock())
    newer = Claim(other_bus, "everynode.x.host.sim", SystemClock())
    await older.take()
    newer._held = Holder(2**62, "newer")
    await other_bus.serve("everynode.x.host.sim", newer._answer)
    keeping = asyncio.create_task(older.keep())

    with pytest.raises(StaleError, match="another host"):
        async with asyncio.timeout(WAIT_SECONDS):
            await newer.keep()

    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await newer.release()
    await older.release()
    assert await newer._holder() is None


async def test_words_that_are_not_understood_change_nothing(bus: JetStreamBus) -> None:
    """S8: garbage on the claim's subject takes it from nobody."""
    held = Claim(bus, "everynode.x.host.sim", SystemClock())
    await held.take()

    assert await bus.request("everynode.x.host.sim", b"garbage", 1_000) == held._id.encode()

    assert not held._lost.is_set()
    await held.release()
