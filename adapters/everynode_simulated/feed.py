"""The changes of a simulated fleet on their way to whoever observes it.

Written by the fleet, read by the adapter. It holds a bounded number of changes; who falls behind further than
that has to list everything again, as with a real backend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved

FEED_CHANGES_MAX = 200_000

Change = NodeObserved | NodeGone | PodObserved | PodGone


class Feed:
    """The changes since the subscription, or since the last ``take``.

    Args:
        wake: Called when there is something to take.
        forget: Called with this feed when it is closed.
        changes_max: How many changes it holds.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        forget: Callable[[Feed], None],
        changes_max: int = FEED_CHANGES_MAX,
    ) -> None:
        """Begin empty."""
        self.wake = wake
        self.overrun = False
        """It was full and changes were lost: only a new list tells what is."""
        self._forget = forget
        self._changes: deque[Change] = deque()
        self._changes_max = changes_max

    def put(self, change: Change) -> None:
        """Add a change, or let go of all of them if there are too many."""
        if self.overrun:
            return
        if len(self._changes) >= self._changes_max:
            self._changes.clear()
            self.overrun = True
        else:
            self._changes.append(change)
        if self.overrun or len(self._changes) == 1:
            self.wake()

    def take(self) -> deque[Change]:
        """Take all changes, oldest first."""
        changes, self._changes = self._changes, deque()
        return changes

    def close(self) -> None:
        """Hear of nothing any more; harmless when repeated."""
        forget, self._forget = self._forget, lambda _: None
        forget(self)
