"""Messages of an adapter host on their way to the log: in order, in batches, and never given up.

``runtime.host`` puts in what was observed and what became of commands. While one batch is being stored, what comes in
makes up the next one, so that batches are as large as the load asks for. While the log cannot be reached, a newer
message takes the place of an older one on the same subject, so that what waits is bounded by the number of objects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.errors import MalformedMessageError, OutcomeUnknownError, UnavailableError
from everynode.ports import Bus, Clock, Outgoing
from everynode.runtime.counts import Filled
from everynode.runtime.publishing import BATCH_BYTES_MAX

log = structlog.get_logger(__name__)

WAITING_MESSAGES_MAX = 100_000
RETRY_FIRST_MS = 50
RETRY_LAST_MS = 5_000

Stored = Callable[[int], None]
"""Called with a message's sequence once the log has it."""


@dataclass(slots=True)
class _Waiting:
    outgoing: Outgoing
    ticket: int
    stored: list[Stored] = field(default_factory=list)


class Outbox:
    """Stores messages one batch after the other, for as long as ``run`` runs.

    Args:
        bus: The log.
        clock: Time to wait by between tries.
        waiting_max: From how many waiting messages on ``is_full``.
    """

    def __init__(self, bus: Bus, clock: Clock, waiting_max: int = WAITING_MESSAGES_MAX) -> None:
        """Begin empty."""
        self.stored_count = 0
        self.refused_count = 0
        self.last_sequence = 0
        self._bus = bus
        self._clock = clock
        self._waiting_max = waiting_max
        self._waiting: dict[str, _Waiting] = {}
        self._tickets = 0
        self._stored_ticket = 0
        self._filled = asyncio.Event()
        self._progressed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whoever can wait, should: see ``wait_for_room``."""
        return len(self._waiting) >= self._waiting_max

    @property
    def filled(self) -> Filled:
        """How full it is. Outcomes of commands are put in all the same: of those in hand there is a limit as well."""
        return Filled(len(self._waiting), self._waiting_max)

    def put(self, outgoing: Outgoing, stored: Stored | None = None, *, last: bool = False) -> None:
        """Take a message. One that waits on the same subject is replaced, and ``stored`` is called for both.

        Args:
            outgoing: The message.
            stored: Called once the log has it.
            last: It must come after everything that waits now; if not, it takes the place of the one it replaces.
        """
        waiting = self._waiting.get(outgoing.subject)
        if waiting is None or last:
            self._tickets += 1
            callbacks = [] if waiting is None else waiting.stored
            self._waiting.pop(outgoing.subject, None)
            waiting = _Waiting(outgoing, self._tickets, callbacks)
            self._waiting[outgoing.subject] = waiting
            self._filled.set()
        else:
            waiting.outgoing = outgoing
        if stored is not None:
            waiting.stored.append(stored)

    async def wait_for_room(self) -> None:
        """Wait until it is no longer full."""
        while self.is_full:
            await self._progressed.wait()

    async def wait_stored(self) -> None:
        """Wait until everything is stored that is waiting now."""
        ticket = self._tickets
        while self._stored_ticket < ticket:
            await self._progressed.wait()

    async def run(self) -> None:
        """Store what is put in, until cancelled."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(0)  # whoever is putting in several messages may finish first
            batch = self._take()
            if batch:
                await self._store(batch)

    def _take(self) -> list[_Waiting]:
        """Take the next batch out of what waits."""
        batch: list[_Waiting] = []
        size = 0
        for waiting in self._waiting.values():
            size += len(waiting.outgoing.payload)
            if len(batch) == BATCH_MESSAGES_MAX or (batch and size > BATCH_BYTES_MAX):
                break
            batch.append(waiting)
        for waiting in batch:
            del self._waiting[waiting.outgoing.subject]
        if not self._waiting:
            self._filled.clear()
        return batch

    async def _store(self, batch: list[_Waiting]) -> None:
        """Store a batch, however often that has to be tried; repeats on the log are harmless.

        Anything else that the bus raises is the end of the host: it is not about one message.
        """
        failures = 0
        while True:
            try:
                last = await self._bus.publish([waiting.outgoing for waiting in batch])
            except (UnavailableError, OutcomeUnknownError) as error:
                failures += 1
                log.warning(
                    "log not written", messages=len(batch), tries=failures, reason=str(error)
                )
                await self._clock.sleep_ms(_delay_ms(failures))
            except MalformedMessageError as error:
                await self._isolate(batch, error)
                return
            else:
                break
        self.stored_count += len(batch)
        self.last_sequence = max(self.last_sequence, last)
        first = last - len(batch) + 1
        for place, waiting in enumerate(batch):
            for stored in waiting.stored:
                stored(first + place)
        self._come_to(batch[-1])

    async def _isolate(self, batch: list[_Waiting], error: MalformedMessageError) -> None:
        """Find the message for which the log refuses a batch, and go on without it."""
        if len(batch) > 1:
            for waiting in batch:
                await self._store([waiting])
            return
        (refused,) = batch
        self.refused_count += 1
        log.error("message refused by the log", subject=refused.outgoing.subject, reason=str(error))
        self._come_to(refused)

    def _come_to(self, waiting: _Waiting) -> None:
        """Everything up to this one is settled: wake up whoever waits for that, or for room."""
        self._stored_ticket = waiting.ticket
        progressed, self._progressed = self._progressed, asyncio.Event()
        progressed.set()


def _delay_ms(failures: int) -> int:
    longest_ms: int = min(RETRY_FIRST_MS << min(failures, 16), RETRY_LAST_MS)
    return longest_ms // 2 + random.randrange(longest_ms // 2)  # noqa: S311 - no secret
