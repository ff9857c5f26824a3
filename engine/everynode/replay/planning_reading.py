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
from everynode.wire import ORPHANS, Subjects

OUTCOMES_ASKED_MAX = 20
"""For so many commands the log is asked one by one what became of them; for more, all outcomes are read."""


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
    shards = sorted(fleet.shards)
    is_apart = 2 * len(shards) <= bus.subjects.shards  # of more, all at once is quicker
    kept = _kept(bus.subjects, shards) if is_apart else [bus.subjects.everything()]
    commands = [f"{bus.subjects.prefix}.command.*.*.{shard}.*" for shard in shards]
    start = await bus.sequence_at(now_ms - Limits().horizon_ms)
    if start > 1:
        taken_over = [await _read_state(bus, fleet, subject) for subject in kept]
        start = min(start, max(taken_over) + 1)
    _, end, _ = await bus.log_position()  # a batch that comes meanwhile would be found in parts
    if not is_apart or not await _read_apart(bus, fleet, [*kept, *commands], start, end):
        await _read_all(bus, fleet, start, end)
        return
    outcomes = fleet.outcome_subjects()
    if len(outcomes) > OUTCOMES_ASKED_MAX:
        outcomes = [f"{bus.subjects.prefix}.outcome.{shard}.*" for shard in shards]
    if not await _read_apart(bus, fleet, outcomes, start, end):
        await _read_all(bus, fleet, start, end)


def _kept(subjects: Subjects, shards: list[int]) -> list[str]:
    """Name the subjects of what is kept, and of decisions; they have other lengths than those of outcomes."""
    kept = [subjects.of_kind("node"), f"{subjects.prefix}.pod.{ORPHANS}.>"]
    for shard in shards:
        kept += [f"{subjects.prefix}.*.{shard}.*.*", f"{subjects.prefix}.*.{shard}.*.*.*"]
    return kept


async def _read_apart(
    bus: FleetBus, fleet: PlannedFleet, subjects: list[str], start: int, end: int
) -> bool:
    """Read what the log has on some subjects, unless that is too much to be held; say whether it was read."""
    found = await read_apart(bus, subjects, start, end, fleet.wants)
    for received in found or ():
        fleet.take(received)
    return found is not None


async def _read_all(bus: FleetBus, fleet: PlannedFleet, start: int, end: int) -> None:
    async with aclosing(bus.read_log([bus.subjects.everything()], start)) as chunks:
        async for chunk in chunks:
            for received in chunk:
                if received.sequence <= end and fleet.wants(received.subject):
                    fleet.take(received)


async def _read_state(bus: FleetBus, fleet: PlannedFleet, subject: str) -> int:
    """Read STATE; returns up to where it has taken over the log."""
    last = 0
    async with aclosing(bus.read_state([subject])) as chunks:
        async for chunk in chunks:
            for received in chunk:
                last = max(last, received.sequence)
                if fleet.wants(received.subject) and not fleet.take_kept(received):
                    good = await last_good(bus, received)
                    if good is not None:
                        fleet.take_kept(good)
    return last
