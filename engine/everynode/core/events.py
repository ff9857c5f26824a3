"""What was observed, past tense: the facts that state is folded from.

Adapters write those about nodes and pods, the command line those about sets, workers ticks. Something that
is gone is a message too (``...Gone``, a tombstone): on the log it stands in the place of what it ends.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import msgspec

from everynode.core.values import (
    PREDECESSORS_MAX,
    DaemonSet,
    Message,
    Name,
    Node,
    NodeKey,
    Notice,
    Owner,
    Pod,
    PodKey,
    Revision,
    SetKey,
    Status,
    Whole,
    make_key,
    make_set_key,
)


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class NodeObserved(Message, frozen=True):
    """A node is there, and this is how it is now."""

    node: Node


class NodeGone(Message, frozen=True):
    """A node has left the backend.

    Attributes:
        why: For people: who saw it go, or who removed it.
    """

    backend: Name
    name: Name
    uid: str = ""
    why: str = ""

    @property
    def key(self) -> NodeKey:
        """Which node this was."""
        return make_key(NodeKey, (self.backend, self.name))


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class PodObserved(Message, frozen=True):
    """A pod is there, and this is how it is now."""

    pod: Pod


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class PodGone(Message, frozen=True):
    """A pod no longer exists in the backend, or is another set's or nobody's now.

    Attributes:
        owner: The set that controlled it; ``None`` for an orphan.
        revision: As it was last observed; empty if nobody knows.
        generation: Likewise; 0 if nobody knows.
        created_ms: Likewise; 0 if nobody knows.
        failures: How many pods in a row have ended on this node for that generation, this one included.
    """

    backend: Name
    namespace: Name
    name: Name
    uid: Name
    node: Name
    owner: Owner | None = None
    node_uid: str = ""
    revision: str = ""
    generation: Whole = 0
    created_ms: Whole = 0
    failures: Whole = 0
    why: str = ""

    @property
    def key(self) -> PodKey:
        """Which pod this was."""
        return make_key(PodKey, (self.backend, self.namespace, self.name))

    @property
    def set_key(self) -> SetKey | None:
        """The set that controlled it; ``None`` for an orphan."""
        return None if self.owner is None else make_set_key(self.namespace, self.owner.name)

    @property
    def node_key(self) -> NodeKey:
        """The node that it ran on."""
        return make_key(NodeKey, (self.backend, self.node))


class DaemonSetObserved(Message, frozen=True):
    """A set is wanted, and this is what it asks for now."""

    daemonset: DaemonSet


class DaemonSetGone(Message, frozen=True):
    """A set is no longer wanted.

    Attributes:
        cascade: ``background``: its pods go. ``orphan``: its pods stay, unmanaged. ``backend``: the backend that kept
            the set sees to its pods.
        predecessor_uids: As the set had them, if its pods are to stay.
    """

    namespace: Name
    name: Name
    uid: Name
    cascade: Literal["background", "orphan", "backend"] = "background"
    predecessor_uids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=PREDECESSORS_MAX)] = ()
    why: str = ""

    @property
    def key(self) -> SetKey:
        """Which set this was."""
        return SetKey(self.namespace, self.name)


class RevisionRecorded(Message, frozen=True):
    """A pod template of a set, kept for pods to be made from and for people to return to."""

    revision: Revision


class StatusReported(Message, frozen=True):
    """How far a set has come, as a worker saw it."""

    status: Status


class NoticeReported(Message, frozen=True):
    """People are told something about a set."""

    notice: Notice


class RevisionGone(Message, frozen=True):
    """A template is no longer kept: its set is gone, or it has fallen out of the set's history."""

    namespace: Name
    daemonset: Name
    hash: Name
    why: str = ""

    @property
    def set_key(self) -> SetKey:
        """The set that it was a revision of."""
        return SetKey(self.namespace, self.daemonset)


class StatusGone(Message, frozen=True):
    """There is nothing left to report on: the set is gone and so are its pods."""

    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    why: str = ""

    @property
    def set_key(self) -> SetKey:
        """The set that it was the status of."""
        return SetKey(self.namespace, self.daemonset)


class Tick(Message, frozen=True):
    """Time has passed: something was due at ``due_ms`` and no other message had moved the clock there."""

    shard: Whole
    due_ms: Whole
