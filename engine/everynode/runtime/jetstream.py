"""The log of a fleet on NATS JetStream: the runtime's ``ports.Bus``.

Workers, adapters' hosts and the command line make one with ``connect`` and share it. This module says what each
promise of the port is on the server; the parts that take more than a call are modules of their own (``publishing``,
``following``, ``delivering``, ``streams``). It moves bytes and does not know what is in them.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from msgspec import structs

from everynode.errors import EverynodeError, OutcomeUnknownError, UnavailableError
from everynode.ports import Outgoing, Received
from everynode.runtime.bus import LogPosition
from everynode.runtime.counts import Filled, LinkCounts
from everynode.runtime.delivering import CommandConsumer, CommandDelivery
from everynode.runtime.failures import traceback_of
from everynode.runtime.following import (
    BUFFER_MESSAGES_MAX,
    Delivered,
    Follower,
    milliseconds,
)
from everynode.runtime.intake import Message, source_of
from everynode.runtime.link import ApiRefusal, Link
from everynode.runtime.publishing import Publisher
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.streams import (
    backends_of,
    log_name,
    open_streams,
    record_backend,
    state_name,
)
from everynode.wire import Subjects, token

MESSAGE_NOT_FOUND = 10037

_NANOSECONDS = 1_000_000_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class FleetInfo:
    """A fleet's log, for people. Ages in seconds, sizes in bytes."""

    fleet: str
    server_version: str
    shards: int
    backends: dict[str, str]
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    last_time_ms: int
    state_messages: int
    log_max_age_seconds: int
    log_max_bytes: int
    replicas: int


