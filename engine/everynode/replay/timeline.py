"""A set's life as curves and marks: how many pods it had over time, and what happened to it meanwhile.

``Timeline`` is given the log's messages in order: those of one set, and the nodes. Used by the command line, and by
what-if for the past as it was and as it would have been; ``replay.drawing`` draws it. Memory is bounded, however long
the log is: curves and marks that grow too long are merged. No I/O, and it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from everynode.core.commands import Decision
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    StatusGone,
    StatusReported,
)
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Node, NodeKey, SetKey, Status
from everynode.wire import Subjects

POINTS_MAX = 2_000
"""How many points a curve has at most; one that gets longer is merged to half of that."""
SLICE_POINTS_MAX = 4
"""What is left of a slice of time that is merged: its first and last point, its lowest and its highest."""
MARKS_MAX = 500
"""How many marks a timeline has at most; if there are more, neighbours of one kind become one."""
MARK_WINDOW_MS = 1_000
"""What happens within this time is one mark, to begin with; doubled as often as there are too many."""

COUNTERS: Mapping[str, Callable[[Status], int]] = {
    "desired": attrgetter("desired_number_scheduled"),
    "current": attrgetter("current_number_scheduled"),
    "ready": attrgetter("number_ready"),
    "updated": attrgetter("updated_number_scheduled"),
    "available": attrgetter("number_available"),
    "unavailable": attrgetter("number_unavailable"),
}
"""The curves, and where in a status each value stands."""


def subjects_of(subjects: Subjects, key: SetKey) -> list[str]:
    """Name the subjects that a set's timeline is made from: messages on others need no decoding."""
    kinds = ("daemonset", "decision", "status")
    return [*(subjects.of_set(kind, key) for kind in kinds), subjects.of_kind("node")]


class Point(NamedTuple):
    """From this time on (ms since 1970) the value is so."""

    time_ms: int
    value: int


