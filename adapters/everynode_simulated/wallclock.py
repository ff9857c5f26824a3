"""This machine's clock: what a simulated fleet runs by when nobody gives it another one.

Tests and the simulator give a clock of their own; nothing else in this package reads the time.
"""

from __future__ import annotations

import asyncio
import time

MS_PER_SECOND = 1000
NS_PER_MS = 1_000_000


class WallClock:
    """Real time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // NS_PER_MS

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait."""
        await asyncio.sleep(duration_ms / MS_PER_SECOND)
