"""Following the log on a real server: in order and without a gap, whatever happens to server and consumer."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from everynode.errors import StaleError
from everynode.ports import Outgoing, Received
from everynode.runtime import following
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.following import (
    BUFFER_BYTES_MAX,
    CHUNK_MESSAGES_MAX,
    Follower,
    delivered,
    milliseconds,
)
from everynode.runtime.jetstream import JetStreamBus, _from_log, connect
from everynode.runtime.settings import Connection

Messages = Callable[..., list[Outgoing]]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

DEADLINE_SECONDS = 30


async def take(chunks: AsyncIterator[list[Received]], count: int) -> list[int]:
    """Read the sequences of so many messages; what hangs fails."""
    sequences: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(sequences) < count:
            sequences += [received.sequence for received in await anext(chunks)]
    return sequences


def connected(bus: JetStreamBus) -> Callable[[], Awaitable[bool]]:
    """Ask whether the bus has a connection."""

    async def ask() -> bool:
        return bus.connected

    return ask


def nodes(bus: JetStreamBus) -> list[str]:
    """What `node_messages` writes to."""
    return [bus.subjects.of_kind("node")]


class TestFollow:
    """What `follow` promises while nothing goes wrong."""

    async def test_past_and_present(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """What was there comes first, then what is written, each once, in chunks of at most 1,000 (B1)."""
        await bus.publish(node_messages(bus, 3_000))
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            assert await take(chunks, 3_000) == list(range(1, 3_001))
            await bus.publish(node_messages(bus, 2_500))
            sizes: list[int] = []
            while sum(sizes) < 2_500:
                sizes.append(len(await anext(chunks)))
            assert max(sizes) <= CHUNK_MESSAGES_MAX

    async def test_from_the_middle(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """It begins at the sequence that was asked for, the next one to come included."""
        await bus.publish(node_messages(bus, 10))
        async with aclosing(bus.follow(nodes(bus), 8)) as chunks:
            assert await take(chunks, 3) == [8, 9, 10]
        async with aclosing(bus.follow(nodes(bus), 11)) as chunks:
            next_one = asyncio.create_task(take(chunks, 1))
            await bus.publish(node_messages(bus, 1))
            assert await next_one == [11]

    async def test_only_these_subjects(self, bus: JetStreamBus) -> None:
        """Only what was asked for comes, from several subjects in the log's order."""
        prefix = bus.subjects.prefix
        await bus.publish(
            [
                Outgoing(f"{prefix}.{kind}.1.ns.x", b"")
                for kind in ("node", "pod", "tick", "pod", "node")
            ]
        )
        async with aclosing(bus.follow([f"{prefix}.pod.>", f"{prefix}.tick.>"], 1)) as chunks:
            assert await take(chunks, 3) == [2, 3, 4]

    async def test_sign_of_life(self, bus: JetStreamBus) -> None:
        """When there is nothing to read, an empty list says that it is still read."""
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks, asyncio.timeout(DEADLINE_SECONDS):
            assert [await anext(chunks), await anext(chunks)] == [[], []]

    async def test_closing(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """Closing the iterator ends the subscription."""
        await bus.publish(node_messages(bus, 10))
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            await take(chunks, 10)
            listening = set(bus._link._client._subs)
        assert len(set(bus._link._client._subs)) == len(listening) - 1

    async def test_slow_reader(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """Who reads slowly is sent no more than the buffer takes, and misses nothing (B1)."""
        count, size = 700, 100_000
        await bus._link.call(
            f"STREAM.UPDATE.{bus._log}",
            (await bus._link.call(f"STREAM.INFO.{bus._log}"))["config"] | {"max_bytes": 2**27},
        )
        await bus.publish(node_messages(bus, count, size=size))
        follower = Follower(bus._link, bus._log, nodes(bus), 1, _from_log, complete=True)
        async with aclosing(follower.chunks()) as chunks:
            first = await take(chunks, 1)
            buffered = -1
            while len(follower._inbox) > buffered:  # until the server sends no more
                buffered = len(follower._inbox)
                await asyncio.sleep(0.3)
            assert 0 < buffered * size < BUFFER_BYTES_MAX
            assert buffered < count - len(first)
            rest = await take(chunks, count - len(first))
            assert first + rest == list(range(1, count + 1))


class TestFaults:
    """What `follow` promises when something goes wrong."""

    async def test_killed_server(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Following goes on when a killed server is back: nothing twice, nothing left out (L1)."""
        monkeypatch.setattr(following, "SILENCE_MS_MAX", 3_600_000)  # the new connection is enough
        await own_bus.publish(node_messages(own_bus, 100))
        async with aclosing(own_bus.follow(nodes(own_bus), 1)) as chunks:
            sequences = await take(chunks, 100)
            for _ in range(2):
                await own_server.restart(kill=True)
                await until(connected(own_bus))
                await own_bus.publish(node_messages(own_bus, 100))
                sequences += await take(chunks, 100)
        assert sequences == list(range(1, 301))

    async def test_killed_while_reading(
        self, own_server: EmbeddedServer, own_bus: JetStreamBus, node_messages: Messages
    ) -> None:
        """A server that is killed while it sends costs no message and sends none twice (L1)."""
        await own_bus.publish(node_messages(own_bus, 30_000, size=300))
        async with aclosing(own_bus.follow(nodes(own_bus), 1)) as chunks:
            sequences = await take(chunks, 2_000)
            await own_server.restart(kill=True)
            sequences += await take(chunks, 30_000 - len(sequences))
        assert sequences == list(range(1, 30_001))

    async def test_consumer_gone(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """A consumer that somebody deleted is made anew (L1)."""
        await bus.publish(node_messages(bus, 5))
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            assert await take(chunks, 5) == [1, 2, 3, 4, 5]
            listed = await bus._link.call(f"CONSUMER.NAMES.{bus._log}")
            (name,) = listed["consumers"]
            await bus._link.call(f"CONSUMER.DELETE.{bus._log}.{name}")
            await bus.publish(node_messages(bus, 5))
            assert await take(chunks, 5) == [6, 7, 8, 9, 10]

    @pytest.mark.parametrize("lost", [[0], [4], [9], [0, 1, 2], [9, 8, 7]])
    async def test_lost_message(
        self, bus: JetStreamBus, node_messages: Messages, lost: list[int], until: Until
    ) -> None:
        """A message that was sent and did not arrive is read after all, in its place (L1)."""
        await bus.publish(node_messages(bus, 10))
        follower = Follower(bus._link, bus._log, nodes(bus), 1, _from_log, complete=True)
        assert await follower.begin()

        async def sent() -> bool:
            return len(follower._inbox) >= 10

        await until(sent)
        for position in lost:
            del follower._inbox[position]
        async with aclosing(follower.chunks()) as chunks:
            assert await take(chunks, 10) == list(range(1, 11))

    @pytest.mark.parametrize("written_since", [0, 50])
    async def test_older_copy(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        node_messages: Messages,
        written_since: int,
        until: Until,
    ) -> None:
        """A log that lost its end after it was read is refused, also when it has grown past it again."""
        store, copy = own_server.data_dir / "jetstream", own_server.data_dir / "copy"
        await own_bus.publish(node_messages(own_bus, 5))
        await own_server.stop()
        shutil.copytree(store, copy)
        await own_server.start()
        await until(connected(own_bus))
        await own_bus.publish(node_messages(own_bus, 10))
        async with aclosing(own_bus.follow(nodes(own_bus), 1)) as chunks:
            assert await take(chunks, 15) == list(range(1, 16))
            await own_server.stop()
            shutil.rmtree(store)
            other = own_server.data_dir / "other"
            shutil.copytree(copy, other / "jetstream")
            if written_since:  # where the one who follows does not see it
                async with EmbeddedServer(other, 0) as elsewhere:
                    there = Connection(servers=(elsewhere.url,))
                    async with await connect(there, own_bus.subjects.fleet) as bus:
                        await bus.publish(node_messages(bus, written_since))
            shutil.move(other / "jetstream", store)
            await own_server.start()
            with pytest.raises(
                StaleError, match="another message" if written_since else "ends at 5"
            ):
                await take(chunks, 1)

    async def test_ends_before(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """Following from beyond the end of the log is refused: it is not the log that was read."""
        await bus.publish(node_messages(bus, 5))
        with pytest.raises(StaleError) as stale:
            await anext(bus.follow(nodes(bus), 7))
        assert stale.value.last_sequence == 5

    async def test_made_anew(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """A log that was deleted and made anew is refused, however long it is."""
        await bus.publish(node_messages(bus, 5))
        info = await bus._link.call(f"STREAM.INFO.{bus._log}")
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            await take(chunks, 5)
            await bus._link.call(f"STREAM.DELETE.{bus._log}")
            await bus._link.call(f"STREAM.CREATE.{bus._log}", info["config"])
            await bus.publish(node_messages(bus, 20))
            with pytest.raises(StaleError, match="made anew"):
                await take(chunks, 1)

    async def test_lost_beginning(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """A new reader begins with what LOG still has; one whose next message LOG has let go of is refused."""
        await bus.publish(node_messages(bus, 10))
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            assert (await take(chunks, 10))[-1] == 10
            listed = await bus._link.call(f"CONSUMER.NAMES.{bus._log}")
            await bus._link.call(f"CONSUMER.DELETE.{bus._log}.{listed['consumers'][0]}")
            await bus.publish(node_messages(bus, 10))
            await bus._link.call(f"STREAM.PURGE.{bus._log}", {"seq": 16})
            with pytest.raises(StaleError, match="begins at 16"):
                await take(chunks, 1)
        async with aclosing(bus.follow(nodes(bus), 11)) as chunks:
            assert await take(chunks, 5) == [16, 17, 18, 19, 20]

    async def test_overtaken(
        self, bus: JetStreamBus, node_messages: Messages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reader so slow that LOG lets go of what it has not been sent yet is told so."""
        monkeypatch.setattr(following, "CHECK_INTERVAL_MS", 0)
        await bus.publish(node_messages(bus, 100, size=100_000))
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            await take(chunks, 1)
            for _ in range(20):  # in all 200 MB, and LOG keeps 64
                await bus.publish(node_messages(bus, 100, size=100_000))
            with pytest.raises(StaleError, match="begins at"):
                await take(chunks, 2_100)

    async def test_nothing_of_ours(
        self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reader whose subjects are quiet loses nothing when LOG lets go of what others wrote."""
        monkeypatch.setattr(following, "CHECK_INTERVAL_MS", 0)
        prefix = bus.subjects.prefix
        ours, others = Outgoing(f"{prefix}.node.b.n", b""), Outgoing(f"{prefix}.tick.1", b"")
        await bus.publish([ours, *[others] * 10])
        async with aclosing(bus.follow(nodes(bus), 1)) as chunks:
            assert await take(chunks, 1) == [1]
            assert [await anext(chunks), await anext(chunks)] == [[], []]
            await bus._link.call(f"STREAM.PURGE.{bus._log}", {"seq": 8})
            listed = await bus._link.call(f"CONSUMER.NAMES.{bus._log}")
            await bus._link.call(f"CONSUMER.DELETE.{bus._log}.{listed['consumers'][0]}")
            await bus.publish([others, ours])
            assert await take(chunks, 1) == [13]

    async def test_strange_headers(self, bus: JetStreamBus, until: Until) -> None:
        """Headers that somebody put on a message are not taken for the server's own (S8)."""
        (subject,) = nodes(bus)
        headers = {"Status": "409", "Description": "Consumer Deleted"}
        for _ in range(3):
            await bus._link.request(subject.replace(">", "b.n"), b"", 2_000, headers)
        async with aclosing(bus.follow([subject], 1)) as chunks:
            assert await take(chunks, 3) == [1, 2, 3]

        async def kept() -> bool:
            found = [m.sequence async for chunk in bus.read_state([subject]) for m in chunk]
            return found == [3]

        await until(kept)


class TestReading:
    """How what the server says of a message is read."""

    def test_reply(self) -> None:
        """The subject that acknowledges a message says where it stood, with and without a domain in front."""
        tail = "LOG.consumer.3.70.7.1700000000123456789.12"
        expected = (3, 70, 7, 1_700_000_000_123, 12)
        assert delivered(f"$JS.ACK.{tail}") == expected
        assert delivered(f"$JS.ACK.domain.account.{tail}") == expected
        assert delivered(f"$JS.ACK.domain.account.{tail}.random") == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123),
            ("2023-11-14T22:13:20.1Z", 1_700_000_000_100),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.9999+01:00", 1_700_000_000_999),
            ("0001-01-01T00:00:00Z", 0),
        ],
    )
    def test_time(self, text: str, expected: int) -> None:
        """Times are cut to milliseconds, however many digits the server wrote."""
        assert milliseconds(text) == expected
