"""Reading a stream in order, without a gap, for as long as somebody asks.

Used by ``runtime.jetstream``, for LOG and for STATE. A follower owns one consumer at a time: ephemeral, pushed by
the server, with flow control. It counts what the consumer says it sent, and makes a new one from the next sequence
after any doubt: a gap, a silence, a connection that came back, a consumer that is gone. Consumers may stay silent
for ever after a server's restart, so silence itself is a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import structlog
from nats import errors

from everynode.errors import StaleError, UnavailableError
from everynode.ports import Received
from everynode.runtime.intake import Intake, Message
from everynode.runtime.link import ApiRefusal, Link, delay_ms

CHUNK_MESSAGES_MAX = 1_000
HEARTBEAT_MS = 1_000
SILENCE_MS_MAX = 3_500  # so many heartbeats missed make a consumer a dead one
CHECK_INTERVAL_MS = 10_000  # how often it is asked whether the stream has overtaken a slow reader
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


def _repeats(message: Message, inbox: deque[Message], deliver_to: str) -> bool:
    """Say whether a heartbeat follows another one that nobody has looked at: a reader that waits would collect them."""
    if not inbox or message.subject != deliver_to or message.reply:
        return False
    before = inbox[-1]
    is_heartbeat = (before.headers or {}).get("Status") == "100"
    return is_heartbeat and before.subject == deliver_to and not before.reply


Convert = Callable[[Message, Delivered], Received]


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
        self._last_read: Delivered | None = None
        self._reached = 0  # what the server had passed on, when that was last asked
        self._created: str | None = None
        self._inbox: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._intake: Intake | None = None
        self._deliver_to = ""
        self._consumer = ""
        self._consumer_sequence = 0
        self._checked_at = 0.0
        self._epoch = -1
        self._sound = False

    @property
    def waiting(self) -> int:
        """How many messages have come and were not handed out."""
        return len(self._inbox)

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
                elif self._complete and self._overdue():
                    await self._check_pace()
                chunk = await self._next_chunk()
                if chunk is not None:
                    yield chunk
        finally:
            self._link.unwatch(self._arrived)
            await self.end()

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

    async def exhausted(self) -> bool:
        """Whether everything that there is was handed out, as far as the server can be asked."""
        try:
            consumer = await self._link.call(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        except (UnavailableError, ApiRefusal) as error:
            self._doubt(str(error))
            return False
        sent = consumer["delivered"]["consumer_seq"]
        return consumer["num_pending"] == 0 and bool(sent == self._consumer_sequence)

    async def _begin(self) -> None:
        """Make a new consumer that goes on after ``sequence``."""
        await self.end()
        inbox = self._inbox = deque()
        epoch = self._link.epoch

        deliver_to = self._link.new_inbox()

        def take(message: Message) -> None:
            if _repeats(message, inbox, deliver_to):
                inbox[-1] = message
            elif len(inbox) < BUFFER_MESSAGES_MAX:
                inbox.append(message)  # else it is missed, which shows as a gap
            if not self._arrived.is_set():
                self._arrived.set()

        self._deliver_to = deliver_to
        self._intake = await self._link.take_in(
            deliver_to,
            take,
            messages_max=BUFFER_MESSAGES_MAX,
            bytes_max=BUFFER_BYTES_MAX,
        )
        # With its name in the subject: without, whoever may ask for this may change any consumer of the stream.
        name = f"follower-{secrets.token_hex(8)}"
        consumer = await self._link.call(
            f"CONSUMER.CREATE.{self._stream}.{name}",
            {"stream_name": self._stream, "config": self._consumer_config() | {"name": name}},
        )
        # After the consumer was made: what the stream still has now, the consumer has seen too.
        stream = await self._link.call(f"STREAM.INFO.{self._stream}")
        self._check(stream)
        if self._last_read is not None and self._complete:
            await self._check_last_read(self._last_read)
        self._reached = max(self.sequence, stream["state"]["first_seq"] - 1)
        self._checked_at = asyncio.get_running_loop().time()
        self._consumer = consumer["name"]
        self._consumer_sequence = 0
        self.pending = consumer["num_pending"]
        self._epoch = epoch
        self._sound = True

    def _consumer_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "deliver_subject": self._deliver_to,
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

    def _check(self, stream: dict[str, Any]) -> None:
        """Refuse a stream that is not the one that was read until now, or has lost what was to come."""
        created, state = stream["created"], stream["state"]
        if self._created not in {None, created}:
            message = f"stream {self._stream} was made anew at {created}"
            raise StaleError(message, state["last_seq"])
        if state["last_seq"] < self.sequence:
            message = (
                f"stream {self._stream} ends at {state['last_seq']}, and {self.sequence} was already "
                "read: it is an older copy, or another stream"
            )
            raise StaleError(message, state["last_seq"])
        begun = self._created is not None
        if begun and self._complete and self.sequence < state["first_seq"] - 1:
            raise self._overtaken(state)
        self._created = created

    async def _check_last_read(self, last_read: Delivered) -> None:
        """Refuse a stream that grew past what was read again after it had lost its end."""
        sequence = last_read.stream_sequence
        try:
            found = await self._link.call(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
        except ApiRefusal as refusal:
            if refusal.code == _NOT_FOUND:
                return  # aged out or expired: nothing to compare
            raise
        if milliseconds(found["message"]["time"]) != last_read.time_ms:
            message = f"stream {self._stream} has another message at {sequence} than was read"
            raise StaleError(message)

    def _overdue(self) -> bool:
        elapsed = asyncio.get_running_loop().time() - self._checked_at
        return elapsed * 1000 >= CHECK_INTERVAL_MS

    async def _check_pace(self) -> None:
        """Refuse a stream that let go of messages before the consumer came to them: it says nothing of that itself."""
        try:
            state = (await self._link.call(f"STREAM.INFO.{self._stream}"))["state"]
            consumer = await self._link.call(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        except (UnavailableError, ApiRefusal) as error:
            self._doubt(str(error))
            return
        if state["first_seq"] - 1 > self._reached:
            raise self._overtaken(state)
        sent = consumer["delivered"]
        if consumer["num_pending"] == 0:  # whatever stands after it was not for us
            self._reached = state["last_seq"]
            if sent["consumer_seq"] == self._consumer_sequence:
                self.sequence = max(self.sequence, state["last_seq"])
        else:
            self._reached = max(self._reached, sent["stream_seq"])
        self._checked_at = asyncio.get_running_loop().time()

    def _overtaken(self, state: dict[str, Any]) -> StaleError:
        message = (
            f"stream {self._stream} begins at {state['first_seq']}; what stood after "
            f"{self.sequence} may be lost"
        )
        return StaleError(message, state["last_seq"])

    async def end(self) -> None:
        """Stop listening; the server drops the consumer soon after. Whoever calls ``begin`` calls this, too."""
        self._sound = False
        intake, self._intake = self._intake, None
        if intake is not None:
            with contextlib.suppress(errors.Error):
                await intake.end()

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
        if self._epoch != self._link.epoch:
            return None  # of another connection: it is read again, once it is sure that the log still has it
        chunk: list[Received] = []
        alive = False
        while inbox and self._sound and len(chunk) < CHUNK_MESSAGES_MAX:
            message = inbox.popleft()
            if (
                message.subject == self._deliver_to
            ):  # not a stream's message, but the consumer's own
                alive |= await self._control(message, message.headers or {})
                continue
            about = delivered(message.reply)
            if about.consumer_sequence != self._consumer_sequence + 1:
                self._doubt("gap")
                break
            self._consumer_sequence += 1
            self.sequence = about.stream_sequence
            self._last_read = about
            self.pending = about.pending
            chunk.append(self._convert(message, about))
        return chunk if chunk or (alive and self._sound) else None

    async def _control(self, message: Message, headers: dict[str, str]) -> bool:
        """Answer what the consumer says about itself; whether it says that there is nothing more to come."""
        if headers.get("Status") != "100":
            self._doubt(headers.get("Description", "an unknown message"))
            return False
        stalled = headers.get("Nats-Consumer-Stalled")  # it has more, and waits for our word
        asked = message.reply or stalled
        if asked:  # all that came before is handed out, so the server may send more
            try:
                await self._link.publish(asked)
            except UnavailableError as error:
                self._doubt(str(error))
                return False
        sent = headers.get("Nats-Last-Consumer")
        if sent is not None and int(sent) != self._consumer_sequence:
            self._doubt("lost messages")
            return False
        return sent is not None and stalled is None

    def _doubt(self, reason: str) -> None:
        self._sound = False
        log.info("consumer is made anew", stream=self._stream, reason=reason, after=self.sequence)
