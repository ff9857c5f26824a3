"""Label selectors: which labels do they select?

A set's selector says which pods are its own, a rollout's selector which nodes are updated for now. Used by
``setstate``, ``rollout`` and the manifests. Source: apimachinery, metav1.LabelSelectorAsSelector.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everynode.core.eligibility import Term, label_requirement_usable, matches
from everynode.core.values import DaemonSet, Requirement, Selector, Value
from everynode.errors import InvalidObjectError, Problem


class _Metadata(Value, frozen=True):
    labels: dict[str, str] | None = None


class _PodTemplate(Value, frozen=True):
    metadata: _Metadata | None = None


_template_decoder = msgspec.json.Decoder(_PodTemplate)
_OPERATORS = frozenset({"In", "NotIn", "Exists", "DoesNotExist"})


def compile_selector(selector: Selector) -> Term:
    """Bring a selector into the form that ``placement`` evaluates; one that is invalid selects nothing."""
    pairs = sorted(selector.match_labels.items())
    requirements = (
        *(Requirement(key=key, operator="In", values=(value,)) for key, value in pairs),
        *selector.match_expressions,
    )
    usable = all(
        item.operator in _OPERATORS and label_requirement_usable(item) for item in requirements
    )
    return Term(requirements, (), usable)


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Say whether a selector selects these labels; an empty one selects everything."""
    term = compile_selector(selector)
    return term.usable and all(matches(requirement, labels) for requirement in term.labels)


def labels_in_template(template: bytes) -> dict[str, str] | None:
    """Return the labels that a pod template gives; ``None``: it says nothing of labels.

    Raises:
        msgspec.DecodeError, UnicodeError, RecursionError: It cannot be read.
    """
    metadata = _template_decoder.decode(template).metadata
    return None if metadata is None else metadata.labels


def check_selector(daemonset: DaemonSet) -> None:
    """Make sure that a set's pods will be its own: else it would release each at once and make another.

    Raises:
        InvalidObjectError: The selector is invalid, or does not select the labels that the template gives.
    """
    if not compile_selector(daemonset.selector).usable:
        problem = Problem(
            "spec.selector", "has a requirement that is invalid: correct its operator or values"
        )
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", (problem,))
    try:
        labels = labels_in_template(daemonset.template)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = Problem("spec.template.metadata", f"cannot be read: {error}")
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", (problem,)) from error
    if labels is not None and not selects(daemonset.selector, labels):
        problem = Problem(
            "spec.template.metadata.labels",
            "are not selected by spec.selector: give the pods the labels that it asks for",
        )
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", (problem,))
