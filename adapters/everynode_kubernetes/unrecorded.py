"""Which template a pod was made from, where nobody recorded ControllerRevisions.

Used by ``recorded``. Pods carry the hash that the cluster calls their template by, and only ControllerRevisions say
what it stands for. But pods carry the number of their set's template, too, and the set says which number its template
has (both deprecated since apps/v1, and there to this day). A set whose template has a pod's number explains the pod's
hash; of that, the ControllerRevision is made that was not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from everynode_kubernetes.objects import (
    REVISION_LABEL,
    TEMPLATE_GENERATION_ANNOTATION,
    TEMPLATE_GENERATION_LABEL,
    ApiControllerRevision,
    ApiDaemonSet,
    ApiPod,
    Metadata,
    OwnerReference,
)
from everynode_kubernetes.translate import NUMBER_DIGITS_MAX, controller_of, is_daemonset_controller

NUMBERS_MAX = 16
"""Of how many templates of a set the numbers are remembered."""


class _Numbered:
    """The templates of one set by their numbers, and what pods call them."""

    def __init__(self) -> None:
        """Nothing is known."""
        self.templates: dict[str, dict[str, Any]] = {}
        self.labels: dict[str, str] = {}


class Templates:
    """The templates of a cluster's sets."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._sets: dict[str, _Numbered] = {}  # by uid

    def of_pod(self, pod: ApiPod) -> Iterator[ApiControllerRevision]:
        """Learn what a pod calls its template; returns its version if the set has told of that template."""
        owner = controller_of(pod.metadata)
        number = pod.metadata.label(TEMPLATE_GENERATION_LABEL)
        label = pod.metadata.label(REVISION_LABEL)
        if (
            owner is None
            or not is_daemonset_controller(owner)
            or not label
            or not _is_number(number)
        ):
            return
        known = self._sets.setdefault(owner.uid, _Numbered())
        if known.labels.get(number) != label:
            _remember(known.labels, number, label)
            yield from _version(known, number, pod.metadata.namespace, owner)

    def of_set(self, daemonset: ApiDaemonSet) -> Iterator[ApiControllerRevision]:
        """Learn a set's template; returns its version if a pod has told what it is called."""
        metadata = daemonset.metadata
        number = metadata.annotation(TEMPLATE_GENERATION_ANNOTATION)
        known = self._sets.setdefault(daemonset.uid, _Numbered())
        if not _is_number(number) or number in known.templates:
            return
        spec = msgspec.json.decode(daemonset.raw).get("spec")
        template = spec.get("template") if isinstance(spec, dict) else None
        if isinstance(template, dict):
            _remember(known.templates, number, template)
            owner = OwnerReference(
                api_version="apps/v1",
                kind="DaemonSet",
                name=metadata.name,
                uid=daemonset.uid,
                controller=True,
            )
            yield from _version(known, number, metadata.namespace, owner)

    def forget(self, daemonset: ApiDaemonSet) -> list[str]:
        """A set is gone; returns the names of the versions that were made for it."""
        known = self._sets.pop(daemonset.uid, _Numbered())
        return [_name(daemonset.metadata.name, label) for label in known.labels.values()]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX


def _remember(table: dict[str, Any], number: str, what: object) -> None:
    table[number] = what
    if len(table) > NUMBERS_MAX:
        del table[next(iter(table))]


def _version(
    known: _Numbered, number: str, namespace: str, owner: OwnerReference
) -> Iterator[ApiControllerRevision]:
    """Make the ControllerRevision of a number, if both its template and what pods call it are known."""
    template, label = known.templates.get(number), known.labels.get(number)
    if template is None or label is None:
        return
    name = _name(owner.name, label)
    yield ApiControllerRevision(
        metadata=Metadata(
            name=name,
            uid=name,
            namespace=namespace,
            labels={REVISION_LABEL: label},
            owner_references=(owner,),
        ),
        revision=int(number),
        data=msgspec.Raw(
            msgspec.json.encode({"spec": {"template": template | {"$patch": "replace"}}})
        ),
    )


def _name(daemonset: str, label: str) -> str:
    """Name a version as the cluster does."""
    return f"{daemonset}-{label}"
