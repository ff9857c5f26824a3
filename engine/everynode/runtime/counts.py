"""What an adapter host has done since it started, in numbers: for metrics and for people.

Written by the parts of ``runtime.host``, read by whoever shows them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
