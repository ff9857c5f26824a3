"""Messages on subjects that no program of ours would choose: each has no effect, and holds up nothing else (S8, L3)."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from tests.integration.support_world import World, make_set

from everynode.ports import Outgoing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n'


async def publish_raw(server: EmbeddedServer, *lines: bytes) -> None:
    """Publish as no library would; the server has taken it in when this returns."""
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(CONNECT + b"".join(lines) + b"PING\r\n")
        while not (line := await reader.readline()).startswith(b"PONG"):
            assert line.startswith(b"INFO"), line
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("tail", [b"\xff", b"\x0b1", b"\x0c", b"\xc2\xa0"])
async def test_a_subject_that_is_odd(
    own_world: World, own_server: EmbeddedServer, tail: bytes
) -> None:
    """No text, or white space for Python: workers and hosts read past it, those that run and those that start."""
    world = own_world
    subject = f"everynode.{world.name}.node.b.n".encode() + tail
    world.add_nodes(2)
    await world.start_worker()
    await world.start_host()
    await world.apply(make_set())
    await world.covered()
    await publish_raw(own_server, b"PUB %b 2\r\n{}\r\n" % subject)
    world.add_nodes(1)
    await world.covered()


@pytest.mark.parametrize(
    "head", [b"NATS/1.0", b"NATS/1.0\r\n\xff: \xff\r\n\r\n", b"NATS/1.0\r\nX: yAB"]
)
async def test_headers_that_are_odd(
    own_bus: JetStreamBus, own_server: EmbeddedServer, head: bytes
) -> None:
    """They are read past, from LOG and from STATE, which says where in LOG each message stood."""
    prefix = own_bus.subjects.prefix
    line = b"HPUB %b %d %d\r\n" % (f"{prefix}.node.b.odd".encode(), len(head), len(head) + 2)
    await publish_raw(own_server, line + head + b"{}\r\n")
    last = await own_bus.publish([Outgoing(f"{prefix}.node.b.plain", b"{}")])
    assert 2 == last

    async def found(name: str) -> list[int]:
        subjects = [f"{prefix}.>"]
        reading = own_bus.read_log(subjects, 1) if name == "log" else own_bus.read_state(subjects)
        return [each.sequence async for chunk in reading for each in chunk]

    async with asyncio.timeout(30):
        assert [1, 2] == await found("log")
        while [1, 2] != await found("state"):  # noqa: ASYNC110 - a server cannot set an event here
            await asyncio.sleep(0.01)
