"""Reading a stream in order, without a gap, for as long as somebody asks.

Used by ``runtime.jetstream``, for LOG and for STATE. A follower owns one consumer at a time: ephemeral, pushed by
the server, with flow control. It counts what the consumer says it sent, and makes a new one from the next sequence
after any doubt: a gap, a silence, a connection that came back, a consumer that is gone. Consumers may stay silent
for ever after a server's restart, so silence itself is a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import structlog
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everynode.errors import StaleError, UnavailableError
from everynode.ports import Received
from everynode.runtime.link import ApiRefusal, Link, delay_ms

CHUNK_MESSAGES_MAX = 1_000
HEARTBEAT_MS = 1_000
SILENCE_MS_MAX = 3_500  # so many heartbeats missed make a consumer a dead one
INACTIVE_MS = 10_000  # after which the server drops a consumer that nobody listens to
BUFFER_MESSAGES_MAX = 512 * 1024
BUFFER_BYTES_MAX = 64 * 1024**2  # the server's flow control stops at half of it

_NANOSECONDS_PER_MS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_FOUND = 10037

log = structlog.get_logger(__name__)


class Delivered(NamedTuple):
    """What a consumer says of a message, in the subject that answers it."""

    delivery_count: int
    stream_sequence: int
    consumer_sequence: int
    time_ms: int
    pending: int


def delivered(reply: str) -> Delivered:
    """Read ``$JS.ACK...``: 9 tokens, or more with the server's domain and account in front."""
    tokens = reply.split(".")
    count, stream, consumer, time_ns, pending = tokens[4:9] if len(tokens) == 9 else tokens[6:11]  # noqa: PLR2004 - see above
    return Delivered(
        int(count), int(stream), int(consumer), int(time_ns) // _NANOSECONDS_PER_MS, int(pending)
    )


