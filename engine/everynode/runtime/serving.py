"""Subscriptions beside the log that stay: a claim, heartbeats, requests to a backend.

``runtime.link`` keeps one ``Serving`` and takes it along from one connection to the next. The library ends a
subscription without a word when what its handler waited for is cancelled, and lets a handler that hangs hold up
everything that comes after; here neither can happen, and a subscription that is dead all the same is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everynode.runtime.counts import LinkCounts

WAITING_MESSAGES_MAX = 1_024  # for who serves a subject; those that come then are dropped
WAITING_BYTES_MAX = 8 * 1024**2
HANDLING_MS_MAX = 30_000  # how long one message may keep who serves from the next one

Receive = Callable[[Msg], Awaitable[None]]

log = structlog.get_logger(__name__)


class Serving:
    """What is heard over whichever connection there is.

    Args:
        counts: Where to count.
    """

    def __init__(self, counts: LinkCounts) -> None:
        """Hear nothing yet."""
        self._counts = counts
        self._receivers: dict[str, Receive] = {}
        self._subscriptions: dict[str, Subscription] = {}

    async def start(self, client: Client, subject: str, receive: Receive) -> None:
        """Hear messages on a subject; whoever heard them before hears no more."""
        await self.stop(subject)
        self._subscriptions[subject] = await self._listen(client, subject, receive)
        self._receivers[subject] = receive

    async def stop(self, subject: str) -> None:
        """Hear no more messages on a subject; repeating this is harmless."""
        self._receivers.pop(subject, None)
        await _end(self._subscriptions.pop(subject, None))

    async def move_to(self, client: Client) -> None:
        """Hear the same over a new connection."""
        for subject, receive in list(self._receivers.items()):
            self._subscriptions[subject] = await self._listen(client, subject, receive)

    async def revive(self, client: Client) -> None:
        """Make subscriptions anew that have died while the connection lives, whatever ended them."""
        for subject, subscription in list(self._subscriptions.items()):
            receive = self._receivers.get(subject)
            if receive is None or not is_dead(subscription):
                continue
            log.warning("subscription is dead; made anew", subject=subject)
            await _end(subscription)
            self._subscriptions[subject] = await self._listen(client, subject, receive)
            self._counts.revived += 1

    async def _listen(self, client: Client, subject: str, receive: Receive) -> Subscription:
        """Subscribe; no message can end that, or keep it for ever."""

        async def guarded(message: Msg) -> None:
            before = cancellations()
            try:
                async with asyncio.timeout(HANDLING_MS_MAX / 1000):
                    await receive(message)
            except TimeoutError:
                self._given_up(subject, f"it took more than {HANDLING_MS_MAX} ms")
            except asyncio.CancelledError:
                if cancellations() > before:
                    raise
                self._given_up(subject, "what it waited for was cancelled")

        return await client.subscribe(
            subject,
            cb=guarded,
            pending_msgs_limit=WAITING_MESSAGES_MAX,
            pending_bytes_limit=WAITING_BYTES_MAX,
        )

    def _given_up(self, subject: str, reason: str) -> None:
        self._counts.given_up += 1
        log.error("message given up", subject=subject, reason=reason)


def cancellations() -> int:
    """How often the running task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def is_dead(subscription: Subscription) -> bool:
    """Say whether a subscription hands out nothing any more; the library neither says so nor mends it."""
    task: asyncio.Task[None] | None = subscription._wait_for_msgs_task  # noqa: SLF001 - there is no other way to see it
    return task is None or task.done()


async def _end(subscription: Subscription | None) -> None:
    if subscription is not None:
        with contextlib.suppress(errors.Error):  # the connection, and with it this, may be gone
            await subscription.unsubscribe()
