"""What a run is like, drawn from its seed: how large, how patient, what may go wrong at all and how often.

A run in which everything goes wrong at once explores less than one in which most things work. So each fault is left out
of about half of the runs, and where it is let in, its rate is drawn as well.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from everynode.core.pacing import Limits
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.host import HostSettings
from everynode.runtime.observing import ObserveLimits
from everynode.testing.simulation.adapter import AdapterFaults
from everynode.testing.simulation.backend import Behaviour
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.people import OUTSIDE_ACTS, PEOPLE_ACTS, Habits

BACKENDS = ("east", "west")
SET_NAMES = ("agent", "logs", "net")
SHARDS = 4

NEMESIS_ACTS = (
    "kill",
    "pause",
    "skew clock",
    "cut from log",
    "cut from backend",
    "swizzle",
    "server away",
    "drop consumers",
    "lose end of log",
    "garbage",
    "disk full",
    "stop STATE",
    "age out",
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One run.

    Attributes:
        nodes: How many nodes each backend begins with.
        sets: How many sets people may want.
        workers: How many workers run.
        hosts: How many adapter hosts each backend has.
        backends: How many backends there are.
        faulty_ms: How long the first phase lasts.
        nemesis: Which acts the nemesis has, and how often each is drawn.
        nemesis_ms: How long it waits between two acts, on average.
    """

    nodes: int = 3
    sets: int = 1
    workers: int = 1
    hosts: int = 1
    backends: int = 1
    faulty_ms: int = 60_000
    limits: Limits = field(default_factory=Limits)
    settings: HostSettings = field(default_factory=HostSettings)
    behaviour: Behaviour = field(default_factory=Behaviour)
    adapter: AdapterFaults = field(default_factory=AdapterFaults)
    bus: BusFaults = field(default_factory=BusFaults)
    habits: Habits = field(default_factory=Habits)
    nemesis: dict[str, int] = field(default_factory=dict)
    nemesis_ms: int = 5_000


def draw(chance: random.Random) -> Configuration:
    """Draw what a run is like."""
    drawn = Configuration(
        nodes=chance.randint(1, 8),
        sets=chance.randint(1, len(SET_NAMES)),
        workers=chance.choice((1, 1, 2, 2, 3)),
        hosts=chance.choice((1, 1, 2)),
        backends=chance.choice((1, 1, 1, 2)),
        faulty_ms=chance.choice((20_000, 60_000, 60_000, 180_000)),
        limits=_limits(chance),
        settings=_settings(chance),
        behaviour=_behaviour(chance),
        adapter=_adapter(chance),
        bus=_bus(chance),
        habits=_habits(chance),
        nemesis=_nemesis(chance),
        nemesis_ms=chance.choice((1_000, 3_000, 10_000, 30_000)),
    )
    if drawn.hosts == 1:
        return drawn
    # A host whose watch has missed what another host made cannot know of it before the next list.
    return replace(drawn, adapter=replace(drawn.adapter, event_missed=0.0))


def _rate(chance: random.Random, highest: float = 0.1) -> float:
    """Draw how often something happens; in half of all runs never."""
    if chance.random() < 0.5:
        return 0.0
    return chance.choice((highest / 20, highest / 4, highest))


def _nemesis(chance: random.Random) -> dict[str, int]:
    acts = {act: chance.randint(1, 4) for act in NEMESIS_ACTS if chance.random() < 0.4}
    if (
        "age out" in acts
    ):  # what is good must still be there when something else has taken its place
        acts.pop("garbage", None)
    return acts


def _limits(chance: random.Random) -> Limits:
    patience_ms = chance.choice((30_000, 60_000, 300_000))
    return Limits(
        creates_max=chance.choice((1, 2, 250)),
        changes_max=chance.choice((1, 2, 250)),
        pending_ms=patience_ms,
        horizon_ms=patience_ms + chance.choice((120_000, 300_000)),
    )


def _settings(chance: random.Random) -> HostSettings:
    concurrency = chance.choice((1, 2, 4, 64))
    return HostSettings(
        observe=ObserveLimits(
            relist_interval_ms=chance.choice((20_000, 60_000, 600_000)),
            list_timeout_ms=chance.choice((10_000, 300_000)),
        ),
        execution=ExecutionLimits(
            in_flight_max=chance.choice((1, 4, 2_048)),
            concurrency_max=concurrency,
            apply_timeout_ms=chance.choice((1_000, 5_000, 30_000)),
            tries_max=chance.choice((2, 5)),
            outcomes_remembered_max=chance.choice((1, 10_000)),
        ),
    )


def _behaviour(chance: random.Random) -> Behaviour:
    return Behaviour(
        start_ms=chance.choice(((0, 0), (0, 500), (100, 5_000))),
        ready_ms=chance.choice(((0, 0), (0, 1_000), (500, 10_000))),
        stop_ms=chance.choice(((0, 0), (0, 2_000), (1_000, 20_000))),
        fails=_rate(chance, 0.3),
        finishes=_rate(chance, 0.1),
        hangs=_rate(chance, 0.2),
    )


def _adapter(chance: random.Random) -> AdapterFaults:
    return AdapterFaults(
        latency_ms=chance.choice(((0, 0), (1, 20), (1, 20), (1, 1_000))),
        lag_ms=chance.choice(((0, 0), (0, 50), (0, 50), (0, 5_000))),
        list_fails=_rate(chance, 0.3),
        list_is_older=_rate(chance, 0.5),
        watch_ends=_rate(chance, 0.1),
        watch_expires=_rate(chance, 0.1),
        event_missed=_rate(chance, 0.1),
        unavailable=_rate(chance, 0.3),
        unknown_done=_rate(chance, 0.2),
        unknown_undone=_rate(chance, 0.2),
        hangs=_rate(chance, 0.1),
        breaks=_rate(chance, 0.1),
        name_taken=_rate(chance, 0.05),
        late_ms=chance.choice(((0, 0), (0, 500), (0, 5_000))),
    )


def _bus(chance: random.Random) -> BusFaults:
    return BusFaults(
        latency_ms_max=chance.choice((0.5, 2.0, 2.0, 50.0)),
        slow=_rate(chance, 0.02),
        answer_lost=_rate(chance, 0.05),
        request_lost=_rate(chance, 0.05),
        request_refused=_rate(chance, 0.05),
        request_late=_rate(chance, 0.02),
        race_unnamed=_rate(chance, 0.5),
        consumer_vanished=_rate(chance, 0.02),
        chunk_cut=_rate(chance, 0.5),
        state_lag_ms_max=chance.choice((0.0, 5.0, 1_000.0, 10_000.0)),
        command_again=_rate(chance, 0.1),
        command_lost=_rate(chance, 0.1),
        command_late=_rate(chance, 0.1),
        command_twice=_rate(chance, 0.1),
        announcement_lost=_rate(chance, 0.2),
        announcement_twice=_rate(chance, 0.2),
        announcement_late=_rate(chance, 0.2),
    )


def _habits(chance: random.Random) -> Habits:
    return Habits(
        people_ms=chance.choice((0, 5_000, 10_000, 30_000)),
        outside_ms=chance.choice((0, 1_000, 3_000, 10_000)),
        people={act: weight for act, weight in PEOPLE_ACTS.items() if chance.random() < 0.7},
        outside={act: weight for act, weight in OUTSIDE_ACTS.items() if chance.random() < 0.5},
        surge=chance.choice((0.0, 0.0, 0.3, 1.0)),
        nodes_max=chance.choice((4, 8, 12)),
    )