def milliseconds(timestamp: str) -> int:
    """Read a time as JetStream's API writes it; 0 for the time of nothing."""
    moment = datetime.fromisoformat(timestamp)
    return max((moment - _EPOCH) // timedelta(milliseconds=1), 0)


Convert = Callable[[Msg, Delivered], Received]


class Follower:
    """Reads one stream.

    Args:
        link: The connection.
        stream: Name of the stream.
        subjects: What to read of it.
        from_sequence: Where to begin, in the stream's own sequences, or with the first one after it that is there.
        convert: Makes what is handed out of a message.
        complete: Whether every message counts (LOG), or only the last of each subject (STATE), so that it does not
            matter if one is gone before it was read.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        subjects: Sequence[str],
        from_sequence: int,
        convert: Convert,
        *,
        complete: bool,
    ) -> None:
        """Begin nothing yet."""
        self.sequence = max(from_sequence - 1, 0)
        """The stream's sequence up to which everything was handed out."""
        self.pending = 0
        """How many more messages there were when the last one was sent."""
        self._link = link
        self._stream = stream
        self._subjects = list(subjects)
        self._convert = convert
        self._complete = complete
        self._time_ms: int | None = None  # of the message at ``sequence``, once one was read
        self._created: str | None = None
        self._inbox: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None
        self._consumer_sequence = 0
        self._epoch = -1
        self._sound = False

    async def chunks(self) -> AsyncGenerator[list[Received]]:
        """Hand out what comes, up to 1,000 messages at a time; an empty list is a sign of life.

        Raises:
            StaleError: The stream ends before ``sequence``, is another one, or has let go of what was next.
        """
        self._link.watch(self._arrived)
        try:
            while True:
                if not self._sound or self._epoch != self._link.epoch:
                    await self.begin()
                chunk = await self._next_chunk()
                if chunk is not None:
                    yield chunk
        finally:
            self._link.unwatch(self._arrived)
            await self._end()

    async def begin(self) -> bool:
        """Begin now, so that ``pending`` is known; whether there is anything to read.

        Raises:
            StaleError: As ``chunks``.
        """
        failures = 0
        while True:
            try:
                await self._begin()
            except (UnavailableError, ApiRefusal) as error:
                failures += 1
                log.warning("cannot follow", stream=self._stream, error=str(error))
                await self._pause(delay_ms(failures))
            else:
                return self.pending > 0

    async def _pause(self, duration_ms: int) -> None:
        """Wait, but not longer than until the connection is back."""
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_ms / 1000):
                await self._arrived.wait()

    async def _begin(self) -> None:
        """Make a new consumer that goes on after ``sequence``."""
        await self._end()
        inbox = self._inbox = deque()
        epoch = self._link.epoch

        async def receive(message: Msg) -> None:
            inbox.append(message)
            if not self._arrived.is_set():
                self._arrived.set()

        deliver_to = self._link.new_inbox()
        self._subscription = await self._link.subscribe(
            deliver_to, receive, messages_max=BUFFER_MESSAGES_MAX, bytes_max=BUFFER_BYTES_MAX
        )
        consumer = await self._link.call(
            f"CONSUMER.CREATE.{self._stream}",
            {"stream_name": self._stream, "config": self._consumer_config(deliver_to)},
        )
        # After the consumer was made: what the stream still has now, the consumer has seen too.
        await self._check(await self._link.call(f"STREAM.INFO.{self._stream}"))
        self.pending = consumer["num_pending"]
        self._consumer_sequence = 0
        self._epoch = epoch
        self._sound = True

    def _consumer_config(self, deliver_to: str) -> dict[str, Any]:
        config: dict[str, Any] = {
            "deliver_subject": deliver_to,
            "filter_subjects": self._subjects,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": HEARTBEAT_MS * _NANOSECONDS_PER_MS,
            "inactive_threshold": INACTIVE_MS * _NANOSECONDS_PER_MS,
            "mem_storage": True,
            "num_replicas": 1,
            "deliver_policy": "all",
        }
        if self.sequence > 0:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.sequence + 1}
        return config

    async def _check(self, stream: dict[str, Any]) -> None:
        """Refuse a stream that is not the one that was read until now."""
        created, state = stream["created"], stream["state"]
        if self._created not in {None, created}:
            message = f"stream {self._stream} was made anew at {created}"
            raise StaleError(message, state["last_seq"])
        self._created = created
        if state["last_seq"] < self.sequence:
            message = (
                f"stream {self._stream} ends at {state['last_seq']}, and {self.sequence} was already "
                "read: it is an older copy, or another stream"
            )
            raise StaleError(message, state["last_seq"])
        if self._complete and self._time_ms is not None and self.sequence < state["first_seq"] - 1:
            message = (
                f"stream {self._stream} begins at {state['first_seq']}; what stood after "
                f"{self.sequence} is gone"
            )
            raise StaleError(message, state["last_seq"])
        if self._complete and self._time_ms is not None:
            await self._check_last_read()

    async def _check_last_read(self) -> None:
        """Refuse a stream that grew past ``sequence`` again after it had lost its end."""
        try:
            found = await self._link.call(f"STREAM.MSG.GET.{self._stream}", {"seq": self.sequence})
        except ApiRefusal as refusal:
            if refusal.code == _NOT_FOUND:
                return  # aged out or expired: nothing to compare
            raise
        if milliseconds(found["message"]["time"]) != self._time_ms:
            message = f"stream {self._stream} has another message at {self.sequence} than was read"
            raise StaleError(message)

    async def _end(self) -> None:
        """Stop listening; the server drops the consumer soon after."""
        self._sound = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(errors.Error):
                await subscription.unsubscribe()

    async def _next_chunk(self) -> list[Received] | None:
        """Take what is there, or wait for it; ``None`` if there is neither message nor sign of life."""
        inbox = self._inbox
        if not inbox:
            self._arrived.clear()
            try:
                async with asyncio.timeout(SILENCE_MS_MAX / 1000):
                    await self._arrived.wait()
            except TimeoutError:
                self._doubt("silence")
                return None
        chunk: list[Received] = []
        alive = False
        while inbox and self._sound and len(chunk) < CHUNK_MESSAGES_MAX:
            message = inbox.popleft()
            headers = message.headers
            if headers is not None and "Status" in headers:
                alive |= await self._control(message, headers)
                continue
            about = delivered(message.reply)
            if about.consumer_sequence != self._consumer_sequence + 1:
                self._doubt("gap")
                break
            self._consumer_sequence += 1
            self.sequence = about.stream_sequence
            self._time_ms = about.time_ms
            self.pending = about.pending
            chunk.append(self._convert(message, about))
        return chunk if chunk or (alive and self._sound) else None

    async def _control(self, message: Msg, headers: dict[str, str]) -> bool:
        """Answer what the consumer says about itself; whether it is a sign of life."""
        if headers["Status"] != "100":
            self._doubt(headers.get("Description", headers["Status"]))
            return False
        asked = message.reply or headers.get("Nats-Consumer-Stalled")
        if asked:  # all that came before is handed out, so the server may send more
            await self._link.publish(asked)
        sent = headers.get("Nats-Last-Consumer")
        if sent is not None and int(sent) != self._consumer_sequence:
            self._doubt("lost messages")
            return False
        return sent is not None

    def _doubt(self, reason: str) -> None:
        self._sound = False
        log.info("consumer is made anew", stream=self._stream, reason=reason, after=self.sequence)
