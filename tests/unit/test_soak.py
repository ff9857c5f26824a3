"""What a worker and a host hold does not grow with time: an hour of churn on virtual time; objects are counted."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import msgspec
import pytest
import structlog
from benchmarks.soak import Soak, quiet, reachable, small_limits

from everynode.testing.simulation.loop import VirtualLoop

NODES = 6
ROUNDS = 25
"""Minutes until everything is there that is remembered for a while, and minutes after which no more must be there."""
GROWTH_MAX = 1.10
"""What comes and goes makes the numbers uneven. Twelve objects more in each round would be too many."""


def held_over_time(*, leak: bool = False) -> tuple[int, int]:
    """The most objects that are held at the end of the first half of a run, and at the end of the second."""
    leaked: list[object] = []
    most = []
    with small_limits(), VirtualLoop(random.Random(1)) as loop:
        soak = Soak(loop, NODES)
        vars(soak.worker)["leaked"] = leaked
        for _ in range(2):
            counted = []
            for number in range(ROUNDS):
                soak.round()
                if leak:
                    leaked.extend(object() for _ in range(30))
                if number >= ROUNDS - 8:
                    counted.append(soak.held().total())
            most.append(max(counted))
        assert soak.worker.counts.decisions > ROUNDS
        assert soak.host.counts.outcomes["done"] > ROUNDS
        assert loop.failures() == []
    return most[0], most[1]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of lines about pods that fail would only take time."""
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)


@pytest.mark.slow
def test_what_is_held_does_not_grow() -> None:
    """As many objects after an hour as after half of it, whatever came and went meanwhile (B1)."""
    first, second = held_over_time()
    assert second <= first * GROWTH_MAX


@pytest.mark.slow
def test_a_leak_would_be_seen() -> None:
    """A few objects in each round that are never let go of are too many."""
    first, second = held_over_time(leak=True)
    assert second > first * GROWTH_MAX


def test_what_is_held_is_counted() -> None:
    """Everything that can be reached counts once, also what the garbage collector does not know."""

    class Kept(msgspec.Struct, gc=False):
        inner: object

    shared = object()
    kept = Kept(deque([shared, shared]))
    held = reachable([{"key": kept, "same": kept}])
    assert (held["dict"], held["Kept"], held["deque"], held["object"]) == (1, 1, 1, 1)
    assert held["str"] == 2
