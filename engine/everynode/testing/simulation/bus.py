"""One process's bus on the simulated log: ``bus.FleetBus`` as ``runtime.jetstream`` keeps it on a real one.

Made by ``SimulatedServer.bus``. Whatever is raised here is what the real bus would raise. A bus of a process that was
killed does nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.errors import (
    InvariantError,
    MalformedMessageError,
    OutcomeUnknownError,
    UnavailableError,
)
from everynode.ports import Outgoing, Received
from everynode.runtime.bus import LogPosition
from everynode.runtime.delivering import PULL_MESSAGES_MAX
from everynode.runtime.following import CHUNK_MESSAGES_MAX
from everynode.runtime.link import delay_ms
from everynode.runtime.publishing import runs
from everynode.runtime.settings import LOG_MAX_AGE_SECONDS
from everynode.testing.simulation.beside import Handler, Listener
from everynode.testing.simulation.connection import Connection
from everynode.testing.simulation.handing import CommandQueue, Puller
from everynode.testing.simulation.pushing import Follower
from everynode.testing.simulation.streams import Matches, matcher
from everynode.wire import PAYLOAD_BYTES_MAX, Subjects

if TYPE_CHECKING:
    from everynode.testing.simulation.server import SimulatedServer

_MS_PER_SECOND = 1_000

ReadOn = Callable[[Matches, int, int], tuple[list[Received], int, bool]]


class SimulatedBus:
    """Implements ``runtime.bus.FleetBus``."""

    def __init__(self, server: SimulatedServer, connection: Connection) -> None:
        """Begin connected."""
        self.connection = connection
        self._server = server
        self._served: dict[str, Listener] = {}

    @property
    def subjects(self) -> Subjects:
        """The fleet's subjects."""
        return self._server.subjects

    @property
    def tombstone_ttl_seconds(self) -> int | None:
        """The TTL for tombstones; the simulated log keeps them all the same."""
        return LOG_MAX_AGE_SECONDS

    @property
    def connected(self) -> bool:
        """There is a connection now."""
        return self.connection.is_up

    # --- writing ------------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> int:
        """Store messages in this order; see ``ports.Bus``. No messages: 0."""
        _check_sizes(messages)
        sequence = 0
        for run in runs(messages):
            sequence = await self.connection.ask(partial(self._server.store, run, None))
        return sequence

    @property
    def epoch(self) -> int:
        """See ``ports.Bus``."""
        return self.connection.epoch

    async def publish_fenced(
        self, messages: Sequence[Outgoing], expected_sequence: int, epoch: int | None = None
    ) -> int:
        """Store messages if nobody wrote to the first one's subject since; see ``ports.Bus``."""
        _check_sizes(messages)
        if epoch not in {None, self.epoch}:
            raise UnavailableError("nothing was stored: the connection is another one by now")
        if len(list(runs(messages))) != 1:
            message = (
                f"a fenced batch of {len(messages)} messages: at least 1 and at most "
                f"{BATCH_MESSAGES_MAX} messages are possible"
            )
            raise InvariantError(message)
        sequence: int = await self.connection.ask(
            partial(self._server.store, messages, expected_sequence)
        )
        return sequence

    # --- reading ------------------------------------------------------------------------------------------------------

    async def last(self, subject: str) -> Received | None:
        """Read the last message on a subject; see ``ports.Bus``."""
        found: Received | None = await self._read(partial(self._server.log.last, subject))
        if found is not None:
            return found
        kept: Received | None = await self._read(partial(self._server.state.last, subject))
        return structs.replace(kept, sequence=0) if kept is not None else None

    async def read_state(self, subjects: Sequence[str]) -> AsyncGenerator[list[Received]]:
        """Read STATE once; see ``ports.Bus``."""
        state = self._server.state
        end = await self._read(lambda: state.last_sequence)
        chunks = self._read_once(subjects, 0, end, state.read)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()

    async def read_log(
        self, subjects: Sequence[str], from_sequence: int
    ) -> AsyncGenerator[list[Received]]:
        """Read LOG once; see ``FleetBus``."""
        log = self._server.log
        end = await self._read(lambda: log.last_sequence)
        chunks = self._read_once(subjects, max(from_sequence - 1, 0), end, log.read)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()

    async def _read_once(
        self, subjects: Sequence[str], position: int, end: int, read_on: ReadOn
    ) -> AsyncGenerator[list[Received]]:
        """Read on until the end; what cannot be read now is read later."""
        matches = matcher(tuple(subjects))
        failures = 0
        while position < end:
            count = self._server.draw_chunk(CHUNK_MESSAGES_MAX)
            try:
                chunk, position, more = await self.connection.ask(
                    partial(read_on, matches, position, count)
                )
            except (UnavailableError, OutcomeUnknownError):
                failures += 1
                await asyncio.sleep(delay_ms(failures) / _MS_PER_SECOND)
                continue
            if chunk:
                yield chunk
            if not more:
                return

    def follow(self, subjects: Sequence[str], from_sequence: int) -> AsyncGenerator[list[Received]]:
        """Read LOG from a sequence on, for ever; see ``ports.Bus``."""
        matches = matcher(tuple(subjects))
        return Follower(self._server, self.connection, matches, from_sequence).chunks()

    async def log_position(self) -> LogPosition:
        """Say where LOG begins and ends now; see ``FleetBus``."""
        position: LogPosition = await self._read(self._server.log.position)
        return position

    async def sequence_at(self, time_ms: int) -> int:
        """Name the first message as old as this or younger; see ``FleetBus``."""
        sequence: int = await self._read(partial(self._server.log.sequence_at, time_ms))
        return sequence

    async def time_of(self, sequence: int) -> int | None:
        """Say when LOG took a message in; see ``FleetBus``."""
        found: Received | None = await self._read(partial(self._server.log.get, sequence))
        return found.time_ms if found is not None else None

    async def record_backend(self, backend: str, identity: str) -> None:
        """Write down which backend a name stands for; see ``FleetBus``."""
        await self._read(partial(self._server.record_backend, backend, identity))

    async def _read(self, act: Callable[[], Any]) -> Any:
        """Ask for something that may be asked again."""
        try:
            return await self.connection.ask(act)
        except OutcomeUnknownError as error:
            raise UnavailableError(str(error)) from error

    # --- commands -----------------------------------------------------------------------------------------------------

    def commands(self, backend: str, in_flight_max: int) -> AsyncGenerator[SimulatedDelivery]:
        """Hand out the commands for one backend; see ``ports.Bus``."""
        return CommandReader(self._server, self.connection, backend, in_flight_max).deliveries()

    # --- beside the log -----------------------------------------------------------------------------------------------

    async def announce(self, subject: str, payload: bytes) -> None:
        """Say something to whoever listens now; see ``ports.Bus``."""
        self.connection.check()
        self.connection.to_server(partial(self._server.beside.announce, subject, payload))

    async def request(self, subject: str, payload: bytes, timeout_ms: int) -> bytes:
        """Ask something beside the log; see ``ports.Bus``."""
        connection, loop = self.connection, self._server.loop
        connection.check()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        act = partial(self._server.beside.request, connection, subject, payload, answer)
        connection.to_server(act)
        try:
            async with asyncio.timeout(timeout_ms / _MS_PER_SECOND):
                text = await answer
        except TimeoutError as error:
            raise UnavailableError(f"no answer from {subject} within {timeout_ms} ms") from error
        if text is None:
            raise UnavailableError(f"nobody answers on {subject}")
        return text

    async def serve(self, subject: str, handler: Handler) -> None:
        """Answer requests, and hear announcements, on a subject; see ``ports.Bus``."""
        self.connection.check()
        await self.stop_serving(subject)
        listener = self._served[subject] = Listener(self.connection, handler)
        self.connection.to_server(partial(self._server.beside.listen, subject, listener))

    async def stop_serving(self, subject: str) -> None:
        """Answer no more on a subject; repeating this is harmless."""
        listener = self._served.pop(subject, None)
        if listener is not None:
            self.connection.tell(partial(self._server.beside.stop, subject, listener))

    def serve_again(self) -> None:
        """Serve over a new connection what was served before; for the server."""
        for subject, listener in self._served.items():
            self.connection.to_server(partial(self._server.beside.listen, subject, listener))


