"""What in a stream happened by itself, and not because somebody decided it.

Used by ``rehearsal``, where everything is decided anew: nodes come and go and people ask for sets as they did, but what
followed from the decisions of then is left out. No I/O.
"""

from __future__ import annotations

from everynode import wire
from everynode.core.commands import Decision, DeletePod
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
)
from everynode.core.values import Pod, PodKey, SetKey


class Outside:
    """Tells the one from the other, message by message.

    Args:
        is_decided: Somebody of ours decided in this stream; if not, what goes is taken for somebody else's decision.
    """

    def __init__(self, *, is_decided: bool) -> None:
        """Start before the first message."""
        self._is_decided = is_decided
        self._batch_left = 0
        self._sets: set[SetKey] = set()
        self._entered: dict[PodKey, str] = {}  # pods that nobody of ours made, by uid
        self._was_ready: set[PodKey] = set()
        self._to_delete: set[str] = set()

    def is_outside(self, message: wire.AnyMessage) -> bool:
        """Say whether the next message of the stream is about something that happened by itself."""
        in_batch, self._batch_left = self._batch_left > 0, max(self._batch_left - 1, 0)
        match message:
            case Decision():
                self._batch_left = message.size
                return False
            case NodeObserved() | NodeGone():
                return True
            case DaemonSetObserved(daemonset=daemonset):
                self._sets.add(daemonset.key)
                return True
            case DaemonSetGone():
                self._sets.discard(message.key)
                return True
            case RevisionRecorded() | RevisionGone():
                return not in_batch
            case DeletePod():
                self._to_delete.add(message.pod_uid)
                return False
            case PodObserved(pod=pod):
                return self._pod_observed(pod)
            case PodGone():
                return self._pod_gone(message)
            case _:
                return False

    def _pod_observed(self, pod: Pod) -> bool:
        """Pods that were there before their set, or are nobody's, are from outside; so is what befell others later."""
        key = pod.key
        was_ready = key in self._was_ready
        if pod.ready:
            self._was_ready.add(key)
        is_foreign = pod.set_key is None or pod.set_key not in self._sets
        if is_foreign and self._entered.get(key) != pod.uid:
            self._entered[key] = pod.uid
            return not pod.deleting
        return not pod.deleting and (was_ready or key in self._entered)

    def _pod_gone(self, gone: PodGone) -> bool:
        self._was_ready.discard(gone.key)
        is_commanded = gone.uid in self._to_delete
        self._to_delete.discard(gone.uid)
        entered = self._entered.get(gone.key) == gone.uid
        if entered:
            del self._entered[gone.key]
        return not is_commanded and (self._is_decided or (entered and gone.owner is None))
