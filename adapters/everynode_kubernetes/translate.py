"""API objects to the engine's values: nodes, pods, sets and the versions of their templates.

Used by ``cluster``, ``history`` and whoever looks at objects; ``bodies`` is the way back. Pure: no server, no clock, no
log. An object is taken as it is, also where it is odd; what the engine could not work with is a ``Rejection``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from everynode.core.eligibility import NODE_NAME_FIELD
from everynode.core.identity import canonical, revision_hash
from everynode.core.revisions import CHANGE_CAUSE_ANNOTATION
from everynode.core.values import DaemonSet, Node, Owner, Phase, Pod, Revision, Taint
from everynode.errors import Problem
from everynode.manifest import (
    BACKEND_ANNOTATION,
    StrategyRead,
    read_daemonsets,
    read_update_strategy,
)
from everynode_kubernetes.objects import (
    FAILURES_ANNOTATION,
    GENERATION_ANNOTATION,
    LAST_APPLIED_ANNOTATION,
    PREFIX,
    TEMPLATE_GENERATION_ANNOTATION,
    ApiControllerRevision,
    ApiDaemonSet,
    ApiNode,
    ApiPod,
    Metadata,
    OwnerReference,
)

NUMBER_DIGITS_MAX = 15
"""The longest number that is believed of an annotation, in decimal digits: every reader of JSON holds it exactly."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # what RFC 3339 can write
_MILLISECOND = timedelta(milliseconds=1)
_READY = "Ready"
_PHASES: dict[str, Phase] = {
    "": "Pending",  # nobody has looked at it yet
    "Pending": "Pending",
    "Running": "Running",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
}
_NOT_KEPT = frozenset({LAST_APPLIED_ANNOTATION, TEMPLATE_GENERATION_ANNOTATION})


class Rejection(NamedTuple):
    """The engine cannot take an object as it is; ``text`` says why, and what to do about it."""

    text: str

    def __str__(self) -> str:
        """Read as the text."""
        return self.text


# --- time -----------------------------------------------------------------------------------------


