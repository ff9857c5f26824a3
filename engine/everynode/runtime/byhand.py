"""What people ask of a set by hand, beside its manifest, and how it outlives the manifest when that is applied again.

Used by ``applying`` and ``rollouts``. kubectl users restart and pause, then apply their files: a file that says nothing
of it must not restart pods a second time, nor end a pause. So both leave a mark on the set, and what is marked is kept.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from everynode.core.identity import canonical
from everynode.core.values import ROLLING_UPDATE, DaemonSet
from everynode.manifest.annotations import PAUSED_ANNOTATION

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""Annotation of the template: when pods were last asked to be made anew (`rollout restart`)."""

PAUSED_AT = "rollout.everynode.dev/paused-at"
"""Annotation of the set: when its rollout was paused by hand (`rollout pause`)."""


def restarted(daemonset: DaemonSet, at: str) -> DaemonSet:
    """Return the set with a template that asks for new pods.

    Args:
        daemonset: The set as it is.
        at: The time now, as RFC 3339 has it.
    """
    return structs.replace(daemonset, template=_annotated(daemonset.template, at))


def paused(daemonset: DaemonSet, at: str) -> DaemonSet:
    """Return the set with its rollout paused.

    Args:
        daemonset: The set as it is.
        at: The time now, as RFC 3339 has it.
    """
    annotations = daemonset.annotations | {PAUSED_AT: at}
    return _with_pause(daemonset, annotations, paused=True)


def resumed(daemonset: DaemonSet) -> DaemonSet:
    """Return the set with its rollout going on."""
    annotations = {key: value for key, value in daemonset.annotations.items() if key != PAUSED_AT}
    return _with_pause(daemonset, annotations, paused=False)


def keep_what_was_done_by_hand(wanted: DaemonSet, before: DaemonSet) -> DaemonSet:
    """Return what is wanted with the marks of what it says nothing about.

    Args:
        wanted: As a manifest has it.
        before: As the log has it.
    """
    paused_at = before.annotations.get(PAUSED_AT)
    silent = PAUSED_ANNOTATION not in wanted.annotations
    if paused_at is not None and silent and wanted.update_strategy.type == ROLLING_UPDATE:
        wanted = paused(wanted, paused_at)
    restarted_at = _annotations(before.template).get(RESTARTED_AT)
    if restarted_at is not None and RESTARTED_AT not in _annotations(wanted.template):
        wanted = restarted(wanted, restarted_at)
    return wanted


def _with_pause(daemonset: DaemonSet, annotations: dict[str, str], *, paused: bool) -> DaemonSet:
    if PAUSED_ANNOTATION in annotations:  # it says the same as the field, and must go on doing so
        annotations = annotations | {PAUSED_ANNOTATION: "true" if paused else "false"}
    strategy = structs.replace(daemonset.update_strategy, paused=paused)
    return structs.replace(daemonset, annotations=annotations, update_strategy=strategy)


def _annotated(template: msgspec.Raw, restarted_at: str) -> msgspec.Raw:
    """Mark a template; one that is no pod template stays as it is."""
    content = _read(template)
    metadata = content.get("metadata") or {}
    if not content or not isinstance(metadata, dict):
        return template
    annotations = _annotations(template) | {RESTARTED_AT: restarted_at}
    content["metadata"] = metadata | {"annotations": annotations}
    return msgspec.Raw(canonical(msgspec.json.encode(content)))


def _annotations(template: msgspec.Raw) -> dict[str, Any]:
    metadata = _read(template).get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return annotations if isinstance(annotations, dict) else {}


def _read(template: msgspec.Raw) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(template)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