class SimulatedDelivery:
    """One command as it was handed out. Implements ``ports.Delivery``."""

    __slots__ = ("_connection", "_queue", "delivery_count", "received")

    def __init__(
        self, connection: Connection, queue: CommandQueue, received: Received, delivery_count: int
    ) -> None:
        """Keep where to answer."""
        self.received = received
        self.delivery_count = delivery_count
        self._connection = connection
        self._queue = queue

    async def ack(self) -> None:
        """Say that its outcome is stored."""
        self._connection.tell(partial(self._queue.acknowledge, self.received.sequence))

    async def nak(self, delay_ms: int) -> None:
        """Ask for it again after a delay."""
        self._connection.tell(partial(self._queue.refuse, self.received.sequence, max(delay_ms, 0)))

    async def in_progress(self) -> None:
        """Say that it is still being worked on."""
        self._connection.tell(partial(self._queue.hear_of, self.received.sequence))


class CommandReader:
    """Asks for the commands of one backend, as ``runtime.delivering`` does."""

    def __init__(
        self, server: SimulatedServer, connection: Connection, backend: str, in_flight_max: int
    ) -> None:
        """Begin nothing yet."""
        self._server = server
        self._connection = connection
        self._backend = backend
        self._in_flight_max = in_flight_max
        self._pull_size = max(1, min(in_flight_max, PULL_MESSAGES_MAX))
        self._asked = 0
        self._inbox: deque[SimulatedDelivery] = deque()
        self._queue: CommandQueue | None = None
        self._puller: Puller | None = None
        self._epoch = -1
        self._is_sound = False
        self._waiter: asyncio.Future[None] | None = None

    async def deliveries(self) -> AsyncGenerator[SimulatedDelivery]:
        """Hand out commands, for ever. Closing it gives back what was not handed out yet."""
        self._connection.watch(self)
        failures = 0
        try:
            while True:
                try:
                    if not self._is_sound or self._epoch != self._connection.epoch:
                        await self._begin()
                    self._ask()
                except (UnavailableError, OutcomeUnknownError):
                    failures += 1
                    self._is_sound = False
                    if not self._inbox:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(delay_ms(failures) / _MS_PER_SECOND):
                                await self._wait()
                        continue
                else:
                    failures = 0
                    if not self._inbox:
                        await self._wait()
                if self._inbox:
                    yield self._inbox.popleft()
        finally:
            self._connection.unwatch(self)
            await self._end()

    def receive(self, received: Received, count: int) -> None:
        """Take a command in."""
        if self._queue is not None:
            self._asked = max(self._asked - 1, 0)
            delivery = SimulatedDelivery(self._connection, self._queue, received, count)
            self._inbox.append(delivery)
            self.wake()

    def doubt(self) -> None:
        """There was no sign of life for too long."""
        self._is_sound = False
        self.wake()

    def wake(self) -> None:
        """Look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._server.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _begin(self) -> None:
        self._leave()
        epoch = self._connection.epoch
        puller = Puller(self._connection, self)
        await self._connection.ask(partial(self._attach, puller))
        self._puller = puller
        self._asked = 0
        self._epoch = epoch
        self._is_sound = True

    def _attach(self, puller: Puller) -> None:
        self._queue = self._server.queue(self._backend)
        self._queue.attach(puller, self._in_flight_max)

    def _ask(self) -> None:
        """Ask for more before what was asked for has all come."""
        if self._asked > self._pull_size // 2 or self._queue is None or self._puller is None:
            return
        self._connection.check()
        wanted = self._pull_size - self._asked
        self._connection.to_server(partial(self._queue.more, self._puller, wanted))
        self._asked += wanted

    def _leave(self) -> None:
        self._is_sound = False
        puller, self._puller = self._puller, None
        if puller is not None and self._queue is not None:
            self._connection.tell(partial(self._queue.leave, puller))

    async def _end(self) -> None:
        self._leave()
        for delivery in self._inbox:
            await delivery.nak(0)
        self._inbox.clear()
        self._queue = None


def _check_sizes(messages: Sequence[Outgoing]) -> None:
    for message in messages:
        if len(message.payload) > PAYLOAD_BYTES_MAX:
            text = (
                f"{message.subject}: {len(message.payload)} bytes, and the server takes at most "
                f"{PAYLOAD_BYTES_MAX}: make the object smaller"
            )
            raise MalformedMessageError(text)
