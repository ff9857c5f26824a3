"""How many requests are begun in a second: a token bucket.

The client asks it before each request. It reads no clock of its own; the time is given to it.
"""

from __future__ import annotations

BURST_SECONDS = 2
"""How many seconds' worth of requests may begin at once after a quiet time."""


class Pace:
    """Says how long the next request has to wait.

    Args:
        per_second: Requests per second on average; 0 for no limit.
    """

    def __init__(self, per_second: float) -> None:
        """Begin with a full bucket."""
        self._interval_s = 1 / per_second if per_second > 0 else 0.0
        self._burst = max(1.0, BURST_SECONDS * per_second)
        self._due_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Take the next place, and say how many seconds from now it is; 0 if it is now.

        Args:
            now_s: The time, by any clock that does not go back.
        """
        earliest_s = now_s - self._burst * self._interval_s
        self._due_s = max(self._due_s, earliest_s) + self._interval_s
        return max(0.0, self._due_s - now_s)
