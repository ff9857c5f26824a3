"""What a cluster has to remember of what it hears: the names in a list, and pods that wait to be explained.

Owned by ``cluster``. It knows objects by their names only, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from everynode.core.values import PodKey
from everynode_kubernetes.objects import ApiPod

_Key = TypeVar("_Key", bound=Hashable)


class Names(Generic[_Key]):
    """What a list has named so far."""

    def __init__(self) -> None:
        """No list is being read."""
        self.listing = False
        self._named: set[_Key] = set()
        self._nameless = False

    def begin(self) -> None:
        """A list begins; one that had not ended is void."""
        self.listing, self._nameless = True, False
        self._named.clear()

    def add(self, key: _Key, *, is_name: object = True) -> None:
        """Something is there; if not even its name can be read, it may be anything."""
        if not self.listing:
            return
        if is_name:
            self._named.add(key)
        else:
            self._nameless = True

    def has(self, key: _Key) -> bool:
        """Say whether the list that is being read has named it."""
        return key in self._named

    def end(self, known: Iterable[_Key]) -> list[_Key]:
        """The list is complete; returns what is gone of what was known."""
        gone = [] if self._nameless else [key for key in known if key not in self._named]
        self.void()
        return gone

    def void(self) -> None:
        """No list is being read any more."""
        self.listing = False
        self._named.clear()


class Unexplained:
    """Pods as they were last told of, whose label nothing explains yet; by what they carry, and where."""

    def __init__(self) -> None:
        """There are none."""
        self._pods: dict[tuple[str, str], dict[PodKey, ApiPod]] = {}
        self._labels: dict[PodKey, str] = {}

    def put(self, key: PodKey, label: str, api: ApiPod) -> None:
        """Keep a pod until its label means something."""
        self.drop(key)
        self._labels[key] = label
        self._pods.setdefault((key.namespace, label), {})[key] = api

    def drop(self, key: PodKey) -> None:
        """A pod is gone, or nothing is to be explained any more."""
        label = self._labels.pop(key, None)
        if label is None:
            return
        place = (key.namespace, label)
        del self._pods[place][key]
        if not self._pods[place]:
            del self._pods[place]

    def with_label(self, namespace: str, label: str) -> list[tuple[PodKey, ApiPod]]:
        """Return those of a namespace that carry a label."""
        return list(self._pods.get((namespace, label), {}).items())
