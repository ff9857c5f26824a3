"""This machine's clock, for those who must wait.

The runtime's default ``ports.Clock``. Nothing that is decided depends on it: decisions take their time from the log.
"""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall-clock time and real waiting."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, by this machine's clock."""
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; nothing or less is one turn of the event loop."""
        await asyncio.sleep(max(duration_ms, 0) / 1000)
