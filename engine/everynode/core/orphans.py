"""The pods that no set controls, by name: each as it was last observed.

Owned by ``state``, which offers them to the sets of their namespace. It knows no sets.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from everynode.core.values import Pod, PodKey


class KnownPod(msgspec.Struct, frozen=True, gc=False):
    """A pod and the place in the log where it was last observed."""

    pod: Pod
    sequence: int


class Orphans:
    """Pods without a controller; an older message never replaces a newer one."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: dict[PodKey, KnownPod] = {}
        self._sequences: dict[PodKey, int] = {}

    def get(self, key: PodKey) -> KnownPod | None:
        """Return the orphan of this name, if there is one."""
        return self._known.get(key)

    def of(self, namespace: str) -> Iterator[PodKey]:
        """Name those of a namespace."""
        return (key for key in self._known if key.namespace == namespace)

    def put(self, pod: Pod, sequence: int) -> bool:
        """Take in an orphan as observed; returns whether that is news."""
        if not self._is_news(pod.key, sequence):
            return False
        self._known[pod.key] = KnownPod(pod, sequence)
        return True

    def drop(self, key: PodKey, sequence: int) -> bool:
        """Take in that there is no orphan of this name; returns whether that is news."""
        if not self._is_news(key, sequence):
            return False
        self._known.pop(key, None)
        return True

    def forget(self, key: PodKey, sequence: int) -> None:
        """Forget one that went long ago."""
        if self._sequences.get(key) == sequence:
            del self._sequences[key]

    def _is_news(self, key: PodKey, sequence: int) -> bool:
        if self._sequences.get(key, 0) >= sequence:
            return False
        self._sequences[key] = sequence
        return True
