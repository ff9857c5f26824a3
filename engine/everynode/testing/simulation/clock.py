"""The clock of one simulated process: it may be wrong, jump, and run fast or slow. Waiting is the loop's business."""

from __future__ import annotations

import asyncio
from typing import Protocol

US_PER_MS = 1_000
MS_PER_SECOND = 1_000


class Timeline(Protocol):
    """Where true time comes from."""

    @property
    def start_ms(self) -> int:
        """When the run began, in ms since 1970."""
        ...

    @property
    def now_us(self) -> int:
        """How long ago that was, in microseconds."""
        ...


class SimulatedClock:
    """Implements ``ports.Clock`` on virtual time."""

    __slots__ = ("_begun_ms", "_begun_us", "_rate", "_timeline")

    def __init__(self, timeline: Timeline) -> None:
        """Begin true."""
        self._timeline = timeline
        self._begun_us = timeline.now_us
        self._begun_ms: float = timeline.start_ms + timeline.now_us / US_PER_MS
        self._rate = 1.0

    def set(self, offset_ms: int, rate: float = 1.0) -> None:
        """Jump to so far from true time, and run so fast from now on."""
        now_us = self._timeline.now_us
        self._begun_us = now_us
        self._begun_ms = self._timeline.start_ms + now_us / US_PER_MS + offset_ms
        self._rate = rate

    def now_ms(self) -> int:
        """Milliseconds since 1970, as this process believes."""
        passed_us = self._timeline.now_us - self._begun_us
        return int(self._begun_ms + passed_us * self._rate / US_PER_MS)

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait on virtual time; nothing or less is one turn of the loop."""
        await asyncio.sleep(max(duration_ms, 0) / MS_PER_SECOND)
