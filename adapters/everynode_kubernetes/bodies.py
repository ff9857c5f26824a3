"""What the engine wants, as the bodies of requests to an API server; ``translate`` is the way back.

Used by ``executing`` and ``showing``. Pure: a body is a function of its arguments, so that a request that is repeated
says the same. Nothing here knows how requests are sent. Each patch names the uid of what it is for, so that it never
meets another object of that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from everynode.core.commands import CreatePod
from everynode.core.eligibility import (
    AUTOMATIC_TOLERATIONS,
    HOST_NETWORK_TOLERATION,
    NODE_NAME_FIELD,
)
from everynode.core.identity import derived_uid
from everynode.core.revisions import CHANGE_CAUSE_ANNOTATION
from everynode.core.values import NAME_LENGTH_MAX, Condition, Notice, Owner, Revision, Status
from everynode.errors import InvariantError
from everynode_kubernetes.objects import (
    FAILURES_ANNOTATION,
    GENERATION_ANNOTATION,
    PREFIX,
    REVISION_LABEL,
    TEMPLATE_GENERATION_LABEL,
    ApiDaemonSet,
    DaemonSetStatus,
)
from everynode_kubernetes.translate import micro_timestamp, time_ms, timestamp

MERGE_PATCH = "application/strategic-merge-patch+json"
"""The content type of every patch that is made here."""

NOTE_BYTES_MAX = 1_024
EVENT_WORD_LENGTH_MAX = 128
"""How long an event's reason and instance may be (pkg/apis/core/validation/events.go)."""

REPORTING_CONTROLLER = f"{PREFIX}daemonset-controller"

Json = dict[str, Any]

_API_VERSION = "apps/v1"
_KIND = "DaemonSet"
_INT32_MAX = 2**31 - 1
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_ESCAPED_IN_GO = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def _owner_reference(owner: Owner) -> Json:
    """Write a set as the controller of something."""
    return {
        "apiVersion": _API_VERSION,
        "kind": _KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


# --- pods -----------------------------------------------------------------------------------------


def automatic_tolerations(*, host_network: bool) -> list[Json]:
    """Write what every pod of a DaemonSet tolerates.

    Source: pkg/controller/daemon/util/daemonset_util.go, AddOrUpdateDaemonPodTolerations.
    """
    added = (HOST_NETWORK_TOLERATION,) if host_network else ()
    return [
        {"key": each.key, "operator": each.operator, "effect": each.effect}
        for each in (*AUTOMATIC_TOLERATIONS, *added)
    ]


def merged_tolerations(tolerations: list[Json], *, host_network: bool) -> list[Json]:
    """Add the automatic tolerations to a template's own.

    One that is there already stays where it is, but for how long it holds: an automatic one holds for ever.
    Source: pkg/apis/core/v1/helper/helpers.go, AddOrUpdateTolerationInPodSpec.
    """
    automatic = {_sameness(each): each for each in automatic_tolerations(host_network=host_network)}
    merged = [automatic.get(_sameness(each), each) for each in tolerations]
    present = {_sameness(each) for each in tolerations}
    return [*merged, *(each for same, each in automatic.items() if same not in present)]


def _sameness(toleration: Json) -> tuple[str, ...]:
    return tuple(toleration.get(key) or "" for key in ("key", "effect", "operator", "value"))


def _bound_to(node: str, affinity: Json | None) -> Json:
    """Let a pod go to this node only; what it prefers, and what it asks of other pods, stays.

    Source: pkg/controller/daemon/util/daemonset_util.go, ReplaceDaemonSetPodNodeNameNodeAffinity.
    """
    name = {"key": NODE_NAME_FIELD, "operator": "In", "values": [node]}
    here = {"nodeSelectorTerms": [{"matchFields": [name]}]}
    affinity = affinity or {}
    return {**affinity, "nodeAffinity": {**(affinity.get("nodeAffinity") or {}), _REQUIRED: here}}


def pod_for(
    command: CreatePod, owner: Owner, *, revision_label: str, template_generation: str | None
) -> bytes:
    """Write the pod that a command asks for, as Kubernetes' own controller makes it, but with its name.

    Args:
        command: The command, with its template.
        owner: The set.
        revision_label: What the pods of this revision have as ``controller-revision-hash``.
        template_generation: What the set's annotation ``deprecated.daemonset.template.generation`` says; ``None`` if
            it has none.

    Raises:
        InvariantError: The command came without its template.
    """
    if command.template is None:
        raise InvariantError(f"command {command.id} for pod {command.pod_key} has no template")
    template: Json = msgspec.json.decode(command.template)
    given: Json = template.get("metadata") or {}
    spec: Json = template.get("spec") or {}
    labels = {**(given.get("labels") or {}), REVISION_LABEL: revision_label}
    if generation := _template_generation(template_generation):
        labels[TEMPLATE_GENERATION_LABEL] = generation
    ours = {
        GENERATION_ANNOTATION: str(command.generation),
        FAILURES_ANNOTATION: str(command.failures),
    }
    metadata = {
        "name": command.pod,
        "generateName": f"{owner.name}-",  # it names nothing: some tools read there which set a pod is of
        "namespace": command.namespace,
        "labels": labels,
        "annotations": {**(given.get("annotations") or {}), **ours},
        "ownerReferences": [_owner_reference(owner)],
    }
    if finalizers := given.get("finalizers"):
        metadata["finalizers"] = finalizers
    tolerations = merged_tolerations(
        spec.get("tolerations") or [], host_network=spec.get("hostNetwork") is True
    )
    changed = {
        "affinity": _bound_to(command.node, spec.get("affinity")),
        "tolerations": tolerations,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, **changed}}
    return msgspec.json.encode(pod)


