"""What commands do that watch the log: notice that it cannot be reached any more, say so, and not wait for ever.

Used by `get --watch`, `events --watch` and `rollout status`, beside what they do.
"""

from __future__ import annotations

import asyncio
import time

from everynode.cli.terminal import note_line
from everynode.errors import EverynodeError, UnavailableError
from everynode.runtime.jetstream import JetStreamBus

OUTAGE_SECONDS_MAX = 30.0
"""How long a watch waits for a log that it cannot reach any more."""

REACHED_CHECK_SECONDS = 2.0


async def end_when_cut_off(bus: JetStreamBus) -> None:
    """Say once for each outage that the log cannot be reached, and give up when that lasts.

    Raises:
        UnavailableError: It lasted too long.
    """
    lost_at: float | None = None
    while True:
        await asyncio.sleep(REACHED_CHECK_SECONDS)
        now = time.monotonic()
        try:
            await bus.log_position()
        except EverynodeError as error:
            if lost_at is None:
                lost_at = now
                note_line(f"waiting up to {OUTAGE_SECONDS_MAX:g} s for the log: {error}")
            elif now - lost_at >= OUTAGE_SECONDS_MAX:
                message = f"the watch ends: no log for {OUTAGE_SECONDS_MAX:g} s: {error}"
                raise UnavailableError(message) from error
        else:
            if lost_at is not None:
                lost_at = None
                note_line("the log is there again")
