"""What `get` shows of each kind of object: which columns, which rows, which labels count.

One class for each kind, all alike (`Listing`). They look at a `FleetView` and never read anything themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from everynode.cli.objects import daemonset_object, node_object, pod_object
from everynode.cli.resources import DAEMONSETS, NODES, PODS, Resource
from everynode.cli.tables import (
    BAD,
    GOOD,
    NONE,
    WAITING,
    Cell,
    Row,
    age,
    pairs,
    progress_cell,
)
from everynode.cli.templates import read_template
from everynode.core.eligibility import describe_requirement, describe_taint
from everynode.core.values import DaemonSet, Node, Pod, Selector, Status
from everynode.runtime.view import FleetView

NOT_REPORTED = "-"


class Item(NamedTuple):
    """One object of a listing.

    Attributes:
        key: Sorts the listing and tells objects apart.
        namespace: Empty for what has none.
        value: The engine's value.
        status: A set's status, if a worker has reported one.
    """

    key: tuple[str, ...]
    namespace: str
    name: str
    labels: dict[str, str]
    value: Any
    status: Status | None = None


class Listing(Protocol):
    """How one kind of object is listed."""

    resource: Resource
    kinds: Sequence[str]
    """The kinds of subject that have to be read for it."""
    has_labels: bool
    """The log keeps labels of these objects."""

    def items(self, view: FleetView) -> Iterator[Item]:
        """Find all objects, in any order."""
        ...

    def header(self, *, wide: bool) -> list[str]:
        """Name the columns."""
        ...

    def row(self, item: Item, now_ms: int, *, wide: bool) -> Row:
        """Write one object as a row."""
        ...

    def document(self, item: Item) -> dict[str, Any]:
        """Write one object as Kubernetes would show it."""
        ...


def selector_text(selector: Selector) -> str:
    """Write a set's selector as kubectl does: `app=web,tier In (a, b)`."""
    parts = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    parts += [describe_requirement(requirement) for requirement in selector.match_expressions]
    return ",".join(parts) or NONE


class DaemonSetListing:
    """Sets, with how far they have come."""

    resource: Resource = DAEMONSETS
    kinds: Sequence[str] = ("daemonset", "status")
    has_labels: bool = True

    def items(self, view: FleetView) -> Iterator[Item]:
        """Find all sets."""
        for key, value in view.daemonsets.items():
            status = view.statuses.get(key)
            if status is not None and status.daemonset_uid != value.uid:
                status = None  # it is about an earlier set of this name
            yield Item(tuple(key), key.namespace, key.name, value.labels, value, status)

    def header(self, *, wide: bool) -> list[str]:
        """Name kubectl's columns."""
        header = ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE"]
        header += ["NODE SELECTOR", "AGE"]
        return [*header, "CONTAINERS", "IMAGES", "SELECTOR"] if wide else header

    def row(self, item: Item, now_ms: int, *, wide: bool) -> Row:
        """Write one set."""
        daemonset: DaemonSet = item.value
        spec = read_template(daemonset.template).spec
        containers = spec.containers or []
        row: list[str | Cell] = [item.name, *status_cells(item.status)]
        row += [pairs(spec.node_selector or {}), age(daemonset.created_ms, now_ms)]
        if wide:
            row.append(",".join(container.name for container in containers) or NONE)
            row.append(",".join(container.image for container in containers) or NONE)
            row.append(selector_text(daemonset.selector))
        return row

    def document(self, item: Item) -> dict[str, Any]:
        """Write one set as an apps/v1 DaemonSet."""
        return daemonset_object(item.value, item.status)


def status_cells(status: Status | None) -> list[str | Cell]:
    """Write DESIRED, CURRENT, READY, UP-TO-DATE and AVAILABLE."""
    if status is None:
        return [NOT_REPORTED] * 5
    desired = status.desired_number_scheduled
    counts = (
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled,
        status.number_available,
    )
    return [str(desired), *(progress_cell(count, desired) for count in counts)]


class NodeListing:
    """Nodes."""

    resource: Resource = NODES
    kinds: Sequence[str] = ("node",)
    has_labels: bool = True

    def items(self, view: FleetView) -> Iterator[Item]:
        """Find all nodes; the same name may exist in several backends."""
        for key, value in view.nodes.items():
            yield Item((key.name, key.backend), "", key.name, value.labels, value)

    def header(self, *, wide: bool) -> list[str]:
        """Name the columns: kubectl's, as far as they are known here, and the backend."""
        header = ["NAME", "STATUS", "BACKEND", "TAINTS"]
        return [*header, "UID", "LABELS"] if wide else header

    def row(self, item: Item, now_ms: int, *, wide: bool) -> Row:  # noqa: ARG002 - a node has no age
        """Write one node."""
        node: Node = item.value
        text = "Ready" if node.ready else "NotReady"
        style = GOOD if node.ready else BAD
        if node.unschedulable:
            text, style = f"{text},SchedulingDisabled", WAITING
        taints = ",".join(describe_taint(taint) for taint in node.taints) or NONE
        row: list[str | Cell] = [node.name, Cell(text, style), node.backend, taints]
        return [*row, node.uid, pairs(node.labels)] if wide else row

    def document(self, item: Item) -> dict[str, Any]:
        """Write one node as a v1 Node."""
        return node_object(item.value)


_PHASE_STYLES = {"Running": GOOD, "Succeeded": GOOD, "Failed": BAD, "Unknown": BAD}


class PodListing:
    """Pods of the fleet's sets."""

    resource: Resource = PODS
    kinds: Sequence[str] = ("pod",)
    has_labels: bool = False

    def items(self, view: FleetView) -> Iterator[Item]:
        """Find all pods; the log keeps none of their labels."""
        for key, value in view.pods.items():
            yield Item((key.namespace, key.name, key.backend), key.namespace, key.name, {}, value)

    def header(self, *, wide: bool) -> list[str]:
        """Name the columns: kubectl's, as far as they are known here."""
        header = ["NAME", "READY", "STATUS", "AGE", "NODE"]
        return [*header, "BACKEND", "REVISION", "UID"] if wide else header

    def row(self, item: Item, now_ms: int, *, wide: bool) -> Row:
        """Write one pod."""
        pod: Pod = item.value
        text = "Terminating" if pod.deleting else pod.phase
        status = Cell(text, WAITING if pod.deleting else _PHASE_STYLES.get(pod.phase, WAITING))
        ready = Cell("True", GOOD) if pod.ready else Cell("False", WAITING)
        row: list[str | Cell] = [pod.name, ready, status, age(pod.created_ms, now_ms), pod.node]
        return [*row, pod.backend, pod.revision, pod.uid] if wide else row

    def document(self, item: Item) -> dict[str, Any]:
        """Write one pod as a v1 Pod."""
        return pod_object(item.value)


LISTINGS: dict[Resource, Listing] = {
    DAEMONSETS: DaemonSetListing(),
    NODES: NodeListing(),
    PODS: PodListing(),
}
