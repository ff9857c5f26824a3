"""Handing out commands: a durable consumer that all replicas of an adapter share.

Used by ``runtime.jetstream``. The library's pull loops may stay dead after a server's restart, so this one asks
again after each silence, each status that ends a request, and each time the connection comes back. A command may
come more than once; whoever carries it out is ready for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import structlog
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everynode.errors import UnavailableError
from everynode.ports import Received
from everynode.runtime.following import delivered
from everynode.runtime.link import ApiRefusal, Link, delay_ms

ACK_WAIT_MS = 10_000  # who works longer says so, more than twice in that time
PULL_EXPIRES_MS = 30_000
PULL_MESSAGES_MAX = 256
HEARTBEAT_MS = 1_000
SILENCE_MS_MAX = 3_500
INBOX_MESSAGES_MAX = (
    4 * PULL_MESSAGES_MAX
)  # that wait to be taken; more than was asked for comes only from strangers

_NANOSECONDS_PER_MS = 1_000_000

log = structlog.get_logger(__name__)


class CommandDelivery:
    """One command as it was handed out. Implements ``ports.Delivery``."""

    def __init__(self, link: Link, received: Received, delivery_count: int, reply: str) -> None:
        """Keep where to answer."""
        self.received = received
        self.delivery_count = delivery_count
        self._link = link
        self._reply = reply

    async def ack(self) -> None:
        """Say that its outcome is stored. If this is lost, the command comes again, which is harmless."""
        await self._answer(b"+ACK")

    async def nak(self, delay_ms: int) -> None:
        """Ask for it again after a delay."""
        delay_ns = max(delay_ms, 0) * _NANOSECONDS_PER_MS
        await self._answer(b'-NAK {"delay":%d}' % delay_ns if delay_ns else b"-NAK")

    async def in_progress(self) -> None:
        """Say that it is still being worked on."""
        await self._answer(b"+WPI")

    async def _answer(self, word: bytes) -> None:
        try:
            await self._link.publish(self._reply, word)
        except UnavailableError as error:
            log.debug("answer lost; the command comes again", error=str(error))


class CommandConsumer:
    """Reads the commands of one backend.

    Args:
        link: The connection.
        stream: Name of LOG.
        name: Name of the durable consumer.
        subject: What it reads.
        in_flight_max: How many commands may be handed out and not acknowledged, over all replicas.
    """

    def __init__(
        self, link: Link, stream: str, name: str, subject: str, in_flight_max: int
    ) -> None:
        """Begin nothing yet."""
        self._link = link
        self._stream = stream
        self._name = name
        self._subject = subject
        self._in_flight_max = in_flight_max
        self._pull_size = max(1, min(in_flight_max, PULL_MESSAGES_MAX))
        self._asked = 0  # how many more messages the server may send for what was asked
        self._inbox: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None
        self._deliver_to = ""
        self._epoch = -1
        self._sound = False

    async def deliveries(self) -> AsyncGenerator[CommandDelivery]:
        """Hand out commands, for ever. Closing it gives back what was not handed out yet."""
        self._link.watch(self._arrived)
        failures = 0
        try:
            while True:
                try:
                    if not self._sound or self._epoch != self._link.epoch:
                        await self._begin()
                    await self._ask()
                except (UnavailableError, ApiRefusal) as error:
                    failures += 1
                    self._sound = False
                    log.warning("cannot read commands", consumer=self._name, error=str(error))
                    if not self._inbox:  # else what came already goes first, or nobody ever waited
                        await self._wait(delay_ms(failures))
                        continue
                else:
                    failures = 0
                    if not await self._wait(SILENCE_MS_MAX):
                        self._doubt("silence")
                if self._inbox:
                    delivery = self._take(self._inbox.popleft())
                    if delivery is not None:
                        yield delivery
        finally:
            self._link.unwatch(self._arrived)
            await self._end()

    async def _wait(self, duration_ms: int) -> bool:
        """Wait for something to come; whether it did."""
        if self._inbox:
            return True
        self._arrived.clear()
        try:
            async with asyncio.timeout(duration_ms / 1000):
                return await self._arrived.wait()
        except TimeoutError:
            return False

    async def _begin(self) -> None:
        """Make sure that the consumer exists, and listen on a new subject. What came already is kept."""
        await self._unsubscribe()
        epoch = self._link.epoch
        await self._link.call(
            f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}",
            {"stream_name": self._stream, "config": self._config()},
        )
        self._deliver_to = self._link.new_inbox()
        self._subscription = await self._link.subscribe(
            self._deliver_to, self._receive, messages_max=0, bytes_max=0
        )
        self._asked = 0
        self._epoch = epoch
        self._sound = True

    def _config(self) -> dict[str, Any]:
        return {
            "durable_name": self._name,
            "name": self._name,
            "filter_subject": self._subject,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_MS * _NANOSECONDS_PER_MS,
            "max_ack_pending": self._in_flight_max,
            "max_deliver": -1,  # the host counts: a dead letter is an outcome, so nothing is left stuck
        }

    async def _receive(self, message: Msg) -> None:
        # Heartbeats say only that the server is there; while nobody takes anything they would pile up.
        is_heartbeat = not _is_command(message) and _status(message) == "100"
        if not is_heartbeat and len(self._inbox) < INBOX_MESSAGES_MAX:
            self._inbox.append(message)  # else it comes again, as nobody acknowledges it
        self._arrived.set()

    async def _ask(self) -> None:
        """Ask for more before what was asked for has all come, so that nothing waits for a question."""
        if self._asked > self._pull_size // 2:
            return
        wanted = self._pull_size - self._asked
        body = {
            "batch": wanted,
            "expires": PULL_EXPIRES_MS * _NANOSECONDS_PER_MS,
            "idle_heartbeat": HEARTBEAT_MS * _NANOSECONDS_PER_MS,
        }
        await self._link.publish(
            self._link.api_subject(f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}"),
            msgspec.json.encode(body),
            reply=self._deliver_to,
        )
        self._asked += wanted

    def _take(self, message: Msg) -> CommandDelivery | None:
        """Make a delivery of a message, or learn from one that is about the request."""
        if not _is_command(message):
            self._learn(message.headers or {})
            return None
        about = delivered(message.reply)
        self._asked = max(self._asked - 1, 0)
        received = Received(about.stream_sequence, about.time_ms, message.subject, message.data)
        return CommandDelivery(self._link, received, about.delivery_count, message.reply)

    def _learn(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status in {"404", "408"}:  # the request has ended, having brought less than asked
            self._asked = max(self._asked - int(headers.get("Nats-Pending-Messages", "0")), 0)
            return
        self._doubt(headers.get("Description", status))

    def _doubt(self, reason: str) -> None:
        self._sound = False
        log.info("commands are asked for anew", consumer=self._name, reason=reason)

    async def _unsubscribe(self) -> None:
        self._sound = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(errors.Error):
                await subscription.unsubscribe()

    async def _end(self) -> None:
        await self._unsubscribe()
        for message in self._inbox:
            delivery = self._take(message)
            if delivery is not None:
                await delivery.nak(0)
        self._inbox.clear()


def _is_command(message: Msg) -> bool:
    """Say whether it is one, or else about what was asked; headers say nothing of that, as anybody may set them."""
    return bool(message.reply.startswith("$JS.ACK."))


def _status(message: Msg) -> str:
    return (message.headers or {}).get("Status", "")
