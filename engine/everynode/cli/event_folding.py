"""What people were told, as they want to read it: what is alike is one line with a count.

Used by `events` and `describe`. Pure. The rules are those by which a Kubernetes client folds Events before it sends
them (client-go, tools/record/events_cache.go): the same message about the same set counts up; and when there are many
different messages of one reason within a short time, such as a pod's name in each, the rest of them becomes one line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from everynode.core.values import Notice

DIFFERENT_MAX = 10
"""So many lines of one set, type and reason may be begun before further ones are combined ..."""

QUIET_MS = 600_000
"""... until nothing of that kind was told for so long."""

COMBINED = "(combined from similar events): "


@dataclass(frozen=True, slots=True)
class Told:
    """One line: something that people were told once or several times.

    Attributes:
        notice: The last of them.
        combined: They are alike in their reason only: what the message names is the last of them.
        count: How often it happened between `first_ms` and `last_ms`.
    """

    notice: Notice
    combined: bool
    count: int
    first_ms: int
    last_ms: int

    @property
    def message(self) -> str:
        """What happened, for people; of those that are combined, the last."""
        return COMBINED + self.notice.message if self.combined else self.notice.message


_Kind = tuple[str, str, str]
_Line = tuple[_Kind, str | None]


@dataclass
class _Recent:
    """The different messages of one kind since it was last quiet."""

    messages: set[str] = field(default_factory=set)
    last_ms: int = 0


class EventFolder:
    """Folds notices, in the order of the log."""

    def __init__(self) -> None:
        """Have been told nothing yet."""
        self._lines: dict[_Line, Told] = {}
        self._recent: dict[_Kind, _Recent] = {}

    def fold(self, notice: Notice, at_ms: int) -> Told:
        """Take a notice in, and return the line that it is part of now.

        Args:
            notice: What people are told.
            at_ms: When the log took it in; counts if the notice does not say when it happened.
        """
        kind = (notice.daemonset_uid, notice.type, notice.reason)
        last_ms = notice.last_ms or at_ms
        combined = self._too_many(kind, notice.message, last_ms)
        line: _Line = (kind, None if combined else notice.message)
        # a worker tells what happened to several pods within one report as one, in the words of the last
        several = notice.count > 1 and bool(notice.pod)
        told = Told(notice, combined or several, notice.count, notice.first_ms or last_ms, last_ms)
        before = self._lines.pop(line, None)  # what was told last stands last
        if before is not None:
            told = dataclasses.replace(
                told,
                combined=before.combined or told.combined,
                count=before.count + told.count,
                first_ms=min(before.first_ms, told.first_ms),
                last_ms=max(before.last_ms, told.last_ms),
            )
        self._lines[line] = told
        return told

    def lines(self) -> list[Told]:
        """Return all lines, the one that was told last at the end."""
        return sorted(self._lines.values(), key=lambda told: told.last_ms)

    def _too_many(self, kind: _Kind, message: str, at_ms: int) -> bool:
        recent = self._recent.setdefault(kind, _Recent())
        if at_ms - recent.last_ms > QUIET_MS:
            recent.messages.clear()
        recent.last_ms = max(recent.last_ms, at_ms)
        if message in recent.messages:
            return False
        if len(recent.messages) >= DIFFERENT_MAX:
            return True
        recent.messages.add(message)
        return False
