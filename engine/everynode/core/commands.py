"""What is to be done, and what became of it: decisions, commands and outcomes.

A decision is written by a worker together with its commands, as one batch that the log takes whole or not at
all. An adapter carries commands out and answers each with an outcome.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import msgspec

from everynode.core.values import (
    Message,
    Name,
    NodeKey,
    PodKey,
    SetKey,
    Value,
    Whole,
    make_key,
    make_set_key,
)

BATCH_MESSAGES_MAX = 1_000
"""What nats-server takes as one atomic batch."""

Window = Annotated[int, msgspec.Meta(ge=1, le=BATCH_MESSAGES_MAX)]

Verb = Literal["create", "delete", "adopt", "release"]
Result = Literal["done", "refused", "failed", "superseded"]


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class CreatePod(Message, frozen=True):
    """Make it so that this pod exists. A repeat meets the name that is already there and is harmless.

    Attributes:
        id: Names the intention; a legitimate retry has another id (``attempt`` differs).
        revision: Content hash of the template to make it from.
        slot: Which of the node's places for this set: 0, or 1 for the second pod during a surge.
        attempt: 0, raised by one each time this was tried and did not work.
        failures: How many pods in a row have ended on this node for this generation; the pod is to carry it.
        expires_ms: Log time after which it must no longer be carried out: the worker has looked afresh.
        reason: Why, as a code (see ``core.decision``).
        template: Not on the log; the adapter host fills it in from the revision before ``apply``.
    """

    verb: ClassVar[Verb] = "create"

    id: Name
    backend: Name
    node: Name
    node_uid: Name
    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    generation: Whole
    pod: Name
    revision: str
    expires_ms: Whole
    slot: Whole = 0
    failures: Whole = 0
    attempt: Whole = 0
    reason: str = ""
    template: msgspec.Raw | None = None

    @property
    def set_key(self) -> SetKey:
        """The set that it is for."""
        return make_set_key(self.namespace, self.daemonset)

    @property
    def node_key(self) -> NodeKey:
        """The node that it is for."""
        return make_key(NodeKey, (self.backend, self.node))

    @property
    def pod_key(self) -> PodKey:
        """The pod that it is about."""
        return make_key(PodKey, (self.backend, self.namespace, self.pod))


class _OnPod(Message, frozen=True):
    """Base of the commands about one very pod, named by its uid."""

    verb: ClassVar[Verb]

    id: Name
    backend: Name
    node: Name
    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    generation: Whole
    pod: Name
    pod_uid: Name
    expires_ms: Whole
    node_uid: str = ""
    attempt: Whole = 0
    reason: str = ""

    @property
    def set_key(self) -> SetKey:
        """The set that it is for."""
        return make_set_key(self.namespace, self.daemonset)

    @property
    def node_key(self) -> NodeKey:
        """The node that it is for."""
        return make_key(NodeKey, (self.backend, self.node))

    @property
    def pod_key(self) -> PodKey:
        """The pod that it is about."""
        return make_key(PodKey, (self.backend, self.namespace, self.pod))


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class DeletePod(_OnPod, frozen=True):
    """Make it so that this very pod (by uid) does not exist. A pod that is already gone is success."""

    verb: ClassVar[Verb] = "delete"


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class AdoptPod(_OnPod, frozen=True):
    """Make the set (``daemonset_uid``) the controller of this very pod.

    A pod that the set controls already is success. One that somebody else controls, that is being deleted or is gone,
    is superseded. So it is if the backend knows the set and the set is gone or being deleted: that is to be looked
    up, not remembered.
    """

    verb: ClassVar[Verb] = "adopt"


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class ReleasePod(_OnPod, frozen=True):
    """Make it so that the set no longer controls this very pod. A pod that is gone, or not its own, is success."""

    verb: ClassVar[Verb] = "release"


Command = CreatePod | DeletePod | AdoptPod | ReleasePod

COMMANDS = (CreatePod, DeletePod, AdoptPod, ReleasePod)
"""The same, for ``isinstance``."""


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class Outcome(Message, frozen=True):
    """What became of a command.

    Attributes:
        id: The command's id.
        backend: The backend that was to carry it out.
        verb: What it asked for.
        result: ``done``: it is so now. ``refused``: the backend will never do it as asked. ``failed``: it
            was tried until the last try. ``superseded``: no longer wanted by the time it was looked at.
        message: For people: what the backend said.
        pod_uid: The identity of the pod that exists now, for a create that is done.
    """

    id: Name
    backend: Name
    namespace: Name
    daemonset: Name
    verb: Verb
    result: Result
    message: str = ""
    pod_uid: str = ""

    @property
    def set_key(self) -> SetKey:
        """The set whose command it was."""
        return make_set_key(self.namespace, self.daemonset)


def outcome_of(command: Command, result: Result, message: str = "", pod_uid: str = "") -> Outcome:
    """Say what became of a command."""
    return Outcome(
        id=command.id,
        backend=command.backend,
        namespace=command.namespace,
        daemonset=command.daemonset,
        verb=command.verb,
        result=result,
        message=message,
        pod_uid=pod_uid,
    )


class ReasonCount(Value, frozen=True):
    """How many commands of a decision have this reason."""

    reason: str
    count: Whole


class Counts(Value, frozen=True):
    """What the worker saw when it decided; numbers of nodes, except those of commands by verb.

    Attributes:
        unavailable: Eligible nodes without an available pod, those included that the rollout is taking down.
        updated: Eligible nodes whose pod is of the wanted revision.
    """

    eligible: Whole = 0
    occupied: Whole = 0
    missing: Whole = 0
    surplus: Whole = 0
    pending: Whole = 0
    unavailable: Whole = 0
    updated: Whole = 0
    creates: Whole = 0
    deletes: Whole = 0
    adopts: Whole = 0
    releases: Whole = 0


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class Decision(Message, frozen=True):
    """What a worker decided for one set at one point of the log.

    Attributes:
        basis: Sequence of the last message of the log that the worker had folded.
        at_ms: Log time at the basis.
        worker: Who decided.
        size: How many messages follow it in its batch (revisions and commands).
        windows: Slow start: for each backend, how many creates may be pending there, as of this decision.
        reasons: Why, sorted by reason.
    """

    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    generation: Whole
    revision: str
    basis: Whole
    at_ms: Whole
    worker: Name
    size: Annotated[int, msgspec.Meta(ge=0, lt=BATCH_MESSAGES_MAX)]
    windows: dict[Name, Window]
    counts: Counts = Counts()
    reasons: tuple[ReasonCount, ...] = ()

    @property
    def set_key(self) -> SetKey:
        """The set that it is about."""
        return make_set_key(self.namespace, self.daemonset)
