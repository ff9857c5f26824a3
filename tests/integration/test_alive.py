"""Staying alive: whatever is listened to on NATS goes on after a server died, fell silent or answered nonsense.

The library does not see to that by itself: the first tests show two of its subscriptions that stay dead for good after
a server's restart, beside ours, which go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from structlog.testing import capture_logs
from tests.kubernetes.support_proxy import TcpProxy

from everynode.errors import UnavailableError
from everynode.ports import Outgoing, Received
from everynode.runtime import delivering, following, link, serving
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.link import RECONNECT_DELAY_MAX_MS, RECONNECT_DELAY_MIN_MS, delay_ms
from everynode.runtime.settings import Connection

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

DEADLINE_SECONDS = 30
A_LONG_TIME_MS = 3_600_000


def event(bus: JetStreamBus, number: int) -> Outgoing:
    """A message that a follower reads; the bus does not look into it."""
    return Outgoing(f"{bus.subjects.prefix}.node.b.n{number}", b"%d" % number)


def command(bus: JetStreamBus, number: int) -> Outgoing:
    """A command for backend b."""
    return Outgoing(f"{bus.subjects.prefix}.command.b.node.1.c{number}", b"%d" % number)


class Listeners:
    """One of each kind of subscription that we have: a follower, a command consumer, a served subject.

    Args:
        bus: Where they listen.
    """

    def __init__(self, bus: JetStreamBus) -> None:
        """Listen to nothing yet."""
        self.followed: set[int] = set()
        self.commanded: set[int] = set()
        self.asked: set[int] = set()
        self._bus = bus
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        await self._bus.serve(f"{self._bus.subjects.prefix}.ask", self._answer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._carry_out())

    async def heard(self, number: int) -> None:
        """Wait until each has heard this number; what stays dead fails."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while any(number not in heard for heard in (self.followed, self.commanded, self.asked)):
                self._heard.clear()
                await self._heard.wait()

    async def _follow(self) -> None:
        chunks: AsyncIterator[list[Received]]
        async with aclosing(self._bus.follow([self._bus.subjects.of_kind("node")], 1)) as chunks:
            async for chunk in chunks:
                self.followed |= {int(received.payload) for received in chunk}
                self._heard.set()

    async def _carry_out(self) -> None:
        async with aclosing(self._bus.commands("b", 10)) as deliveries:
            async for delivery in deliveries:
                self.commanded.add(int(delivery.received.payload))
                self._heard.set()
                await delivery.ack()

    async def _answer(self, payload: bytes) -> bytes:
        self.asked.add(int(payload))
        self._heard.set()
        return payload


async def say(bus: JetStreamBus, number: int, until: Until) -> None:
    """Say a number to each of them, as soon as there is somebody to say it to."""

    async def said() -> bool:
        try:
            await bus.publish([event(bus, number), command(bus, number)])
            await bus.request(f"{bus.subjects.prefix}.ask", b"%d" % number, 1_000)
        except Exception:  # noqa: BLE001 - the server is not there yet
            return False
        return True

    await until(said)


