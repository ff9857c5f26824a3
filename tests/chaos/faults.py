"""Which faults a chaos run meets and in which order: a plan, drawn from a seed. Pure; ``nemesis`` carries it out.

There are three lanes that run side by side, each one fault after the other: what happens to servers (so that a fault
of one server has healed before the next: whoever restores an older copy is a minority), to workers and adapters, and
to links and the log. In each lane every kind comes once, in an order of the seed's, before one comes again.
"""

from __future__ import annotations

import random
from typing import NamedTuple

SERVER_KINDS = (
    "kill server",
    "kill two servers",
    "pause server",
    "restart server",
    "cut off server",
    "cut two servers apart",
    "fill disk",
    "restore older copy of one",
    "restore older copy of all",
)
PROCESS_KINDS = (
    "kill worker",
    "pause worker",
    "restart worker",
    "kill adapter",
    "pause adapter",
    "restart adapter",
)
BUS_KINDS = (
    "cut links of a worker",
    "cut links of an adapter",
    "silence links of a worker",
    "silence links of an adapter",
    "cut backend off",
    "garbage",
    "step down leaders",
)
LANES = {"servers": SERVER_KINDS, "processes": PROCESS_KINDS, "bus": BUS_KINDS}
KINDS = (*SERVER_KINDS, *PROCESS_KINDS, *BUS_KINDS)

DURATION_MS = {"servers": (300, 2_500), "processes": (100, 2_500), "bus": (100, 3_000)}
LONG_SHARE = 0.1
"""So many of the faults last long: longer than a command is waited for, and than a connection may be silent."""
LONG_MS = (10_000, 16_000)
LONG_RUN_SECONDS = 120
"""A run that is shorter has no time for long faults."""
PAUSE_MS = {"servers": (200, 1_500), "processes": (500, 3_000), "bus": (300, 3_000)}
RECOVERY_MS = {"servers": 6_000, "processes": 0, "bus": 0}
"""What healing takes beside: a cluster elects new leaders in four to nine seconds. No fault begins too late."""
PLANNED_PER_LANE_MAX = 10_000


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        pause_ms: How long the lane rests before it.
        duration_ms: How long it lasts.
        target: Which server, worker or adapter, modulo how many there are.
    """

    lane: str
    kind: str
    pause_ms: int
    duration_ms: int
    target: int


def plan(seed: int, lane: str, seconds: float) -> list[Fault]:
    """Say what one lane does in a run of so many seconds, if nothing took time but the faults themselves."""
    draw = random.Random(f"{seed}/{lane}")
    faults: list[Fault] = []
    elapsed_ms = 0
    deck: list[str] = []
    while elapsed_ms < seconds * 1_000 and len(faults) < PLANNED_PER_LANE_MAX:
        if not deck:
            deck = list(LANES[lane])
            draw.shuffle(deck)
        is_long = draw.random() < LONG_SHARE and seconds >= LONG_RUN_SECONDS
        fault = Fault(
            lane=lane,
            kind=deck.pop(),
            pause_ms=draw.randint(*PAUSE_MS[lane]),
            duration_ms=draw.randint(*(LONG_MS if is_long else DURATION_MS[lane])),
            target=draw.randrange(1_000),
        )
        elapsed_ms += fault.pause_ms + fault.duration_ms
        faults.append(fault)
    return faults
