"""A real nats-server for the tests, and a bus on a fleet of its own for each of them.

One server serves all tests that leave it alone; a test that stops, kills or damages its server takes `own_server`.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration import support_world
from tests.integration.support_world import World

from everynode.ports import Outgoing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.streams import log_name, state_name

SMALL = StreamSettings(log_max_bytes=64 * 1024**2)
"""JetStream sets the whole of it aside for each stream, so a test fleet must be small."""

UNTIL_SECONDS = 30

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server that all tests share: it must be left running."""
    async with EmbeddedServer(None, 0) as embedded:
        yield embedded


@pytest_asyncio.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that the test may do anything to."""
    async with EmbeddedServer(tmp_path / "nats", 0) as embedded:
        yield embedded


@pytest.fixture
def connection(server: EmbeddedServer) -> Connection:
    """How to reach the shared server."""
    return Connection(servers=(server.url,))


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that nobody else uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest_asyncio.fixture
async def bus(connection: Connection, fleet: str) -> AsyncIterator[JetStreamBus]:
    """A bus on a fleet of its own, on the shared server."""
    async with await connect(connection, fleet, create=SMALL) as fleet_bus:
        yield fleet_bus
        for name in (state_name(fleet), log_name(fleet)):
            await fleet_bus._link.call(f"STREAM.DELETE.{name}")


@pytest_asyncio.fixture
async def own_bus(own_server: EmbeddedServer, fleet: str) -> AsyncIterator[JetStreamBus]:
    """A bus on the server that the test may do anything to."""
    own_connection = Connection(servers=(own_server.url,))
    async with await connect(own_connection, fleet, create=SMALL) as fleet_bus:
        yield fleet_bus


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Ask again and again until it is true; what never becomes true fails."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(UNTIL_SECONDS):
            while not await condition():  # noqa: ASYNC110 - a server cannot set an event here
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def node_messages() -> Callable[..., list[Outgoing]]:
    """Make so many messages on subjects of nodes; the bus does not look into them."""

    def make(bus: JetStreamBus, count: int, *, start: int = 0, size: int = 8) -> list[Outgoing]:
        return [
            Outgoing(f"{bus.subjects.prefix}.node.b.n{number}", f"{number}".ljust(size).encode())
            for number in range(start, start + count)
        ]

    return make


@pytest_asyncio.fixture
async def world(connection: Connection, bus: JetStreamBus, tmp_path: Path) -> AsyncIterator[World]:
    """A whole fleet on the shared server; its log is recorded, and no part of it runs yet."""
    async with support_world.world(connection, bus, tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def own_world(
    own_server: EmbeddedServer, own_bus: JetStreamBus, tmp_path: Path
) -> AsyncIterator[World]:
    """A whole fleet on a server that the test may do anything to."""
    own_connection = Connection(servers=(own_server.url,))
    async with support_world.world(own_connection, own_bus, tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def covered(world: World, request: pytest.FixtureRequest) -> World:
    """Four nodes that are covered with one set, a worker and a host; a known bug is not waited for long."""
    world.wait_seconds = 6 if request.node.get_closest_marker("xfail") else 20
    world.add_nodes(4)
    await world.start_worker()
    await world.start_host()
    await world.apply(support_world.make_set())
    await world.covered()
    return world
