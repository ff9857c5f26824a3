"""Label selectors: which labels do they select?

A set's selector says which pods are its own, a rollout's selector which nodes are updated for now. Used by
``setstate``, ``rollout`` and the manifests. Source: apimachinery, metav1.LabelSelectorAsSelector.
"""

from __future__ import annotations

from collections.abc import Mapping

from everynode.core.eligibility import Term, label_requirement_usable, matches
from everynode.core.values import Requirement, Selector

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
