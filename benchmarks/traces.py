"""Machine events with the shape of those that Google published of one of its cells in 2011, from a seed.

    python -m benchmarks.traces > machine_events.csv

The columns are those of its `machine_events`: time in microseconds, machine, event (0 add, 1 remove, 2 update),
platform, CPUs, memory; there is no header. All machines are there at time 0. In 29 days there are about 0.7 removals
for each machine, most of them for less than an hour and some for good, and about 0.6 changes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import NamedTuple

SEED = 2011
MACHINES = 12_500
DAYS = 29

_US_PER_S = 1_000_000
_US_PER_DAY = 86_400 * _US_PER_S
_REMOVALS_PER_DAY = 0.71 / 29
_UPDATES_PER_DAY = 0.59 / 29
_FOR_GOOD = 0.02
_AWAY_S = ((0.7, 900, 3_600), (0.25, 3_600, 43_200), (0.05, 43_200, 864_000))
"""How long a machine is away: the share of cases, the shortest and the longest."""

_ADD, _REMOVE, _UPDATE = 0, 1, 2


class _Shape(NamedTuple):
    """What machines of one kind have, and how many of all are of it."""

    share: float
    platform: str
    cpus: str
    memory: str


_SHAPES = (
    _Shape(0.53, "Xo3kq/8pR2vJ+n1uT0a=", "0.5", "0.4995"),
    _Shape(0.31, "Xo3kq/8pR2vJ+n1uT0a=", "0.5", "0.2493"),
    _Shape(0.08, "Xo3kq/8pR2vJ+n1uT0a=", "0.5", "0.749"),
    _Shape(0.065, "Zc7/hY5w+0dLmQe4s2g=", "1", "1"),
    _Shape(0.01, "Bf9tN6r/iVb3K1+yMxo=", "0.25", "0.2498"),
    _Shape(0.005, "Xo3kq/8pR2vJ+n1uT0a=", "0.5", "0.1241"),
)


class _Event(NamedTuple):
    time_us: int
    machine: int
    event: int
    shape: _Shape


def machine_events(machines: int = MACHINES, days: int = DAYS, seed: int = SEED) -> Iterator[str]:
    """Make the rows, in the order of their times."""
    draw = random.Random(f"{seed}/machines")
    ids = draw.sample(range(1, machines * 400), machines)
    events = [event for machine in ids for event in _life(draw, machine, days)]
    for event in sorted(events, key=lambda event: event.time_us):
        shape = event.shape
        yield f"{event.time_us},{event.machine},{event.event},{shape.platform},{shape.cpus},{shape.memory}\n"


def _life(draw: random.Random, machine: int, days: int) -> Iterator[_Event]:
    """Say what happens to one machine."""
    (shape,) = draw.choices(_SHAPES, [each.share for each in _SHAPES])
    now_us, end_us = 0, days * _US_PER_DAY
    yield _Event(0, machine, _ADD, shape)
    rate = _REMOVALS_PER_DAY + _UPDATES_PER_DAY
    while True:
        now_us += 1 + int(draw.expovariate(rate) * _US_PER_DAY)
        if now_us >= end_us:
            return
        if draw.random() * rate < _UPDATES_PER_DAY:
            (shape,) = draw.choices(_SHAPES, [each.share for each in _SHAPES])
            yield _Event(now_us, machine, _UPDATE, shape)
            continue
        yield _Event(now_us, machine, _REMOVE, shape)
        if draw.random() < _FOR_GOOD:
            return
        ((_, shortest_s, longest_s),) = draw.choices(_AWAY_S, [each[0] for each in _AWAY_S])
        now_us += draw.randrange(shortest_s * _US_PER_S, longest_s * _US_PER_S)
        if now_us >= end_us:
            return
        yield _Event(now_us, machine, _ADD, shape)


if __name__ == "__main__":
    sys.stdout.writelines(machine_events())
