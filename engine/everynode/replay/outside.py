"""What in a stream happened by itself, and not because somebody decided it.

Used by ``what_if`` and ``rehearsed``, where everything is decided anew: nodes come and go and people ask for sets as
they did, but what followed from the decisions of then is left out. No I/O.
"""

from __future__ import annotations

import msgspec

from everynode.core.commands import AdoptPod, CreatePod, Decision, DeletePod, ReleasePod
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
from everynode.core.values import Message, Pod


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """A pod as the stream has it.

    Attributes:
        entered: Nobody of ours made it.
        was_ready: It has been ready.
    """

    uid: str
    set_key: tuple[str, str] | None
    entered: bool
    was_ready: bool


class Outside:
    """Tells the one from the other, message by message.

    Args:
        is_decided: Somebody of ours decided in this stream; if not, what goes is taken for somebody else's decision.
    """

    def __init__(self, *, is_decided: bool) -> None:
        """Start before the first message."""
        self._is_decided = is_decided
        self._batch_left = 0
        self._sets: set[tuple[str, str]] = set()
        self._pods: dict[tuple[str, str, str], _Seen] = {}
        self._commanded: set[str] = set()  # uids of pods that are to go or to change hands

    def is_outside(self, message: Message) -> bool:
        """Say whether the next message of the stream is about something that happened by itself."""
        in_batch = self._batch_left > 0
        if in_batch:
            self._batch_left -= 1
        # A class that it is not is told five times as fast as by a case, so the frequent kinds come before those.
        if type(message) is PodObserved:
            return self._pod_observed(message.pod)
        if type(message) is PodGone:
            return self._pod_gone(message)
        if type(message) is NodeObserved:
            return True
        if type(message) is CreatePod:
            return False
        return self._is_other_outside(message, in_batch=in_batch)

    def _is_other_outside(self, message: Message, *, in_batch: bool) -> bool:
        match message:
            case DeletePod() | ReleasePod() | AdoptPod():
                known = self._pods.get(message.pod_key)
                if known is not None and known.uid == message.pod_uid:
                    self._commanded.add(message.pod_uid)
                return False
            case NodeGone():
                return True
            case Decision():
                self._batch_left = message.size
                return False
            case DaemonSetObserved(daemonset=daemonset):
                self._sets.add(daemonset.key)
                return True
            case DaemonSetGone():
                self._sets.discard(message.key)
                return True
            case RevisionRecorded() | RevisionGone():
                return not in_batch
            case _:
                return False

    def _pod_observed(self, pod: Pod) -> bool:
        """Pods that were there before their set, or are nobody's, are from outside; so is what befell others later."""
        # Plain tuples find what keys find, and to make a key takes several times as long.
        key, uid, owner = (pod.backend, pod.namespace, pod.name), pod.uid, pod.owner
        set_key = None if owner is None else (pod.namespace, owner.name)
        before = self._pods.get(key)
        if before is not None and before.uid != uid:
            self._commanded.discard(before.uid)
            before = None
        if before is None:
            entered, was_ready = set_key is None or set_key not in self._sets, False
        else:
            entered, was_ready = before.entered, before.was_ready
        changes_hands = before is not None and before.set_key != set_key
        if before is None or changes_hands or (pod.ready and not was_ready):
            self._pods[key] = _Seen(uid, set_key, entered, was_ready or pod.ready)
        if changes_hands and uid in self._commanded:
            self._commanded.discard(uid)
            return False
        return not pod.deleting and (entered or was_ready)

    def _pod_gone(self, gone: PodGone) -> bool:
        """What only changed hands is not gone."""
        key, owner = (gone.backend, gone.namespace, gone.name), gone.owner
        known = self._pods.get(key)
        if known is None or known.uid != gone.uid:
            return False
        if known.set_key != (None if owner is None else (gone.namespace, owner.name)):
            return False
        del self._pods[key]
        is_commanded = gone.uid in self._commanded
        self._commanded.discard(gone.uid)
        return not is_commanded and (self._is_decided or (known.entered and gone.owner is None))
