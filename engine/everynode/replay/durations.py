"""How long pods take: as a stream says of those that it has, else like their like.

Used by ``pods``. Names are made from what a pod is for, so a pod of the same name is the same pod in the same
circumstances: it starts here in the time that it took there, and ends after the time that it lasted there.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import NamedTuple

from everynode.core.events import PodGone, PodObserved
from everynode.core.values import NodeKey, Phase, Pod, PodKey, SetKey

START_MS = 50
"""From a pod's creation until it is ready, if nothing is known: what the simulated backend takes at most."""
STOP_MS = 0
"""From the wish to delete a pod until it is gone, likewise."""
PODS_MAX = 1_000_000
"""Pods of which is remembered what became of them; of more, the oldest are taken like their like."""
SAMPLES_MAX = 1_001
NEVER_READY_MS = 60_000
"""A pod that a stream shows for so long, and never ready, is one that does not get ready."""


class Fate(NamedTuple):
    """What becomes of a pod; times in ms from its creation.

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


class _Begun(NamedTuple):
    uid: str
    created_ms: int


class Durations:
    """What has been learned of pods.

    Args:
        start_ms: What a pod takes to start that nothing is known of; in ms.
        stop_ms: What a pod takes to stop; in ms.
    """

    def __init__(self, start_ms: int = START_MS, stop_ms: int = STOP_MS) -> None:
        """Know nothing yet."""
        self.stop_ms = stop_ms
        self._start_ms = start_ms
        self._last_ms = 0
        self._fates: dict[PodKey, Fate] = {}
        self._begun: dict[PodKey, _Begun] = {}
        self._places: dict[tuple[SetKey, NodeKey], int] = {}
        self._samples: dict[SetKey, deque[int]] = {}
        self._medians: dict[SetKey, int] = {}

    def learn(self, time_ms: int, message: object) -> None:
        """Take in the next message of a stream; only those about pods matter."""
        match message:
            case PodObserved(pod=pod):
                self._last_ms = time_ms
                self._learn(pod, time_ms)
            case PodGone():
                self._begun.pop(message.key, None)
            case _:
                pass

    def _learn(self, pod: Pod, time_ms: int) -> None:
        begun, fate = self._begun.get(pod.key), self._fates.get(pod.key)
        if fate is not None and fate.uid != pod.uid:
            fate = None
        if begun is None or begun.uid != pod.uid:
            if fate is not None or pod.deleting:
                return
            begun = self._begun[pod.key] = _Begun(pod.uid, pod.created_ms or time_ms)
        if pod.ready and fate is None:
            ready_ms = max((pod.ready_since_ms or time_ms) - begun.created_ms, 0)
            self._remember(pod.key, Fate(ready_ms, uid=pod.uid))
            self._sample(pod, ready_ms)
        elif pod.finished and (fate is None or fate.end_ms is None):
            end_ms = max(time_ms - begun.created_ms, 0)
            before = Fate(None, uid=pod.uid) if fate is None else fate
            self._remember(pod.key, before._replace(end_ms=end_ms, end=pod.phase))

    def _sample(self, pod: Pod, ready_ms: int) -> None:
        if pod.set_key is None:
            return
        self._places[pod.set_key, pod.node_key] = ready_ms
        self._samples.setdefault(pod.set_key, deque(maxlen=SAMPLES_MAX)).append(ready_ms)
        self._medians.pop(pod.set_key, None)

    def _remember(self, key: PodKey, fate: Fate) -> None:
        self._fates.pop(key, None)
        self._fates[key] = fate
        if len(self._fates) > PODS_MAX:
            del self._fates[next(iter(self._fates))]

    def of(self, pod: Pod) -> Fate:
        """Say what becomes of a pod.

        What became of it; else what the last one of its set on its node did; else what most of its set do.
        """
        fate = self._fates.get(pod.key)
        if fate is not None:
            return fate
        begun = self._begun.get(pod.key)
        if begun is not None and self._last_ms - begun.created_ms > NEVER_READY_MS:
            return Fate(None, uid=begun.uid)
        key = pod.set_key
        if key is None:
            return Fate(self._start_ms)
        ready_ms = self._places.get((key, pod.node_key))
        return Fate(self._median(key) if ready_ms is None else ready_ms)

    def _median(self, key: SetKey) -> int:
        if key not in self._medians:
            samples = self._samples.get(key)
            self._medians[key] = int(statistics.median(samples)) if samples else self._start_ms
        return self._medians[key]
