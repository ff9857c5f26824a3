"""The revisions of a set for people: which one it is to have, which it had, and which one is meant.

Used by ``rollouts`` and by the commands that show a rollout. Functions of what was read; the words of the refusals are
kubectl's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from everynode.core.identity import revision_hash
from everynode.core.values import DaemonSet, Revision, SetKey
from everynode.errors import RefusedError

PREVIOUS = 0
"""Instead of a revision's number: the latest one that is not the set's now."""


def history_of(key: SetKey, revisions: Iterable[Revision]) -> list[Revision]:
    """Return the revisions of a set, the oldest first."""
    found = [revision for revision in revisions if revision.set_key == key]
    return sorted(found, key=lambda revision: revision.number)


def find_revision(history: list[Revision], daemonset: DaemonSet, number: int) -> Revision:
    """Find a revision to return to.

    The previous one is the latest whose template is not the set's own: if no worker has recorded that one yet, it is
    the latest of all.

    Args:
        history: The set's revisions, the oldest first.
        daemonset: The set as it is.
        number: Its number, or ``PREVIOUS``.

    Raises:
        RefusedError: It is not on record.
    """
    named = f'daemonset "{daemonset.name}"'
    if not history:
        raise RefusedError(f"no rollout history found for {named}")
    if number != PREVIOUS:
        found = [revision for revision in history if revision.number == number]
        if not found:
            numbers = ", ".join(str(revision.number) for revision in history)
            message = (
                f"unable to find specified revision {number} in history of {named}; "
                f"there are: {numbers}"
            )
            raise RefusedError(message)
        return found[0]
    current = current_hash(daemonset)
    others = [revision for revision in history if revision.hash != current]
    if not others:
        message = (
            f"no rollout history found for {named} but the revision that it has: "
            "there is no last revision to roll back to"
        )
        raise RefusedError(message)
    return others[-1]


def current_hash(daemonset: DaemonSet) -> str:
    """Return the hash of the revision that a set is to have; empty if its template cannot be read."""
    try:
        return revision_hash(daemonset.template)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
