"""The log on a real server: what is stored, what is refused, what is read, and what happens when the server goes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from everynode.errors import (
    InvariantError,
    MalformedMessageError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Bus, Outgoing, Received
from everynode.runtime import publishing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection

Messages = Callable[..., list[Outgoing]]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

DEADLINE_SECONDS = 20


async def take(chunks: AsyncIterator[list[Received]], count: int) -> list[Received]:
    """Read until there are so many messages; what hangs fails."""
    received: list[Received] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(received) < count:
            received += await anext(chunks)
    return received


def decision(bus: JetStreamBus, name: str = "a") -> str:
    """A subject that decisions are fenced by."""
    return f"{bus.subjects.prefix}.decision.1.ns.{name}"


def command(bus: JetStreamBus, number: int, backend: str = "b") -> Outgoing:
    """A message on the subject of a command."""
    return Outgoing(f"{bus.subjects.prefix}.command.{backend}.node.1.{number}", b"%d" % number)


def stands_still(pid: int) -> bool:
    """Say whether every thread of a process that was sent SIGSTOP has stopped: they do not all do so at once."""
    threads = Path(f"/proc/{pid}/task")
    states = [
        (thread / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        for thread in (threads.iterdir() if threads.exists() else ())
    ]
    return all(state == "T" for state in states)


async def until_stopped(pid: int) -> None:
    """Wait until a process that was sent SIGSTOP stands still."""
    while not stands_still(pid):  # noqa: ASYNC110 - a process tells nobody that it has stopped
        await asyncio.sleep(0.01)


class TestPublish:
    """What `publish` and `publish_fenced` promise."""

    async def test_is_the_port(self, bus: JetStreamBus) -> None:
        """The JetStream bus can stand wherever the port is asked for (mypy checks this line)."""
        port: Bus = bus
        assert await port.publish([]) == 0

    async def test_order(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """More messages than a batch takes are stored in their order, and the last sequence is returned."""
        messages = node_messages(bus, 2_500)
        assert await bus.publish(messages) == 2_500
        async with aclosing(bus.follow([f"{bus.subjects.prefix}.node.>"], 1)) as chunks:
            received = await take(chunks, 2_500)
        assert [(m.subject, m.payload) for m in received] == [
            (m.subject, m.payload) for m in messages
        ]
        assert [m.sequence for m in received] == list(range(1, 2_501))

    async def test_single(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """A single message is stored without a batch."""
        assert [await bus.publish(node_messages(bus, 1)) for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("count", [1, 2, 1_000])
    async def test_fence_holds(self, bus: JetStreamBus, count: int) -> None:
        """A decision made on a stale view is refused whole, and the last sequence is named (S6)."""
        messages = [Outgoing(decision(bus), b"x"), *(command(bus, n) for n in range(count - 1))]
        assert await bus.publish_fenced(messages, 0) == count
        with pytest.raises(StaleError) as stale:
            await bus.publish_fenced(messages, 0)
        assert stale.value.last_sequence == 1
        assert (await bus.log_position()).last_sequence == count
        assert await bus.publish_fenced(messages, 1) == 2 * count

    async def test_fence_is_of_the_first_subject(self, bus: JetStreamBus) -> None:
        """What others write to other subjects does not make a decision stale."""
        assert await bus.publish_fenced([Outgoing(decision(bus, "a"), b"")], 0) == 1
        assert (
            await bus.publish_fenced([Outgoing(decision(bus, "b"), b""), command(bus, 1)], 0) == 3
        )
        assert await bus.publish_fenced([Outgoing(decision(bus, "a"), b"")], 1) == 4

    async def test_one_of_many_racing_wins(self, bus: JetStreamBus) -> None:
        """Of batches that race with one expectation exactly one is stored (S6)."""
        racing = [
            bus.publish_fenced([Outgoing(decision(bus), b"%d" % n), command(bus, n)], 0)
            for n in range(20)
        ]
        results = await asyncio.gather(*racing, return_exceptions=True)
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, StaleError) for result in results) == 19
        assert (await bus.log_position()).last_sequence == 2

    async def test_too_large_for_the_server(self, bus: JetStreamBus) -> None:
        """A message that would make the server end the connection is refused before it is sent."""
        too_large = Outgoing(decision(bus), b"x" * (1024 * 1024 - 100))
        with pytest.raises(MalformedMessageError, match=r"decision.*at most"):
            await bus.publish([too_large])
        with pytest.raises(MalformedMessageError, match=r"decision.*at most"):
            await bus.publish_fenced([too_large], 0)
        assert bus.connected

    async def test_largest(self, bus: JetStreamBus) -> None:
        """Many messages of the largest size are stored, in as many batches as it takes (B1)."""
        size = bus._link.payload_bytes_max
        messages = [
            Outgoing(f"{bus.subjects.prefix}.pod.1.b.ns.p{n}", b"x" * size) for n in range(20)
        ]
        assert await bus.publish(messages) == 20
        with pytest.raises(InvariantError, match="at most"):
            await bus.publish_fenced(messages, 0)

    @pytest.mark.parametrize("count", [0, 1_001])
    async def test_fenced_count(self, bus: JetStreamBus, count: int) -> None:
        """A fenced batch that cannot be whole is a bug of the caller's (B1)."""
        with pytest.raises(InvariantError, match="1000 messages"):
            await bus.publish_fenced([command(bus, n) for n in range(count)], 0)
        assert (await bus.log_position()).last_sequence == 0

    async def test_nobody_listens(self, bus: JetStreamBus) -> None:
        """A message that no stream takes is not stored, and the caller is told."""
        with pytest.raises(UnavailableError):
            await bus.publish([Outgoing("everynode.elsewhere.node.b.n", b"")])
        with pytest.raises(UnavailableError):
            await bus.publish([command(bus, 1), Outgoing("everynode.elsewhere.node.b.n", b"")])
        assert (await bus.log_position()).last_sequence == 0

    async def test_tombstone_leaves(self, bus: JetStreamBus, until: Until) -> None:
        """A message with a TTL leaves both streams when it is over."""
        subject = f"{bus.subjects.prefix}.node.b.gone"
        await bus.publish([Outgoing(subject, b"there")])
        await bus.publish([Outgoing(subject, b"gone", 1)])

        async def kept() -> list[bytes]:
            return [m.payload async for chunk in bus.read_state([subject]) for m in chunk]

        async def shown() -> bool:
            return await kept() == [b"gone"]

        async def left() -> bool:
            return not await kept() and await bus.time_of(2) is None

        await until(shown)
        await until(left)

    async def test_server_down(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        until: Until,
    ) -> None:
        """Without a server everything says so at once, and works again when it is back."""
        await own_bus.publish(node_messages(own_bus, 3))
        await own_server.stop()

        async def noticed() -> bool:
            return not own_bus.connected

        await until(noticed)
        for call in (
            own_bus.publish(node_messages(own_bus, 3)),
            own_bus.publish_fenced(node_messages(own_bus, 2), 0),
            own_bus.last(decision(own_bus)),
            own_bus.announce("everynode.x", b""),
            own_bus.request("everynode.x", b"", 100),
            own_bus.describe(),
            own_bus.log_position(),
        ):
            with pytest.raises(UnavailableError):
                await call
        await own_server.start()

        async def back() -> bool:
            return own_bus.connected

        await until(back)
        assert await own_bus.publish(node_messages(own_bus, 3)) == 6

    async def test_no_answer(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A server that takes a message and does not answer leaves the outcome unknown."""
        monkeypatch.setattr(publishing, "PUBLISH_TIMEOUT_MS", 200)
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        await until_stopped(own_server.pid)
        try:
            for count in (1, 2):
                with pytest.raises(OutcomeUnknownError):
                    await own_bus.publish(node_messages(own_bus, count))
        finally:
            os.kill(own_server.pid, signal.SIGCONT)

    async def test_server_dies_before_it_answers(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Who waits for an answer from a server that dies is told at once that the outcome is unknown."""
        monkeypatch.setattr(publishing, "PUBLISH_TIMEOUT_MS", 3_600_000)
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        await until_stopped(own_server.pid)
        waiting = [asyncio.create_task(own_bus.publish(node_messages(own_bus, n))) for n in (1, 2)]
        await asyncio.sleep(0.1)
        await own_server.stop(kill=True)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [OutcomeUnknownError, OutcomeUnknownError]

    async def test_connection_given_up(
        self, bus: JetStreamBus, node_messages: Messages, until: Until
    ) -> None:
        """A connection that server and library have given up for good is replaced by a new one."""
        answered = asyncio.Event()

        async def answer(payload: bytes) -> bytes:
            answered.set()
            return payload

        await bus.serve(f"{bus.subjects.prefix}.ask", answer)
        old = bus._link._client
        headers = {"X": "y" * 2_000}
        await old.publish("everynode.x", b"x" * old.max_payload, headers=headers)  # one too many

        async def replaced() -> bool:
            return bus._link._client is not old and bus.connected

        await until(replaced)
        assert await bus.publish(node_messages(bus, 2)) == 2
        assert await bus.request(f"{bus.subjects.prefix}.ask", b"1", 2_000) == b"1"


class TestLast:
    """What `last` promises."""

    async def test_own_writes(self, bus: JetStreamBus) -> None:
        """What was just written is read."""
        subject = f"{bus.subjects.prefix}.daemonset.1.ns.a"
        assert await bus.last(subject) is None
        for number in range(1, 50):
            await bus.publish([Outgoing(subject, b"%d" % number)])
            last = await bus.last(subject)
            assert last is not None
            assert (last.sequence, last.subject, last.payload) == (number, subject, b"%d" % number)
            assert last.time_ms == await bus.time_of(number)

    async def test_left_the_log(self, bus: JetStreamBus, until: Until) -> None:
        """What LOG has let go of is read from STATE, and sequence 0 is what a fence then expects."""
        subject = f"{bus.subjects.prefix}.daemonset.1.ns.a"
        await bus.publish([Outgoing(subject, b"first")])

        async def kept() -> bool:
            return bool([chunk async for chunk in bus.read_state([subject])])

        await until(kept)
        await bus._link.call(f"STREAM.PURGE.{bus._log}")
        last = await bus.last(subject)
        assert last is not None
        assert (last.sequence, last.payload) == (0, b"first")
        assert await bus.publish_fenced([Outgoing(subject, b"second")], 0) == 2
        empty = f"{bus.subjects.prefix}.daemonset.1.ns.b"
        assert await bus.last(empty) is None


class TestReadState:
    """What `read_state` promises."""

    async def test_empty(self, bus: JetStreamBus, until: Until) -> None:
        """An empty STATE, and one with nothing on these subjects, ends at once."""
        nodes, pods = f"{bus.subjects.prefix}.node.>", f"{bus.subjects.prefix}.pod.>"
        assert [chunk async for chunk in bus.read_state([nodes, pods])] == []
        await bus.publish([Outgoing(f"{bus.subjects.prefix}.node.b.n", b"")])

        async def kept() -> bool:
            return bool([chunk async for chunk in bus.read_state([nodes])])

        await until(kept)
        assert [chunk async for chunk in bus.read_state([pods])] == []

    async def test_last_of_each(
        self, bus: JetStreamBus, node_messages: Messages, until: Until
    ) -> None:
        """Each subject comes once, with its last message and that one's place in LOG, in LOG's order."""
        await bus.publish([Outgoing(decision(bus), b"not kept")])
        await bus.publish(node_messages(bus, 3_000))
        await bus.publish(node_messages(bus, 1_000, size=9))

        async def read() -> list[Received]:
            nodes = [f"{bus.subjects.prefix}.node.>", f"{bus.subjects.prefix}.status.>"]
            return [m async for chunk in bus.read_state(nodes) for m in chunk]

        async def complete() -> bool:
            messages = await read()
            return bool(messages) and messages[-1].sequence == 4_001

        await until(complete)
        messages = await read()
        assert [m.sequence for m in messages] == [*range(1_002, 3_002), *range(3_002, 4_002)]
        assert len({m.subject for m in messages}) == 3_000
        assert {len(m.payload) for m in messages[2_000:]} == {9}

    async def test_ends_while_others_write(
        self, bus: JetStreamBus, node_messages: Messages
    ) -> None:
        """Reading ends although what it reads is replaced without pause."""
        await bus.publish(node_messages(bus, 500))
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await bus.publish(node_messages(bus, 500))

        writing = asyncio.create_task(write())
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(5):
                async for chunk in bus.read_state([f"{bus.subjects.prefix}.node.>"]):
                    assert chunk
        stop.set()
        await writing

    async def test_vanishes_meanwhile(self, bus: JetStreamBus, until: Until) -> None:
        """Reading ends also when what was still to come has vanished, and nothing came in its place."""
        prefix = bus.subjects.prefix
        await bus.publish([Outgoing(f"{prefix}.node.b.{n}", b"x" * 100_000) for n in range(700)])

        async def kept() -> bool:
            return (await bus.describe()).state_messages == 700

        await until(kept)
        read = 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for chunk in bus.read_state([f"{prefix}.node.>"]):
                if not read:  # the rest does not fit into what is sent ahead
                    await bus._link.call(f"STREAM.PURGE.{bus._state}")
                read += len(chunk)
        assert 0 < read < 700

    async def test_server_killed_meanwhile(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        until: Until,
    ) -> None:
        """A server that is killed and comes back in the middle only makes it take longer (L1)."""
        await own_bus.publish(node_messages(own_bus, 20_000, size=500))

        async def kept() -> bool:
            return (await own_bus.describe()).state_messages == 20_000

        await until(kept)
        subjects: set[str] = set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for chunk in own_bus.read_state([f"{own_bus.subjects.prefix}.node.>"]):
                if not subjects:
                    await own_server.restart(kill=True)
                subjects |= {m.subject for m in chunk}
        assert len(subjects) == 20_000


class TestBeside:
    """What is said beside the log."""

    async def test_request(self, bus: JetStreamBus) -> None:
        """A request is answered by who serves its subject."""

        async def twice(payload: bytes) -> bytes:
            return payload * 2

        await bus.serve(f"{bus.subjects.prefix}.ask", twice)
        assert await bus.request(f"{bus.subjects.prefix}.ask", b"ab", 2_000) == b"abab"

    async def test_nobody_answers(self, bus: JetStreamBus) -> None:
        """Nobody there, and nobody who answers in time, are the same to who asks."""

        async def never(_: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        await bus.serve(f"{bus.subjects.prefix}.ask", never)
        with pytest.raises(UnavailableError):
            await bus.request(f"{bus.subjects.prefix}.ask", b"", 50)
        with pytest.raises(UnavailableError):
            await bus.request(f"{bus.subjects.prefix}.nobody", b"", 2_000)

    async def test_announce(self, bus: JetStreamBus, connection: Connection) -> None:
        """Who serves a subject hears what is announced there; a handler that fails hears the next one (L3)."""
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(payload: bytes) -> bytes:
            if payload == b"bad":
                raise ValueError(payload)
            if payload == b"wrong":
                raise UnavailableError("wrong")
            await heard.put(payload)
            return b""

        await bus.serve(f"{bus.subjects.prefix}.alive", hear)
        async with await connect(connection, bus.subjects.fleet) as other:
            for payload in (b"bad", b"wrong", b"1", b"2"):
                await other.announce(f"{bus.subjects.prefix}.alive", payload)
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert [await heard.get(), await heard.get()] == [b"1", b"2"]

    async def test_failure_in_the_log(self, bus: JetStreamBus) -> None:
        """Where a handler failed is logged as text, so that no log shows the values of its variables."""

        async def fail(_: bytes) -> bytes:
            raise ValueError("on purpose")

        await bus.serve(f"{bus.subjects.prefix}.ask", fail)
        with capture_logs() as entries, pytest.raises(UnavailableError):
            await bus.request(f"{bus.subjects.prefix}.ask", b"", 200)
        (entry,) = [entry for entry in entries if entry["event"] == "request not answered"]
        assert "ValueError: on purpose" in entry["traceback"]
        assert "exc_info" not in entry

    async def test_after_a_restart(
        self, own_server: EmbeddedServer, own_bus: JetStreamBus, until: Until
    ) -> None:
        """Who serves goes on when the server is back."""

        async def echo(payload: bytes) -> bytes:
            return payload

        await own_bus.serve("everynode.x.ask", echo)
        await own_server.restart(kill=True)

        async def answered() -> bool:
            try:
                return await own_bus.request("everynode.x.ask", b"1", 500) == b"1"
            except UnavailableError:
                return False

        await until(answered)


class TestPosition:
    """Where LOG is in time."""

    async def test_empty(self, bus: JetStreamBus) -> None:
        """An empty log begins after its end."""
        assert await bus.log_position() == (1, 0, 0)
        assert await bus.sequence_at(0) == 1
        assert await bus.time_of(1) is None

    async def test_sequence_at(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """The first message as old as this or younger is found, whatever was deleted around it."""
        for number in range(30):
            await bus.publish(node_messages(bus, 1, start=number))
            await asyncio.sleep(0.002)  # so that the log has different times
        for sequence in (1, 2, 13, 14, 15, 30):
            await bus._link.call(f"STREAM.MSG.DELETE.{bus._log}", {"seq": sequence})
        times = {n: await bus.time_of(n) for n in range(1, 31)}
        present = {n: time for n, time in times.items() if time is not None}
        assert sorted(present) == [n for n in range(3, 30) if n not in {13, 14, 15}]
        for time_ms in {*present.values(), min(present.values()) - 1, max(present.values()) + 1}:
            expected = min((n for n, t in present.items() if t >= time_ms), default=31)
            found = await bus.sequence_at(time_ms)
            assert expected == found
        assert (await bus.log_position()).last_sequence == 30
