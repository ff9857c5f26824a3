"""The things that the engine talks about: nodes, pods, DaemonSets, revisions, statuses.

Every layer uses these values; they know nothing of where they come from. They are immutable, their names are
Kubernetes' names, and on the wire their fields are written in camelCase. Durations and points in time
are whole milliseconds unless Kubernetes names the unit itself (``min_ready_seconds``).
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal, NamedTuple

import msgspec

NO_SCHEDULE = "NoSchedule"
PREFER_NO_SCHEDULE = "PreferNoSchedule"
NO_EXECUTE = "NoExecute"

ON_DELETE = "OnDelete"
ROLLING_UPDATE = "RollingUpdate"

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

NAME_LENGTH_MAX = 253  # a DNS-1123 subdomain

PREDECESSORS_MAX = 16
"""Sets of one name, deleted one after the other, whose pods the next one may find."""

PROGRESS_DEADLINE_SECONDS = 600
"""How long a rollout may make no progress if its set does not say (as a Deployment, apps/v1)."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX)]

WHOLE_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999: a later one cannot be written as a date, and nothing else counts so far."""

Whole = Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)]

make_key = tuple.__new__
"""Makes a key of its class and its parts. Keys are made for each event, and a call of the class takes twice as long."""


class SetKey(NamedTuple):
    """Which DaemonSet: the name that people use, not the identity (that is its uid)."""

    namespace: Name
    name: Name

    def __str__(self) -> str:
        """Read as ``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class NodeKey(NamedTuple):
    """Which node: the backend that it belongs to, and its name there."""

    backend: Name
    name: Name


class PodKey(NamedTuple):
    """Which pod: pods of one name may exist in different backends and namespaces."""

    backend: Name
    namespace: Name
    name: Name


make_set_key = functools.lru_cache(maxsize=4_096)(SetKey)
"""Makes the key of a set. There are few sets, and each of their pods names one."""


class Value(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """Base of all values: immutable, camelCase on the wire, defaults left out."""


class Message(Value, frozen=True, tag=True, tag_field="kind"):
    """Base of everything that travels on the log; ``kind`` on the wire is the name of the class."""


class Taint(Value, frozen=True):
    """A taint of a node (core/v1 Taint). ``effect`` is kept as it came, known or not."""

    key: str
    effect: str
    value: str = ""


class Node(Value, frozen=True):
    """What the engine needs to know of a node.

    Attributes:
        uid: The identity. A node that comes back under the same name with another uid is another node.
        unschedulable: Cordoned. Shown to people; placement follows taints alone, as in Kubernetes.
        ready: The Ready condition. It does not decide placement; a rollout may skip a node that is not ready.
        unready_since_ms: Since when it has not been ready; 0 if it is ready or nobody knows.
    """

    backend: Name
    name: Name
    uid: Name
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    unready_since_ms: Whole = 0

    @property
    def key(self) -> NodeKey:
        """Which node this is."""
        return make_key(NodeKey, (self.backend, self.name))


class Owner(Value, frozen=True):
    """The DaemonSet that a pod belongs to (its controller reference)."""

    name: Name
    uid: Name


class Pod(Value, frozen=True):
    """What the engine needs to know of a pod; not the whole API object.

    Attributes:
        node: Name of the node that it runs on or is bound for.
        node_uid: Identity of that node if the backend knows it; empty means any node of that name.
        owner: The set that controls it; ``None`` for an orphan, which a set may adopt.
        revision: Content hash of the template that it was made from; empty if nobody knows.
        labels: Its labels; ``None`` if they are those of its template, or the backend does not say.
        generation: The set's generation that it was made for; 0 if nobody knows.
        failures: How many pods in a row had ended on this node, for this generation, when it was made.
        ready_since_ms: Since when it has been ready; 0 if it is not.
        deleting: It is on its way out (deletionTimestamp is set).
        deleting_since_ms: Since when it is; 0 if it is not or nobody knows.
    """

    backend: Name
    namespace: Name
    name: Name
    uid: Name
    node: Name
    owner: Owner | None = None
    revision: str = ""
    node_uid: str = ""
    labels: dict[str, str] | None = None
    generation: Whole = 0
    failures: Whole = 0
    phase: Phase = "Pending"
    ready: bool = False
    ready_since_ms: Whole = 0
    created_ms: Whole = 0
    deleting: bool = False
    deleting_since_ms: Whole = 0

    @property
    def key(self) -> PodKey:
        """Which pod this is."""
        return make_key(PodKey, (self.backend, self.namespace, self.name))

    @property
    def set_key(self) -> SetKey | None:
        """The set that controls it; ``None`` for an orphan."""
        return None if self.owner is None else make_set_key(self.namespace, self.owner.name)

    @property
    def node_key(self) -> NodeKey:
        """The node that it belongs to."""
        return make_key(NodeKey, (self.backend, self.node))

    @property
    def finished(self) -> bool:
        """Its containers have ended for good (phase Failed or Succeeded)."""
        return self.phase in {"Failed", "Succeeded"}

    @property
    def live(self) -> bool:
        """It counts as the node's pod: neither finished nor on its way out."""
        return not self.deleting and self.phase not in {"Failed", "Succeeded"}


class Requirement(Value, frozen=True):
    """One requirement on labels or fields (core/v1 NodeSelectorRequirement, meta/v1 LabelSelectorRequirement)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Selector(Value, frozen=True):
    """Which pods belong to a set (meta/v1 LabelSelector)."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class UpdateStrategy(Value, frozen=True):
    """How a change of the template reaches pods that already run.

    Numbers of nodes are whole numbers or percentages of the eligible nodes such as ``"10%"``, rounded up.

    Attributes:
        max_unavailable: How many nodes may be without an available pod before the rollout takes down one more.
        max_surge: On how many nodes a new pod may run beside the old one.
        paused: The rollout replaces nothing for now.
        partition: How many nodes are to stay on the old revision.
        selector: The only nodes that are updated for now; ``None`` for all.
        progress_deadline_seconds: How long the rollout may make no progress before it counts as stalled; 0 for ever.
        unreachable_nodes: Whether nodes that were not ready before they got the new revision use up the budget.
    """

    type: Literal["OnDelete", "RollingUpdate"] = "OnDelete"
    max_unavailable: int | str = 1
    max_surge: int | str = 0
    paused: bool = False
    partition: int | str = 0
    selector: Selector | None = None
    progress_deadline_seconds: Whole = PROGRESS_DEADLINE_SECONDS
    unreachable_nodes: Literal["Count", "Skip"] = "Count"


class DaemonSet(Value, frozen=True):
    """A DaemonSet, complete as far as the engine decides by it.

    Attributes:
        uid: The identity; a set that is deleted and made anew has another one.
        generation: Raised by one with every change of the spec.
        backend: The only backend whose nodes it is for; empty means every backend of the fleet.
        origin: The backend that keeps this set as an object of its own and says what is wanted of it (a Kubernetes
            cluster); empty for a set that was applied to the fleet.
        template: The pod template as canonical JSON (keys sorted), complete, unknown fields included.
        deleting: Its deletion has begun in the backend (deletionTimestamp is set): it is left alone.
        predecessor_uids: Sets of this name before it that were deleted and whose pods were to stay: they are released,
            and this one's to adopt if its selector selects them.
    """

    namespace: Name
    name: Name
    uid: Name
    generation: Whole
    selector: Selector
    template: msgspec.Raw
    backend: str = ""
    origin: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    update_strategy: UpdateStrategy = UpdateStrategy()
    min_ready_seconds: Whole = 0
    revision_history_limit: Whole = 10
    created_ms: Whole = 0
    deleting: bool = False
    predecessor_uids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=PREDECESSORS_MAX)] = ()

    @property
    def key(self) -> SetKey:
        """Which set this is."""
        return SetKey(self.namespace, self.name)


