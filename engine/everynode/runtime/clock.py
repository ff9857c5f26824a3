"""This machine's clocks, for those who must wait.

The runtime's default ``ports.Clock``. Nothing that is decided depends on it: decisions take their time from the log.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall-clock time and real waiting."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, by this machine's clock."""
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; nothing or less is one turn of the event loop."""
        await asyncio.sleep(max(duration_ms, 0) / 1000)


def monotonic_ms() -> int:
    """Milliseconds by the running loop, which only go forward: how long something lasts, whoever sets the clock."""
    return int(asyncio.get_running_loop().time() * 1000)


def timestamp(time_ms: int) -> str:
    """Write a point in time as Kubernetes does: RFC 3339 in UTC, in whole seconds."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(time_ms: int) -> str:
    """Write a point in time as RFC 3339 in UTC, to the millisecond."""
    when = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z"
