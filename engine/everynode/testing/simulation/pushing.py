"""Following the simulated LOG: the server's side, which pushes, and the reader's side, which keeps its promises.

Used by ``server`` and ``bus``. What is promised is what ``runtime.following`` does on a real server: in order, without
a gap, with signs of life; after any doubt it begins anew behind what was read, and a log that is not the one that was
read, or has let go of what was next, is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from everynode.errors import OutcomeUnknownError, StaleError, UnavailableError
from everynode.ports import Received
from everynode.runtime.following import (
    CHECK_INTERVAL_MS,
    CHUNK_MESSAGES_MAX,
    HEARTBEAT_MS,
    SILENCE_MS_MAX,
)
from everynode.runtime.link import delay_ms
from everynode.testing.simulation import faults as names
from everynode.testing.simulation.connection import Connection
from everynode.testing.simulation.marks import mark
from everynode.testing.simulation.streams import Matches

if TYPE_CHECKING:
    from everynode.testing.simulation.server import SimulatedServer

_US_PER_MS = 1_000
_MS_PER_SECOND = 1_000


class Push:
    """A consumer on the server that pushes LOG to one reader."""

    __slots__ = (
        "_beats_at_us",
        "_is_scheduled",
        "_server",
        "connection",
        "epoch",
        "heard",
        "is_alive",
        "matches",
        "position",
        "reader",
    )

    def __init__(
        self, server: SimulatedServer, connection: Connection, reader: Follower, position: int
    ) -> None:
        """Begin with the first message from a sequence on that is there."""
        self.connection = connection
        self.epoch = connection.epoch
        self.reader = reader
        self.matches: Matches = reader.matches
        self.position = position
        self.heard = 0
        self.is_alive = True
        self._server = server
        self._is_scheduled = False
        self._beats_at_us = 0
        self.schedule()
        self._beat_at(server.loop.now_us + HEARTBEAT_MS * _US_PER_MS)

    def stored(self, messages: list[Received]) -> None:
        """Something was stored; it is pushed if it is for this reader."""
        if self._is_scheduled:
            return
        matches = self.matches
        for received in messages:
            if matches(received.subject):
                self.schedule()
                return

    def schedule(self) -> None:
        """Push soon what there is."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._server.loop.after_us(self.connection.latency_us(), self._arrive)

    def _arrive(self) -> None:
        """Hand over what there is by now, or a part of it."""
        self._is_scheduled = False
        connection = self.connection
        if not self.is_alive or self.epoch != connection.epoch or not self._server.is_up:
            return
        if connection.is_blocked:
            return  # when it is free, the server flushes
        server = self._server
        faults, draw = server.faults, server.loop.random.random
        matches = self.matches
        found = [
            received for received in server.log.since(self.position) if matches(received.subject)
        ]
        if not found:
            self.position = server.log.last_sequence + 1
            return
        if faults.consumer_vanished and draw() < faults.consumer_vanished:
            mark(names.CONSUMER_VANISHED)
            server.vanish(self)
            return
        count = len(found)
        if count > 1 and faults.chunk_cut and draw() < faults.chunk_cut:
            mark(names.CHUNK_CUT)
            found = found[: 1 + int(draw() * (count - 1))]
        if len(found) < count:
            self.position = found[-1].sequence + 1
            self.schedule()
        else:
            self.position = server.log.last_sequence + 1
        self.heard += 1
        self._beats_at_us = server.loop.now_us + HEARTBEAT_MS * _US_PER_MS
        self.reader.receive(self, found)

    def _beat_at(self, when_us: int) -> None:
        self._beats_at_us = when_us
        self._server.loop.after_us(when_us - self._server.loop.now_us, self._beat)

    def _beat(self) -> None:
        """Say that there is nothing to say, if there was nothing for a while."""
        server = self._server
        if not self.is_alive or self.epoch != self.connection.epoch:
            return
        now_us = server.loop.now_us
        if now_us < self._beats_at_us:
            self._beat_at(self._beats_at_us)
            return
        if not self._is_scheduled and not self.connection.is_blocked and server.is_up:
            self.heard += 1
            self.reader.receive(self, [])
        self._beat_at(now_us + HEARTBEAT_MS * _US_PER_MS)

    def silenced(self) -> None:
        """Nothing arrives for a while: have the reader doubt if that is too long."""
        self._server.loop.after_ms(SILENCE_MS_MAX, self._doubt, self.heard)

    def _doubt(self, heard: int) -> None:
        if self.heard == heard:
            self.reader.doubt(self)


