"""What an event costs at the fixed point, in a small fleet and in a large one.

The figure is how many times more it costs in the large one. Both fleets have the same sets, and every node that should
have a pod has one. An event is folded and the worker asked for its proposals; that is timed. Then what was
proposed is refused and the event undone, so that the next one finds the fixed point again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec
from measuring import Row, Target, quiet_heap, say
from memory import make_pod
from placement import loop_seconds_per_pair
from workload import ZONE, make_nodes, make_sets

from everynode.core.eligibility import compile_constraints
from everynode.core.events import (
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodObserved,
    RevisionRecorded,
    StatusReported,
)
from everynode.core.identity import revision_hash
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.placement import place
from everynode.core.state import Record
from everynode.core.values import (
    NO_SCHEDULE,
    DaemonSet,
    Node,
    NodeKey,
    Pod,
    Revision,
    Taint,
    Value,
)
from everynode.wire import AnyMessage

EVENT_SIZE_RATIO = Target(bound=1.5, unit="times")

ROUNDS = 5
EVENTS_PER_ROUND = 100
SHARDS = 16
PROPOSALS_MAX = 64
Kind = TypeVar("Kind", bound=Value)
_MAINTENANCE = Taint(key="example.com/maintenance", effect=NO_SCHEDULE)


@dataclass(frozen=True)
class Sizes:
    """Which fleets are compared."""

    sets: int
    nodes_few: int
    nodes_many: int


class CoveredFleet:
    """A worker that has folded a fleet in which nothing is left to do."""

    def __init__(self, nodes: Sequence[Node], sets: Sequence[DaemonSet]) -> None:
        """Fold nodes, sets and all their pods."""
        self.nodes = nodes
        self.machine = WorkerMachine("bench", SHARDS, Limits())
        self.pods_of: dict[NodeKey, Pod] = {}
        self.pods_count = 0
        self._sequence = 0
        for node in nodes:
            self.fold(NodeObserved(node=node))
        for daemonset in sets:
            self._cover(daemonset)
        proposals = self.machine.proposals(len(sets) + 1)
        assert not proposals, f"not the fixed point: {proposals[0].decision}"
        for status in self.machine.reports():
            assert status.desired_number_scheduled == status.number_available > 0, status
            self.fold(StatusReported(status=status))
        self.machine.notices()
        assert self.machine.settled

    def fold(self, message: AnyMessage) -> None:
        """Put a message on the log and fold it."""
        self._sequence += 1
        self.machine.fold(Record(self._sequence, self._sequence, message))

    def undo(self, message: AnyMessage) -> None:
        """Go back to the fixed point, whatever was proposed."""
        self.fold(message)
        for key in list(self.machine.fleet.sets):
            self.machine.refused(key, None)
        assert not self.machine.proposals(PROPOSALS_MAX)
        self.machine.reports()
        self.machine.notices()

    def _cover(self, daemonset: DaemonSet) -> None:
        revision = revision_hash(daemonset.template)
        self.fold(DaemonSetObserved(daemonset=daemonset))
        self.fold(
            RevisionRecorded(
                revision=Revision(
                    namespace=daemonset.namespace,
                    daemonset=daemonset.name,
                    daemonset_uid=daemonset.uid,
                    hash=revision,
                    number=1,
                    template=daemonset.template,
                )
            )
        )
        index = self.machine.fleet.index
        for node_id in place(compile_constraints(daemonset), index).eligible:
            pod = make_pod(daemonset, index.node(node_id), revision)
            self.pods_of.setdefault(pod.node_key, pod)
            self.pods_count += 1
            self.fold(PodObserved(pod=pod))


class Change(NamedTuple):
    """An event, and the one that undoes it."""

    event: AnyMessage
    undoing: AnyMessage


def _changed(value: Kind, **fields: object) -> Kind:
    return msgspec.structs.replace(value, **fields)


def label_that_counts(_fleet: CoveredFleet, node: Node, _number: int) -> Change:
    """Move a node to another zone."""
    labels = {**node.labels, ZONE: "elsewhere"}
    changed = _changed(node, labels=labels)
    return Change(NodeObserved(node=changed), NodeObserved(node=node))


def label_that_does_not_count(_fleet: CoveredFleet, node: Node, number: int) -> Change:
    """Change a label that no set asks for."""
    labels = {**node.labels, "example.com/heartbeat": str(number)}
    changed = _changed(node, labels=labels)
    return Change(NodeObserved(node=changed), NodeObserved(node=node))


def taint(_fleet: CoveredFleet, node: Node, _number: int) -> Change:
    """Taint a node so that most sets may not make a pod there any more."""
    changed = _changed(node, taints=(*node.taints, _MAINTENANCE))
    return Change(NodeObserved(node=changed), NodeObserved(node=node))


def join(_fleet: CoveredFleet, node: Node, number: int) -> Change:
    """Add a node: pods are missing on it."""
    name = f"new-{number}"
    added = _changed(node, name=name, uid=f"uid-{name}")
    gone = NodeGone(backend=node.backend, name=name)
    return Change(NodeObserved(node=added), gone)


def leave(_fleet: CoveredFleet, node: Node, _number: int) -> Change:
    """Take a node away: its pods have nowhere to be."""
    gone = NodeGone(backend=node.backend, name=node.name)
    return Change(gone, NodeObserved(node=node))


def pod_not_ready(fleet: CoveredFleet, node: Node, _number: int) -> Change:
    """Make a pod unready."""
    pod = fleet.pods_of[node.key]
    changed = _changed(pod, ready=False, ready_since_ms=0)
    return Change(PodObserved(pod=changed), PodObserved(pod=pod))


KINDS: dict[str, Callable[[CoveredFleet, Node, int], Change]] = {
    "label that counts for some sets": label_that_counts,
    "label that counts for none": label_that_does_not_count,
    "taint": taint,
    "node joins": join,
    "node leaves": leave,
    "pod is not ready any more": pod_not_ready,
}


def median_seconds(
    fleet: CoveredFleet, kind: Callable[[CoveredFleet, Node, int], Change], round_number: int
) -> float:
    """Measure folding and proposing, once for each of some nodes from all over the fleet."""
    covered = [node for node in fleet.nodes if node.key in fleet.pods_of]
    step = len(covered) // EVENTS_PER_ROUND
    found = []
    for number in range(EVENTS_PER_ROUND):
        node = covered[number * step + round_number % step]
        change = kind(fleet, node, number)
        start = time.perf_counter_ns()
        fleet.fold(change.event)
        fleet.machine.proposals(PROPOSALS_MAX)
        found.append(time.perf_counter_ns() - start)
        fleet.undo(change.undoing)
    return statistics.median(found) / 1e9


def measure(sizes: Sizes) -> list[Row]:
    """Compare each kind of event in the two fleets."""
    say(f"events: {sizes.sets} sets, {sizes.nodes_few:,} and {sizes.nodes_many:,} nodes")
    sets = make_sets(sizes.sets)
    many_nodes = make_nodes(sizes.nodes_many)
    with quiet_heap():  # a million pods take several times longer with it
        few = CoveredFleet(make_nodes(sizes.nodes_few), sets)
        many = CoveredFleet(many_nodes, sets)
    pair_seconds = loop_seconds_per_pair(sets, many_nodes)
    best: dict[str, tuple[float, float]] = {}
    with quiet_heap():
        for round_number in range(ROUNDS):
            for name, kind in KINDS.items():
                pair = (
                    median_seconds(few, kind, round_number),
                    median_seconds(many, kind, round_number),
                )
                before = best.get(name, pair)
                best[name] = (min(before[0], pair[0]), min(before[1], pair[1]))
    part = f"event, {sizes.sets} sets, {few.pods_count:,} and {many.pods_count:,} pods"
    loop_seconds = pair_seconds * sizes.sets * sizes.nodes_many
    return [
        Row(
            part=part,
            what=f"{name}: {with_few * 1e6:.0f} µs, {with_many * 1e6:.0f} µs",
            figure=with_many / with_few,
            unit="times",
            loop_ratio=loop_seconds / with_many,
            target=EVENT_SIZE_RATIO,
        )
        for name, (with_few, with_many) in best.items()
    ]
