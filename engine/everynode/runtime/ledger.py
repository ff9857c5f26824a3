"""What the log says of one backend's nodes and pods, including what its adapter host has said but not yet read back.

Kept by ``runtime.host``, which publishes only what differs from it; adapters see it as their ``View``. It knows nothing
of the bus: messages are handed to it. The log is read back some time after it was written, and someone else may write
to the same subject: for each subject the message with the highest sequence counts, and as long as one of our own is on
its way, that one does. Only where a pod may be made, nobody's word but the adapter's counts: see ``neighbours``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Pod, PodKey
from everynode.ports import Received

Key = NodeKey | PodKey
Fact = NodeObserved | NodeGone | PodObserved | PodGone

GONE_PODS_REMEMBERED_MAX = 100_000
"""Pods of which is remembered when they went. One more is forgotten, with all creates that are older than its end."""


class Place(NamedTuple):
    """Where a set may have one live pod: a node, and the set's uid."""

    node: NodeKey
    owner_uid: str


class Awaited(NamedTuple):
    """A pod that may be there, whatever the log says, until the adapter has spoken.

    Attributes:
        place: Where.
        uid: Which pod it is; empty if that is not known.
    """

    place: Place
    uid: str


class _Places:
    """Which pods have which place."""

    def __init__(self) -> None:
        self._place_of: dict[PodKey, Place] = {}
        self._pods_at: dict[Place, set[PodKey]] = {}

    def put(self, pod: PodKey, place: Place) -> None:
        self.drop(pod)
        self._place_of[pod] = place
        self._pods_at.setdefault(place, set()).add(pod)

    def drop(self, pod: PodKey) -> None:
        place = self._place_of.pop(pod, None)
        if place is None:
            return
        pods = self._pods_at[place]
        pods.discard(pod)
        if not pods:
            del self._pods_at[place]

    def at(self, place: Place) -> Iterator[PodKey]:
        return iter(self._pods_at.get(place, ()))


