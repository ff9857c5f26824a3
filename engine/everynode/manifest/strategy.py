"""How an update strategy is written: in ``spec.updateStrategy``, and in annotations where an API server drops fields.

Used by ``daemonset``, and through ``read_update_strategy`` by adapters that observe sets in a cluster: both read by the
same rules. Those of apps/v1 are in pkg/apis/apps/validation (ValidateRollingUpdateDaemonSet); what a rollout knows
beyond apps/v1 (``paused``, ``partition``, ``selector``, ``progressDeadlineSeconds``, ``unreachableNodes``) can be
written as a field of ``rollingUpdate`` or as an annotation, which mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from everynode.core.values import (
    ON_DELETE,
    PROGRESS_DEADLINE_SECONDS,
    ROLLING_UPDATE,
    Selector,
    UpdateStrategy,
)
from everynode.errors import Problem
from everynode.manifest.annotations import (
    PARTITION_ANNOTATION,
    PAUSED_ANNOTATION,
    PROGRESS_DEADLINE_ANNOTATION,
    ROLLOUT_ANNOTATIONS,
    SELECTOR_ANNOTATION,
    UNREACHABLE_NODES_ANNOTATION,
    warn_of_unknown,
)
from everynode.manifest.fields import INT32_MAX, Field, Findings
from everynode.manifest.names import quoted
from everynode.manifest.selectors import read_selector
from everynode.manifest.selectortext import parse_requirements

NO_STRATEGY_NOTE = (
    "update strategy not set: OnDelete; pods keep their template until they are deleted"
)

_STRATEGY_FIELDS = frozenset({"type", "rollingUpdate"})
_ROLLING_UPDATE_FIELDS = frozenset(
    {
        *("maxUnavailable", "maxSurge"),
        *("paused", "partition", "selector", "progressDeadlineSeconds", "unreachableNodes"),
    }
)
_PERCENT = re.compile(r"0*(?:100|[0-9]{1,2})%")
_ZERO_PERCENT = re.compile(r"0+%")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")  # INT32_MAX has ten digits
_SELECTS_ALL = Selector()
_WHETHER_COUNTED: dict[str, Literal["Count", "Skip"]] = {"Count": "Count", "Skip": "Skip"}

T = TypeVar("T")


class StrategyRead(NamedTuple):
    """What the annotations and the spec of a set say about its updates.

    Attributes:
        strategy: The strategy. If there are problems it is paused: a rollout that cannot be read is not begun.
        problems: What is wrong; their fields begin with ``metadata.annotations`` or ``spec``.
        warnings: What has no effect, or an odd one.
    """

    strategy: UpdateStrategy
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def read_update_strategy(annotations: Mapping[str, str], spec: Mapping[str, Any]) -> StrategyRead:
    """Read the update strategy of an apps/v1 DaemonSet; nothing in it raises.

    Args:
        annotations: ``metadata.annotations``.
        spec: ``spec``, in the types that JSON has; what is not about updates is not looked at.
    """
    findings = Findings()
    annotations_field = Field("metadata.annotations", dict(annotations), findings)
    warn_of_unknown(annotations_field)
    spec_field = Field("spec", dict(spec), findings)
    strategy, _ = read_strategy(spec_field, annotations_field)
    if findings.problems:
        strategy = msgspec.structs.replace(strategy, paused=True)
    return StrategyRead(strategy, tuple(findings.problems), tuple(findings.warnings))


def read_strategy(spec: Field, annotations: Field) -> tuple[UpdateStrategy, tuple[str, ...]]:
    """Read ``spec.updateStrategy`` and the annotations that belong to it.

    Returns:
        The strategy, which counts only if there are no problems; and notes, one sentence each.
    """
    strategy = spec.child("updateStrategy").mapping(_STRATEGY_FIELDS)
    kind, rolling_update = strategy.child("type"), strategy.child("rollingUpdate")
    written = kind.text()
    if not written and rolling_update.absent:
        _warn_of_no_effect(annotations, f"{ON_DELETE}, which it is if none is set")
        return UpdateStrategy(), (NO_STRATEGY_NOTE,)
    if written == ON_DELETE:
        if not rolling_update.absent:
            rolling_update.warn(
                f"has no effect with type {ON_DELETE}: remove it, or write {ROLLING_UPDATE}"
            )
        _warn_of_no_effect(annotations, ON_DELETE)
        return UpdateStrategy(), ()
    if written not in {"", ROLLING_UPDATE}:
        kind.reject(f"{quoted(written)}: write {ROLLING_UPDATE} or {ON_DELETE}")
    fields = rolling_update.mapping(_ROLLING_UPDATE_FIELDS)
    min_ready_seconds = spec.child("minReadySeconds").integer(0, INT32_MAX) or 0
    return _read_rolling_update(fields, annotations, min_ready_seconds), ()


def _warn_of_no_effect(annotations: Field, kind: str) -> None:
    for key in ROLLOUT_ANNOTATIONS:
        annotation = annotations.child(key)
        if not annotation.absent:
            annotation.warn(
                f"has no effect with update strategy {kind}: remove it, "
                f"or write spec.updateStrategy.type: {ROLLING_UPDATE}"
            )


@dataclass(frozen=True)
class _Setting(Generic[T]):
    """One thing that can be said in two places.

    Attributes:
        field: Its field in ``rollingUpdate``.
        annotation: The annotation for it.
        read: Reads and checks the field; ``None`` if nothing, or something wrong, stands there.
        to_value: Makes of an annotation's text what would stand in the field, or raises a ``ValueError``.
        meaning: What is compared if both are there.
    """

    field: str
    annotation: str
    read: Callable[[Field], T | None]
    to_value: Callable[[str], Any]
    meaning: Callable[[T], object] = lambda value: value

    def find(self, rolling_update: Field, annotations: Field) -> T | None:
        """Read it from wherever it is said; ``None`` if it is said nowhere, or wrongly."""
        field, annotation = rolling_update.child(self.field), annotations.child(self.annotation)
        before = len(field.findings.problems)
        from_field, from_annotation = self.read(field), self._read_annotation(annotation)
        if from_field is None or from_annotation is None:
            return from_annotation if from_field is None else from_field
        right = len(field.findings.problems) == before
        if right and self.meaning(from_field) != self.meaning(from_annotation):
            field.reject(
                f"and {annotation.path}, which is {quoted(annotation.value)}, say different things: "
                "remove one of them"
            )
        return from_field

    def _read_annotation(self, annotation: Field) -> T | None:
        if not isinstance(annotation.value, str):  # reading the annotations says what is wrong
            return None
        try:
            value = self.to_value(annotation.value)
        except ValueError as error:
            annotation.reject(str(error))
            return None
        return self.read(Field(annotation.path, value, annotation.findings))


def _read_rolling_update(
    rolling_update: Field, annotations: Field, min_ready_seconds: int
) -> UpdateStrategy:
    places = rolling_update, annotations
    max_unavailable, max_surge = _read_budget(rolling_update)
    selector = _SELECTOR.find(*places)
    deadline = _deadline(min_ready_seconds).find(*places)
    return UpdateStrategy(
        type="RollingUpdate",
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        paused=_PAUSED.find(*places) or False,
        partition=_PARTITION.find(*places) or 0,
        selector=None if selector == _SELECTS_ALL else selector,
        progress_deadline_seconds=(
            _default_deadline(min_ready_seconds) if deadline is None else deadline
        ),
        unreachable_nodes=_UNREACHABLE_NODES.find(*places) or "Count",
    )


def _read_budget(rolling_update: Field) -> tuple[int | str, int | str]:
    """Read ``maxUnavailable`` and ``maxSurge``, exactly one of which is not 0."""
    unavailable, surge = rolling_update.child("maxUnavailable"), rolling_update.child("maxSurge")
    before = len(rolling_update.findings.problems)
    max_unavailable = _read_number_or_percent(unavailable)
    max_surge = _read_number_or_percent(surge)
    max_unavailable = 1 if max_unavailable is None else max_unavailable
    max_surge = 0 if max_surge is None else max_surge
    if len(rolling_update.findings.problems) > before:
        return max_unavailable, max_surge
    if _is_zero(max_unavailable) and _is_zero(max_surge):
        unavailable.reject("cannot be 0 when maxSurge is 0: no pod could ever be replaced")
    elif not _is_zero(max_unavailable) and not _is_zero(max_surge):
        default = " (it is 1 if it is not set)" if unavailable.absent else ""
        surge.reject(
            f"may not be set when maxUnavailable is not 0{default}: write maxUnavailable: 0"
        )
    return max_unavailable, max_surge


# --- one thing of a rollout: its field ------------------------------------------------------------


def _read_number_or_percent(field: Field) -> int | str | None:
    """Read a number or a percentage; ``None`` if nothing, or something else, stands there."""
    if not isinstance(field.value, str):
        return field.integer(0, INT32_MAX)
    if _PERCENT.fullmatch(field.value):
        return field.value
    field.reject(f"{quoted(field.value)}: write a whole number without quotes, or 0% to 100%")
    return None


def _is_zero(value: int | str) -> bool:
    return value == 0 or bool(isinstance(value, str) and _ZERO_PERCENT.fullmatch(value))


def _read_flag(field: Field) -> bool | None:
    return None if field.absent else field.flag()


def _read_node_selector(field: Field) -> Selector | None:
    if field.absent:
        return None
    selector = read_selector(field)
    if isinstance(field.value, dict) and selector == _SELECTS_ALL:
        field.warn("is empty and selects every node: remove it, or say which nodes to update")
    return selector


def _read_deadline(field: Field, min_ready_seconds: int) -> int | None:
    seconds = field.integer(0, INT32_MAX)
    if seconds and seconds <= min_ready_seconds:
        field.reject(
            f"is {seconds}; it must be greater than minReadySeconds ({min_ready_seconds}), "
            "or 0 for no deadline"
        )
    return seconds


def _default_deadline(min_ready_seconds: int) -> int:
    """Give a pod the default time to get ready, and after that the time that it has to stay ready if that is long."""
    longer = min_ready_seconds if min_ready_seconds >= PROGRESS_DEADLINE_SECONDS else 0
    return PROGRESS_DEADLINE_SECONDS + longer


def _read_unreachable(field: Field) -> Literal["Count", "Skip"] | None:
    text = field.text()
    if isinstance(field.value, str) and text not in _WHETHER_COUNTED:
        field.reject(f"{quoted(text)}: write {' or '.join(_WHETHER_COUNTED)}")
    return _WHETHER_COUNTED.get(text)


# --- one thing of a rollout: its annotation, as what would stand in the field ---------------------


def _flag_of(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f'{quoted(text)}: write "true" or "false"')
    return text == "true"


def _partition_of(text: str) -> int | str:
    if _PERCENT.fullmatch(text):
        return text
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f'{quoted(text)}: write a whole number such as "3", or "0%" to "100%"')
    return int(text)


def _seconds_of(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f'{quoted(text)}: write a whole number of seconds such as "600"')
    return int(text)


def _selector_of(text: str) -> dict[str, Any]:
    """Write kubectl's syntax as a LabelSelector."""
    return {
        "matchExpressions": [
            {"key": each.key, "operator": each.operator, "values": list(each.values)}
            for each in parse_requirements(text)
        ]
    }


