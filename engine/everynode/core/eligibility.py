"""Should this node have a pod of this set? The rule for one node and one set, with all its reasons.

Here a set's constraints are compiled once, from its pod template, and asked node by node: this is what ``explain``
shows to people. ``placement`` answers the same question for all nodes at once; a property test holds the two equal.

The rules are Kubernetes' own: pkg/controller/daemon/daemon_controller.go (NodeShouldRunDaemonPod), component-helpers
nodeaffinity.go (selectors and affinity), core/v1 toleration.go (ToleratesTaint) and daemonset_util.go (the automatic
tolerations). As there, resources, ports, conditions and ``unschedulable`` itself do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from everynode.core.values import (
    NO_EXECUTE,
    NO_SCHEDULE,
    DaemonSet,
    Node,
    Requirement,
    Taint,
    Value,
)
from everynode.errors import InvalidObjectError, Problem

_INTEGER = re.compile(r"([+-]?)0*([0-9]{1,19})")
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

NODE_NAME_FIELD = "metadata.name"

OTHER_BACKEND = "OtherBackend"
NODE_NAME_MISMATCH = "NodeNameMismatch"
NODE_SELECTOR_MISMATCH = "NodeSelectorMismatch"
NODE_AFFINITY_MISMATCH = "NodeAffinityMismatch"
UNTOLERATED_TAINT = "UntoleratedTaint"

KNOWN_TAINTS_MAX = 4096  # answers that a set remembers about distinct taints


class Toleration(Value, frozen=True):
    """A toleration of a pod (core/v1 Toleration); ``toleration_seconds`` does not decide placement."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


def _automatic(key: str, effect: str) -> Toleration:
    return Toleration(key=f"node.kubernetes.io/{key}", operator="Exists", effect=effect)


AUTOMATIC_TOLERATIONS = (
    _automatic("not-ready", NO_EXECUTE),
    _automatic("unreachable", NO_EXECUTE),
    _automatic("disk-pressure", NO_SCHEDULE),
    _automatic("memory-pressure", NO_SCHEDULE),
    _automatic("pid-pressure", NO_SCHEDULE),
    _automatic("unschedulable", NO_SCHEDULE),
)
"""What every pod of a DaemonSet tolerates (daemonset_util.go, AddOrUpdateDaemonPodTolerations)."""

HOST_NETWORK_TOLERATION = _automatic("network-unavailable", NO_SCHEDULE)
"""What it tolerates besides if it uses the host's network."""


class Term(NamedTuple):
    """One node selector term: all of its requirements must hold.

    Attributes:
        usable: False for a term that is empty or cannot be parsed; it never matches, others still can.
    """

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]
    usable: bool


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a set asks of a node, ready to be evaluated.

    Attributes:
        backend: The only backend allowed; empty for all.
        node_name: The template's ``nodeName``; empty for any.
        node_selector: Label pairs that must all be there.
        terms: Required node affinity: one of the terms must match; ``None`` if there is none.
        tolerations: The template's and the automatic ones.
    """

    backend: str
    node_name: str
    node_selector: tuple[tuple[str, str], ...]
    terms: tuple[Term, ...] | None
    tolerations: tuple[Toleration, ...]
    _known: dict[Taint, bool] = field(default_factory=dict, repr=False, compare=False)

    def label_keys(self) -> frozenset[str]:
        """Return the keys of all labels that the answer can depend on."""
        keys = {key for key, _ in self.node_selector}
        for term in self.terms or ():
            keys.update(requirement.key for requirement in term.labels)
        return frozenset(keys)

    def tolerates(self, taint: Taint) -> bool:
        """Say whether a taint does not keep the set's pods away."""
        known = self._known.get(taint)
        if known is None:
            if len(self._known) >= KNOWN_TAINTS_MAX:
                self._known.clear()
            known = any(tolerates(toleration, taint) for toleration in self.tolerations)
            self._known[taint] = known
        return known


class Reason(NamedTuple):
    """Why a node is not eligible: a code for machines and a sentence for people."""

    code: str
    message: str


