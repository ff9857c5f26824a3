"""Does memory grow over a long run? Days of churn in fast motion: ``python benchmarks/soak.py --hours 24 --nodes 50``.

A real worker and a real adapter host run on virtual time, on a simulated log, while nodes come and go under new names,
labels change, pods are deleted and templates replaced. What they hold is counted, object by object, as that is exact:
what the process takes from the system also has the simulated log in it, which forgets nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import resource
import time
import types
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import structlog

from everynode import wire
from everynode.core import index, nodes, state
from everynode.core.events import DaemonSetObserved
from everynode.core.values import DaemonSet, UpdateStrategy
from everynode.ports import Outgoing
from everynode.runtime import logbook
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.host import AdapterHost, HostSettings
from everynode.runtime.ledger import Ledger
from everynode.runtime.worker import Worker
from everynode.testing import builders
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.server import SimulatedServer
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

ROUND_MS = 60_000
MINUTES_PER_HOUR = 60
STEPS_MAX = 10_000_000
CHANGES_PER_ROUND = 3
VERSIONS = 50
AGE_ROUNDS = 30
"""For so many rounds the simulated log keeps a message; a real one keeps them longer, and nobody here is to care."""

SMALL_LIMITS: tuple[tuple[Any, str, Any], ...] = (
    (index, "DEPARTED_NODES_MAX", 100),
    (nodes, "JOURNAL_ENTRIES_MAX", 100),
    (state, "DUE_ENTRIES_MIN", 100),
    (logbook, "Ledger", partial(Ledger, gone_remembered_max=100)),
)
"""What is remembered up to a limit: small ones, which are reached within the first hour and not after weeks."""
OUTCOMES_REMEMBERED_MAX = 100

NOT_OURS = ("everynode.testing", "everynode_simulated", "asyncio", "logging", "structlog")
"""What is reachable and is not the worker's or the host's: the simulation, and the machinery under it."""

_LEAVES = (str, bytes, int, float, bool, type(None), type, types.ModuleType, msgspec.Raw)


def reachable(roots: Iterable[object]) -> Counter[str]:
    """Count all objects that these hold, by the name of their type."""
    seen: set[int] = set()
    counts: Counter[str] = Counter()
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType) or _is_others(one):
            continue
        seen.add(id(one))
        counts[type(one).__name__] += 1
        if not isinstance(one, _LEAVES):
            waiting.extend(_held_by(one))
    return counts


def _is_others(one: object) -> bool:
    kind = type(one)
    return kind.__module__.startswith(NOT_OURS) and not isinstance(one, asyncio.Task)


def _held_by(one: object) -> Iterator[object]:
    if isinstance(one, msgspec.Struct):  # the garbage collector passes these by
        for name in one.__struct_fields__:
            yield getattr(one, name)
    elif isinstance(
        one, dict
    ):  # of a dict whose keys are text, the garbage collector knows only the values
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, types.FunctionType):
        yield from one.__closure__ or ()
    else:
        yield from gc.get_referents(one)


class Soak:
    """A fleet that never comes to rest.

    Args:
        loop: Virtual time.
        nodes: How many there are at any time.
        seed: Where all changes come from.
    """

    def __init__(self, loop: VirtualLoop, nodes: int, seed: int = 1) -> None:
        """Start a worker and a host."""
        self._loop = loop
        self._draw = random.Random(seed)
        self._server = SimulatedServer(loop)
        self._made = 0
        self._version = self._generation = 0
        clock = loop.world.clock
        self.fleet = SimulatedFleet((), behaviour=Behaviour(seed=seed), clock=clock)
        for _ in range(nodes):
            self._add_node()
        self._people = self._server.bus(loop.process("people"))
        process = loop.process("worker")
        self.worker = Worker(self._server.bus(process), "worker", clock=process.clock)
        process.spawn(self.worker.run())
        process = loop.process("host")
        adapter = SimulatedAdapter("east", self.fleet)
        settings = HostSettings(
            execution=ExecutionLimits(outcomes_remembered_max=OUTCOMES_REMEMBERED_MAX)
        )
        self.host = AdapterHost(self._server.bus(process), adapter, settings, process.clock)
        process.spawn(self.host.run())
        self._ends: list[int] = []

    def round(self) -> None:
        """Let a minute pass in which things change."""
        for name in self._draw.sample(sorted(self.fleet.nodes), CHANGES_PER_ROUND):
            self.fleet.remove_node(name, why="churn")
            self._add_node()
        for name in self._draw.sample(sorted(self.fleet.nodes), CHANGES_PER_ROUND):
            self.fleet.update_labels(name, {"zone": f"z{self._draw.randrange(3)}"}, ())
        for key in self._draw.sample(sorted(self.fleet.pods), min(2, len(self.fleet.pods))):
            self.fleet.fail_pod(key)
        self._version = (self._version + 1) % VERSIONS
        self._generation += 1
        wanted = builders.daemonset(
            {"containers": [{"name": f"v{self._version}"}]},
            generation=self._generation,
            update_strategy=UpdateStrategy(type="RollingUpdate", max_unavailable="50%"),
        )
        self._loop.process("people").spawn(self._say(wanted))
        self._loop.run_until(
            lambda: False, steps_max=STEPS_MAX, until_ms=self._loop.now_ms + ROUND_MS
        )
        self._ends.append(self._server.log.last_sequence)
        if len(self._ends) > AGE_ROUNDS:
            self._server.log.age_out(self._ends.pop(0))

    def held(self) -> Counter[str]:
        """Count what worker and host hold."""
        gc.collect()
        return reachable([self.worker, self.host])

    def _add_node(self) -> None:
        self._made += 1
        self.fleet.add_node(builders.node(f"n{self._made}", uid=f"uid-{self._made}"))

    async def _say(self, wanted: DaemonSet) -> None:
        subjects = self._server.subjects
        message = DaemonSetObserved(daemonset=wanted)
        await self._people.publish([Outgoing(subjects.of(message), wire.encode(message))])


@contextmanager
def small_limits() -> Iterator[None]:
    """Have all limits reached soon."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL_LIMITS]
    for module, name, limit in SMALL_LIMITS:
        setattr(module, name, limit)
    try:
        yield
    finally:
        for module, name, limit in before:
            setattr(module, name, limit)


def quiet() -> None:
    """Keep the log of what goes on out of the way."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> None:
    """Run for so many hours of virtual time, and print what is held over time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--nodes", type=int, default=50)
    options = parser.parse_args()
    quiet()
    rounds = round(options.hours * MINUTES_PER_HOUR)
    before: Counter[str] = Counter()
    began = time.monotonic()
    with small_limits(), VirtualLoop(random.Random(1)) as loop:
        soak = Soak(loop, options.nodes)
        for number in range(1, rounds + 1):
            soak.round()
            if number % max(1, rounds // 12) == 0:
                held = soak.held()
                grown: Any = (held - before).most_common(4) if before else ""
                before = before or held
                rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{number / MINUTES_PER_HOUR:6.1f} h  {held.total():>9,} objects held  "
                    f"{soak.worker.counts.decisions:>7,} decisions  peak {rss_mib:5.0f} MiB with the "
                    f"simulation  {time.monotonic() - began:5.0f} s  {grown}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