def _requirements_of(selector: Selector) -> frozenset[tuple[str, str, frozenset[str]]]:
    """Bring a selector into a form in which two that say the same are equal."""
    labels = ((key, "In", frozenset({value})) for key, value in selector.match_labels.items())
    expressions = (
        (each.key, each.operator, frozenset(each.values)) for each in selector.match_expressions
    )
    return frozenset((*labels, *expressions))


# --- all of them ----------------------------------------------------------------------------------

_PAUSED = _Setting("paused", PAUSED_ANNOTATION, _read_flag, _flag_of)
_PARTITION = _Setting[int | str](
    "partition", PARTITION_ANNOTATION, _read_number_or_percent, _partition_of
)
_SELECTOR = _Setting(
    "selector", SELECTOR_ANNOTATION, _read_node_selector, _selector_of, _requirements_of
)
_UNREACHABLE_NODES = _Setting[Literal["Count", "Skip"]](
    "unreachableNodes", UNREACHABLE_NODES_ANNOTATION, _read_unreachable, str
)


def _deadline(min_ready_seconds: int) -> _Setting[int]:
    return _Setting(
        "progressDeadlineSeconds",
        PROGRESS_DEADLINE_ANNOTATION,
        lambda field: _read_deadline(field, min_ready_seconds),
        _seconds_of,
    )
