"""How long things take: as a stream says of those that it has, else like their like.

Used by ``pods`` and ``rehearsal``. Names are made from what a pod is for, so a pod of the same name is the same pod in
the same circumstances: it is made here as fast as it was there, starts in the same time, and ends after the time that
it lasted. All times are those of the log: what counts is when a worker could hear of it.
"""

from __future__ import annotations

from bisect import insort

import msgspec

from everynode.core.commands import Command, CreatePod, Decision, DeletePod
from everynode.core.events import PodGone, PodObserved
from everynode.core.values import Phase, Pod

APPLY_MS = 10
"""From a command until its effect is heard of, if nothing is known: what was measured is 6 to 13 ms."""
DECIDE_MS = 10
"""From what a decision rests on until it stands on the log, likewise."""
DECIDE_MS_MAX = 1_000
"""What took longer waited for something else than deciding takes."""
START_MS = 50
"""From when a pod is heard of until it is ready, likewise: what the simulated backend takes at most."""
STOP_MS = 0
"""From when a pod is on its way out until it is gone, likewise."""
PODS_MAX = 200_000
"""Pods of which is remembered what became of them; of more, the oldest are taken like their like."""
SAMPLES_MAX = 1_001
NEVER_READY_MS = 60_000
"""A pod that a stream shows for so long, and never ready, is one that does not get ready."""


# Plain tuples find what keys find, and to make a key takes several times as long.
_Pod = tuple[str, str, str]
"""Backend, namespace and name, as ``PodKey``."""
_Set = tuple[str, str]
"""Namespace and name, as ``SetKey``."""
_Place = tuple[str, str, str, str]
"""Namespace and name of a set, backend and name of a node."""


class Fate(msgspec.Struct, frozen=True, gc=False):
    """What becomes of a pod; times in ms from when it is first heard of.

    Attributes:
        ready_ms: When it is ready; ``None``: never.
        end_ms: When it ends by itself; ``None``: it does not.
        end: How it ends.
        uid: Its identity; empty if nobody knows.
    """

    ready_ms: int | None
    end_ms: int | None = None
    end: Phase = "Failed"
    uid: str = ""


class _Life(msgspec.Struct, gc=False):
    """What is known of one pod; ``None``: nothing.

    Attributes:
        uid: Its identity; empty before it was heard of.
        asked_ms: Log time of the command that is to make or remove it.
        heard_ms: Log time at which it was first heard of.
        leaving_ms: Log time since which it is on its way out.
        seen_ms: Log time at which it was last heard of, if it is gone.
        made_ms, removed_ms: From the command to its effect.
        ready_ms, end_ms: See ``Fate``.
        stop_ms: From being on its way out to being gone.
    """

    uid: str = ""
    asked_ms: int | None = None
    heard_ms: int = 0
    leaving_ms: int | None = None
    seen_ms: int | None = None
    made_ms: int | None = None
    removed_ms: int | None = None
    ready_ms: int | None = None
    end_ms: int | None = None
    end: Phase = "Failed"
    stop_ms: int | None = None


