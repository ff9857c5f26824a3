"""The versions of templates that a cluster keeps, and how pods are told apart by them.

Owned by ``cluster``. Pods carry a label that names the ControllerRevision that they were made from; the fleet tells
templates apart by their content. Whatever names a version had before, what counts is what is written in it, so that
pods that another controller made are known again. It knows no sets but by their uid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from everynode.core.values import Revision
from everynode_kubernetes.objects import REVISION_LABEL, ApiControllerRevision
from everynode_kubernetes.translate import controller_of, revision_of


class Version(NamedTuple):
    """A ControllerRevision of a set.

    Attributes:
        api: The object.
        hash: Content hash of its template.
    """

    api: ApiControllerRevision
    hash: str

    @property
    def label(self) -> str:
        """What pods that were made from it carry; its name if it was never given a label (constructHistory)."""
        return self.api.metadata.label(REVISION_LABEL) or self.api.metadata.name

    @property
    def owner_uid(self) -> str:
        """The set that controls it; empty if nobody does."""
        owner = controller_of(self.api.metadata)
        return "" if owner is None else owner.uid

    def revision(self, daemonset: str, uid: str) -> Revision | None:
        """Say it in the fleet's words, as a revision of a set."""
        return revision_of(self.api, daemonset, uid)


class History:
    """All ControllerRevisions of a cluster that hold the template of a pod."""

    def __init__(self) -> None:
        """Know none."""
        self._versions: dict[tuple[str, str], Version] = {}
        self._explained: dict[tuple[str, str], dict[str, str]] = {}

    def put(self, api: ApiControllerRevision) -> Version | None:
        """Take one in as it is now; ``None`` if it holds something else than a pod template."""
        read = revision_of(api, "any", "any")
        name = (api.metadata.namespace, api.metadata.name)
        if read is None:
            self._versions.pop(name, None)
            return None
        version = self._versions[name] = Version(api, read.hash)
        hashes = self._explained.setdefault((api.metadata.namespace, version.label), {})
        hashes[version.owner_uid] = version.hash
        return version

    def drop(self, namespace: str, name: str) -> Version | None:
        """Take in that one is gone. What its label means stays known: pods may carry it."""
        return self._versions.pop((namespace, name), None)

    def names(self) -> list[tuple[str, str]]:
        """Name those that are there, by namespace and name."""
        return list(self._versions)

    def in_namespace(self, namespace: str) -> Iterator[Version]:
        """Name those of a namespace, in the order of their numbers."""
        found = [version for (where, _), version in self._versions.items() if where == namespace]
        return iter(sorted(found, key=lambda version: (version.api.revision, version.label)))

    def explain(self, namespace: str, owner_uid: str, label: str) -> str | None:
        """Say which template a pod's label means; ``None`` if no version that was ever seen explains it.

        Args:
            namespace: The pod's.
            owner_uid: The set that controls it; empty if nobody does.
            label: What it carries.
        """
        hashes = self._explained.get((namespace, label))
        if not hashes:
            return None
        return hashes.get(owner_uid) or next(reversed(hashes.values()))

    def forget(self, owner_uid: str) -> None:
        """A set is gone: nobody asks any more what its labels meant."""
        for label, hashes in list(self._explained.items()):
            hashes.pop(owner_uid, None)
            if not hashes:
                del self._explained[label]
