"""The objects of a file: documents by their kind, lists taken apart.

Used by ``daemonset`` and ``node``. Knows how Kubernetes names kinds and versions, and nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from everynode.errors import Problem
from everynode.manifest.documents import DOCUMENT_BYTES_MAX, Document, read_documents
from everynode.manifest.fields import Field, Findings, described
from everynode.manifest.names import printable, quoted
from everynode.manifest.results import Place, Rejected, Skipped

LIST_DEPTH_MAX = 10
"""How many lists of objects may stand inside each other."""


@dataclass(frozen=True)
class Wanted:
    """The kind that is read.

    Attributes:
        kind: Its name.
        api_version: The version that is read.
        outdated: Versions that were once served and are no longer.
    """

    kind: str
    api_version: str
    outdated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Object:
    """One object of the kind that is wanted.

    Attributes:
        place: Where it stands.
        root: Its fields; what is wrong with its text is among the findings already.
    """

    place: Place
    root: Field

    def rejected(self, namespace: str = "") -> Rejected:
        """Make the result for it, with all problems found so far."""
        kind, name = _names(self.root.value, namespace)
        errors = tuple(self.root.findings.problems)
        return Rejected(**vars(self.place), kind=kind, name=name, errors=errors)


def read_objects(
    file: str, content: bytes, wanted: Wanted
) -> Iterator[Object | Rejected | Skipped]:
    """Read a file: each object of the wanted kind, and what became of everything else, in order."""
    for document in read_documents(content):
        place = Place(file=file, document=document.number, line=document.line)
        if document.value is None:
            kind, errors = document.kind, document.problems
            yield Rejected(**vars(place), kind=kind, name="", errors=errors)
        else:
            yield from _Sorter(place, document, wanted).sort(document.value, "", 0)


@dataclass(frozen=True)
class _Sorter:
    """Takes one document apart."""

    place: Place
    document: Document
    wanted: Wanted

    def sort(self, value: Any, item: str, depth: int) -> Iterator[Object | Rejected | Skipped]:
        """Yield what an object is, or what its items are.

        Args:
            value: The object.
            item: Its path in the document.
            depth: How many lists it stands in.
        """
        place = replace(self.place, item=item)
        root = Field("", value, Findings(self._text_problems(item)))
        found = Object(place, root)
        kind, version = root.child("kind"), root.child("apiVersion")
        if not isinstance(value, dict):
            root.reject(
                f"{described(value)}; a manifest is a mapping with apiVersion, kind, metadata"
            )
            yield found.rejected()
        elif not (named := kind.needed_text("write what this is, such as DaemonSet")):
            yield found.rejected()
        elif named in {"List", f"{self.wanted.kind}List"}:
            yield from self._sort_items(found, depth)
        elif named != self.wanted.kind or _is_of_other_api(version.value):
            kind_shown, name = _names(value, "")
            yield Skipped(**vars(place), kind=kind_shown, name=name)
        elif item and _is_too_large(value):
            root.reject(f"is larger than {DOCUMENT_BYTES_MAX} bytes: make it smaller")
            yield found.rejected()
        else:
            version.reject_if(self._version_problem(version.value))
            yield found

    def _sort_items(self, found: Object, depth: int) -> Iterator[Object | Rejected | Skipped]:
        root = found.root
        problems = root.findings.problems
        problems[:] = [problem for problem in problems if not problem.field.startswith("items[")]
        items = root.child("items")
        implied = {}
        if root.value["kind"] != "List":  # the items of a NodeList need not say that they are Nodes
            implied = {"kind": self.wanted.kind, "apiVersion": root.value.get("apiVersion")}
        if depth >= LIST_DEPTH_MAX:
            items.reject(f"lists are nested deeper than {LIST_DEPTH_MAX}: take them apart")
        elif not (items.absent or isinstance(items.value, list)):
            items.reject(f"{described(items.value)}; it must be a list")
        else:
            prefix = f"{found.place.item}." if found.place.item else ""
            for position, value in enumerate(items.value or ()):
                whole = {**implied, **value} if isinstance(value, dict) else value
                yield from self.sort(whole, f"{prefix}items[{position}]", depth + 1)
        if problems:
            yield found.rejected()

    def _text_problems(self, item: str) -> list[Problem]:
        """Return what is wrong with the text of one object."""
        if not item:
            return list(self.document.problems)
        return [
            Problem(path[len(item) :].removeprefix("."), message)
            for path, message in self.document.problems
            if path == item or path.startswith((f"{item}.", f"{item}["))
        ]

    def _version_problem(self, version: Any) -> str | None:
        wanted = self.wanted
        if version == wanted.api_version:
            return None
        if not version:
            return f"is missing: write {wanted.api_version}"
        if not isinstance(version, str):
            return f"{described(version)}; write {wanted.api_version}"
        if version in wanted.outdated:
            return (
                f"{quoted(version)} is no longer served for a {wanted.kind}: write {wanted.api_version}, which "
                "needs spec.selector"
            )
        return f"{quoted(version)} has no {wanted.kind}: write {wanted.api_version}"


def _is_of_other_api(version: Any) -> bool:
    """Say whether a version belongs to an API group of somebody else, which may have a kind of the same name."""
    group, slash, _ = version.partition("/") if isinstance(version, str) else ("", "", "")
    return bool(slash) and "." in group


def _is_too_large(value: Any) -> bool:
    """Say whether an item of a list is larger than a document may be, before anything is made of it.

    What aliases share is counted as often as it is named.
    """
    size = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        size += 1 + (len(value) if isinstance(value, str | list | dict) else 0)
        if size > DOCUMENT_BYTES_MAX:
            return True
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _names(value: Any, namespace: str) -> tuple[str, str]:
    """Return kind and name for messages, as far as they are there."""
    root = value if isinstance(value, dict) else {}
    metadata = root.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, name = _shown(root.get("kind")), _shown(metadata.get("name"))
    within = _shown(metadata.get("namespace")) or namespace
    return kind, f"{within}/{name}" if name and within else name


def _shown(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""
