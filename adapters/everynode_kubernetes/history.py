"""The versions of templates that a cluster keeps, and how pods are told apart by them.

Owned by ``cluster``. Pods carry a label that names the ControllerRevision that they were made from; the fleet tells
templates apart by their content. Whatever names a version had before, what counts is what is written in it, so that
pods that another controller made are known again. It knows no sets but by their uid; what a question costs does not
depend on how many versions others have.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import structs

from everynode.core.values import Revision
from everynode_kubernetes.objects import LABEL_LENGTH_MAX, REVISION_LABEL, ApiControllerRevision
from everynode_kubernetes.translate import controller_of, is_daemonset_controller, revision_of


class Version(NamedTuple):
    """A ControllerRevision of a set, or of nobody.

    Attributes:
        api: The object.
        read: What it holds, in the fleet's words; of which set does not count.
        owner_uid: The set that controls it; empty if nobody does.
    """

    api: ApiControllerRevision
    read: Revision
    owner_uid: str

    @property
    def hash(self) -> str:
        """Content hash of its template."""
        return self.read.hash

    @property
    def label(self) -> str:
        """What pods that were made from it carry; its name if it was never given a label (constructHistory)."""
        name = self.api.metadata.name
        return self.api.metadata.label(REVISION_LABEL) or (
            name if len(name) <= LABEL_LENGTH_MAX else self.hash
        )

    def revision(self, daemonset: str, uid: str) -> Revision:
        """Say it in the fleet's words, as a revision of a set."""
        return structs.replace(self.read, daemonset=daemonset, daemonset_uid=uid)


class History:
    """All ControllerRevisions of a cluster's DaemonSets, and those of nobody, that hold the template of a pod."""

    def __init__(self) -> None:
        """Know none."""
        self._versions: dict[tuple[str, str], Version] = {}  # by namespace and name
        self._owned: dict[tuple[str, str], dict[str, Version]] = {}  # by namespace and owner
        self._labelled: dict[tuple[str, str], dict[str, Version]] = {}  # by namespace and label
        self._meant: dict[tuple[str, str], dict[str, str]] = {}  # of what is gone: by owner

    def put(self, api: ApiControllerRevision) -> Version | None:
        """Take one in as it is now; ``None`` if it is somebody else's, or holds something else than a pod template."""
        namespace, name = api.metadata.namespace, api.metadata.name
        owner = controller_of(api.metadata)
        is_ours = owner is None or is_daemonset_controller(owner)
        read = revision_of(api, "any", "any") if is_ours else None
        self._take_out(namespace, name)
        if read is None:
            return None
        version = Version(api, read, "" if owner is None else owner.uid)
        self._versions[namespace, name] = version
        self._owned.setdefault((namespace, version.owner_uid), {})[name] = version
        self._labelled.setdefault((namespace, version.label), {})[name] = version
        return version

    def drop(self, namespace: str, name: str) -> Version | None:
        """Take in that one is gone. What its label means stays known while its set is there: pods may carry it."""
        version = self._take_out(namespace, name)
        if version is not None and version.owner_uid:
            meant = self._meant.setdefault((namespace, version.label), {})
            meant[version.owner_uid] = version.hash
        return version

    def _take_out(self, namespace: str, name: str) -> Version | None:
        version = self._versions.pop((namespace, name), None)
        if version is not None:
            places = (
                (self._owned, (namespace, version.owner_uid)),
                (self._labelled, (namespace, version.label)),
            )
            for table, place in places:
                table[place].pop(name)
                if not table[place]:
                    del table[place]
        return version

    def names(self) -> list[tuple[str, str]]:
        """Name those that are there, by namespace and name."""
        return list(self._versions)

    def owned_by(self, namespace: str, owner_uid: str) -> list[Version]:
        """Return those that a set controls, or nobody if it is empty, in the order of their numbers."""
        found = self._owned.get((namespace, owner_uid), {}).values()
        return sorted(found, key=number_order)

    def explain(self, namespace: str, owner_uid: str, label: str) -> str | None:
        """Say which template a pod's label means; ``None`` if no version explains it, or did.

        Args:
            namespace: The pod's.
            owner_uid: The set that controls it; empty if nobody does.
            label: What it carries.
        """
        versions = self._labelled.get((namespace, label), {}).values()
        own = [version.hash for version in versions if version.owner_uid == owner_uid]
        if own:
            return own[-1]
        meant = self._meant.get((namespace, label), {}).get(owner_uid)
        return meant or next((version.hash for version in reversed(versions)), None)

    def label_meant(self, namespace: str, owner_uid: str, revision: str) -> str | None:
        """Return the label of a version of a set that is gone and that held this template; pods may carry it."""
        for (where, label), meant in self._meant.items():
            if where == namespace and meant.get(owner_uid) == revision:
                return label
        return None

    def forget(self, owner_uid: str) -> None:
        """A set is gone: nobody asks any more what the labels of its lost versions meant."""
        for place, meant in list(self._meant.items()):
            meant.pop(owner_uid, None)
            if not meant:
                del self._meant[place]


def number_order(version: Version) -> tuple[int, str]:
    """Order versions by their numbers, those of one number by their labels."""
    return version.api.revision, version.label