@pytest.fixture
async def listeners(own_bus: JetStreamBus, until: Until) -> AsyncIterator[Listeners]:
    """All of them, listening, and each has heard the number 0."""
    made = Listeners(own_bus)
    running = asyncio.create_task(made.run())
    await say(own_bus, 0, until)
    await made.heard(0)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class TestServerDies:
    """A server that is killed and comes back."""

    @pytest.fixture
    async def others(self, own_server: EmbeddedServer) -> AsyncIterator[Client]:
        """A connection of the library's own, that reconnects for ever."""
        client = await nats.connect(
            own_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=ignore
        )
        yield client
        await client.close()

    async def test_the_library_s_pull_subscription_stays_dead_and_ours_does_not(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        listeners: Listeners,
        others: Client,
        until: Until,
    ) -> None:
        """What was asked of a server dies with it: the library waits on for ever, we ask again (L1, S4)."""
        js: JetStreamContext = others.jetstream()
        config = ConsumerConfig(
            filter_subject=own_bus.subjects.of_kind("node"), deliver_policy=DeliverPolicy.NEW
        )
        theirs = await js.pull_subscribe("", durable="theirs", stream=own_bus._log, config=config)
        waiting = asyncio.create_task(theirs.fetch(1, timeout=A_LONG_TIME_MS))
        await others.flush()

        await own_server.restart(kill=True)
        await say(own_bus, 1, until)
        await listeners.heard(1)
        await reconnected(others, until)

        found = await js.consumer_info(own_bus._log, "theirs")
        assert found.num_pending is not None
        assert found.num_pending > 0  # there is something for it,
        assert found.num_waiting == 0  # and nobody asks
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async def test_the_library_s_push_subscription_stays_dead_and_ours_does_not(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        listeners: Listeners,
        others: Client,
        until: Until,
    ) -> None:
        """A consumer that a server kept in memory dies with it, and the library listens on to nothing (L1)."""
        js: JetStreamContext = others.jetstream()
        config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, mem_storage=True)
        theirs = await js.subscribe(
            own_bus.subjects.of_kind("node"), stream=own_bus._log, config=config
        )
        name = (await theirs.consumer_info()).name
        await own_bus.publish([event(own_bus, 5)])
        await theirs.next_msg(DEADLINE_SECONDS)

        await own_server.restart(kill=True)
        await say(own_bus, 1, until)
        await listeners.heard(1)
        await reconnected(others, until)

        with pytest.raises(NotFoundError):
            await js.consumer_info(own_bus._log, name)
        assert theirs.pending_msgs == 0

    async def test_again_and_again(
        self,
        own_server: EmbeddedServer,
        own_bus: JetStreamBus,
        listeners: Listeners,
        until: Until,
    ) -> None:
        """Everything goes on after each of several deaths, and each new connection is counted (L1)."""
        for number in (1, 2, 3):
            await own_server.restart(kill=True)
            await say(own_bus, number, until)
            await listeners.heard(number)
        assert own_bus.counts.reconnects == 3
        assert own_bus.counts.revived == 0  # they were taken along