def _template_generation(text: str | None) -> str:
    """Read the annotation as Kubernetes does: a number of 64 bits, or it is as if it were not there."""
    if text is None or not _INTEGER.fullmatch(text):
        return ""
    number = int(text)
    return str(number) if _INT64_MIN <= number <= _INT64_MAX else ""


def delete_options(
    uid: str, *, grace_period_seconds: int | None = None, resource_version: str | None = None
) -> bytes:
    """Ask for a deletion of the object with this uid, and of no other of its name.

    Args:
        uid: Its identity.
        grace_period_seconds: How long it may take to stop; ``None`` for what it asks for itself; 0 removes it at once,
            whatever its node does.
        resource_version: It must be of this version, too.
    """
    preconditions = {"uid": uid}
    if resource_version is not None:
        preconditions["resourceVersion"] = resource_version
    options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
    if grace_period_seconds is not None:
        options["gracePeriodSeconds"] = grace_period_seconds
    return msgspec.json.encode(options)


def adoption_patch(uid: str, owner: Owner) -> bytes:
    """Make a set the controller of the pod, or the ControllerRevision, with this uid.

    The server finds it invalid if somebody else controls the object, or if the object has another uid.
    """
    metadata = {"uid": uid, "ownerReferences": [_owner_reference(owner)]}
    return msgspec.json.encode({"metadata": metadata})


def release_patch(uid: str, owner_uid: str) -> bytes:
    """Make it so that a set no longer owns the pod, or the ControllerRevision, with this uid."""
    gone = {"$patch": "delete", "uid": owner_uid}
    return msgspec.json.encode({"metadata": {"uid": uid, "ownerReferences": [gone]}})


def label_patch(uid: str, labels: Mapping[str, str]) -> bytes:
    """Give labels to the object with this uid; its others stay."""
    return msgspec.json.encode({"metadata": {"uid": uid, "labels": dict(labels)}})


# --- versions of templates ------------------------------------------------------------------------


def revision_data(template: bytes | msgspec.Raw) -> bytes:
    r"""Write a template as what Kubernetes' controller keeps of it, byte for byte, so that it knows it again.

    It compares bytes (pkg/controller/daemon/update.go, Match), and they are those of Go's ``encoding/json``: keys
    sorted, no white space, and five characters as ``\uXXXX`` that others write as they are.

    Args:
        template: The pod template.
    """
    replaced = {**json.loads(bytes(template)), "$patch": "replace"}
    data = {"spec": {"template": replaced}}
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.translate(_ESCAPED_IN_GO).encode()


def controller_revision_name(daemonset: str, label: str) -> str:
    """Name the ControllerRevision with this label, as Kubernetes does; a long name of a set is cut."""
    stem = daemonset[: NAME_LENGTH_MAX - len(label) - 1].rstrip("-.")
    return f"{stem}-{label}"


def controller_revision_for(
    revision: Revision, owner: Owner, *, name: str, label: str, annotations: Mapping[str, str]
) -> bytes:
    """Write a revision as the ControllerRevision that Kubernetes' controller would have made of it.

    Args:
        revision: The revision.
        owner: The set.
        name: What to call it.
        label: What its pods have as ``controller-revision-hash``.
        annotations: Those of the set.
    """
    template: Json = msgspec.json.decode(revision.template)
    labels = (template.get("metadata") or {}).get("labels") or {}
    noted = dict(annotations)
    if revision.change_cause:
        noted[CHANGE_CAUSE_ANNOTATION] = revision.change_cause
    metadata = {
        "name": name,
        "namespace": revision.namespace,
        "labels": {**labels, REVISION_LABEL: label},
        "annotations": noted,
        "ownerReferences": [_owner_reference(owner)],
    }
    whole = {
        "apiVersion": _API_VERSION,
        "kind": "ControllerRevision",
        "metadata": metadata,
        "data": msgspec.Raw(revision_data(revision.template)),
        "revision": revision.number,
    }
    return msgspec.json.encode(whole)


