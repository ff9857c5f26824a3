"""How fast: limits on what may be pending, slow start, and waiting after a failure.

``decision`` asks this module how many commands a set may issue now, ``setstate`` when a node may be tried
again. All of it follows from the log: what is remembered here is younger than ``horizon_ms``, so that a worker that
has just started knows the same as one that has run for weeks.
"""

from __future__ import annotations

from typing import NamedTuple

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.errors import ConfigurationError

NEVER_MS = 2**63
"""A time that does not come."""

WINDOW_START = 1
UNSEEN_MS_MAX = 30_000
"""How long after a command is said to be done its effect may take to be observed; then it is looked at afresh."""

RETRY_FIRST_MS = 1_000
RETRY_LAST_MS = 120_000

REST_FIRST_MS = 1_000
REST_LAST_MS = 900_000
REST_FORGOTTEN_MS = 2 * REST_LAST_MS
"""A pod that has lasted so long before it ended is the first of a new row."""


RECORDS_MAX = 101
"""Messages about revisions and status that a decision may carry beside its commands."""


class Limits(NamedTuple):
    """What a worker allows itself.

    Attributes:
        creates_max: Creates that may be pending for one set on one backend, and the most that a decision has
            (Kubernetes: BurstReplicas, 250). A backend that gives no answer holds up only its own.
        changes_max: Deletes, adoptions and releases, likewise.
        pending_ms: How long, in log time, a command counts as pending (Kubernetes: ExpectationsTimeout, 5 minutes).
        horizon_ms: How long, in log time, anything is remembered that STATE does not keep: a command, until it
            has expired and the wait after that is over.
    """

    creates_max: int = 250
    changes_max: int = 250
    pending_ms: int = 300_000
    horizon_ms: int = 600_000

    def check(self) -> None:
        """Make sure that a decision fits into one batch and that commands can expire.

        Raises:
            ConfigurationError: A limit is out of its range.
        """
        room = BATCH_MESSAGES_MAX - RECORDS_MAX - 1  # and the decision itself
        if (
            self.creates_max < 1
            or self.changes_max < 1
            or self.creates_max + self.changes_max > room
        ):
            message = (
                f"creates_max is {self.creates_max} and changes_max {self.changes_max}: both must be "
                f"at least 1, and together at most {room}, the size of one batch"
            )
            raise ConfigurationError(message)
        if self.pending_ms < 1 or self.horizon_ms < self.pending_ms + RETRY_LAST_MS:
            message = (
                f"pending_ms is {self.pending_ms} and horizon_ms {self.horizon_ms}: pending_ms must be at "
                f"least 1, and horizon_ms at least {RETRY_LAST_MS} more, the longest wait after a failure"
            )
            raise ConfigurationError(message)


def retry_delay_ms(attempt: int) -> int:
    """Say how long to wait before the given attempt (1 for the first retry): 1 s, doubling, at most 2 minutes."""
    doublings = min(attempt - 1, RETRY_LAST_MS.bit_length())
    return min(RETRY_FIRST_MS << doublings, RETRY_LAST_MS)


def rest_ms(failures: int) -> int:
    """Say how long after it was made a pod that has ended stays, if so many before it in a row had ended too.

    0, then 1 s, doubling, at most 15 minutes (pkg/controller/daemon/daemon_controller.go, failedPodsBackoff).
    """
    if not failures:
        return 0
    doublings = min(failures - 1, REST_LAST_MS.bit_length())
    return min(REST_FIRST_MS << doublings, REST_LAST_MS)


class _Heard(NamedTuple):
    time_ms: int
    good: bool


class SlowStart:
    """How many creates of one set may be pending on one backend.

    One, then one more for each that went well, one again after a failure. A round trip of good outcomes doubles
    it, as Kubernetes' controller does with its batches (pkg/controller/daemon/daemon_controller.go, syncNodes). The
    window travels in each decision; outcomes are counted from the decision's basis on, by their place in the log: the
    order in which they are heard does not matter.
    """

    def __init__(self) -> None:
        """Start as a set without any decision."""
        self._window = WINDOW_START
        self._basis = 0
        self._decided_ms = 0
        self._outcomes: dict[int, _Heard] = {}

    def decided(self, window: int, basis: int, time_ms: int) -> None:
        """Take over the window of a decision; outcomes up to its basis are in it already."""
        self._window, self._basis, self._decided_ms = window, basis, time_ms
        self._outcomes = {
            sequence: heard for sequence, heard in self._outcomes.items() if sequence > basis
        }

    def heard(self, sequence: int, time_ms: int, *, good: bool) -> None:
        """Take in the outcome of a create."""
        if sequence > self._basis:
            self._outcomes[sequence] = _Heard(time_ms, good)

    def window(self, limits: Limits, now_ms: int) -> int:
        """Say how many creates may be pending now."""
        oldest_ms = now_ms - limits.horizon_ms
        outcomes = [
            (sequence, heard.good)
            for sequence, heard in self._outcomes.items()
            if heard.time_ms >= oldest_ms
        ]
        last_failure = max((sequence for sequence, good in outcomes if not good), default=None)
        known = self._decided_ms >= oldest_ms and last_failure is None
        window = self._window if known else WINDOW_START
        window += sum(1 for sequence, _ in outcomes if sequence > (last_failure or 0))
        return min(window, limits.creates_max)
