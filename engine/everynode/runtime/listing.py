"""Lists of an adapter, compared with what the log knows: what is missing is gone, if it is believable.

Used by ``runtime.host``. "Absent" counts only against a completed list, and a list that would remove more than half of
what is known (a backend that was cut off, or answered too early) counts only once a second one agrees. It decides
what is gone and touches nothing itself.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Listing(Generic[_Key]):
    """The lists of one kind of thing, one after the other."""

    def __init__(self) -> None:
        """No list has begun."""
        self.complete = False
        """A list has ended, and everything that it did not name was taken for gone."""
        self._begun = False
        self._named: set[_Key] = set()
        self._doubted: set[_Key] = set()
        self._known_before: set[_Key] | None = None

    @property
    def doubted_count(self) -> int:
        """How many things the last list did not name and that still count as being there."""
        return len(self._doubted)

    def begin(self, known: Collection[_Key] | None = None) -> None:
        """A list begins; one that had not ended counts for nothing.

        Args:
            known: What the log knows now. What it comes to know while the list is read, from whoever else saw it, may
                be younger than the list, which says nothing of it then. ``None``: the list speaks of everything.
        """
        self._begun = True
        self._known_before = None if known is None else set(known)
        self._named.clear()

    def named(self, key: _Key) -> None:
        """Something is there: named by the list, or observed while it was read."""
        if self._begun:
            self._named.add(key)
        self._doubted.discard(key)

    def interrupted(self) -> None:
        """The adapter was closed: a list that had begun will not end."""
        self._begun = False
        self._named.clear()

    def end(self, known: Collection[_Key], *, hold: bool = False) -> list[_Key]:
        """A list is complete; returns what is gone, in the order of ``known``.

        If more than half of ``known`` is missing, what the list before did not miss as well is held back.

        Args:
            known: What the log knows.
            hold: Whether to hold back anything that the list before did not miss, however little it is.
        """
        if not self._begun:
            return []
        self._begun = False
        before = self._known_before
        missing = [
            key for key in known if key not in self._named and (before is None or key in before)
        ]
        self._named.clear()
        fresh = {key for key in missing if key not in self._doubted}
        held = fresh if hold or 2 * len(missing) > len(known) else set()
        self._doubted = held
        self.complete = not held
        return [key for key in missing if key not in held]
