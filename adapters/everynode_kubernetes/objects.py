"""API objects as the server sends them: the few fields that this adapter reads, and nothing else.

Used by whoever reads answers (``parse_node`` and its like) and looks at objects. It knows JSON and the names of
Kubernetes' fields (core/v1, apps/v1, meta/v1), and nothing of the engine. What is absent or null is empty; an object
without a name or a uid is no object.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec
from msgspec import structs

PREFIX = "everynode.dev/"
"""What is written on API objects by this adapter, and has no name in Kubernetes, begins with this."""

GENERATION_ANNOTATION = f"{PREFIX}generation"
FAILURES_ANNOTATION = f"{PREFIX}failures"

PROBE_LABEL = f"{PREFIX}probe"
"""On DaemonSets that only find out whether somebody looks after DaemonSets; the fleet is not told of them."""

LABEL_LENGTH_MAX = 63

PROBE_PREFIX = "everynode-probe-"
"""How the names of such DaemonSets begin."""

REVISION_LABEL = "controller-revision-hash"
"""On pods and ControllerRevisions: which version of the template (apps/v1 ControllerRevisionHashLabelKey)."""

TEMPLATE_GENERATION_LABEL = "pod-template-generation"
TEMPLATE_GENERATION_ANNOTATION = "deprecated.daemonset.template.generation"
LAST_APPLIED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"

_NONE: Mapping[str, str] = MappingProxyType({})


class ApiValue(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """Base of all that is read. It can be part of no cycle, so the garbage collector may pass it by."""


class OwnerReference(ApiValue, frozen=True):
    """Who an object belongs to (meta/v1 OwnerReference)."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class Metadata(ApiValue, frozen=True):
    """What all objects have (meta/v1 ObjectMeta); points in time as the server writes them."""

    name: str
    uid: str
    namespace: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] | None = None

    def annotation(self, key: str) -> str:
        """What one annotation says; empty if it is not there."""
        return (self.annotations or _NONE).get(key, "")

    def label(self, key: str) -> str:
        """What one label says; empty if it is not there."""
        return (self.labels or _NONE).get(key, "")


class ApiObject(ApiValue, frozen=True):
    """Base of the kinds of objects."""

    metadata: Metadata

    @property
    def uid(self) -> str:
        """Its identity."""
        return self.metadata.uid

    @property
    def resource_version(self) -> int:
        """Its version, which grows with each change of any object of its kind; 0 if the server sent none."""
        text = self.metadata.resource_version
        return int(text) if text.isascii() and text.isdigit() else 0


class ApiCondition(ApiValue, frozen=True):
    """A condition of a node, a pod or a DaemonSet."""

    type: str
    status: str
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class ConditionsStatus(ApiValue, frozen=True):
    """A status of which only the conditions matter."""

    conditions: tuple[ApiCondition, ...] | None = None

    def condition(self, type_: str) -> ApiCondition | None:
        """Return the condition of a type; ``None`` if it is not there."""
        found = (each for each in self.conditions or () if each.type == type_)
        return next(found, None)


# --- nodes ----------------------------------------------------------------------------------------


class ApiTaint(ApiValue, frozen=True):
    """A taint (core/v1 Taint)."""

    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(ApiValue, frozen=True):
    """What is asked of a node."""

    taints: tuple[ApiTaint, ...] | None = None
    unschedulable: bool | None = None


class ApiNode(ApiObject, frozen=True):
    """A node (core/v1 Node)."""

    spec: NodeSpec | None = None
    status: ConditionsStatus | None = None


# --- pods -----------------------------------------------------------------------------------------


class FieldRequirement(ApiValue, frozen=True):
    """One requirement on a field of a node (core/v1 NodeSelectorRequirement)."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None


class NodeSelectorTerm(ApiValue, frozen=True):
    """A term of a node selector, without what it asks of labels."""

    match_fields: tuple[FieldRequirement, ...] | None = None


class NodeSelector(ApiValue, frozen=True):
    """A node selector (core/v1 NodeSelector)."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] | None = None


class NodeAffinity(ApiValue, frozen=True):
    """The part of the node affinity that must hold."""

    required: NodeSelector | None = msgspec.field(
        name="requiredDuringSchedulingIgnoredDuringExecution", default=None
    )


class Affinity(ApiValue, frozen=True):
    """The part of an affinity that is about nodes."""

    node_affinity: NodeAffinity | None = None


class PodSpec(ApiValue, frozen=True):
    """Where a pod is, or where it wants to be."""

    node_name: str = ""
    affinity: Affinity | None = None


class PodStatus(ConditionsStatus, frozen=True):
    """How far a pod has come."""

    phase: str = ""


class ApiPod(ApiObject, frozen=True):
    """A pod (core/v1 Pod)."""

    spec: PodSpec | None = None
    status: PodStatus | None = None


# --- DaemonSets and their history -----------------------------------------------------------------


class DaemonSetStatus(ConditionsStatus, frozen=True):
    """What was last reported of a set (apps/v1 DaemonSetStatus)."""

    observed_generation: int = 0
    desired_number_scheduled: int = 0
    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    number_ready: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    updated_number_scheduled: int = 0
    collision_count: int | None = None


class ApiDaemonSet(ApiObject, frozen=True):
    """A set (apps/v1 DaemonSet).

    Attributes:
        raw: The whole object, as the server sent it.
    """

    status: DaemonSetStatus | None = None
    raw: bytes = b""


class ApiControllerRevision(ApiObject, frozen=True):
    """A version that a set had (apps/v1 ControllerRevision).

    Attributes:
        data: Any JSON; of a DaemonSet's, a patch that brings its template back.
    """

    revision: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")


# --- from bytes -----------------------------------------------------------------------------------

_OBJECT = msgspec.json.Decoder(ApiObject)
_NODE = msgspec.json.Decoder(ApiNode)
_POD = msgspec.json.Decoder(ApiPod)
_DAEMONSET = msgspec.json.Decoder(ApiDaemonSet)
_CONTROLLER_REVISION = msgspec.json.Decoder(ApiControllerRevision)


T = TypeVar("T")


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(raw)
    except RecursionError as error:  # some fields hold whatever somebody writes into them
        raise msgspec.ValidationError("the object is nested too deep to be read") from error


def parse_object(raw: bytes | msgspec.Raw) -> ApiObject:
    """Read what all objects have; raises what ``parse_node`` raises."""
    return _decode(_OBJECT, raw)


def parse_node(raw: bytes | msgspec.Raw) -> ApiNode:
    """Read a node.

    Raises:
        msgspec.ValidationError: It is not one.
        msgspec.DecodeError: It is not JSON.
    """
    return _decode(_NODE, raw)


def parse_pod(raw: bytes | msgspec.Raw) -> ApiPod:
    """Read a pod; raises what ``parse_node`` raises."""
    return _decode(_POD, raw)


def parse_daemonset(raw: bytes | msgspec.Raw) -> ApiDaemonSet:
    """Read a set, and keep a copy of the whole of it; raises what ``parse_node`` raises."""
    return structs.replace(_decode(_DAEMONSET, raw), raw=bytes(raw))


def parse_controller_revision(raw: bytes | msgspec.Raw) -> ApiControllerRevision:
    """Read a ControllerRevision; raises what ``parse_node`` raises."""
    revision = _decode(_CONTROLLER_REVISION, raw)
    # A copy, as the original is a part of what may be a list of megabytes.
    return structs.replace(revision, data=revision.data.copy())
