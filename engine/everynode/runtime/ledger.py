"""What the log says of one backend's nodes and pods, including what its adapter host has said but not yet read back.

Kept by ``runtime.host``, which publishes only what differs from it; adapters see it as their ``View``. It knows nothing
of the bus: messages are handed to it. The log is read back some time after it was written, and someone else may write
to the same subject: for each subject the message with the highest sequence counts, and as long as one of our own is on
its way, that one does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Pod, PodKey
from everynode.ports import Received

Key = NodeKey | PodKey
Fact = NodeObserved | NodeGone | PodObserved | PodGone


class Place(NamedTuple):
    """Where a set may have one live pod: a node, and the set's uid."""

    node: NodeKey
    owner_uid: str


class _Said:
    """Our last message on one subject, until it has been read back.

    Attributes:
        version: Tells it from those before it.
        sequence: Its place in the log; 0 while it is on its way there.
        echo: The last message read back while it was.
    """

    __slots__ = ("echo", "sequence", "version")

    def __init__(self) -> None:
        self.version = 0
        self.sequence = 0
        self.echo: Received | None = None


class Ledger:
    """Nodes and pods of one backend, as the log will have them once everything said is stored.

    Args:
        backend: The backend.
        subjects: The fleet's subjects.
    """

    def __init__(self, backend: str, subjects: wire.Subjects) -> None:
        """Begin empty."""
        self.backend = backend
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.spoiled: set[str] = set()
        """Subjects whose last message cannot be used: whatever is observed there differs from it."""
        self._subjects = subjects
        self._said: dict[str, _Said] = {}
        self._pods_at: dict[Place, set[PodKey]] = {}
        self._expected: dict[PodKey, Place] = {}  # they stand in _pods_at, and not in pods

    # --- comparing ----------------------------------------------------------------------------------------------------

    def differs(self, fact: Fact) -> bool:
        """Say whether the log says something else than this."""
        match fact:
            case NodeObserved(node=node):
                same = self.nodes.get(node.key) == node
            case PodObserved(pod=pod):
                same = self.pods.get(pod.key) == pod
            case NodeGone():
                return fact.key in self.nodes
            case PodGone():
                return fact.key in self.pods
        return not same or (bool(self.spoiled) and self._subjects.of(fact) in self.spoiled)

    def renounced_by(self, fact: Fact) -> PodGone | None:
        """Return the end of the pod whose name one of another set now has: it stands on another subject."""
        if not isinstance(fact, PodObserved):
            return None
        before = self.pods.get(fact.pod.key)
        if before is None or before.set_key == fact.pod.set_key:
            return None
        return pod_gone(before, "its name belongs to a pod of another set")

    def neighbours(self, place: Place, name: str) -> list[PodKey]:
        """Name the live pods of a set on a node, other than the one of this name, in order.

        Those that were just created count before they are observed.
        """
        neighbours = []
        for key in self._pods_at.get(place, ()):
            pod = self.pods.get(key)
            if key.name != name and (pod is None or pod.live):
                neighbours.append(key)
        return sorted(neighbours)

    # --- our own messages ---------------------------------------------------------------------------------------------

    def said(self, fact: Fact, subject: str) -> int:
        """Note that this is on its way to the log; returns a version for ``stored``."""
        ours = self._said.get(subject)
        if ours is None:
            ours = self._said[subject] = _Said()
        ours.version += 1
        ours.sequence = 0
        self.spoiled.discard(subject)
        self._put(fact)
        return ours.version

    def stored(self, subject: str, version: int, sequence: int) -> Received | None:
        """Note that the log has it; returns what was read back meanwhile and came after it, for ``fold``."""
        ours = self._said.get(subject)
        if ours is None or ours.version != version:
            return None
        ours.sequence = sequence
        echo = ours.echo
        if echo is None or echo.sequence < sequence:
            return None
        del self._said[subject]
        return echo if echo.sequence > sequence else None

    # --- the log, read back -------------------------------------------------------------------------------------------

    def is_news(self, received: Received) -> bool:
        """Say whether a message from the log is to be decoded and folded: not ours, and not older than ours."""
        ours = self._said.get(received.subject)
        if ours is None:
            return True
        if ours.sequence == 0:
            ours.echo = received
            return False
        if received.sequence >= ours.sequence:
            del self._said[received.subject]
        return received.sequence > ours.sequence

    def fold(self, fact: Fact, received: Received) -> bool:
        """Take in a message that is news; returns whether it says something else than was known."""
        self.spoiled.discard(received.subject)
        if isinstance(fact, PodGone):
            known = self.pods.get(fact.key)
            if known is not None and known.set_key != fact.set_key:
                return False  # the name went over to another set, whose pods are on another subject
        changed = self.differs(fact)
        self._put(fact)
        return changed

    def spoil(self, received: Received) -> None:
        """Take in a message that cannot be used: what was known before stands, but is to be said again."""
        self.spoiled.add(received.subject)

    def spoiled_facts(self) -> Iterable[Fact]:
        """Return what is known about subjects whose last message cannot be used."""
        if not self.spoiled:
            return []
        facts: list[Fact] = [NodeObserved(node=node) for node in self.nodes.values()]
        facts += [PodObserved(pod=pod) for pod in self.pods.values()]
        return [fact for fact in facts if self._subjects.of(fact) in self.spoiled]

    # --- pods that are known before they are observed -----------------------------------------------------------------

    def expect(self, pod: PodKey, place: Place) -> None:
        """Note that a pod was created, until it is observed or a list ends that does not know it."""
        if pod not in self.pods:
            self._expected[pod] = place
            self._pods_at.setdefault(place, set()).add(pod)

    def expected(self) -> list[PodKey]:
        """Name the pods that were created and not observed yet."""
        return list(self._expected)

    def give_up(self, pods: Iterable[PodKey]) -> None:
        """Expect these no longer."""
        for pod in pods:
            if pod in self._expected:
                self._forget_pod(pod)

    # --- inner --------------------------------------------------------------------------------------------------------

    def _put(self, fact: Fact) -> None:
        match fact:
            case NodeObserved(node=node):
                self.nodes[node.key] = node
            case NodeGone():
                self.nodes.pop(fact.key, None)
            case PodObserved(pod=pod):
                self._forget_pod(pod.key)
                self.pods[pod.key] = pod
                self._pods_at.setdefault(place_of(pod), set()).add(pod.key)
            case PodGone():
                self._forget_pod(fact.key)

    def _forget_pod(self, key: PodKey) -> None:
        place = self._expected.pop(key, None)
        pod = self.pods.pop(key, None)
        if pod is not None:
            place = place_of(pod)
        if place is None:
            return
        neighbours = self._pods_at[place]
        neighbours.discard(key)
        if not neighbours:
            del self._pods_at[place]


def place_of(pod: Pod) -> Place:
    """Say which place a pod takes."""
    return Place(pod.node_key, pod.owner.uid)


def node_gone(node: Node, why: str) -> NodeGone:
    """Make a node's tombstone."""
    return NodeGone(backend=node.backend, name=node.name, uid=node.uid, why=why)


def pod_gone(pod: Pod, why: str) -> PodGone:
    """Make a pod's tombstone."""
    return PodGone(
        backend=pod.backend,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.node,
        owner=pod.owner,
        node_uid=pod.node_uid,
        why=why,
    )
