"""What a plan needs to know of a fleet, read from its log as a worker reads it when it starts.

Used by the command line. Reads through ``runtime.bus``, subject by subject where that is quicker, and passes over what
is not wanted before it is decoded.
"""

from __future__ import annotations

from contextlib import aclosing

from everynode.core.pacing import Limits
from everynode.replay.planning_fleet import PlannedFleet
from everynode.runtime.apart import read_apart
from everynode.runtime.bus import FleetBus
from everynode.runtime.view import last_good


async def read_planned_fleet(bus: FleetBus, fleet: PlannedFleet, now_ms: int) -> None:
    """Read STATE, and what the log has that STATE does not keep and that is not forgotten yet.

    A log that has no older message says everything that STATE does.

    Args:
        bus: The fleet's log.
        fleet: Takes it in.
        now_ms: The time now, in ms since 1970.

    Raises:
        UnavailableError: The server did not answer.
    """
    subjects = bus.subjects.read_by_worker(sorted(fleet.shards))
    start = await bus.sequence_at(now_ms - Limits().horizon_ms)
    if start > 1:
        taken_over = [await _read_state(bus, fleet, subject) for subject in subjects]
        start = min(start, max(taken_over) + 1)
    _, end, _ = await bus.log_position()  # a batch that comes meanwhile would be found in parts
    found = await read_apart(bus, subjects, start, end, fleet.wants)
    if found is not None:
        for received in found:
            fleet.take(received, is_kept=False)
        return
    async with aclosing(bus.read_log([bus.subjects.everything()], start)) as chunks:
        async for chunk in chunks:
            for received in chunk:
                if received.sequence <= end and fleet.wants(received.subject):
                    fleet.take(received, is_kept=False)


async def _read_state(bus: FleetBus, fleet: PlannedFleet, subject: str) -> int:
    """Read STATE; returns up to where it has taken over the log."""
    last = 0
    async with aclosing(bus.read_state([subject])) as chunks:
        async for chunk in chunks:
            for received in chunk:
                last = max(last, received.sequence)
                if fleet.wants(received.subject) and not fleet.take(received, is_kept=True):
                    good = await last_good(bus, received)
                    if good is not None:
                        fleet.take(good, is_kept=True)
    return last