class Revision(Value, frozen=True):
    """One version of a set's pod template, named by its content.

    Attributes:
        daemonset_uid: Identity of the set.
        hash: Content hash of ``template``; pods carry it as ``Pod.revision``.
        number: Counts up with each version of this set, from 1; one that is returned to gets the next number.
        template: Canonical JSON, as in ``DaemonSet.template``.
        created_ms: Log time at which it was first recorded.
        change_cause: What the set's annotation ``kubernetes.io/change-cause`` said then.
    """

    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    hash: Name
    number: Whole
    template: msgspec.Raw
    created_ms: Whole = 0
    change_cause: str = ""

    @property
    def set_key(self) -> SetKey:
        """The set that this is a revision of."""
        return SetKey(self.namespace, self.daemonset)


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Value, frozen=True):
    """One thing that is so or not so with a set (apps/v1 DaemonSetCondition).

    Attributes:
        type: ``Available``, ``Progressing`` or ``Degraded``.
        reason: Why, as a code.
        message: Why, for people.
        last_update_ms: When it was last seen to move: of ``Progressing``, when the rollout last made progress.
        last_transition_ms: When ``status`` last changed.
    """

    type: str
    status: ConditionStatus
    reason: str = ""
    message: str = ""
    last_update_ms: Whole = 0
    last_transition_ms: Whole = 0


class Status(Value, frozen=True):
    """How far a set has come (apps/v1 DaemonSetStatus; same words, same meaning; and what it lacks).

    Source: pkg/controller/daemon/daemon_controller.go, updateDaemonSetStatus.

    Attributes:
        revision: Content hash of the wanted template.
        excluded_nodes: How many nodes are not eligible, by reason (the codes of ``core.eligibility``).
        waiting_nodes: How many eligible nodes have no available pod of the wanted revision, by reason.
        conditions: Sorted by type.
    """

    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    observed_generation: Whole
    revision: str = ""
    desired_number_scheduled: Whole = 0
    current_number_scheduled: Whole = 0
    number_misscheduled: Whole = 0
    number_ready: Whole = 0
    number_available: Whole = 0
    number_unavailable: Whole = 0
    updated_number_scheduled: Whole = 0
    excluded_nodes: dict[str, Whole] = {}
    waiting_nodes: dict[str, Whole] = {}
    conditions: tuple[Condition, ...] = ()

    @property
    def set_key(self) -> SetKey:
        """The set that this is the status of."""
        return SetKey(self.namespace, self.daemonset)

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of this type, if it is there."""
        return next((found for found in self.conditions if found.type == type_), None)


class Notice(Value, frozen=True):
    """What people are told about a set (a Kubernetes Event); several alike are told as one.

    Attributes:
        type: ``Warning`` if somebody may have to do something.
        reason: What happened, as a code; Kubernetes' own where it has one.
        message: What happened, for people; of several alike, the last.
        node: The last node that it was about; empty if it was about none.
        pod: The last pod that it was about; empty if it was about none.
        count: How often it happened between ``first_ms`` and ``last_ms``.
    """

    namespace: Name
    daemonset: Name
    daemonset_uid: Name
    type: Literal["Normal", "Warning"]
    reason: Name
    message: str
    node: str = ""
    pod: str = ""
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    first_ms: Whole = 0
    last_ms: Whole = 0

    @property
    def set_key(self) -> SetKey:
        """The set that it is about."""
        return SetKey(self.namespace, self.daemonset)