class TestSubscriptionsDie:
    """Subscriptions that end while the connection lives, which nobody says."""

    async def test_by_silence_alone(
        self,
        own_bus: JetStreamBus,
        listeners: Listeners,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A reader that hears nothing, not even a heartbeat, begins anew (L1)."""
        monkeypatch.setattr(following, "SILENCE_MS_MAX", 1_500)  # heartbeats come each second
        monkeypatch.setattr(delivering, "SILENCE_MS_MAX", 1_500)
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 1_000)
        answers = own_bus._link._exchange._inbox
        for subscription in own_bus._link._client._subs.values():
            if not subscription.subject.startswith(answers):
                kill(subscription)
        await say(own_bus, 1, until)
        await listeners.heard(1)
        assert own_bus.counts.reconnects == 0

    async def test_answers_are_not_heard(
        self, bus: JetStreamBus, until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection on which no answer is heard any more is replaced by another one (L1)."""
        monkeypatch.setattr(link, "OVERSEE_INTERVAL_MS", 20)
        kill(bus._link._exchange._subscription)

        async def replaced() -> bool:
            return bus.counts.reconnects == 1

        await until(replaced)
        assert await bus.publish([event(bus, 1)]) == 1


def kill(subscription: Any) -> None:
    """End a subscription as the library does it, without a word."""
    subscription._wait_for_msgs_task.cancel()


async def ignore(_: Exception) -> None:
    """The library says that its connection is gone, which is what these tests are about."""


async def reconnected(client: Client, until: Until) -> None:
    """Wait until the library's connection is back, and whatever was sent to it has been handed out."""

    async def answered() -> bool:
        return bool(client.is_connected)

    await until(answered)
    await client.flush()


class TestConnectionFallsSilent:
    """A connection that is up, and on which nothing comes or goes."""

    @pytest.fixture
    async def proxy(self, own_server: EmbeddedServer) -> AsyncIterator[TcpProxy]:
        """What stands between us and the server."""
        async with TcpProxy(own_server.url) as made:
            yield made

    async def test_everything_goes_on(
        self,
        proxy: TcpProxy,
        own_bus: JetStreamBus,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A connection that is dead without a word is replaced by one that is not, and all go on (L1)."""
        monkeypatch.setattr(link, "PING_INTERVAL_SECONDS", 0.1)
        # What was on its way to us comes again only after this.
        monkeypatch.setattr(delivering, "ACK_WAIT_MS", 1_000)
        connection = Connection(servers=(proxy.url,))
        async with await connect(connection, own_bus.subjects.fleet) as behind:
            made = Listeners(behind)
            running = asyncio.create_task(made.run())
            await say(own_bus, 0, until)
            await made.heard(0)
            for number in (1, 2):
                proxy.abandon()
                await say(own_bus, number, until)
                await made.heard(number)
                assert number == behind.counts.reconnects
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def test_a_silent_connection_is_noticed_in_time(self) -> None:
        """It takes no longer than a command waits twice to be acknowledged (S4)."""
        noticed_ms = link.PING_INTERVAL_SECONDS * 1_000 * (link.PINGS_OUTSTANDING_MAX + 1)
        assert noticed_ms <= 2 * delivering.ACK_WAIT_MS


class TestReconnecting:
    """How a connection that is lost is replaced."""

    def test_the_wait_grows_up_to_a_limit_and_is_spread(self) -> None:
        """However often it fails, the next try comes, and many do not come at once (B1, L1)."""
        for failures in (0, 1, 3, 20, 10**6):
            ceiling_ms = min(RECONNECT_DELAY_MIN_MS << min(failures, 10), RECONNECT_DELAY_MAX_MS)
            waits = {delay_ms(failures) for _ in range(300)}
            assert ceiling_ms // 2 <= min(waits) < max(waits) <= ceiling_ms

    async def test_whatever_answers_it_is_tried_again(
        self,
        own_bus: JetStreamBus,
        own_server: EmbeddedServer,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Somebody who talks nonsense in the server's place, for a while, is not the end of it (L1)."""
        monkeypatch.setattr(link, "RECONNECT_DELAY_MAX_MS", 50)
        monkeypatch.setattr(link, "CONNECT_PAUSE_MS", 1)
        answers = [
            b"",
            b"\xff\xfe\r\n",
            b"INFO {\r\n",
            b"INFO []\r\n",
            b'INFO {"server_id":1,"version":null}\r\n',
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ]
        port, given = own_server.port, 0

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal given
            writer.write(answers[given % len(answers)])
            given += 1
            writer.close()

        async def all_given() -> bool:
            return given > 2 * len(answers)

        await own_server.stop()
        strange = await asyncio.start_server(answer, "127.0.0.1", port)
        with capture_logs():
            await until(all_given)
        strange.close()
        await strange.wait_closed()
        await own_server.start()

        async def back() -> bool:
            return own_bus.connected

        await until(back)
        assert await own_bus.publish([event(own_bus, 1)])
        assert own_bus.counts.reconnect_failures >= 2


@pytest.mark.parametrize("how", ["who asks is cancelled", "the time is up"])
async def test_a_question_for_which_there_is_no_room(
    how: str, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library swallows a cancellation while it waits for room; who asks ends all the same (B1)."""
    waiting = asyncio.Event()

    async def publish(*_: object, **__: object) -> None:
        waiting.set()
        with contextlib.suppress(asyncio.CancelledError):  # as the library does
            await asyncio.Event().wait()

    monkeypatch.setattr(bus._link._client, "publish", publish)
    is_cancelled = how == "who asks is cancelled"
    timeout_ms = A_LONG_TIME_MS if is_cancelled else 20
    task = asyncio.create_task(bus.request(f"{bus.subjects.prefix}.ask", b"", timeout_ms))
    await waiting.wait()
    if is_cancelled:
        task.cancel()
    done, _ = await asyncio.wait([task], timeout=DEADLINE_SECONDS)
    assert {task} == done
    assert is_cancelled == task.cancelled()
    assert is_cancelled or isinstance(task.exception(), UnavailableError)


class TestServing:
    """A subject beside the log that is served."""

    async def test_a_message_that_takes_for_ever_is_given_up(
        self, bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler that hangs keeps the next message for no longer than a limit (L3, B1)."""
        monkeypatch.setattr(serving, "HANDLING_MS_MAX", 50)

        async def answer(payload: bytes) -> bytes:
            if payload == b"hang":
                await asyncio.Event().wait()
            return payload

        await bus.serve(f"{bus.subjects.prefix}.ask", answer)
        await bus.announce(f"{bus.subjects.prefix}.ask", b"hang")

        assert await bus.request(f"{bus.subjects.prefix}.ask", b"1", 5_000) == b"1"
        assert bus.counts.given_up == 1

    async def test_what_a_handler_waited_for_is_cancelled(self, bus: JetStreamBus) -> None:
        """That is not the end of who serves, as it is with the library (L3)."""

        async def answer(payload: bytes) -> bytes:
            if payload == b"cancelled":
                waited_for = asyncio.get_running_loop().create_future()
                waited_for.cancel()
                await waited_for
            return payload

        await bus.serve(f"{bus.subjects.prefix}.ask", answer)
        await bus.announce(f"{bus.subjects.prefix}.ask", b"cancelled")

        assert await bus.request(f"{bus.subjects.prefix}.ask", b"1", 5_000) == b"1"
        assert bus.counts.given_up == 1

    async def test_a_subscription_that_died_is_made_anew(
        self, bus: JetStreamBus, until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever ended it while the connection lives, it is noticed (L1)."""
        monkeypatch.setattr(link, "OVERSEE_INTERVAL_MS", 20)

        async def answer(payload: bytes) -> bytes:
            return payload

        subject = f"{bus.subjects.prefix}.ask"
        await bus.serve(subject, answer)
        kill(bus._link._serving._subscriptions[subject])

        async def answered() -> bool:
            try:
                return await bus.request(subject, b"1", 100) == b"1"
            except UnavailableError:
                return False

        await until(answered)
        assert bus.counts.revived == 1

    async def test_served_again(self, bus: JetStreamBus) -> None:
        """Who serves a subject anew takes the place of who served it; nobody is left behind (B1)."""
        subject = f"{bus.subjects.prefix}.ask"
        listening = len(bus._link._client._subs)
        for number in range(5):

            async def answer(_: bytes, number: int = number) -> bytes:
                return b"%d" % number

            await bus.serve(subject, answer)
        assert await bus.request(subject, b"", 5_000) == b"4"
        assert len(bus._link._client._subs) == listening + 1
        await bus.stop_serving(subject)
        assert len(bus._link._client._subs) == listening

    async def test_more_than_can_be_handled(
        self, bus: JetStreamBus, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What comes while too much waits already is dropped and counted, and the rest is served (B1)."""
        monkeypatch.setattr(serving, "WAITING_MESSAGES_MAX", 10)
        go_on, heard = asyncio.Event(), []

        async def slow(payload: bytes) -> bytes:
            await go_on.wait()
            heard.append(payload)
            return payload

        subject = f"{bus.subjects.prefix}.ask"
        await bus.serve(subject, slow)
        async with await connect(connection, bus.subjects.fleet) as other:
            for number in range(50):
                await other.announce(subject, b"%d" % number)
            await other._link._client.flush()
        await bus._link._client.flush()  # everything has come by now
        go_on.set()
        assert await bus.request(subject, b"last", 5_000) == b"last"
        assert bus.counts.dropped > 0
        assert bus.counts.dropped + len(heard) == 51