async def connect(
    connection: Connection, fleet: str, *, create: StreamSettings | None = None
) -> JetStreamBus:
    """Connect to a fleet's log.

    Args:
        connection: Where the server is.
        fleet: Name of the fleet.
        create: Make the fleet's streams like this if they are absent; they are checked in any case.

    Raises:
        ConfigurationError: The server is too old or refuses us; the fleet does not exist; a stream is not what this
            program needs.
        UnavailableError: The server cannot be reached.
    """
    Subjects(fleet, 1)  # refuses an impossible name before anything is asked
    link = await Link.open(connection)
    try:
        subjects, config = await open_streams(link, fleet, create)
    except BaseException:
        await link.close()
        raise
    return JetStreamBus(link, subjects, config["max_age"] // _NANOSECONDS)


class JetStreamBus:
    """Implements ``bus.FleetBus``. Made by ``connect``; an async context manager.

    Attributes:
        subjects: The fleet's subjects.
        log_max_age_seconds: How long LOG keeps a message; 0: for ever.
    """

    def __init__(self, link: Link, subjects: Subjects, log_max_age_seconds: int) -> None:
        """Take over the link."""
        self.subjects = subjects
        self.log_max_age_seconds = log_max_age_seconds
        self._link = link
        self._log = log_name(subjects.fleet)
        self._state = state_name(subjects.fleet)
        self._publisher = Publisher(link, secrets.token_hex(8))
        self._following: set[Follower] = set()

    async def __aenter__(self) -> Self:
        """Nothing is left to do: ``connect`` did it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """End the connection, and with it everything that this bus does. Repeating this is harmless."""
        await self._link.close()

    @property
    def connected(self) -> bool:
        """There is a connection now. Without one, calls raise ``UnavailableError`` at once."""
        return self._link.connected

    @property
    def counts(self) -> LinkCounts:
        """What the connection has been through."""
        return self._link.counts

    def queues(self) -> dict[str, Filled]:
        """How full its queues are; of several that follow the log, the fullest."""
        longest = max((follower.waiting for follower in self._following), default=0)
        return {"follow": Filled(longest, BUFFER_MESSAGES_MAX)}

    @property
    def tombstone_ttl_seconds(self) -> int | None:
        """The TTL for tombstones: they leave LOG no earlier than what they end; ``None``: none."""
        return self.log_max_age_seconds or None

    async def publish(self, messages: Sequence[Outgoing]) -> int:
        """Store messages in this order; see ``ports.Bus``. No messages: 0."""
        return await self._publisher.publish(messages)

    @property
    def epoch(self) -> int:
        """See ``ports.Bus``."""
        return self._link.epoch

    async def publish_fenced(
        self, messages: Sequence[Outgoing], expected_sequence: int, epoch: int | None = None
    ) -> int:
        """Store messages if nobody wrote to the first one's subject since; see ``ports.Bus``."""
        return await self._publisher.publish_fenced(messages, expected_sequence, epoch)

    async def last(self, subject: str) -> Received | None:
        """Read the last message on a subject, one's own writes included; see ``ports.Bus``.

        Raises:
            UnavailableError: The server did not answer.
        """
        found = await self._message(self._log, {"last_by_subj": subject})
        if found is not None:
            return found
        kept = await self._message(self._state, {"last_by_subj": subject})
        return structs.replace(kept, sequence=0) if kept is not None else None

    async def read_state(self, subjects: Sequence[str]) -> AsyncGenerator[list[Received]]:
        """Read STATE once; see ``ports.Bus``. An outage of the server only makes it take longer."""
        follower = Follower(self._link, self._state, subjects, 0, _from_state, complete=False)
        async with aclosing(self._read_once(follower, self._state)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def read_log(
        self, subjects: Sequence[str], from_sequence: int
    ) -> AsyncGenerator[list[Received]]:
        """Read LOG once, from a sequence on to what was its last message when reading began.

        An outage of the server only makes it take longer. What LOG has let go of, also meanwhile, is left out.
        """
        follower = Follower(
            self._link, self._log, subjects, from_sequence, _from_log, complete=False
        )
        async with aclosing(self._read_once(follower, self._log)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read_once(self, follower: Follower, stream: str) -> AsyncGenerator[list[Received]]:
        end = (await self._stream(stream))["state"]["last_seq"]
        if follower.sequence >= end:
            return
        chunks = follower.chunks()
        try:
            if not await follower.begin():
                return
            async for chunk in chunks:
                if chunk:
                    yield chunk
                if not follower.pending or follower.sequence >= end:
                    return
                # What was still to come may have been replaced, and that again: then nothing comes.
                if not chunk and await follower.exhausted():
                    return
        finally:
            await chunks.aclose()
            await follower.end()  # if it has begun, and nobody has asked for chunks yet

    async def follow(
        self, subjects: Sequence[str], from_sequence: int
    ) -> AsyncGenerator[list[Received]]:
        """Read LOG from a sequence on, for ever; see ``ports.Bus``.

        It begins with the first message from there on that LOG still has; what LOG has let go of before that, STATE
        has if it lasts.

        Raises:
            StaleError: LOG ends before ``from_sequence`` or before what was read, has let go of what was to come
                after it, or is another one. Start again from STATE.
        """
        follower = Follower(
            self._link, self._log, subjects, from_sequence, _from_log, complete=True
        )
        chunks = follower.chunks()
        self._following.add(follower)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            self._following.discard(follower)
            await chunks.aclose()

    def commands(self, backend: str, in_flight_max: int) -> AsyncGenerator[CommandDelivery]:
        """Hand out the commands for one backend; see ``ports.Bus``."""
        consumer = CommandConsumer(
            self._link,
            self._log,
            f"adapter-{token(backend)}",
            self.subjects.commands_for(backend),
            in_flight_max,
        )
        return consumer.deliveries()

    async def announce(self, subject: str, payload: bytes) -> None:
        """Say something to whoever listens now.

        Raises:
            UnavailableError: There is no connection.
        """
        await self._link.publish(subject, payload)

    async def request(self, subject: str, payload: bytes, timeout_ms: int) -> bytes:
        """Ask something beside the log; see ``ports.Bus``."""
        try:
            return await self._link.request(subject, payload, timeout_ms)
        except OutcomeUnknownError as error:
            raise UnavailableError(str(error)) from error

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests, and hear announcements, on a subject, one after the other.

        A handler that raises gives no answer, and is called again for the next message.
        """

        async def receive(message: Message) -> None:
            try:
                answer = await handler(message.data)
                if message.reply:
                    await self._link.publish(message.reply, answer)
            except EverynodeError as error:
                log.warning("request not answered", subject=subject, error=str(error))
            except Exception as error:  # noqa: BLE001 - a bug in a handler stops nobody else (L3)
                trace = traceback_of(error)
                log.error("request not answered", subject=subject, traceback=trace)  # noqa: TRY400 - see failures

        await self._link.serve(subject, receive)

    async def stop_serving(self, subject: str) -> None:
        """Answer no more on a subject; repeating this is harmless."""
        await self._link.stop_serving(subject)

    async def log_position(self) -> LogPosition:
        """Say where LOG begins and ends now.

        Raises:
            UnavailableError: The server did not answer.
        """
        return _position((await self._stream(self._log))["state"])

    async def sequence_at(self, time_ms: int) -> int:
        """Name the first message of LOG that is as old as this or younger.

        Returns:
            Its sequence; one more than the last one's if all are older.

        Raises:
            UnavailableError: The server did not answer.
        """
        low, last, _ = await self.log_position()
        high = answer = last + 1
        while low < high:  # the answer is at ``low`` or after it, and at ``answer`` or before it
            middle = (low + high) // 2
            found = await self._message(self._log, {"seq": middle, "next_by_subj": ">"})
            if found is None or found.sequence >= high:
                high = middle  # nothing is there from the middle on that was not looked at
            elif found.time_ms < time_ms:
                low = found.sequence + 1
            else:
                high, answer = middle, found.sequence
        return answer

    async def time_of(self, sequence: int) -> int | None:
        """Say when LOG took a message in, in ms since 1970; ``None`` if it does not have that message.

        Raises:
            UnavailableError: The server did not answer.
        """
        found = await self._message(self._log, {"seq": sequence})
        return found.time_ms if found is not None else None

    async def describe(self) -> FleetInfo:
        """Say what the fleet's log is like now.

        Raises:
            UnavailableError: The server did not answer.
        """
        stream, kept = await self._stream(self._log), await self._stream(self._state)
        config, state = stream["config"], stream["state"]
        position = _position(state)
        return FleetInfo(
            fleet=self.subjects.fleet,
            server_version=self._link.server_version,
            shards=self.subjects.shards,
            backends=backends_of(config),
            messages=state["messages"],
            bytes=state["bytes"],
            first_sequence=position.first_sequence,
            last_sequence=position.last_sequence,
            last_time_ms=position.last_time_ms,
            state_messages=kept["state"]["messages"],
            log_max_age_seconds=config["max_age"] // _NANOSECONDS,
            log_max_bytes=config["max_bytes"],
            replicas=config["num_replicas"],
        )

    async def record_backend(self, backend: str, identity: str) -> None:
        """Write down which backend a name stands for; see ``streams.record_backend``."""
        await record_backend(self._link, self.subjects.fleet, backend, identity)

    async def _stream(self, name: str) -> dict[str, Any]:
        try:
            return await self._link.call(f"STREAM.INFO.{name}")
        except ApiRefusal as refusal:
            message = f"stream {name} cannot be read: {refusal}"
            raise UnavailableError(message) from refusal

    async def _message(self, stream: str, query: dict[str, Any]) -> Received | None:
        """Read one message from the stream's leader, which has what was acknowledged."""
        try:
            answer = await self._link.call(f"STREAM.MSG.GET.{stream}", query)
        except ApiRefusal as refusal:
            if refusal.code == MESSAGE_NOT_FOUND:
                return None
            message = f"stream {stream} cannot be read: {refusal}"
            raise UnavailableError(message) from refusal
        stored = answer["message"]
        return Received(
            stored["seq"],
            milliseconds(stored["time"]),
            stored["subject"],
            base64.b64decode(stored.get("data") or ""),
        )


def _position(state: dict[str, Any]) -> LogPosition:
    last = state["last_seq"]
    first = state["first_seq"] if state["messages"] else last + 1
    return LogPosition(first, last, milliseconds(state["last_ts"]))


def _from_log(message: Message, about: Delivered) -> Received:
    return Received(about.stream_sequence, about.time_ms, message.subject, message.data)


def _from_state(message: Message, about: Delivered) -> Received:
    """The header reads ``<stream> <sequence> ...``: where in LOG the message came from."""
    source = source_of(message).split(" ")
    origin = int(source[1]) if len(source) > 1 and source[1].isdecimal() else 0
    return Received(origin, about.time_ms, message.subject, message.data)
