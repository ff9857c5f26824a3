"""What is due later in a simulated fleet, in order of time.

Kept by the fleet: each thing that takes a while is put in, and ``advance`` does what is due by now.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from everynode.ports import Clock


@dataclass(order=True, slots=True)
class _Due:
    """Something that happens later; ``ticket`` keeps things that are due together in order."""

    at_ms: int
    ticket: int
    action: Callable[[], object] = field(compare=False)


class Agenda:
    """Things to do at their time.

    Args:
        clock: Time.
        sooner: Called when something is put in that is due before everything else.
    """

    def __init__(self, clock: Clock, sooner: Callable[[], None]) -> None:
        """Begin empty."""
        self._clock = clock
        self._sooner = sooner
        self._tickets = itertools.count()
        self._due: list[_Due] = []

    @property
    def next_due_ms(self) -> int | None:
        """When ``advance`` will next have something to do; ``None`` if nothing is due ever."""
        return self._due[0].at_ms if self._due else None

    def advance(self) -> None:
        """Do everything that is due by now."""
        now_ms = self._clock.now_ms()
        while self._due and self._due[0].at_ms <= now_ms:
            heapq.heappop(self._due).action()

    def later(self, delay_ms: int, action: Callable[[], object]) -> None:
        """Put in something to do after a delay."""
        due = _Due(self._clock.now_ms() + delay_ms, next(self._tickets), action)
        is_next = not self._due or due.at_ms < self._due[0].at_ms
        heapq.heappush(self._due, due)
        if is_next:
            self._sooner()
