"""What is said beside the simulated log: requests and announcements, which nobody stores.

Used by ``server`` and ``bus``. Whoever serves a subject hears both, one message after the other; nothing is promised.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from everynode.errors import EverynodeError
from everynode.testing.simulation import faults as names
from everynode.testing.simulation.connection import Connection
from everynode.testing.simulation.marks import mark

if TYPE_CHECKING:
    from everynode.testing.simulation.server import SimulatedServer

HEARD_MESSAGES_MAX = 1_000
"""What waits for a handler; what comes on top is lost."""

_US_PER_MS = 1_000

Handler = Callable[[bytes], Awaitable[bytes]]
Reply = Callable[[bytes], None]


class Listener:
    """One who serves a subject."""

    def __init__(self, connection: Connection, handler: Handler) -> None:
        """Hear nothing yet."""
        self.connection = connection
        self._handler = handler
        self._heard: deque[tuple[bytes, Reply | None]] = deque()
        self._answering: asyncio.Task[None] | None = None

    def hear(self, payload: bytes, reply: Reply | None) -> None:
        """Take a message in."""
        if len(self._heard) >= HEARD_MESSAGES_MAX:
            return
        self._heard.append((payload, reply))
        process = self.connection.process
        if self._answering is None or self._answering.done():
            self._answering = process.spawn(self._answer_all())

    async def _answer_all(self) -> None:
        while self._heard:
            payload, reply = self._heard.popleft()
            try:
                answer = await self._handler(payload)
            except EverynodeError:
                continue  # no answer
            if reply is not None:
                self.connection.tell(partial(reply, answer))


class Beside:
    """Who listens to what.

    Args:
        server: The server, for time and faults.
    """

    def __init__(self, server: SimulatedServer) -> None:
        """Nobody listens yet."""
        self._server = server
        self._listeners: dict[str, dict[Listener, None]] = {}

    def listen(self, subject: str, listener: Listener) -> None:
        """Someone serves a subject."""
        self._listeners.setdefault(subject, {})[listener] = None

    def stop(self, subject: str, listener: Listener) -> None:
        """Someone serves it no more."""
        self._listeners.get(subject, {}).pop(listener, None)

    def forget(self, connection: Connection) -> None:
        """Whoever served over a connection serves no more."""
        for subject, listeners in self._listeners.items():
            left = {one: None for one in listeners if one.connection is not connection}
            self._listeners[subject] = left

    def announce(self, subject: str, payload: bytes) -> None:
        """Tell everybody who listens."""
        faults, draw = self._server.faults, self._server.loop.random.random
        for listener in self._listeners.get(subject, ()):
            send = partial(listener.connection.to_client, partial(listener.hear, payload, None))
            if faults.announcement_lost and draw() < faults.announcement_lost:
                mark(names.ANNOUNCEMENT_LOST)
                continue
            if faults.announcement_late and draw() < faults.announcement_late:
                mark(names.ANNOUNCEMENT_LATE)
                send(more_us=1 + int(draw() * faults.late_ms_max * _US_PER_MS))
            else:
                send()
            if faults.announcement_twice and draw() < faults.announcement_twice:
                mark(names.ANNOUNCEMENT_TWICE)
                send()

    def request(
        self,
        asker: Connection,
        subject: str,
        payload: bytes,
        answer: asyncio.Future[bytes | None],
    ) -> None:
        """Ask everybody who listens; the first answer counts, and ``None`` says that nobody does."""
        listeners = self._listeners.get(subject)
        if not listeners:
            asker.to_client(partial(_settle, answer, None))
            return

        def reply(text: bytes) -> None:
            asker.to_client(partial(_settle, answer, text))

        for listener in listeners:
            listener.connection.to_client(partial(listener.hear, payload, reply))


def _settle(answer: asyncio.Future[bytes | None], text: bytes | None) -> None:
    if not answer.done():
        answer.set_result(text)
