"""What the reason of a command means, in words.

Used by ``explaining``. The codes are the core's: ``core.decision``, ``core.claims`` and ``core.eligibility``; a test
finds one that has no sentence here.
"""

from __future__ import annotations

from everynode.core.claims import (
    DUPLICATE,
    NODE_GONE,
    OUTDATED,
    OWNER_REPLACED,
    POD_FAILED,
    POD_SUCCEEDED,
    PREDECESSOR_ORPHANED,
    SELECTOR_MISMATCH,
    SET_DELETED,
    SET_ORPHANED,
)
from everynode.core.decision import NODE_HAS_NO_POD, SELECTOR_MATCHES
from everynode.core.eligibility import (
    NODE_AFFINITY_MISMATCH,
    NODE_NAME_MISMATCH,
    NODE_SELECTOR_MISMATCH,
    OTHER_BACKEND,
    UNTOLERATED_TAINT,
)

NO_LONGER_FOR_THE_NODE = frozenset(
    {
        OTHER_BACKEND,
        NODE_NAME_MISMATCH,
        NODE_SELECTOR_MISMATCH,
        NODE_AFFINITY_MISMATCH,
        UNTOLERATED_TAINT,
    }
)
"""Reasons that say that a pod may not stay on its node."""

MEANINGS = {
    NODE_HAS_NO_POD: "the node should have a pod of the set, and had none",
    SELECTOR_MATCHES: "nobody controlled the pod, the set's selector selects it, and its node had no other",
    NODE_GONE: "the node that the pod was on has left the fleet, or was made anew under its name",
    SET_DELETED: "the set was deleted, and its pods with it",
    SET_ORPHANED: "the set was deleted so that its pods stay; it lets go of them",
    PREDECESSOR_ORPHANED: "the pod is of an earlier set of this name, which was deleted so that its pods stay",
    SELECTOR_MISMATCH: "the set's selector does not select the pod any more; the set lets go of it",
    OWNER_REPLACED: "the pod is of an earlier set of this name; the one that is wanted now is another",
    POD_FAILED: "the pod had ended and failed; it makes room for another",
    POD_SUCCEEDED: "the pod had ended, and a pod of a DaemonSet is to run for ever; it makes room for another",
    DUPLICATE: "the set had another pod on the node, and a node is to have one",
    OUTDATED: "the pod was made from an old template, and the rollout replaces it",
    OTHER_BACKEND: "the set is for another backend than the node's",
    NODE_NAME_MISMATCH: "the set's template names another node",
    NODE_SELECTOR_MISMATCH: "the node does not have the labels that the set's nodeSelector wants",
    NODE_AFFINITY_MISMATCH: "the node does not meet the set's required node affinity",
    UNTOLERATED_TAINT: "the node has a taint that the set does not tolerate",
}
"""By code, for every verb but those of ``_OF_CREATES``."""

_OF_CREATES = {
    OUTDATED: "the node's pod is of an old template; the rollout adds a new one before the old one goes (maxSurge)",
}


def meaning_of(verb: str, code: str) -> str:
    """Say in words why something was decided; a code that a newer program may have is said to be unknown."""
    if verb == "create" and code in _OF_CREATES:
        return _OF_CREATES[code]
    return MEANINGS.get(code, "this program knows no words for this reason")
