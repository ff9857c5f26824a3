"""Which nodes have what: for each label, taint and backend, a bitmap of the nodes that have it.

The fleet's state owns the one index and tells it of every node that comes, changes or goes; placement reads it. It
knows no sets and no pods. Nodes get small integer ids, so that a question about the whole
fleet is a few operations on Roaring bitmaps instead of a loop.
"""

from __future__ import annotations

import heapq

import msgspec
from msgspec.structs import replace
from pyroaring import BitMap

from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, Node, NodeKey, Taint

DEPARTED_NODES_MAX = 100_000
"""Nodes that are known to have left; STATE keeps their tombstones for as long as LOG keeps messages."""

EMPTY = BitMap()
"""No nodes. Never change it in place."""


NO_LABELS: frozenset[str] = frozenset()
NO_TAINTS: frozenset[Taint] = frozenset()


class NodeChange(msgspec.Struct, frozen=True, gc=False):
    """What an update of the index did to one node's bits.

    Attributes:
        id: The node's id in the bitmaps.
        identity_changed: The node joined, left, or is another one under the same name: every set is concerned.
        labels: Keys of labels that came, went or changed their value.
        taints: Taints that came or went, of those that decide placement.
        readiness_changed: It became ready or not ready, or since another time than was known.
    """

    id: int
    identity_changed: bool
    labels: frozenset[str] = NO_LABELS
    taints: frozenset[Taint] = NO_TAINTS
    readiness_changed: bool = False

    @property
    def empty(self) -> bool:
        """Nothing that placement and rollouts look at has changed (a heartbeat, say)."""
        return not (self.identity_changed or self.labels or self.taints or self.readiness_changed)


def deciding_taints(node: Node) -> frozenset[Taint]:
    """Return those taints that placement looks at: effects NoSchedule and NoExecute.

    Source: pkg/controller/daemon/daemon_controller.go, ``predicates``; PreferNoSchedule is only a preference.
    """
    return frozenset(taint for taint in node.taints if taint.effect in {NO_SCHEDULE, NO_EXECUTE})


