"""Which of several hosts of one backend is at work: the one that holds the claim; the others stand by.

Used by ``host``. It only saves work and noise: two hosts that both believe to hold it for a moment (a partition, a
process that was stopped for a while) contradict each other on the log, and nothing worse. So there is no lease and
nothing is stored: whoever holds the claim answers on a subject beside the log; where nobody answers, it is free. Two
holders hear each other and the one that took it later lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import msgspec
import structlog

from everynode.core.values import NAME_LENGTH_MAX
from everynode.errors import OutcomeUnknownError, StaleError, UnavailableError
from everynode.ports import Bus, Clock

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_MS = 500
INTERVAL_MS = 1_000


class Holder(msgspec.Struct, frozen=True, order=True):
    """A host that says it holds the claim; the smallest does.

    Attributes:
        since_ms: When it took it, by its own clock.
        id: Tells hosts apart that took it at the same moment.
    """

    since_ms: int
    id: str


class Claim:
    """One host's side of the claim for a backend.

    Args:
        bus: The fleet's log.
        subject: Where the holder answers.
        clock: Time to wait by.
        host_id: Tells this host from all others; drawn if there is none.
    """

    def __init__(self, bus: Bus, subject: str, clock: Clock, host_id: str = "") -> None:
        """Hold nothing yet."""
        self._bus = bus
        self._subject = subject
        self._clock = clock
        self._id = host_id or secrets.token_hex(8)
        self._held: Holder | None = None
        self._lost = asyncio.Event()
        self.waits = 0
        """How often it has found that another host holds it, since this one last did."""

    async def take(self) -> None:
        """Wait until nobody else holds the claim, then hold it.

        Raises:
            UnavailableError: The connection was lost at this moment.
        """
        self.waits = 0
        while (holder := await self._holder()) is not None:
            if not self.waits:
                log.info(
                    "another host is at work; standing by", subject=self._subject, holder=holder
                )
            self.waits += 1
            await self._clock.sleep_ms(INTERVAL_MS)
        self._lost.clear()
        self._held = Holder(self._clock.now_ms(), self._id)
        await self._bus.serve(self._subject, self._answer)

    async def keep(self) -> None:
        """Say that the claim is held, until it turns out that another host took it before.

        Raises:
            StaleError: Another host holds it.
        """
        while not self._lost.is_set():
            with contextlib.suppress(UnavailableError):  # nobody can hear it either
                await self._bus.announce(self._subject, msgspec.json.encode(self._held))
            await self._clock.sleep_ms(INTERVAL_MS)
        raise StaleError("another host of this backend was at work before this one")

    async def release(self) -> None:
        """Hold it no longer; repeating this is harmless."""
        self._held = None
        await self._bus.stop_serving(self._subject)

    async def _holder(self) -> str | None:
        """Ask who holds it; ``None`` if nobody says so. Who gives no answer in time does not hold it."""
        try:
            answer = await self._bus.request(self._subject, b"", ANSWER_TIMEOUT_MS)
        except (UnavailableError, OutcomeUnknownError):
            return None
        return answer[:NAME_LENGTH_MAX].decode(errors="replace")

    async def _answer(self, payload: bytes) -> bytes:
        if payload and self._held is not None:
            try:
                other = msgspec.json.decode(payload, type=Holder)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                log.warning("not understood", subject=self._subject)
            else:
                if other < self._held:
                    self._lost.set()
        return self._id.encode()