class _GonePods:
    """When pods went, the last so many of them; ``forgotten`` is when the last one went that is no longer known."""

    def __init__(self, remembered_max: int) -> None:
        self._remembered_max = remembered_max
        self._sequences: dict[PodKey, int] = {}  # the one that went longest ago first
        self._on_their_way: set[PodKey] = set()  # what the outbox still has to store
        self._forgotten = 0

    def said(self, pod: PodKey) -> None:
        self._on_their_way.add(pod)

    def stored(self, pod: PodKey, sequence: int) -> None:
        self._on_their_way.discard(pod)
        self._sequences[pod] = max(sequence, self._sequences.pop(pod, 0))
        if len(self._sequences) > self._remembered_max:
            longest_ago = next(iter(self._sequences))
            self._forgotten = max(self._forgotten, self._sequences.pop(longest_ago))

    def after(self, pod: PodKey, sequence: int) -> bool:
        return pod in self._on_their_way or self._sequences.get(pod, self._forgotten) > sequence


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
        gone_remembered_max: Of how many pods is remembered when they went.
    """

    def __init__(
        self,
        backend: str,
        subjects: wire.Subjects,
        gone_remembered_max: int = GONE_PODS_REMEMBERED_MAX,
    ) -> None:
        """Begin empty."""
        self.backend = backend
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.spoiled: set[str] = set()
        """Subjects of what is known whose last message cannot be used: whatever is observed there differs from it."""
        self._subjects = subjects
        self._said: dict[str, _Said] = {}
        self._places = _Places()
        self._awaited: dict[PodKey, Awaited] = {}
        self._awaited_places = _Places()
        self._gone_pods = _GonePods(gone_remembered_max)

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

        Those count as well of which the adapter has not said whether they are there: see ``is_awaited``.
        """
        neighbours = {key for key in self._places.at(place) if self.pods[key].live}
        neighbours.update(self._awaited_places.at(place))
        return sorted(key for key in neighbours if key.name != name)

    def has_gone_since(self, pod: PodKey, sequence: int) -> bool:
        """Say whether a pod of this name went after this place in the log, or may have: that was long ago."""
        return self._gone_pods.after(pod, sequence)

    # --- our own messages ---------------------------------------------------------------------------------------------

    def said(self, fact: Fact, subject: str) -> int:
        """Note that this is on its way to the log; returns a version for ``stored``."""
        ours = self._said.get(subject)
        if ours is None:
            ours = self._said[subject] = _Said()
        ours.version += 1
        ours.sequence = 0
        self.spoiled.discard(subject)
        if isinstance(fact, PodGone):
            self._gone_pods.said(fact.key)
        self._put(fact)
        return ours.version

    def stored(self, fact: Fact, subject: str, version: int, sequence: int) -> Received | None:
        """Note that the log has it; returns what was read back meanwhile and came after it, for ``fold``."""
        if isinstance(fact, PodGone):
            self._gone_pods.stored(fact.key, sequence)
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
            self._gone_pods.stored(fact.key, received.sequence)
            known = self.pods.get(fact.key)
            if known is not None and known.set_key != fact.set_key:
                return False  # the name went over to another set, whose pods are on another subject
        changed = self.differs(fact)
        if changed and isinstance(fact, PodObserved | PodGone):
            self._keep(fact.pod.key if isinstance(fact, PodObserved) else fact.key)
        self._put(fact)
        return changed

    def spoil(self, received: Received) -> Fact | None:
        """Take in a message that cannot be used; returns what was known before: it stands, and is to be said again.

        Where nothing was known there is nothing to remember, however much garbage there is.
        """
        known = self._known_on(received.subject)
        if known is not None:
            self.spoiled.add(received.subject)
        return known

    def _known_on(self, subject: str) -> Fact | None:
        _, _, kind, *tokens = subject.split(".")
        parts = [unquote(token) for token in tokens]
        fact: Fact | None = None
        if kind == "node" and len(parts) == len(NodeKey._fields):
            node = self.nodes.get(NodeKey(*parts))
            fact = None if node is None else NodeObserved(node=node)
        elif kind == "pod" and len(parts) == 1 + len(PodKey._fields):  # the shard comes first
            pod = self.pods.get(PodKey(*parts[1:]))
            fact = None if pod is None else PodObserved(pod=pod)
        return fact if fact is not None and self._subjects.of(fact) == subject else None

    # --- pods of which the adapter has not said yet whether they are there --------------------------------------------

    def expect(self, pod: PodKey, place: Place, uid: str = "") -> None:
        """Note that a pod was created, until it is observed or a list ends that does not know it."""
        known = self.pods.get(pod)
        if known is None or (uid and known.uid != uid):
            self._await(pod, Awaited(place, uid))

    def _keep(self, pod: PodKey) -> None:
        """Somebody else says of a pod that it is gone, or not what it was: its place is not free for that."""
        known = self.pods.get(pod)
        if known is not None and known.live and pod not in self._awaited:
            self._await(pod, Awaited(place_of(known), known.uid))

    def _await(self, pod: PodKey, awaited: Awaited) -> None:
        self._awaited[pod] = awaited
        self._awaited_places.put(pod, awaited.place)

    def is_awaited(self, pod: PodKey) -> bool:
        """Say whether a pod may be there, of which the adapter has not said so yet, or is to say so again."""
        return pod in self._awaited

    def awaited(self) -> dict[PodKey, Awaited]:
        """Return all such pods, for ``give_up`` once a list has ended that begins now."""
        return dict(self._awaited)

    def witnessed(self, fact: Fact) -> None:
        """Note that the adapter itself has said this, new or not; of an earlier pod of that name it does not count."""
        match fact:
            case PodObserved(pod=pod):
                key, uid = pod.key, pod.uid
            case PodGone():
                key, uid = fact.key, fact.uid
            case _:
                return
        awaited = self._awaited.get(key)
        if awaited is not None and awaited.uid in {"", uid}:
            self._drop_awaited(key)

    def give_up(self, pods: Mapping[PodKey, Awaited]) -> None:
        """Expect these no longer, except where there was reason for it anew."""
        for pod, awaited in pods.items():
            if self._awaited.get(pod) is awaited:
                self._drop_awaited(pod)

    def _drop_awaited(self, pod: PodKey) -> None:
        del self._awaited[pod]
        self._awaited_places.drop(pod)

    # --- inner --------------------------------------------------------------------------------------------------------

    def _put(self, fact: Fact) -> None:
        match fact:
            case NodeObserved(node=node):
                self.nodes[node.key] = node
            case NodeGone():
                self.nodes.pop(fact.key, None)
            case PodObserved(pod=pod):
                self.pods[pod.key] = pod
                self._places.put(pod.key, place_of(pod))
            case PodGone():
                self.pods.pop(fact.key, None)
                self._places.drop(fact.key)


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