class NodeIndex:
    """The nodes of a fleet, and bitmaps over them.

    Attributes:
        everything: All nodes.
        ids: Each node's id.
        by_backend: The nodes of each backend.
        by_label: Label key, then value, to the nodes that have it.
        by_label_key: Label key to the nodes that have it, whatever its value.
        by_taint: The nodes that have each taint, of those that decide placement.
        unready: The nodes that are not ready.
        departed: Nodes that were said to be gone, oldest first. A node that is in neither is unknown, not gone.
    """

    def __init__(self) -> None:
        """Start without nodes."""
        self.everything = BitMap()
        self.ids: dict[NodeKey, int] = {}
        self.by_backend: dict[str, BitMap] = {}
        self.by_label: dict[str, dict[str, BitMap]] = {}
        self.by_label_key: dict[str, BitMap] = {}
        self.by_taint: dict[Taint, BitMap] = {}
        self.unready = BitMap()
        self.departed: dict[NodeKey, None] = {}
        self._nodes: list[Node | None] = []
        self._keys: list[NodeKey | None] = []
        self._texts: dict[str, str] = {}  # of labels
        self._free: list[int] = []

    def __len__(self) -> int:
        """Count the nodes."""
        return len(self.ids)

    def get(self, key: NodeKey) -> Node | None:
        """Return the node of this name, if it is there."""
        node_id = self.ids.get(key)
        return None if node_id is None else self._nodes[node_id]

    def node(self, node_id: int) -> Node:
        """Return the node with this id.

        Raises:
            LookupError: No node has this id.
        """
        node = self._nodes[node_id]
        if node is None:
            message = f"no node has id {node_id}"
            raise LookupError(message)
        return node

    def key(self, node_id: int) -> NodeKey:
        """Return the name of the node with this id.

        Raises:
            LookupError: No node has this id.
        """
        key = self._keys[node_id]
        if key is None:
            message = f"no node has id {node_id}"
            raise LookupError(message)
        return key

    def named(self, name: str) -> BitMap:
        """Return the nodes of this name: at most one in each backend."""
        found = (self.ids.get(NodeKey(backend, name)) for backend in self.by_backend)
        return BitMap([node_id for node_id in found if node_id is not None])

    def taints_on(self, ids: BitMap) -> set[Taint]:
        """Return the taints that decide placement on some nodes, in no order."""
        return {taint for node_id in ids for taint in deciding_taints(self.node(node_id))}

    def put(self, node: Node) -> NodeChange:
        """Take in a node as it is now; only the bits that differ are touched."""
        key: NodeKey = (node.backend, node.name)  # type: ignore[assignment] # finds the same, and is made at once
        node_id = self.ids.get(key)
        old = None if node_id is None else self._nodes[node_id]
        if node_id is None or old is None:
            self.departed.pop(key, None)
            return self._add(node)
        labels, taints = NO_LABELS, NO_TAINTS
        now_labels, now_taints = old.labels, old.taints
        if now_labels != node.labels:
            now_labels = self._shared(node.labels)
            labels = self._relabel(node_id, old.labels, now_labels)
        if now_taints != node.taints:
            now_taints = node.taints
            taints = self._retaint(node_id, old, node)
        # What is the same stays the same object: it is in the processor's cache, and its copy is let go of at once.
        self._nodes[node_id] = replace(node, labels=now_labels, taints=now_taints)
        is_ready = node.ready
        readiness_changed = old.unready_since_ms != node.unready_since_ms
        if old.ready is not is_ready:
            readiness_changed = True
            (self.unready.discard if is_ready else self.unready.add)(node_id)
        return NodeChange(node_id, old.uid != node.uid, labels, taints, readiness_changed)

    def _shared(self, labels: dict[str, str]) -> dict[str, str]:
        """Return the same labels, of texts that other nodes have: most nodes have most of them in common."""
        share = self._texts.setdefault
        return {share(key, key): share(value, value) for key, value in labels.items()}

    def _relabel(self, node_id: int, old: dict[str, str], now: dict[str, str]) -> frozenset[str]:
        """Take over a node's labels; returns the keys of those that came, went or changed."""
        changed = {key for key, value in old.items() if now.get(key) != value}
        for key in changed:
            self._drop_label(key, old[key], node_id)
        for key, value in now.items():
            if old.get(key) != value:
                changed.add(key)
                self._add_label(key, value, node_id)
        return frozenset(changed)

    def _retaint(self, node_id: int, old: Node, node: Node) -> frozenset[Taint]:
        """Take over a node's taints; returns those that came or went, of those that decide placement."""
        before, after = deciding_taints(old), deciding_taints(node)
        for taint in before - after:
            self._drop_taint(taint, node_id)
        for taint in after - before:
            self.by_taint.setdefault(taint, BitMap()).add(node_id)
        return before ^ after

    def remove(self, key: NodeKey) -> NodeChange | None:
        """Forget a node that is gone; returns ``None`` if it was not there."""
        self.departed[key] = None
        if len(self.departed) > DEPARTED_NODES_MAX:
            del self.departed[next(iter(self.departed))]
        node_id = self.ids.pop(key, None)
        if node_id is None:
            return None
        node = self.node(node_id)
        for label, value in node.labels.items():
            self._drop_label(label, value, node_id)
        for taint in deciding_taints(node):
            self._drop_taint(taint, node_id)
        self.by_backend[node.backend].discard(node_id)
        if not self.by_backend[node.backend]:
            del self.by_backend[node.backend]
        self.everything.discard(node_id)
        self.unready.discard(node_id)
        self._nodes[node_id] = self._keys[node_id] = None
        heapq.heappush(self._free, node_id)
        return NodeChange(node_id, identity_changed=True)

    def _add(self, node: Node) -> NodeChange:
        key = node.key
        node = replace(node, labels=self._shared(node.labels))
        if self._free:
            node_id = heapq.heappop(self._free)
            self._nodes[node_id], self._keys[node_id] = node, key
        else:
            node_id = len(self._nodes)
            self._nodes.append(node)
            self._keys.append(key)
        self.ids[key] = node_id
        self.everything.add(node_id)
        self.by_backend.setdefault(node.backend, BitMap()).add(node_id)
        for label, value in node.labels.items():
            self._add_label(label, value, node_id)
        for taint in deciding_taints(node):
            self.by_taint.setdefault(taint, BitMap()).add(node_id)
        if not node.ready:
            self.unready.add(node_id)
        return NodeChange(node_id, identity_changed=True)

    def _add_label(self, key: str, value: str, node_id: int) -> None:
        values = self.by_label.get(key)
        if values is None:
            values = self.by_label[key] = {}
            self.by_label_key[key] = BitMap()
        bitmap = values.get(value)
        if bitmap is None:
            bitmap = values[value] = BitMap()
        bitmap.add(node_id)
        self.by_label_key[key].add(node_id)

    def _drop_label(self, key: str, value: str, node_id: int) -> None:
        values = self.by_label[key]
        values[value].discard(node_id)
        if not values[value]:
            del values[value]
            self._texts.pop(value, None)
        self.by_label_key[key].discard(node_id)
        if not values:
            del self.by_label[key]
            del self.by_label_key[key]
            self._texts.pop(key, None)

    def _drop_taint(self, taint: Taint, node_id: int) -> None:
        self.by_taint[taint].discard(node_id)
        if not self.by_taint[taint]:
            del self.by_taint[taint]
