"""The two kinds of requirement: those of a label selector, and those of node affinity.

Used by ``daemonset``, ``strategy`` and ``podtemplate``. The rules are those of the API server (apimachinery,
pkg/apis/meta/v1/validation; pkg/apis/core/validation: ValidateNodeSelector).
"""

from __future__ import annotations

import re

from everynode.core.values import Requirement, Selector
from everynode.manifest.fields import Field
from everynode.manifest.metadata import read_labels
from everynode.manifest.names import (
    label_value_problem,
    qualified_name_problem,
    quoted,
    subdomain_problem,
)
from everynode.manifest.scalars import INT64_MAX, INT64_MIN

_ONE_OF = frozenset({"In", "NotIn"})
_THERE_OR_NOT = frozenset({"Exists", "DoesNotExist"})
_COMPARED = frozenset({"Gt", "Lt"})
_SELECTOR_FIELDS = frozenset({"matchLabels", "matchExpressions"})
_REQUIREMENT_FIELDS = frozenset({"key", "operator", "values"})
_TERM_FIELDS = frozenset({"matchExpressions", "matchFields"})
_NODE_NAME_FIELD = "metadata.name"

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


def integer_problem(text: str) -> str | None:
    """Check a whole number that is written as text, because it is compared with a label or a taint."""
    if _INTEGER.fullmatch(text) and INT64_MIN <= int(text) <= INT64_MAX:
        return None
    return f"{quoted(text)} is not a whole number of 64 bits: write digits only, no leading zero"


def read_selector(selector: Field) -> Selector:
    """Read a selector of pods, or of the nodes of a rollout (meta/v1 LabelSelector)."""
    selector.mapping(_SELECTOR_FIELDS)
    labels = read_labels(selector.child("matchLabels"))
    expressions = selector.child("matchExpressions").mappings(_REQUIREMENT_FIELDS)
    return Selector(
        match_labels=labels,
        match_expressions=tuple(
            _read_requirement(item, _ONE_OF | _THERE_OR_NOT) for item in expressions
        ),
    )


def examine_node_selector(selector: Field) -> None:
    """Examine required node affinity (core/v1 NodeSelector)."""
    selector.mapping(frozenset({"nodeSelectorTerms"}))
    terms = selector.child("nodeSelectorTerms")
    if terms.value in (None, []):
        terms.reject("is missing or empty: write at least one term, or remove the affinity")
    for term in terms.mappings(_TERM_FIELDS):
        labels = term.child("matchExpressions").mappings(_REQUIREMENT_FIELDS)
        fields = term.child("matchFields").mappings(_REQUIREMENT_FIELDS)
        for item in labels:
            _read_requirement(item, _ONE_OF | _THERE_OR_NOT | _COMPARED)
        for item in fields:
            _examine_field_requirement(item)
        if not (term.value.get("matchExpressions") or term.value.get("matchFields")):
            term.warn("is empty, and an empty term matches no node")


def _read_requirement(item: Field, operators: frozenset[str]) -> Requirement:
    key, values = item.child("key"), item.child("values")
    name = key.needed_text()
    key.reject_if(qualified_name_problem(name) if name else None)
    operator = _read_operator(item.child("operator"), operators)
    texts = _read_values(values, operator)
    for value, text in texts:
        check = integer_problem if operator in _COMPARED else label_value_problem
        value.reject_if(check(text))
    return Requirement(key=name, operator=operator, values=tuple(text for _, text in texts))


def _examine_field_requirement(item: Field) -> None:
    key = item.child("key")
    if key.needed_text() not in {"", _NODE_NAME_FIELD}:
        key.reject(
            f"{quoted(key.value)} cannot be selected by: the only field is {_NODE_NAME_FIELD}"
        )
    _read_operator(item.child("operator"), _ONE_OF)
    for value, text in _read_values(item.child("values"), _NODE_NAME_FIELD):
        value.reject_if(subdomain_problem(text))


def _read_operator(field: Field, operators: frozenset[str]) -> str:
    operator = field.needed_text(f"write one of {', '.join(sorted(operators))}")
    if operator and operator not in operators:
        field.reject(
            f"{quoted(operator)} is not an operator here: write one of {', '.join(sorted(operators))}"
        )
    return operator


def _read_values(values: Field, operator: str) -> list[tuple[Field, str]]:
    """Read the values that an operator is given, each with its field; what is no text is left out."""
    listed = values.items()
    count = len(listed)
    if values.absent or isinstance(values.value, list):
        if operator in _ONE_OF and not count:
            values.reject(f"is empty; {operator} needs at least one value")
        elif operator in _THERE_OR_NOT and count:
            values.reject(f"has {count}; {operator} takes none: remove them")
        elif operator in _COMPARED and count != 1:
            values.reject(f"has {count}; {operator} needs exactly one whole number")
        elif operator == _NODE_NAME_FIELD and count != 1:
            values.reject(f"has {count}; {operator} needs exactly one: write a term for each node")
    texts = [(value, value.text()) for value in listed]
    return [(value, text) for value, text in texts if isinstance(value.value, str)]
