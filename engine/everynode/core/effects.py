"""Does what was observed show that a command was carried out?

Asked by ``setstate``, which waits for a command no longer once it does, whatever the adapter says or does not say about
it. Whether the adapter said that it worked is not looked at here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, ReleasePod
from everynode.core.values import Pod, PodKey

if TYPE_CHECKING:
    from everynode.core.setstate import SetState


def has_taken_effect(state: SetState, command: Command, sequence: int) -> bool:
    """Say whether a command of the set was carried out, or has become pointless, by what was observed since.

    Args:
        state: The set.
        command: What was asked for.
        sequence: Where in the log that stands.
    """
    # A plain tuple finds what a key finds, and to make a key takes longer than that.
    key: PodKey = (command.backend, command.namespace, command.pod)  # type: ignore[assignment]
    known, gone = state.pods.get(key), state.gone_pods.get(key)
    if gone is not None and gone.sequence > sequence:
        return True  # though the set may have got it back, or another of this name may be there
    if isinstance(command, CreatePod):
        return known is not None
    if isinstance(command, AdoptPod):
        # What else may become of an orphan is for the adapter to say: it may be hidden by its labels for a moment.
        if known is not None and known.pod.uid == command.pod_uid:
            return known.sequence > sequence
        is_over = state.uid not in {"", command.daemonset_uid}
        return is_over and state.sequence > sequence  # an earlier set of this name says nothing
    if known is None:
        return gone is not None and gone.uid == command.pod_uid
    return known.pod.uid != command.pod_uid or known.pod.deleting or _is_let_go(command, known.pod)


def _is_let_go(command: DeletePod | ReleasePod, pod: Pod) -> bool:
    owner = pod.owner
    return isinstance(command, ReleasePod) and (owner is None or owner.uid != command.daemonset_uid)