class _Typical:
    """The middle one of the first samples of something."""

    def __init__(self, default: int) -> None:
        """There is none yet."""
        self._default = default
        self._sorted: list[int] = []

    def add(self, value: int) -> None:
        """Take in another one."""
        if len(self._sorted) < SAMPLES_MAX:
            insort(self._sorted, value)

    @property
    def value(self) -> int:
        """What to expect of the next."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else self._default


class _OfSet:
    """What pods of one set take."""

    def __init__(self, start_ms: int, stop_ms: int) -> None:
        """Know nothing yet."""
        self.made = _Typical(APPLY_MS)
        self.removed = _Typical(APPLY_MS)
        self.ready = _Typical(start_ms)
        self.stop = _Typical(stop_ms)


class Durations:
    """What has been learned of pods, and of those who decide about them.

    Args:
        start_ms: What a pod takes to start that nothing is known of; in ms.
        stop_ms: What a pod takes to stop; in ms.
    """

    def __init__(self, start_ms: int = START_MS, stop_ms: int = STOP_MS) -> None:
        """Know nothing yet."""
        self._defaults = (start_ms, stop_ms)
        self._last_ms = 0
        self._lives: dict[_Pod, _Life] = {}
        self._places: dict[_Place, _Life] = {}
        self._sets: dict[_Set | None, _OfSet] = {}
        self._decisions = 0
        self._deciding_ms = 0

    # --- learning -----------------------------------------------------------------------------------------------------

    def learn(self, time_ms: int, message: object) -> None:
        """Take in the next message of a stream; only those about pods and decisions matter."""
        # A class that it is not is told five times as fast as by a case.
        if type(message) is PodObserved:
            self._observed(message.pod, time_ms)
        elif type(message) is PodGone:
            self._gone(message, time_ms)
        elif type(message) is CreatePod:
            key = (message.backend, message.namespace, message.pod)
            life = self._lives.get(key)
            if life is None:
                life = self._remember(key, _Life())
            life.asked_ms = time_ms
        elif type(message) is DeletePod:
            life = self._lives.get((message.backend, message.namespace, message.pod))
            if life is not None and life.uid == message.pod_uid:
                life.asked_ms = time_ms
        elif type(message) is Decision:
            self._decisions += 1
            self._deciding_ms += min(max(time_ms - message.at_ms, 0), DECIDE_MS_MAX)

    def _observed(self, pod: Pod, time_ms: int) -> None:
        self._last_ms = time_ms
        key = (pod.backend, pod.namespace, pod.name)
        life = self._lives.get(key)
        if life is None or (life.uid and life.uid != pod.uid):
            if pod.deleting:
                return
            life = self._remember(key, _Life())
        if not life.uid:
            life.uid, life.heard_ms = pod.uid, time_ms
            if life.asked_ms is not None:
                life.made_ms, life.asked_ms = time_ms - life.asked_ms, None
                self._of_set(pod.set_key).made.add(life.made_ms)
        if pod.ready and life.ready_ms is None:
            life.ready_ms = time_ms - life.heard_ms
            self._of_set(pod.set_key).ready.add(life.ready_ms)
            if pod.owner is not None:
                self._places[pod.namespace, pod.owner.name, pod.backend, pod.node] = life
        elif pod.finished and life.end_ms is None:
            life.end_ms, life.end = time_ms - life.heard_ms, pod.phase
        if pod.deleting and life.leaving_ms is None:
            life.leaving_ms = time_ms
            self._removed(life, self._of_set(pod.set_key), time_ms)

    def _gone(self, gone: PodGone, time_ms: int) -> None:
        life = self._lives.get((gone.backend, gone.namespace, gone.name))
        if life is None or life.uid != gone.uid:
            return
        typical = self._of_set(gone.set_key)
        life.seen_ms = time_ms
        if life.leaving_ms is None:
            life.leaving_ms = time_ms
            self._removed(life, typical, time_ms)
        life.stop_ms = time_ms - life.leaving_ms
        typical.stop.add(life.stop_ms)

    def _removed(self, life: _Life, typical: _OfSet, time_ms: int) -> None:
        if life.asked_ms is not None:
            life.removed_ms, life.asked_ms = time_ms - life.asked_ms, None
            typical.removed.add(life.removed_ms)

    def _remember(self, key: _Pod, life: _Life) -> _Life:
        self._lives.pop(key, None)
        self._lives[key] = life
        if len(self._lives) > PODS_MAX:
            del self._lives[next(iter(self._lives))]
        return life

    def _of_set(self, key: _Set | None) -> _OfSet:
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = _OfSet(*self._defaults)
        return found

    # --- what to expect -----------------------------------------------------------------------------------------------

    @property
    def decide_ms(self) -> int:
        """How long after what it rests on a decision stands on the log; the mean, since one waits for the other."""
        return round(self._deciding_ms / self._decisions) if self._decisions else DECIDE_MS

    def of(self, pod: Pod) -> Fate:
        """Say what becomes of a pod.

        What became of it; else what the last one of its set on its node did; else what most of its set do.
        """
        owner = "" if pod.owner is None else pod.owner.name
        return self.of_named(pod.backend, pod.namespace, pod.name, owner, pod.node)

    def of_named(self, backend: str, namespace: str, name: str, owner: str, node: str) -> Fate:
        """Say what becomes of the pod of this name, which is or will be a set's (or nobody's) on a node."""
        life = self._lives.get((backend, namespace, name))
        uid = ""
        if life is not None and life.uid:
            if life.ready_ms is not None or life.end_ms is not None:
                return Fate(life.ready_ms, life.end_ms, life.end, life.uid)
            until_ms = self._last_ms if life.seen_ms is None else life.seen_ms
            if until_ms - life.heard_ms > NEVER_READY_MS:
                return Fate(None, uid=life.uid)
            uid = life.uid
        before = self._places.get((namespace, owner, backend, node))
        if before is not None:
            return Fate(before.ready_ms, uid=uid)
        return Fate(self._of_set((namespace, owner) if owner else None).ready.value, uid=uid)

    def apply_ms(self, command: Command) -> int:
        """Say how long a command takes to have an effect that is heard of."""
        if type(command) is not CreatePod and type(command) is not DeletePod:
            return APPLY_MS
        backend, namespace, daemonset = command.backend, command.namespace, command.daemonset
        life = self._lives.get((backend, namespace, command.pod))
        if type(command) is CreatePod:
            if life is not None and life.made_ms is not None:
                return life.made_ms
            before = self._places.get((namespace, daemonset, backend, command.node))
            if before is not None and before.made_ms is not None:
                return before.made_ms
            return self._of_set((namespace, daemonset)).made.value
        if life is not None and life.uid == command.pod_uid and life.removed_ms is not None:
            return life.removed_ms
        return self._of_set((namespace, daemonset)).removed.value

    def stop_ms(self, pod: Pod) -> int:
        """Say how long after it began to leave a pod is gone."""
        life = self._lives.get((pod.backend, pod.namespace, pod.name))
        if life is not None and life.uid == pod.uid and life.stop_ms is not None:
            return life.stop_ms
        return self._of_set(pod.set_key).stop.value
