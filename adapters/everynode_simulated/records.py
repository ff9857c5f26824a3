"""What a simulated fleet keeps of each node and pod beside what everybody sees.

Read and written by the fleet alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from everynode.core.values import Node, Owner, Pod, PodKey
from everynode_simulated.behaviour import Fate


class NodeRecord:
    """A node and what runs on it; a node that left keeps its record while pods are bound to it."""

    __slots__ = ("node", "pods", "present")

    def __init__(self, node: Node) -> None:
        """Let it be there, with nothing on it."""
        self.node = node
        self.present = True
        self.pods: dict[PodKey, PodRecord] = {}

    @property
    def works(self) -> bool:
        """Whether anything can start or stop on it."""
        return self.present and self.node.ready


class PodRecord:
    """A pod and what will become of it.

    Attributes:
        pod: As everybody sees it.
        fate: What becomes of it after it started.
        home: Its node.
        template_labels: Those that its template gives it.
        labels: Those that it has.
    """

    __slots__ = ("fate", "home", "labels", "pod", "template_labels")

    def __init__(
        self, pod: Pod, fate: Fate, home: NodeRecord, template_labels: Mapping[str, str]
    ) -> None:
        """Give it the labels of its template."""
        self.pod = pod
        self.fate = fate
        self.home = home
        self.template_labels = dict(template_labels)
        self.labels = dict(template_labels)

    def labels_shown(self, owner: Owner | None) -> dict[str, str] | None:
        """Its labels; ``None`` with an owner, if they are those of the template, which everybody can look up."""
        return None if owner and self.labels == self.template_labels else dict(self.labels)
