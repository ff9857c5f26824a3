"""What a live fleet's log still has on some subjects, read once, in order.

Used by those who look at a fleet's past without a recording of it. Reads through ``runtime.bus``: each subject by
itself, because nats-server finds 65,000 messages a second for one filter and 7,000 for several.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import aclosing

from everynode.ports import Received
from everynode.replay.recording import Entry
from everynode.runtime.bus import FleetBus


async def read_history(
    bus: FleetBus, subjects: Sequence[str], until_ms: int | None = None
) -> list[Entry]:
    """Read what STATE kept from before the log's beginning, and what the log has.

    Args:
        bus: The fleet's log.
        subjects: Which; may contain wildcards, and must not overlap.
        until_ms: Only what the log took in up to then, in ms since 1970; ``None``: everything.

    Returns:
        First what was kept, then the log's messages in their order.

    Raises:
        UnavailableError: The server did not answer.
    """
    first = (await bus.log_position()).first_sequence
    kept: list[Received] = []
    logged: list[list[Received]] = []
    for subject in subjects:
        if first > 1:  # else the log has everything from its beginning on
            async with aclosing(bus.read_state([subject])) as chunks:
                async for chunk in chunks:
                    kept += [one for one in chunk if one.sequence < first]
        found: list[Received] = []
        async with aclosing(bus.read_log([subject], first)) as chunks:
            async for chunk in chunks:
                found += [one for one in chunk if until_ms is None or one.time_ms <= until_ms]
        logged.append(found)
    return [
        *(Entry(one, is_kept=True) for one in sorted(kept)),
        *(Entry(one, is_kept=False) for one in heapq.merge(*logged)),
    ]