class Curve:
    """A number over time, in steps: each value holds until the next point.

    Attributes:
        low, high: The smallest and the largest value there was; 0 if there was none.
    """

    def __init__(self) -> None:
        """Start without a value."""
        self.low = 0
        self.high = 0
        self._points: list[Point] = []
        self._last = Point(0, 0)
        self._area_ms = 0

    @property
    def points(self) -> Sequence[Point]:
        """The steps in the order of time, at most 2,000: of what was merged, the extremes and the last value."""
        return self._points

    @property
    def last(self) -> int:
        """The value at the end; 0 if there is none."""
        return self._last.value

    def add(self, time_ms: int, value: int) -> None:
        """Go on with a value from a time on, which is not before that of the last one."""
        if not self._points:
            self.low = self.high = value
            self._last = Point(time_ms, value)
            self._points.append(self._last)
            return
        if value == self._last.value:
            return
        self._area_ms += self._last.value * (time_ms - self._last.time_ms)
        self._last = Point(time_ms, value)
        self._points.append(self._last)
        self.low, self.high = min(self.low, value), max(self.high, value)
        if len(self._points) > POINTS_MAX:
            self._points = thinned(self._points, POINTS_MAX // 2 // SLICE_POINTS_MAX)

    def area_ms(self, until_ms: int) -> int:
        """Sum up value times duration up to a time after the last point, in node-milliseconds.

        It is exact, whatever was merged.
        """
        return self._area_ms + self._last.value * max(0, until_ms - self._last.time_ms)


def thinned(points: Sequence[Point], slices: int) -> list[Point]:
    """Merge steps: of each slice of time, leave the first, the lowest, the highest and the last; at most 4 a slice.

    Args:
        points: At least one, in the order of time.
        slices: Into how many slices of the same length their time is cut; at least 1.
    """
    if len(points) <= slices:
        return list(points)
    begins_ms = points[0].time_ms
    length_ms = points[-1].time_ms - begins_ms + 1
    kept: list[Point] = []
    slice_: list[Point] = []
    number = 0
    for point in points:
        its_number = (point.time_ms - begins_ms) * slices // length_ms
        if its_number != number:
            kept += _outline(slice_)
            slice_, number = [], its_number
        slice_.append(point)
    return kept + _outline(slice_)


def _outline(slice_: list[Point]) -> list[Point]:
    """Return the points of a slice that stay, in their order."""
    if len(slice_) <= SLICE_POINTS_MAX:
        return slice_
    values = [point.value for point in slice_]
    places = {0, values.index(min(values)), values.index(max(values)), len(slice_) - 1}
    return [slice_[place] for place in sorted(places)]


class MarkKind(StrEnum):
    """What happened."""

    APPLIED = "set applied"
    SPEC = "spec changed"
    DELETED = "set deleted"
    NODES_LOST = "nodes lost"
    NODES_JOINED = "nodes joined"
    NODES_NOT_READY = "nodes not ready"
    NODES_READY = "nodes ready again"
    NODES_CORDONED = "nodes cordoned"
    NODES_UNCORDONED = "nodes uncordoned"
    DECISIONS = "decisions"


LANES: Mapping[str, Sequence[MarkKind]] = {
    "spec": (MarkKind.APPLIED, MarkKind.SPEC, MarkKind.DELETED),
    "nodes": (
        MarkKind.NODES_LOST,
        MarkKind.NODES_JOINED,
        MarkKind.NODES_NOT_READY,
        MarkKind.NODES_READY,
        MarkKind.NODES_CORDONED,
        MarkKind.NODES_UNCORDONED,
    ),
    "decisions": (MarkKind.DECISIONS,),
}
"""Which kinds stand in one row of a picture. In each, one that comes earlier is the more important one."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened, or several things of a kind that happened in a row.

    Attributes:
        from_ms, to_ms: When the first and the last of it did, in ms since 1970.
        count: How many: nodes, decisions, changes.
        generation: Of changes of the spec: the last one's.
        new_template: Of changes of the spec: pods are to be replaced.
        creates, deletes, others: Of decisions: how many commands they had.
    """

    kind: MarkKind
    from_ms: int
    to_ms: int
    count: int = 1
    generation: int = 0
    new_template: bool = False
    creates: int = 0
    deletes: int = 0
    others: int = 0

    @property
    def text(self) -> str:
        """Say it in a few words."""
        match self.kind:
            case MarkKind.APPLIED:
                return f"{self.kind}, generation {self.generation}"
            case MarkKind.SPEC:
                many = f"{self.count} changes up to " if self.count > 1 else ""
                what = "new template" if self.new_template else "same template"
                return f"{many}generation {self.generation}, {what}"
            case MarkKind.DELETED:
                return self.kind.value
            case MarkKind.DECISIONS:
                noun = "decision" if self.count == 1 else "decisions"
                return f"{self.count} {noun}: {self._commands()}"
            case _:
                noun, _, what = self.kind.value.partition(" ")
                return f"{self.count} {noun if self.count > 1 else 'node'} {what}"

    def _commands(self) -> str:
        counts = ((self.creates, "create"), (self.deletes, "delete"), (self.others, "other"))
        said = [f"{count} {noun}{'s' * (count > 1)}" for count, noun in counts if count]
        return ", ".join(said) or "no commands"

    def joined(self, later: Mark) -> Mark:
        """Make one mark of this and a later one of the same kind."""
        return Mark(
            kind=self.kind,
            from_ms=self.from_ms,
            to_ms=max(self.to_ms, later.to_ms),
            count=self.count + later.count,
            generation=later.generation,
            new_template=self.new_template or later.new_template,
            creates=self.creates + later.creates,
            deletes=self.deletes + later.deletes,
            others=self.others + later.others,
        )


def merged(marks: Iterable[Mark], window_ms: int) -> list[Mark]:
    """Make one mark of those of a kind that fit into a window of time together.

    Args:
        marks: In the order of time.
        window_ms: How long the window is.

    Returns:
        Marks in the order of time.
    """
    found: list[Mark] = []
    open_: dict[MarkKind, int] = {}  # where the last one of each kind stands
    for mark in marks:
        place = open_.get(mark.kind)
        if place is not None and mark.to_ms - found[place].from_ms < window_ms:
            found[place] = found[place].joined(mark)
        else:
            open_[mark.kind] = len(found)
            found.append(mark)
    return found


class SeenNode(NamedTuple):
    """What is marked of a node when it changes."""

    uid: str
    ready: bool
    unschedulable: bool


def seen(node: Node) -> SeenNode:
    """Take of a node what is marked when it changes."""
    return SeenNode(node.uid, node.ready, node.unschedulable)


class Timeline:
    """One set's past.

    Nodes are marked while the set is there: those of its backend, or of the whole fleet if it names none.

    Args:
        key: Which set.
        since_ms: Where the picture begins, in ms since 1970; what was so before that is where the curves begin.
            0: with the first message that is folded.

    Attributes:
        key: Which set.
        begins_ms, ends_ms: Which time the picture is about; 0 as long as nothing was folded.
        is_known: There was a message about the set.
        curves: By name, see ``COUNTERS``; without points if no status was reported.
    """

    def __init__(self, key: SetKey, since_ms: int = 0) -> None:
        """Know nothing yet."""
        self.key = key
        self.begins_ms = 0
        self.ends_ms = 0
        self.is_known = False
        self.curves: Mapping[str, Curve] = {name: Curve() for name in COUNTERS}
        self._since_ms = since_ms
        self._before: Status | None = None  # the last one before the picture begins
        self._daemonset: DaemonSet | None = None
        self._nodes: dict[NodeKey, SeenNode] = {}
        self._marks: list[Mark] = []
        self._window_ms = MARK_WINDOW_MS

    @property
    def marks(self) -> Sequence[Mark]:
        """What happened, in the order of time; at most 500, in which more may be joined."""
        return self._marks

    def load(self, record: Record) -> None:
        """Take in a message from before the picture: it is where the picture begins, and is not marked."""
        self._take_in(record, None)

    def load_nodes(self, nodes: Mapping[NodeKey, SeenNode]) -> None:
        """Take in which nodes there are where the picture begins."""
        self._nodes = dict(nodes)

    def fold(self, record: Record) -> None:
        """Take in the next message of the log; one that is about something else changes nothing.

        A clock that went back stands still here.
        """
        if record.time_ms < self._since_ms:
            self.load(record)
            return
        if not self.begins_ms:
            self._begin(self._since_ms or record.time_ms)
        self.ends_ms = max(self.ends_ms, record.time_ms)
        self._take_in(record, self.ends_ms)

    def finish(self, ends_ms: int) -> None:
        """Say until when the picture goes, in ms since 1970: the last values hold until then."""
        if not self.begins_ms:
            self._begin(self._since_ms or ends_ms)
        self.ends_ms = max(self.ends_ms, self.begins_ms, ends_ms)

    def _begin(self, time_ms: int) -> None:
        self.begins_ms = self.ends_ms = time_ms
        if self._before is not None:
            self._report(self._before, time_ms)

    # --- messages; ``time_ms`` is ``None`` for those from before the picture ------------------------------------------

    def _take_in(self, record: Record, time_ms: int | None) -> None:
        match record.message:
            case NodeObserved(node=node):
                self._node_observed(node, time_ms)
            case NodeGone() as gone:
                if self._nodes.pop(gone.key, None) is not None:
                    self._mark_node(MarkKind.NODES_LOST, gone.backend, time_ms)
            case StatusReported(status=status) if status.set_key == self.key:
                self._report(status, time_ms)
            case StatusGone() as over if over.set_key == self.key:
                self._report(_nothing(over), time_ms)
            case DaemonSetObserved(daemonset=daemonset) if daemonset.key == self.key:
                self._daemonset_observed(daemonset, time_ms)
            case DaemonSetGone() as gone if gone.key == self.key:
                self.is_known = True
                if self._daemonset is not None:
                    self._mark(MarkKind.DELETED, time_ms)
                self._daemonset = None
            case Decision() as decision if decision.set_key == self.key:
                self._decided(decision, time_ms)
            case _:
                pass

    def _report(self, status: Status, time_ms: int | None) -> None:
        self.is_known = True
        if time_ms is None:
            self._before = status
            return
        for name, value_of in COUNTERS.items():
            self.curves[name].add(time_ms, value_of(status))

    def _daemonset_observed(self, daemonset: DaemonSet, time_ms: int | None) -> None:
        self.is_known = True
        before, self._daemonset = self._daemonset, daemonset
        generation = daemonset.generation
        if before is None or before.uid != daemonset.uid:
            self._mark(MarkKind.APPLIED, time_ms, generation=generation)
        elif before.generation != generation:
            is_other = before.template != daemonset.template
            self._mark(MarkKind.SPEC, time_ms, generation=generation, new_template=is_other)

    def _decided(self, decision: Decision, time_ms: int | None) -> None:
        self.is_known = True
        counts = decision.counts
        self._mark(
            MarkKind.DECISIONS,
            time_ms,
            creates=counts.creates,
            deletes=counts.deletes,
            others=counts.adopts + counts.releases,
        )

    def _node_observed(self, node: Node, time_ms: int | None) -> None:
        before = self._nodes.get(node.key)
        now = seen(node)
        self._nodes[node.key] = now
        kinds: list[MarkKind] = []
        if before is None:
            kinds.append(MarkKind.NODES_JOINED)
        elif before.uid != now.uid:  # another one under the same name
            kinds += (MarkKind.NODES_LOST, MarkKind.NODES_JOINED)
        else:
            if before.ready != now.ready:
                kinds.append(MarkKind.NODES_READY if now.ready else MarkKind.NODES_NOT_READY)
            if before.unschedulable != now.unschedulable:
                is_out = now.unschedulable
                kinds.append(MarkKind.NODES_CORDONED if is_out else MarkKind.NODES_UNCORDONED)
        for kind in kinds:
            self._mark_node(kind, node.backend, time_ms)

    # --- marks --------------------------------------------------------------------------------------------------------

    def _mark_node(self, kind: MarkKind, backend: str, time_ms: int | None) -> None:
        if self._daemonset is not None and self._daemonset.backend in {"", backend}:
            self._mark(kind, time_ms)

    def _mark(self, kind: MarkKind, time_ms: int | None, **fields: Any) -> None:
        if time_ms is None:
            return
        mark = Mark(kind=kind, from_ms=time_ms, to_ms=time_ms, **fields)
        place = next(
            (
                place
                for place in reversed(range(len(self._marks)))
                if self._marks[place].kind is kind
            ),
            None,
        )
        if place is not None and time_ms - self._marks[place].from_ms < self._window_ms:
            self._marks[place] = self._marks[place].joined(mark)
            return
        self._marks.append(mark)
        while len(self._marks) > MARKS_MAX:
            self._window_ms *= 2
            self._marks = merged(self._marks, self._window_ms)


def _nothing(over: StatusGone) -> Status:
    """Return the status of a set that is gone, and its pods with it."""
    return Status(
        namespace=over.namespace,
        daemonset=over.daemonset,
        daemonset_uid=over.daemonset_uid,
        observed_generation=0,
    )
