"""What came of each object in a manifest: accepted, rejected or skipped.

Made by the readers of this package, shown by the CLI. Plain values; they know nothing of YAML.
"""

from __future__ import annotations

from dataclasses import dataclass

from everynode.core.values import DaemonSet, Node
from everynode.errors import InvalidObjectError, Problem


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an object stands.

    Attributes:
        file: Name of the file, as the caller gave it.
        document: Which document of the file, from 1; documents with nothing in them are not counted.
        line: The line of the file on which the document begins, from 1.
        item: Path of the object in its document if that is a list (``items[3]``), else empty.
    """

    file: str
    document: int
    line: int
    item: str = ""

    @property
    def place(self) -> str:
        """Read as ``fluentd.yaml, document 2 (line 14), items[3]``."""
        text = f"{self.file}, document {self.document} (line {self.line})"
        return f"{text}, {self.item}" if self.item else text


@dataclass(frozen=True, kw_only=True)
class Accepted(Place):
    """A DaemonSet that can be applied.

    Attributes:
        daemonset: The value; its uid and generation are placeholders.
        notes: What a person should know about how it was read, one sentence each.
        warnings: Fields that have no effect or an odd one.
    """

    daemonset: DaemonSet
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def subject(self) -> str:
        """Read as ``DaemonSet namespace/name``."""
        return f"DaemonSet {self.daemonset.key}"


@dataclass(frozen=True, kw_only=True)
class AcceptedNode(Place):
    """A node that can be observed.

    Attributes:
        warnings: Fields that have no effect or an odd one.
    """

    node: Node
    warnings: tuple[Problem, ...] = ()

    @property
    def subject(self) -> str:
        """Read as ``Node name``."""
        return f"Node {self.node.name}"


@dataclass(frozen=True, kw_only=True)
class Skipped(Place):
    """An object of a kind that was not asked for.

    Attributes:
        kind: Its kind; empty if the document could not be read that far.
        name: ``namespace/name``, or the name alone if no namespace is written; empty if it has none.
    """

    kind: str
    name: str

    @property
    def subject(self) -> str:
        """Read as ``ConfigMap kube-system/fluentd``, or ``document 3`` if nothing of that is known."""
        return f"{self.kind} {self.name}".strip() or f"document {self.document}"


@dataclass(frozen=True, kw_only=True)
class Rejected(Skipped):
    """An object, or a document, that is wrong.

    Attributes:
        errors: Everything that is wrong with it, at least one.
    """

    errors: tuple[Problem, ...]

    @property
    def title(self) -> str:
        """Read as ``a.yaml, document 2 (line 14): DaemonSet kube-system/fluentd``, or without what is not known."""
        return f"{self.place}: {self.subject}" if self.kind or self.name else self.place

    def error(self) -> InvalidObjectError:
        """Make the error to raise or to show for it; the message names file, document, object and fields."""
        return InvalidObjectError(self.title, self.errors)


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """What came of the documents of one file, each tuple in the order of the file."""

    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What came of the documents of several files, each tuple in the order of the files."""

    accepted: tuple[AcceptedNode, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...]