def time_ms(text: str | None) -> int:
    """Read a point in time (RFC 3339, with or without a fraction); 0 if there is none, or nobody can read it."""
    if not text:
        return 0
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return max(0, (time - _EPOCH) // _MILLISECOND)


def timestamp(time: int) -> str:
    """Write milliseconds since 1970 as an API server does (meta/v1 Time): in whole seconds."""
    return f"{_datetime(time):%Y-%m-%dT%H:%M:%SZ}"


def micro_timestamp(time: int) -> str:
    """Write milliseconds since 1970 as meta/v1 MicroTime."""
    return f"{_datetime(time):%Y-%m-%dT%H:%M:%S.%fZ}"


def _datetime(time: int) -> datetime:
    return _EPOCH + min(time, (_LATEST - _EPOCH) // _MILLISECOND) * _MILLISECOND


# --- owners ---------------------------------------------------------------------------------------


def controller_of(metadata: Metadata) -> OwnerReference | None:
    """Return the owner that controls an object; ``None`` if nobody does."""
    found = (each for each in metadata.owner_references or () if each.controller)
    return next(found, None)


def is_daemonset_controller(reference: OwnerReference) -> bool:
    """Say whether an owner is a DaemonSet."""
    return reference.kind == "DaemonSet" and reference.api_version.partition("/")[0] == "apps"


# --- nodes ----------------------------------------------------------------------------------------


def node_of(api: ApiNode, backend: str) -> Node:
    """Translate a node; what a heartbeat changes is no part of it, so that two of them give equal values.

    A node that says nothing of Ready has just registered, and never was.
    """
    spec, metadata = api.spec, api.metadata
    condition = api.status.condition(_READY) if api.status else None
    ready = condition is not None and condition.status == "True"
    unready_since = condition.last_transition_time if condition else metadata.creation_timestamp
    taints = (spec.taints if spec else None) or ()
    return Node(
        backend=backend,
        name=metadata.name,
        uid=metadata.uid,
        labels=metadata.labels or {},
        taints=tuple(Taint(key=each.key, value=each.value, effect=each.effect) for each in taints),
        unschedulable=bool(spec and spec.unschedulable),
        ready=ready,
        unready_since_ms=0 if ready else time_ms(unready_since),
    )


# --- pods -----------------------------------------------------------------------------------------


def node_name_of(api: ApiPod) -> str:
    """Name the node that a pod is on, or is bound for; empty if it may go anywhere.

    Source: pkg/controller/daemon/util/daemonset_util.go, GetTargetNodeName.
    """
    spec = api.spec
    if spec is None or spec.node_name:
        return spec.node_name if spec else ""
    required = (
        spec.affinity and spec.affinity.node_affinity and spec.affinity.node_affinity.required
    )
    for term in (required and required.node_selector_terms) or ():
        for field in term.match_fields or ():
            if field.key == NODE_NAME_FIELD and field.operator == "In":
                names = field.values or ()
                return names[0] if len(names) == 1 else ""
    return ""


def pod_of(
    api: ApiPod,
    backend: str,
    *,
    owner: Owner | None,
    revision: str,
    labels: dict[str, str] | None,
) -> Pod:
    """Translate a pod.

    Args:
        api: The pod.
        backend: Name of the cluster in the fleet.
        owner: The set that controls it; ``None`` for an orphan.
        revision: Content hash of the template that it was made from; empty if nobody knows.
        labels: Its labels; ``None`` if they are those of that template.
    """
    metadata, status = api.metadata, api.status
    condition = status.condition(_READY) if status else None
    ready = condition is not None and condition.status == "True"
    return Pod(
        backend=backend,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        node=node_name_of(api),
        owner=owner,
        revision=revision,
        labels=labels,
        generation=_number(metadata.annotation(GENERATION_ANNOTATION)),
        failures=_number(metadata.annotation(FAILURES_ANNOTATION)),
        phase=_PHASES.get(status.phase if status else "", "Unknown"),
        ready=ready,
        ready_since_ms=time_ms(condition.last_transition_time) if condition and ready else 0,
        created_ms=time_ms(metadata.creation_timestamp),
        deleting=metadata.deletion_timestamp is not None,
        deleting_since_ms=_deleting_since_ms(metadata),
    )


def _number(text: str) -> int:
    """Read a number that this adapter wrote on a pod; 0 if somebody has written something else there."""
    plain = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
    return int(text) if plain else 0


def _deleting_since_ms(metadata: Metadata) -> int:
    """Say when a deletion was asked for: its time stamp is when the grace that was granted then is over."""
    grace_ms = (metadata.deletion_grace_period_seconds or 0) * 1_000
    return max(0, time_ms(metadata.deletion_timestamp) - grace_ms)


# --- sets -----------------------------------------------------------------------------------------


def daemonset_of(api: ApiDaemonSet, backend: str) -> DaemonSet | Rejection:
    """Translate a set, by the rules for manifests; it is for this cluster's nodes, and this cluster says what it is.

    A set whose update strategy cannot be read (an annotation of ours with a mistake in it) is taken with its rollout
    paused; ``strategy_problems`` says why.

    Args:
        api: The set.
        backend: Name of the cluster in the fleet.
    """
    elsewhere = api.metadata.annotation(BACKEND_ANNOTATION)
    if elsewhere not in {"", backend}:
        text = f"metadata.annotations[{BACKEND_ANNOTATION}]: is {elsewhere}, and this cluster is {backend}"
        return Rejection(f"{text}: a DaemonSet is for the nodes of its own cluster: remove it")
    spec = _spec_of(api)
    found = read_daemonsets("", _manifest(api.metadata, spec))
    if not found.accepted:
        return Rejection("; ".join(str(error) for each in found.rejected for error in each.errors))
    return structs.replace(
        found.accepted[0].daemonset,
        uid=api.uid,
        generation=api.metadata.generation,
        backend=backend,
        origin=backend,
        annotations=_annotations_kept(api.metadata),
        template=msgspec.Raw(_normalised(spec["template"])),
        update_strategy=_strategy_of(api.metadata, spec).strategy,
        created_ms=time_ms(api.metadata.creation_timestamp),
        deleting=api.metadata.deletion_timestamp is not None,
    )


def strategy_problems(api: ApiDaemonSet) -> tuple[Problem, ...]:
    """Say what is wrong with how a set is to be updated; a set of which this is not empty is paused."""
    return _strategy_of(api.metadata, _spec_of(api)).problems


def _spec_of(api: ApiDaemonSet) -> dict[str, Any]:
    spec = msgspec.json.decode(api.raw).get("spec")
    return spec if isinstance(spec, dict) else {}


def _strategy_of(metadata: Metadata, spec: dict[str, Any]) -> StrategyRead:
    return read_update_strategy(metadata.annotations or {}, spec)


def _manifest(metadata: Metadata, spec: dict[str, Any]) -> bytes:
    """Write a set as a person would, without what is read elsewhere; in a list, an object has no kind."""
    annotations = _annotations_kept(metadata)
    named = {
        "name": metadata.name,
        "namespace": metadata.namespace,
        "labels": metadata.labels,
        "annotations": {
            key: value for key, value in annotations.items() if not key.startswith(PREFIX)
        },
    }
    asked = {key: value for key, value in spec.items() if key != "updateStrategy"}
    document = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": named, "spec": asked}
    return msgspec.json.encode(document)


def _annotations_kept(metadata: Metadata) -> dict[str, str]:
    """Leave out what repeats the whole set, and what changes with every template."""
    annotations = metadata.annotations or {}
    return {key: value for key, value in annotations.items() if key not in _NOT_KEPT}


# --- versions of templates ------------------------------------------------------------------------


def _normalised(template: dict[str, Any]) -> bytes:
    """Write a template in the form whose hash names it, so that the same template is the same wherever it is found.

    Servers before 1.34 write an empty ``creationTimestamp`` into templates, and a ControllerRevision says how to patch.
    """
    kept = {key: value for key, value in template.items() if key != "$patch"}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict) and metadata.get("creationTimestamp", "") is None:
        kept["metadata"] = {key: metadata[key] for key in metadata if key != "creationTimestamp"}
    return canonical(msgspec.json.encode(kept))


def template_in(api: ApiControllerRevision) -> bytes | None:
    """Return the template that a ControllerRevision brings back; ``None`` if it holds something else."""
    try:
        data = msgspec.json.decode(api.data)
    except (msgspec.DecodeError, RecursionError):
        return None
    spec = data.get("spec") if isinstance(data, dict) else None
    template = spec.get("template") if isinstance(spec, dict) else None
    if not isinstance(template, dict) or template.get("$patch") != "replace":
        return None
    return _normalised(template)


def revision_of(
    api: ApiControllerRevision, daemonset_name: str, daemonset_uid: str
) -> Revision | None:
    """Translate a ControllerRevision of a set; ``None`` if it holds no template."""
    template = template_in(api)
    if template is None:
        return None
    return Revision(
        namespace=api.metadata.namespace,
        daemonset=daemonset_name,
        daemonset_uid=daemonset_uid,
        hash=revision_hash(template),
        number=max(0, api.revision),
        template=msgspec.Raw(template),
        created_ms=time_ms(api.metadata.creation_timestamp),
        change_cause=api.metadata.annotation(CHANGE_CAUSE_ANNOTATION),
    )