def revision_number_patch(uid: str, number: int) -> bytes:
    """Give a ControllerRevision another number: its template was returned to."""
    return msgspec.json.encode({"metadata": {"uid": uid}, "revision": number})


# --- the status -----------------------------------------------------------------------------------


def status_body(status: Status, before: DaemonSetStatus | None) -> bytes:
    """Write a status as a patch of the subresource.

    Conditions that others wrote stay, and so does what Kubernetes' controller counts for itself (``collisionCount``).

    Args:
        status: How far the set has come.
        before: What was reported last.
    """
    seen = 0 if before is None else before.observed_generation
    body: Json = {
        **_counters(status),
        "observedGeneration": max(status.observed_generation, seen),
        "conditions": [_condition(each) for each in status.conditions],
    }
    return msgspec.json.encode({"metadata": {"uid": status.daemonset_uid}, "status": body})


def status_shown(api: ApiDaemonSet, status: Status) -> bool:
    """Say whether an object shows a status already, so that there is nothing to write."""
    before = api.status or DaemonSetStatus()
    latest = max(api.metadata.generation, status.observed_generation)
    if not status.observed_generation <= before.observed_generation <= latest:
        return False
    counters = _counters(before)
    return counters == _counters(status) and all(
        _condition_shown(before, each) for each in status.conditions
    )


def _counters(status: Status | DaemonSetStatus) -> dict[str, int]:
    return {
        "desiredNumberScheduled": status.desired_number_scheduled,
        "currentNumberScheduled": status.current_number_scheduled,
        "numberMisscheduled": status.number_misscheduled,
        "numberReady": status.number_ready,
        "numberAvailable": status.number_available,
        "numberUnavailable": status.number_unavailable,
        "updatedNumberScheduled": status.updated_number_scheduled,
    }


def _condition(condition: Condition) -> Json:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": timestamp(condition.last_transition_ms),
    }


def _condition_shown(before: DaemonSetStatus, condition: Condition) -> bool:
    shown = before.condition(condition.type)
    if shown is None:
        return False
    return _condition(condition) == {
        "type": shown.type,
        "status": shown.status,
        "reason": shown.reason,
        "message": shown.message,
        "lastTransitionTime": timestamp(time_ms(shown.last_transition_time)),
    }


# --- events ---------------------------------------------------------------------------------------


def event_for(notice: Notice, *, mark: str, instance: str) -> bytes:
    """Write what people are told as an event (events.k8s.io/v1) about the set.

    Args:
        notice: What they are told.
        mark: What tells this notice from all others, its place in the log, say; a repeat has the same name.
        instance: Which process reports it; at most ``EVENT_WORD_LENGTH_MAX`` characters of it are shown.
    """
    in_namespace = {"namespace": notice.namespace}
    digest = derived_uid("event", notice.daemonset_uid, notice.reason, mark)
    event: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            **in_namespace,
            "name": f"{notice.daemonset[: NAME_LENGTH_MAX - len(digest) - 1].rstrip('-.')}.{digest}",
        },
        "eventTime": micro_timestamp(notice.first_ms),
        "type": notice.type,
        "reason": notice.reason[:EVENT_WORD_LENGTH_MAX],
        "action": "Reconcile",
        "note": _cut(notice.message, NOTE_BYTES_MAX),
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": _cut(instance, EVENT_WORD_LENGTH_MAX),
        "regarding": {
            "apiVersion": _API_VERSION,
            "kind": _KIND,
            **in_namespace,
            "name": notice.daemonset,
            "uid": notice.daemonset_uid,
        },
    }
    if notice.pod:
        event["related"] = {"apiVersion": "v1", "kind": "Pod", "name": notice.pod, **in_namespace}
    elif notice.node:
        event["related"] = {"apiVersion": "v1", "kind": "Node", "name": notice.node}
    if notice.count > 1:
        last = micro_timestamp(notice.last_ms)
        event["series"] = {"count": min(notice.count, _INT32_MAX), "lastObservedTime": last}
    return msgspec.json.encode(event)


def _cut(text: str, bytes_max: int) -> str:
    """Shorten text to so many bytes of UTF-8, between two characters."""
    return text.encode()[:bytes_max].decode(errors="ignore")
