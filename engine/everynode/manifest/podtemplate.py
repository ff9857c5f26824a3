"""A DaemonSet's pod template: what the engine interprets is examined, all else is kept as it is.

Used by ``daemonset``. The rules are those of the API server (pkg/apis/core/validation, and ValidateDaemonSetSpec of
pkg/apis/apps/validation). Whether a field that the engine does not interpret exists is up to the backend.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everynode.core.identity import canonical
from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE
from everynode.manifest.fields import Field
from everynode.manifest.metadata import read_annotations, read_labels
from everynode.manifest.names import (
    label_problem,
    label_value_problem,
    qualified_name_problem,
    quoted,
    subdomain_problem,
)
from everynode.manifest.scalars import INT64_MAX, INT64_MIN
from everynode.manifest.selectors import examine_node_selector, integer_problem
from everynode.manifest.yamltext import DEPTH_MAX

EFFECTS = (NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE)

_AFFINITY_FIELDS = frozenset({"nodeAffinity", "podAffinity", "podAntiAffinity"})
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_NODE_AFFINITY_FIELDS = frozenset({_REQUIRED, "preferredDuringSchedulingIgnoredDuringExecution"})
_TOLERATION_FIELDS = frozenset({"key", "operator", "value", "effect", "tolerationSeconds"})
_OPERATORS = ("Equal", "Exists", "Lt", "Gt")

# The mappings of text to text, in which null is the empty text; elsewhere in a mapping it is nothing.
_TEXT_MAPS = frozenset(
    {
        "spec.template.metadata.labels",
        "spec.template.metadata.annotations",
        "spec.template.spec.nodeSelector",
    }
)


def read_template(template: Field) -> tuple[dict[str, str], msgspec.Raw]:
    """Read a pod template.

    Returns:
        The labels of its pods; and the whole of it as canonical JSON, without fields that are null.
    """
    template.mapping()
    metadata = template.child("metadata").mapping()
    labels = read_labels(metadata.child("labels"))
    read_annotations(metadata.child("annotations"))
    _examine_spec(template.child("spec").mapping())
    kept = _without_nulls(template, 0)
    if template.findings.problems:  # it may hold what cannot be written
        return labels, msgspec.Raw(b"{}")
    return labels, msgspec.Raw(canonical(msgspec.json.encode(kept)))


def _examine_spec(spec: Field) -> None:
    _examine_containers(spec)
    read_labels(spec.child("nodeSelector"))
    node_name = spec.child("nodeName").text()
    spec.child("nodeName").reject_if(subdomain_problem(node_name) if node_name else None)
    spec.child("hostNetwork").flag()
    _examine_affinity(spec.child("affinity").mapping(_AFFINITY_FIELDS))
    for toleration in spec.child("tolerations").mappings(_TOLERATION_FIELDS):
        _examine_toleration(toleration)
    restart_policy = spec.child("restartPolicy")
    if restart_policy.text() not in {"", "Always"}:
        restart_policy.reject(f"{quoted(restart_policy.value)}: a DaemonSet's pods restart Always")
    if not spec.child("activeDeadlineSeconds").absent:
        spec.child("activeDeadlineSeconds").reject("a DaemonSet's pods have no deadline: remove it")


def _examine_containers(spec: Field) -> None:
    containers = spec.child("containers")
    if containers.value in (None, []):
        containers.reject("is missing or empty: write at least one container")
    names: set[str] = set()
    for container in [*spec.child("initContainers").mappings(), *containers.mappings()]:
        name = container.child("name")
        text = name.needed_text("write a name")
        name.reject_if(label_problem(text) if text else None)
        if text in names:
            name.reject(f"{quoted(text)} is the name of another container: write another name")
        names.update({text} if text else ())
        image = container.child("image")
        if image.needed_text("write an image") != image.text().strip():
            image.reject(f"{quoted(image.value)} has white space around it: remove that")


def _examine_affinity(affinity: Field) -> None:
    node_affinity = affinity.child("nodeAffinity").mapping(_NODE_AFFINITY_FIELDS)
    required = node_affinity.child(_REQUIRED)
    if not required.absent:
        examine_node_selector(required)


def _examine_toleration(toleration: Field) -> None:
    key, operator, value = (toleration.child(name) for name in ("key", "operator", "value"))
    key_text, value_text = key.text(), value.text()
    operator_text = operator.text() or "Equal"
    key.reject_if(qualified_name_problem(key_text) if key_text else None)
    if operator_text not in _OPERATORS:
        operator.reject(f"{quoted(operator_text)}: write one of {', '.join(_OPERATORS)}")
    elif not key_text and key.value in (None, "") and operator_text != "Exists":
        operator.reject(
            "must be Exists if the key is empty, which means every taint; or write a key"
        )
    if operator_text == "Exists" and value_text:
        operator.reject("Exists takes no value: remove the value, or write Equal")
    elif operator_text == "Equal":
        value.reject_if(label_value_problem(value_text))
    elif operator_text in {"Lt", "Gt"} and isinstance(value.value, str | None):
        value.reject_if(integer_problem(value_text))
    effect = read_effect(toleration.child("effect"))
    seconds = toleration.child("tolerationSeconds")
    if seconds.integer(INT64_MIN, INT64_MAX) is not None and effect != NO_EXECUTE:
        toleration.child("effect").reject("must be NoExecute if tolerationSeconds is set")


def read_effect(effect: Field) -> str:
    """Read the effect of a taint or a toleration; empty if there is none."""
    text = effect.text()
    if text and text not in EFFECTS:
        effect.reject(f"{quoted(text)} is not an effect: write one of {', '.join(EFFECTS)}")
    return text


def _without_nulls(field: Field, depth: int) -> Any:
    """Copy a value without what is null in its mappings, where null is the same as absent."""
    value = field.value
    if not isinstance(value, dict | list):
        return value
    if depth >= DEPTH_MAX:
        field.reject(f"is nested deeper than {DEPTH_MAX} mappings and lists: take it apart")
        return None
    if isinstance(value, list):
        return [_without_nulls(item, depth + 1) for item in field.items()]
    kept = {}
    for key in value:
        child = _without_nulls(field.child(key), depth + 1)
        if child is None and field.path in _TEXT_MAPS:
            child = ""
        if child is not None:
            kept[key] = child
    return kept
