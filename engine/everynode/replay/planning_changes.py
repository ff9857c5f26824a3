"""What a manifest changes in a set, field by field, for people; values of environment variables are never shown.

Used by ``planning``. Fields are named as a manifest has them. It says nothing of what follows from a change.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everynode.core.values import DaemonSet
from everynode.replay.differing import FieldDifference, differences
from everynode.replay.redaction import EnvRedaction


def changes_of(before: DaemonSet | None, after: DaemonSet) -> list[FieldDifference]:
    """Compare a set with what it becomes; nothing if it is new or the same. At most 20 changes."""
    if before is None:
        return []
    redaction = EnvRedaction()
    was, is_now = (msgspec.json.encode(_document(each, redaction)) for each in (before, after))
    return [] if was == is_now else differences(was, is_now)


def _document(daemonset: DaemonSet, redaction: EnvRedaction) -> dict[str, Any]:
    try:
        template = msgspec.json.decode(daemonset.template)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        template = None
    redaction.redact(template)
    given = daemonset.update_strategy
    strategy = {
        each.encode_name: msgspec.to_builtins(getattr(given, each.name))
        for each in msgspec.structs.fields(given)  # defaults, too
    }
    return {
        "metadata": {"labels": daemonset.labels, "annotations": daemonset.annotations},
        "spec": {
            "template": template,
            "updateStrategy": strategy,
            "minReadySeconds": daemonset.min_ready_seconds,
            "revisionHistoryLimit": daemonset.revision_history_limit,
        },
        "backend": daemonset.backend,
    }
