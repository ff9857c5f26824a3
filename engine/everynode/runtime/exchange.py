"""Questions and answers over one connection to NATS.

``runtime.link`` makes one for each connection. The library has requests of its own, but they wait for their whole
time when the connection is lost, and on Python 3.11 one that is answered in the moment in which it is cancelled
forgets that it was cancelled.
"""

from __future__ import annotations

import asyncio
import itertools

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everynode.runtime.serving import cancellations, is_dead

_NO_RESPONDERS = "503"


class Exchange:
    """Asks over one client, and hands each answer to who asked. Made by ``Exchange.open``."""

    def __init__(self, client: Client) -> None:
        """Listen to nothing yet."""
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._subscription: Subscription | None = None

    @classmethod
    async def open(cls, client: Client) -> Exchange:
        """Listen for answers."""
        exchange = cls(client)
        exchange._subscription = await client.subscribe(
            f"{exchange._inbox}.*", cb=exchange._receive
        )
        return exchange

    @property
    def is_deaf(self) -> bool:
        """No answer is heard any more, though the connection may live; then it is of no use."""
        return self._subscription is None or is_dead(self._subscription)

    async def ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> Msg | None:
        """Send a question and wait for its answer, for ever: who asks sets the time.

        Returns:
            The answer; ``None`` if nobody listens on this subject.

        Raises:
            ConnectionError: The connection was lost in the meantime.
        """
        number = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        before = cancellations()
        try:
            await self._client.publish(
                subject, payload, reply=f"{self._inbox}.{number}", headers=headers
            )
            if cancellations() > before:  # the library swallows one while it waits for room
                raise asyncio.CancelledError
            message = await answer
        finally:
            del self._waiting[number]
        if message.headers is not None and message.headers.get("Status") == _NO_RESPONDERS:
            return None
        return message

    def lose(self) -> None:
        """Tell all who wait that no answer can come any more."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the connection to NATS was lost"))

    async def _receive(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)