class Follower:
    """Reads LOG for one who follows it.

    Args:
        server: The server.
        connection: How it is reached.
        matches: What is read.
        from_sequence: Where to begin.
    """

    def __init__(
        self, server: SimulatedServer, connection: Connection, matches: Matches, from_sequence: int
    ) -> None:
        """Begin nothing yet."""
        self.matches = matches
        self._server = server
        self._connection = connection
        self._sequence = max(from_sequence - 1, 0)
        self._created: int | None = None
        self._last_read: Received | None = None
        self._reached = 0
        self._checked_at_us = 0
        self._push: Push | None = None
        self._epoch = -1
        self._is_sound = False
        self._inbox: list[Received] = []
        self._heard_life = False
        self._waiter: asyncio.Future[None] | None = None

    async def chunks(self) -> AsyncGenerator[list[Received]]:
        """Hand out what comes; an empty list is a sign of life.

        Raises:
            StaleError: As ``Bus.follow``.
        """
        self._connection.watch(self)
        try:
            while True:
                if not self._is_sound or self._epoch != self._connection.epoch:
                    await self._begin()
                elif self._is_overdue():
                    await self._check_pace()
                    continue  # if it failed, there is nobody to wait for
                chunk = await self._next_chunk()
                if chunk is not None:
                    yield chunk
        finally:
            self._connection.unwatch(self)
            self._end()

    # --- from the server ----------------------------------------------------------------------------------------------

    def receive(self, push: Push, messages: list[Received]) -> None:
        """Take in what was pushed; none is a sign of life."""
        if push is not self._push:
            return
        if messages:
            self._inbox += messages
        else:
            self._heard_life = True
        self.wake()

    def doubt(self, push: Push) -> None:
        """There was no sign of life for too long."""
        if push is self._push and self._is_sound:
            mark(names.SILENT)
            self._is_sound = False
            self.wake()

    def wake(self) -> None:
        """Look again: something has come, or the connection is another one."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        self._waiter = self._server.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _begin(self) -> None:
        self._end()
        failures = 0
        while True:
            epoch = self._connection.epoch
            try:
                self._push = await self._connection.ask(self._attach)
            except (UnavailableError, OutcomeUnknownError):
                failures += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_ms(failures) / _MS_PER_SECOND):
                        await self._wait()
            else:
                break
        self._checked_at_us = self._server.loop.now_us
        self._epoch = epoch
        self._is_sound = True
        push = self._push
        if push is not None and not push.is_alive:
            push.silenced()  # it vanished before this answer came; what is waited for begins now

    def _attach(self) -> Push:
        """Begin, at the server.

        Raises:
            StaleError: As ``chunks``.
        """
        log = self._server.log
        try:
            log.check(self._created, self._sequence)
            log.check_last_read(self._last_read)
        except StaleError:
            is_ahead = self._sequence > log.last_sequence
            mark(names.FOLLOWER_AHEAD if is_ahead else names.FOLLOWER_ELSEWHERE)
            raise
        if self._created is not None and self._sequence < log.first_sequence - 1:
            mark(names.OVERTAKEN)
            raise log.overtaken(self._sequence)
        self._created = log.created
        self._reached = max(self._sequence, log.first_sequence - 1)
        push = Push(self._server, self._connection, self, self._sequence + 1)
        self._server.pushes[push] = None
        self._push = push  # what it pushes may come before this answer
        self._inbox = []
        self._heard_life = False
        return push

    def _end(self) -> None:
        self._is_sound = False
        self._inbox = []
        push, self._push = self._push, None
        if push is not None:
            push.is_alive = False
            self._connection.tell(lambda: self._server.pushes.pop(push, None))

    def _is_overdue(self) -> bool:
        return self._server.loop.now_us - self._checked_at_us >= CHECK_INTERVAL_MS * _US_PER_MS

    async def _check_pace(self) -> None:
        """Refuse a log that let go of messages before they were sent."""
        try:
            await self._connection.ask(self._check_at_server)
        except (UnavailableError, OutcomeUnknownError):
            self._is_sound = False
            return
        self._checked_at_us = self._server.loop.now_us

    def _check_at_server(self) -> None:
        log, push = self._server.log, self._push
        if push is None or push not in self._server.pushes:
            raise UnavailableError("there is no such consumer")
        if log.first_sequence - 1 > self._reached:
            mark(names.OVERTAKEN)
            raise log.overtaken(self._sequence)
        self._reached = max(self._reached, push.position - 1)

    async def _next_chunk(self) -> list[Received] | None:
        """Take what is there, or wait for it; ``None`` if there is neither message nor sign of life."""
        if not self._inbox and not self._heard_life:
            await self._wait()
        if not self._is_sound:
            return None
        chunk = self._inbox[:CHUNK_MESSAGES_MAX]
        if chunk:
            self._inbox = self._inbox[CHUNK_MESSAGES_MAX:]
            self._last_read = chunk[-1]
            self._sequence = chunk[-1].sequence
            return chunk
        is_alive, self._heard_life = self._heard_life, False
        return [] if is_alive else None
