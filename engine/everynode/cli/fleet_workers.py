"""The workers of a fleet for `everynode fleet show`: who decides for what, how far each is, and who is dead.

It is made from what workers say of themselves beside the log; of a dead one, from what the others say. It asks nobody
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from everynode.cli.tables import BAD, GOOD, NONE, WAITING, Cell, Columns, age
from everynode.core.sharing import Beat, DeadWorker
from everynode.runtime.clock import timestamp

LISTEN_MS = 1_000
"""How long it is listened: three times as long as a worker is silent."""

_HEADER = ("NAME", "SHARDS", "SEQUENCE", "BEHIND", "AGE", "STATE")


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers as people do: ``0-3,7``."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def unowned(beats: Sequence[Beat], shards: int) -> list[int]:
    """Return the shards for which no worker that was heard decides."""
    return sorted(set(range(shards)).difference(*(beat.shards for beat in beats)))


def _dead(beats: Sequence[Beat]) -> list[DeadWorker]:
    """Return who is dead by the word of the living, and was not heard; the last one first."""
    living = {beat.id for beat in beats}
    found: dict[str, DeadWorker] = {}
    for told in (told for beat in beats for told in beat.dead if told.id not in living):
        known = found.get(told.id)
        if known is None or told.ago_ms < known.ago_ms:
            found[told.id] = told
    return sorted(found.values(), key=lambda dead: (dead.ago_ms, dead.worker, dead.id))


def table(beats: Sequence[Beat], now_ms: int) -> Columns:
    """Lay workers out as a table.

    Args:
        beats: The last word of each that was heard, in order.
        now_ms: The time now, for ages.
    """
    rows: list[Sequence[str | Cell]] = [
        (
            beat.worker,
            f"{len(beat.shards)} ({ranges(beat.shards)})" if beat.shards else NONE,
            str(beat.sequence),
            str(beat.behind),
            age(beat.since_ms, now_ms),
            Cell("Ready", GOOD) if beat.ready else Cell("Starting", WAITING),
        )
        for beat in beats
    ]
    rows += [
        (dead.worker, NONE, NONE, NONE, NONE, Cell(f"Dead since {age(1, 1 + dead.ago_ms)}", BAD))
        for dead in _dead(beats)
    ]
    return Columns(_HEADER, rows)


def documents(beats: Sequence[Beat]) -> list[dict[str, Any]]:
    """Lay workers out for programs."""
    living = [
        {
            "name": beat.worker,
            "id": beat.id,
            "state": "Ready" if beat.ready else "Starting",
            "shards": sorted(beat.shards),
            "sequence": beat.sequence,
            "behind": beat.behind,
            "startedAt": timestamp(beat.since_ms) if beat.since_ms else None,
        }
        for beat in beats
    ]
    dead = [
        {"name": dead.worker, "id": dead.id, "state": "Dead", "deadSeconds": dead.ago_ms // 1000}
        for dead in _dead(beats)
    ]
    return [*living, *dead]
