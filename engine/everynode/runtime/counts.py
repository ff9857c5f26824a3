"""What workers and hosts have done, and connections been through, since they started: for metrics and for people.

Written by the parts of ``runtime.worker``, ``runtime.host`` and ``runtime.link``, read by whoever shows them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

APPLY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds by which calls to a backend are sorted. The last is the longest that one may take, unless set otherwise."""


class Durations:
    """How long something took, each time, sorted into few groups.

    Args:
        bounds: The upper bound of each group but the last, in seconds.
    """

    def __init__(self, bounds: tuple[float, ...] = APPLY_SECONDS) -> None:
        """Begin empty."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Sort one in."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_seconds += seconds


class Filled(NamedTuple):
    """How full a queue is: how much is in it, and how much there may be."""

    length: int
    limit: int


@dataclass
class WorkerCounts:
    """What a worker has done since it started; numbers that only grow.

    Attributes:
        decisions: Decisions of its own that the log took.
        creates: Creates in them.
        deletes: Deletes in them.
        refused: Proposals that the log refused because another decision came first.
        malformed: Messages that could not be used.
        restarts: How often it has started again from STATE.
        loaded: Messages read from STATE.
        folded: Messages read from LOG.
        handovers: How often it has read anew because shards came to it or left it.
    """

    decisions: int = 0
    creates: int = 0
    deletes: int = 0
    refused: int = 0
    malformed: int = 0
    restarts: int = 0
    loaded: int = 0
    folded: int = 0
    handovers: int = 0


@dataclass
class HostCounts:
    """Numbers of an adapter host; they only grow.

    Attributes:
        published: Observations published.
        suppressed: Observations that said what the log says.
        invalid: Observations that could not be published.
        malformed: Messages about this backend, and commands for it, that could not be read.
        held_back: Lists that were not believed at first.
        observe_failures: How often the adapter stopped observing.
        outcomes: Outcomes of commands by result: done, refused, failed, superseded.
        retried: Tries of commands that are to be repeated.
        dead_lettered: Commands given up after the last try.
        repeated: Commands that came again and were answered from memory.
        declared: Sets and revisions of the backend's own that were published.
        reported: What was shown in the backend.
        reports_failed: What could not be shown in the backend, each time.
        applied: How long calls to the backend took, whatever came of them.
    """

    published: int = 0
    suppressed: int = 0
    invalid: int = 0
    malformed: int = 0
    held_back: int = 0
    observe_failures: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    dead_lettered: int = 0
    repeated: int = 0
    declared: int = 0
    reported: int = 0
    reports_failed: int = 0
    applied: Durations = field(default_factory=Durations)


@dataclass
class LinkCounts:
    """Numbers of a connection to NATS and those that took its place; they only grow.

    Attributes:
        reconnects: Connections that took the place of a lost one.
        reconnect_failures: Tries to get one that failed.
        dropped: Messages that were not heard, because too many waited already.
        revived: Subscriptions that had died while the connection lived, and were made anew.
        given_up: Messages that kept who serves a subject for too long.
    """

    reconnects: int = 0
    reconnect_failures: int = 0
    dropped: int = 0
    revived: int = 0
    given_up: int = 0
