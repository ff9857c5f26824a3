"""The annotations that mean something to everynode, and those that only look as if they did.

Used by ``daemonset`` and ``strategy``. An API server keeps only the fields of apps/v1, so what a rollout knows beyond
them can be said by annotations too, and that a set is for one backend can be said by nothing else.
"""

from __future__ import annotations

from everynode.manifest.fields import Field

PREFIX = "everynode.dev/"

BACKEND_ANNOTATION = f"{PREFIX}backend"
"""Names the only backend whose nodes a set is for; without it, it is for all of the fleet's."""

PAUSED_ANNOTATION = f"{PREFIX}paused"
PARTITION_ANNOTATION = f"{PREFIX}partition"
SELECTOR_ANNOTATION = f"{PREFIX}selector"
PROGRESS_DEADLINE_ANNOTATION = f"{PREFIX}progress-deadline-seconds"
UNREACHABLE_NODES_ANNOTATION = f"{PREFIX}unreachable-nodes"

ROLLOUT_ANNOTATIONS = (
    PAUSED_ANNOTATION,
    PARTITION_ANNOTATION,
    SELECTOR_ANNOTATION,
    PROGRESS_DEADLINE_ANNOTATION,
    UNREACHABLE_NODES_ANNOTATION,
)
"""Say the same as the fields of ``updateStrategy.rollingUpdate``, for sets that an API server keeps."""

KNOWN_ANNOTATIONS = tuple(sorted((BACKEND_ANNOTATION, *ROLLOUT_ANNOTATIONS)))


def warn_of_unknown(annotations: Field) -> None:
    """Warn of each annotation that has our prefix and means nothing: somebody may have mistyped it."""
    for key in annotations.mapping().value:
        if key.startswith(PREFIX) and key not in KNOWN_ANNOTATIONS:
            annotations.child(key).warn(
                f"is not known and has no effect: write one of {', '.join(KNOWN_ANNOTATIONS)}, or remove it"
            )
