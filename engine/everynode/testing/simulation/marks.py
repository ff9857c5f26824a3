"""Counts how often something rare happened, so that a run in which it never did is not taken for a proof.

The simulator marks each fault and each rare answer; a long run fails if a registered mark was never hit. Only the
simulation knows this module.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from everynode.errors import InvariantError

_registered: set[str] = set()
_rare: set[str] = set()


class Marks:
    """How often each mark was hit."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[str] = Counter()

    def merge(self, other: Marks) -> None:
        """Add what another run has hit."""
        self.counts.update(other.counts)

    def missed(self) -> list[str]:
        """Name the registered marks that were never hit, without those that need not be."""
        return sorted(_registered - _rare - self.counts.keys())


_current = Marks()


def register(*names: str, is_rare: bool = False) -> None:
    """Say which marks there are; modules call this when they are imported.

    Args:
        names: The marks. Each must be hit over many runs.
        is_rare: They need not be hit.
    """
    _registered.update(names)
    if is_rare:
        _rare.update(names)


def registered() -> frozenset[str]:
    """Return all marks that there are."""
    return frozenset(_registered)


def mark(name: str) -> None:
    """Count a mark.

    Raises:
        InvariantError: It is not registered: a run would not miss it.
    """
    if name not in _registered:
        raise InvariantError(f"mark {name!r} is not registered: call marks.register first")
    _current.counts[name] += 1


@contextlib.contextmanager
def collecting() -> Iterator[Marks]:
    """Count into marks of one's own meanwhile."""
    global _current  # noqa: PLW0603 - what is marked is far from who collects
    before, _current = _current, Marks()
    try:
        yield _current
    finally:
        _current = before