class Verdict(NamedTuple):
    """The answer for one node and one set.

    Attributes:
        should_run: A pod should be made here if there is none (Kubernetes' shouldRun; "eligible").
        may_stay: A pod that is here may stay (Kubernetes' shouldContinueRunning; "tolerated").
        reasons: Everything that speaks against it; empty if it should run.
    """

    should_run: bool
    may_stay: bool
    reasons: tuple[Reason, ...]


class _Requirement(Value, frozen=True):
    key: str | None = None
    operator: str | None = None
    values: tuple[str, ...] | None = None


class _NodeSelectorTerm(Value, frozen=True):
    match_expressions: tuple[_Requirement, ...] | None = None
    match_fields: tuple[_Requirement, ...] | None = None


class _NodeSelector(Value, frozen=True):
    node_selector_terms: tuple[_NodeSelectorTerm, ...] | None = None


class _NodeAffinity(Value, frozen=True, rename=None):
    requiredDuringSchedulingIgnoredDuringExecution: _NodeSelector | None = None  # noqa: N815 - Kubernetes' name


class _Affinity(Value, frozen=True):
    node_affinity: _NodeAffinity | None = None


class _PodSpec(Value, frozen=True):
    node_name: str | None = None
    node_selector: dict[str, str] | None = None
    affinity: _Affinity | None = None
    tolerations: tuple[Toleration, ...] | None = None
    host_network: bool | None = None


class _PodTemplate(Value, frozen=True):
    spec: _PodSpec | None = None


_template_decoder = msgspec.json.Decoder(_PodTemplate)


def compile_constraints(daemonset: DaemonSet) -> Constraints:
    """Read what a set's template asks of a node.

    Raises:
        InvalidObjectError: A field that decides placement has the wrong type.
    """
    try:
        spec = _template_decoder.decode(daemonset.template).spec or _PodSpec()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = Problem("spec.template", f"cannot be read: {error}")
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", (problem,)) from error
    return Constraints(
        backend=daemonset.backend,
        node_name=spec.node_name or "",
        node_selector=tuple(sorted((spec.node_selector or {}).items())),
        terms=_compile_terms(spec.affinity),
        tolerations=(
            *(spec.tolerations or ()),
            *AUTOMATIC_TOLERATIONS,
            *((HOST_NETWORK_TOLERATION,) if spec.host_network else ()),
        ),
    )


def _compile_terms(affinity: _Affinity | None) -> tuple[Term, ...] | None:
    if affinity is None or affinity.node_affinity is None:
        return None
    required = affinity.node_affinity.requiredDuringSchedulingIgnoredDuringExecution
    if required is None:
        return None
    terms = []
    for term in required.node_selector_terms or ():
        labels, fields = _requirements(term.match_expressions), _requirements(term.match_fields)
        usable = bool(labels or fields)
        usable = usable and all(label_requirement_usable(requirement) for requirement in labels)
        usable = usable and all(_field_requirement_usable(requirement) for requirement in fields)
        terms.append(Term(labels, fields, usable))
    return tuple(terms)


def _requirements(given: tuple[_Requirement, ...] | None) -> tuple[Requirement, ...]:
    """Read null as absent, as Kubernetes does."""
    return tuple(
        Requirement(key=item.key or "", operator=item.operator or "", values=item.values or ())
        for item in given or ()
    )


def label_requirement_usable(requirement: Requirement) -> bool:
    """Say whether a requirement on labels has as many values as its operator needs, of the right kind."""
    match requirement.operator:
        case "In" | "NotIn":
            return bool(requirement.values)
        case "Exists" | "DoesNotExist":
            return not requirement.values
        case "Gt" | "Lt":
            return len(requirement.values) == 1 and as_int64(requirement.values[0]) is not None
        case _:
            return False


def _field_requirement_usable(requirement: Requirement) -> bool:
    return (
        requirement.key == NODE_NAME_FIELD
        and requirement.operator in {"In", "NotIn"}
        and len(requirement.values) == 1
    )


