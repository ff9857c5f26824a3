"""What is known of a fleet's nodes, each as it was last heard of, and which of them changed lately.

Owned by ``state``. Several states that read the same log may share one: what is said of nodes is then folded into one
of them, and the others find it here. It knows no sets and no time.
"""

from __future__ import annotations

from everynode.core.index import NodeChange, NodeIndex
from everynode.core.values import Node, NodeKey

JOURNAL_ENTRIES_MAX = 65_536
"""Changed nodes that are remembered one by one; a set that is further behind looks at all nodes."""


class KnownNodes:
    """The nodes of one fleet; an older message never replaces a newer one.

    Attributes:
        index: The nodes, and who has what.
    """

    def __init__(self) -> None:
        """Start without any."""
        self.index = NodeIndex()
        self._sequences: dict[NodeKey, int] = {}
        self._journal: list[tuple[NodeKey, int]] = []
        self._journal_start = 0

    def is_news(self, key: NodeKey, sequence: int) -> bool:
        """Take in that a node was heard of; returns whether that is later than what is known."""
        if self._sequences.get(key, 0) >= sequence:
            return False
        self._sequences[key] = sequence
        return True

    def put(self, node: Node, sequence: int) -> NodeChange | None:
        """Take in a node as it was observed; returns what that changed, ``None`` if nothing that anybody looks at."""
        # A plain tuple finds what a key finds, and to make a key takes longer than that.
        key: NodeKey = (node.backend, node.name)  # type: ignore[assignment]
        if self._sequences.get(key, 0) >= sequence:
            return None
        change = self.index.put(node)
        key = self.index.key(change.id)
        self._sequences[key] = sequence
        if change.empty:
            return None
        return self._noted(key, change)

    def remove(self, key: NodeKey) -> NodeChange | None:
        """Take in that a node is gone; returns ``None`` if it was never heard of."""
        change = self.index.remove(key)
        return None if change is None else self._noted(key, change)

    def forget(self, key: NodeKey, sequence: int) -> None:
        """Forget one that went long ago, unless it has come back since."""
        if self._sequences.get(key) == sequence:
            del self._sequences[key]

    def changes_since(self, position: int) -> tuple[list[tuple[NodeKey, int]] | None, int]:
        """Name the nodes that have changed since somebody last asked.

        Args:
            position: What was returned then; -1 if that never was.

        Returns:
            Key and id of each, ``None`` if nobody knows any more; and the position now.
        """
        end = self._journal_start + len(self._journal)
        if position < self._journal_start:
            return None, end
        return self._journal[position - self._journal_start :], end

    def _noted(self, key: NodeKey, change: NodeChange) -> NodeChange:
        if len(self._journal) >= JOURNAL_ENTRIES_MAX:
            self._journal_start += len(self._journal)
            self._journal = []
        self._journal.append((key, change.id))
        return change
