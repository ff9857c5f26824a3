"""The history of a set's template: what to put on record, and what to let go of.

Asked by ``decision``. A revision is named by its content, so that there is never a second one with the same template,
and returning to an old template finds it again. Source: pkg/controller/daemon/update.go (constructHistory,
cleanupHistory).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from everynode.core.commands import CreatePod
from everynode.core.events import RevisionGone, RevisionRecorded
from everynode.core.pacing import RECORDS_MAX
from everynode.core.rollout import is_held
from everynode.core.setstate import SetState
from everynode.core.values import Revision

CHANGE_CAUSE_ANNOTATION = "kubernetes.io/change-cause"
HISTORY_LIMIT_EXCEEDED = "HistoryLimitExceeded"

REVISIONS_REMOVED_MAX = RECORDS_MAX - 1  # one more is recorded, or the status goes
"""How many revisions one decision lets go of."""


def to_record(state: SetState, now_ms: int) -> RevisionRecorded | None:
    """Return the wanted template if it is not on record as the latest one; it must be, before pods are made from it.

    One that was returned to gets the next number, as in Kubernetes.
    """
    daemonset = state.daemonset
    if daemonset is None:
        return None
    last = max(state.revisions.values(), key=lambda known: (known.number, known.hash), default=None)
    number = 1 if last is None else last.number + 1
    known = state.revisions.get(state.revision)
    if known is None:
        revision = Revision(
            namespace=daemonset.namespace,
            daemonset=daemonset.name,
            daemonset_uid=daemonset.uid,
            hash=state.revision,
            number=number,
            template=daemonset.template,
            created_ms=now_ms,
            change_cause=daemonset.annotations.get(CHANGE_CAUSE_ANNOTATION, ""),
        )
    elif (last is not None and last.hash != known.hash) or known.daemonset_uid != daemonset.uid:
        # It was returned to, or a former set of this name had it.
        revision = structs.replace(known, number=number, daemonset_uid=daemonset.uid)
    else:
        return None
    return RevisionRecorded(revision=revision)


def to_forget(state: SetState, in_use: Iterable[str] = ()) -> list[RevisionGone]:
    """Return the revisions that are too many for the set's history, the oldest first.

    The wanted one does not count, and one that a pod has, or is to get, is never let go of.

    Args:
        state: The set.
        in_use: Revisions that pods are about to be made from.
    """
    daemonset = state.daemonset
    if daemonset is None:
        return []
    old = [known for known in state.revisions.values() if known.hash != state.revision]
    surplus = len(old) - daemonset.revision_history_limit
    if surplus <= 0:
        return []
    commands = (pending.command for pending in state.pending.values())
    used = {command.revision for command in commands if isinstance(command, CreatePod)}
    used.update(in_use, state.revision_counts)
    if is_held(state):  # a node whose pod went lately gets what it had
        used.update(gone.revision for gone in state.last_gone_on.values())
    unused = sorted((known.number, known.hash) for known in old if known.hash not in used)
    return [
        RevisionGone(
            namespace=daemonset.namespace,
            daemonset=daemonset.name,
            hash=name,
            why=HISTORY_LIMIT_EXCEEDED,
        )
        for _, name in unused[: min(surplus, REVISIONS_REMOVED_MAX)]
    ]