def as_int64(text: str) -> int | None:
    """Read a number as Go's ParseInt does: an optional sign and digits, within 64 bits; else ``None``."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    number = int(found[1] + found[2])
    return number if _INT64_MIN <= number <= _INT64_MAX else None


def matches(requirement: Requirement, values: Mapping[str, str]) -> bool:
    """Say whether labels (or fields) meet a usable requirement."""
    value = values.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:  # Gt and Lt: nothing else is usable
            return value is not None and compares(requirement, value)


def compares(requirement: Requirement, value: str) -> bool:
    """Say whether a label's value is a number on the right side of the requirement's (Gt, Lt)."""
    bound, number = as_int64(requirement.values[0]), as_int64(value)
    if bound is None or number is None:
        return False
    return number > bound if requirement.operator == "Gt" else number < bound


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Say whether one toleration covers one taint (core/v1 toleration.go, ToleratesTaint)."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    value = toleration.value or ""
    match toleration.operator or "Equal":
        case "Equal":
            return value == taint.value
        case "Exists":
            return True
        case "Lt" | "Gt" as operator:
            bound, number = as_int64(value), as_int64(taint.value)
            if bound is None or number is None:
                return False
            return number < bound if operator == "Lt" else number > bound
        case _:
            return False


def verdict(constraints: Constraints, node: Node) -> Verdict:
    """Decide for one node, and name everything that speaks against it."""
    reasons = [
        *_backend_reasons(constraints, node),
        *_name_reasons(constraints, node),
        *_selector_reasons(constraints, node),
        *_affinity_reasons(constraints, node),
    ]
    selected = not reasons
    may_stay = selected
    for taint in node.taints:
        if taint.effect not in {NO_SCHEDULE, NO_EXECUTE} or constraints.tolerates(taint):
            continue
        reasons.append(Reason(UNTOLERATED_TAINT, f"taint {describe_taint(taint)} is not tolerated"))
        may_stay = may_stay and taint.effect != NO_EXECUTE
    return Verdict(not reasons, may_stay, tuple(reasons))


def _backend_reasons(constraints: Constraints, node: Node) -> list[Reason]:
    if constraints.backend in {"", node.backend}:
        return []
    text = f"the set is for backend {constraints.backend}, the node is of {node.backend}"
    return [Reason(OTHER_BACKEND, text)]


def _name_reasons(constraints: Constraints, node: Node) -> list[Reason]:
    if constraints.node_name in {"", node.name}:
        return []
    return [Reason(NODE_NAME_MISMATCH, f"the template names node {constraints.node_name}")]


def _selector_reasons(constraints: Constraints, node: Node) -> list[Reason]:
    reasons = []
    for key, wanted in constraints.node_selector:
        found = node.labels.get(key)
        if found != wanted:
            has = "is not there" if found is None else f"is {found!r}"
            text = f"nodeSelector wants label {key}={wanted}; it {has}"
            reasons.append(Reason(NODE_SELECTOR_MISMATCH, text))
    return reasons


def _affinity_reasons(constraints: Constraints, node: Node) -> list[Reason]:
    if constraints.terms is None:
        return []
    if not constraints.terms:
        text = "required node affinity has no term, so that no node matches"
        return [Reason(NODE_AFFINITY_MISMATCH, text)]
    reasons = []
    fields = {NODE_NAME_FIELD: node.name}
    for position, term in enumerate(constraints.terms):
        if not term.usable:
            text = f"required node affinity: term {position} is empty or invalid and never matches"
            reasons.append(Reason(NODE_AFFINITY_MISMATCH, text))
            continue
        failing = [item for item in term.labels if not matches(item, node.labels)]
        failing += [item for item in term.fields if not matches(item, fields)]
        if not failing:
            return []
        wants = " and ".join(describe_requirement(item) for item in failing)
        text = f"required node affinity: term {position} wants {wants}"
        reasons.append(Reason(NODE_AFFINITY_MISMATCH, text))
    return reasons


def describe_taint(taint: Taint) -> str:
    """Write a taint as kubectl does: ``key=value:Effect``."""
    value = f"={taint.value}" if taint.value else ""
    return f"{taint.key}{value}:{taint.effect}"


def describe_requirement(requirement: Requirement) -> str:
    """Write a requirement for people: ``zone In (a, b)``."""
    values = f" ({', '.join(requirement.values)})" if requirement.values else ""
    return f"{requirement.key} {requirement.operator}{values}"
