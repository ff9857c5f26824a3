"""What the log says of one backend's nodes and pods, including what its adapter host has said but not yet read back.

Kept by ``runtime.host``, which publishes only what differs from it; adapters see it as their ``View``. It knows nothing
of the bus: messages are handed to it. The log is read back some time after it was written, and someone else may write
to the same subject: for each subject the message with the highest sequence counts, and as long as one of our own is on
its way, that one does. Only where a pod may be made, nobody's word but the adapter's counts: see ``neighbours``.

A pod stands on the subject of the set that controls it, or on that of orphans. One that changes hands leaves a message
behind on the old subject, until that is ended there: see ``left_behind``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from msgspec.structs import replace

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Pod, PodKey, SetKey
from everynode.ports import Received

Key = NodeKey | PodKey
Fact = NodeObserved | NodeGone | PodObserved | PodGone

GONE_PODS_REMEMBERED_MAX = 100_000
"""Pods of which is remembered when they went. One more is forgotten, with all creates that are older than its end."""


GONE_NODES_REMEMBERED_MAX = 100_000
"""Nodes of which is remembered that the log says they are gone. It is said again of one that is forgotten."""


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

    def put(self, pod: PodKey, place: Place | None) -> None:
        self.drop(pod)
        if place is None:
            return
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
        self._departed: dict[NodeKey, None] = {}  # nodes that the log says are gone, oldest first
        self._said: dict[str, _Said] = {}
        self._left_behind: dict[PodKey, dict[SetKey | None, Pod]] = {}
        self._stopped: set[PodKey] = set()  # ended because they were to be deleted
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
                return self._known_of(fact.key, fact.set_key) is not None
        return not same or (bool(self.spoiled) and self._subjects.of(fact) in self.spoiled)

    def _known_of(self, key: PodKey, owner: SetKey | None) -> Pod | None:
        """Return the pod of this name and owner, as it is known, or was before it changed hands."""
        known = self.pods.get(key)
        if known is not None and known.set_key == owner:
            return known
        return self._left_behind.get(key, {}).get(owner)

    def left_behind(self, key: PodKey) -> list[PodGone]:
        """Return what ends a pod where it stood before it changed hands, or its name came to be another's."""
        known = self._left_behind.get(key, {}).values()
        return [self.end_of(pod, "it changed hands, or another pod has its name") for pod in known]

    def end_of(self, pod: Pod, why: str) -> PodGone:
        """Make the tombstone of a pod that is known."""
        gone = pod_gone(pod, why)
        return replace(gone, failures=0) if pod.key in self._stopped else gone

    def completed(self, gone: PodGone) -> PodGone:
        """Add to a tombstone what is known of the pod, so that it ends what the log has and adapters need not."""
        known = self.pods.get(gone.key)
        if known is None:
            return gone
        if (
            known.uid != gone.uid
        ):  # whichever it was: the one that the log knows is not there either
            return replace(gone, owner=known.owner)
        end = self.end_of(known, gone.why)
        return replace(
            end,
            node_uid=gone.node_uid or end.node_uid,
            revision=gone.revision or end.revision,
            generation=gone.generation or end.generation,
            created_ms=gone.created_ms or end.created_ms,
            failures=gone.failures or end.failures,
        )

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

    def never_heard_of(self, why: str) -> list[NodeGone]:
        """Make a tombstone for each node that pods are on and of which the log says nothing at all.

        A log that lost its end may have forgotten a node that came and went meanwhile. Whoever decides leaves the pods
        on an unknown node alone; after a complete list it is known not to be there.
        """
        homes = {pod.node_key: pod.node_uid for pod in self.pods.values()}
        return [
            NodeGone(backend=key.backend, name=key.name, uid=homes[key], why=why)
            for key in sorted(homes)
            if key not in self.nodes and key not in self._departed
        ]

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
        changed = self.differs(fact)
        if changed and isinstance(fact, PodObserved):
            self._keep(fact.pod.key)
        elif isinstance(fact, PodGone) and self._stands(fact):
            self._keep(fact.key)
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
        """Note that a pod was created or adopted, until it is observed there or a list ends that does not know it."""
        known = self.pods.get(pod)
        if known is None or (uid and known.uid != uid) or place_of(known) != place:
            self._await(pod, Awaited(place, uid))

    def _keep(self, pod: PodKey) -> None:
        """Somebody else says of a pod that it is gone, or not what it was: its place is not free for that."""
        known = self.pods.get(pod)
        place = None if known is None else place_of(known)
        if known is not None and place is not None and known.live and pod not in self._awaited:
            self._await(pod, Awaited(place, known.uid))

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
        """Note that the adapter itself has said this, new or not.

        Of an earlier pod of that name it does not count, nor from before the pod was adopted.
        """
        match fact:
            case PodObserved(pod=pod):
                key, uid, place = pod.key, pod.uid, place_of(pod)
            case PodGone():
                key, uid, place = fact.key, fact.uid, None
            case _:
                return
        awaited = self._awaited.get(key)
        if awaited is None or awaited.uid not in {"", uid}:
            return
        if isinstance(fact, PodGone) or place == awaited.place:
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
                self._departed.pop(node.key, None)
            case NodeGone():
                self.nodes.pop(fact.key, None)
                self._departed[fact.key] = None
                if len(self._departed) > GONE_NODES_REMEMBERED_MAX:
                    del self._departed[next(iter(self._departed))]
            case PodObserved(pod=pod):
                self._put_pod(pod)
            case PodGone():
                self._drop_pod(fact)

    def _put_pod(self, pod: Pod) -> None:
        key, before = pod.key, self.pods.get(pod.key)
        if before is not None and before.set_key != pod.set_key:
            self._left_behind.setdefault(key, {})[before.set_key] = before
        if before is None or before.uid != pod.uid or not pod.deleting:
            self._stopped.discard(key)
        elif pod.finished and not before.finished:
            self._stopped.add(key)
        self.pods[key] = pod
        self._forget_left_behind(key, pod.set_key)
        self._places.put(key, place_of(pod))

    def _drop_pod(self, gone: PodGone) -> None:
        key = gone.key
        if not self._stands(gone):
            self._forget_left_behind(key, gone.set_key)
            return
        self.pods.pop(key, None)
        self._stopped.discard(key)
        self._places.drop(key)
        for pod in self._left_behind.pop(key, {}).values():
            self._put_pod(pod)  # as whoever reads STATE now believes

    def _stands(self, gone: PodGone) -> bool:
        """Say whether this is about the pod as it is known now, not as it was before it changed hands."""
        known = self.pods.get(gone.key)
        return known is not None and known.set_key == gone.set_key

    def _forget_left_behind(self, key: PodKey, owner: SetKey | None) -> None:
        left = self._left_behind.get(key, {})
        left.pop(owner, None)
        if not left:
            self._left_behind.pop(key, None)


def place_of(pod: Pod) -> Place | None:
    """Say which place a pod takes; ``None`` for an orphan."""
    return None if pod.owner is None else Place(pod.node_key, pod.owner.uid)


def node_gone(node: Node, why: str) -> NodeGone:
    """Make a node's tombstone."""
    return NodeGone(backend=node.backend, name=node.name, uid=node.uid, why=why)


def pod_gone(pod: Pod, why: str) -> PodGone:
    """Make a pod's tombstone; its end counts as one of a row if it had ended before it went."""
    return PodGone(
        backend=pod.backend,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.node,
        owner=pod.owner,
        node_uid=pod.node_uid,
        revision=pod.revision,
        generation=pod.generation,
        created_ms=pod.created_ms,
        failures=pod.failures + 1 if pod.finished else 0,
        why=why,
    )
