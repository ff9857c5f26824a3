"""A set's curves and marks: what they show, and what is left of them when they get long."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from everynode.core.commands import Counts, Decision
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    StatusGone,
    StatusReported,
)
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Message, SetKey, Status
from everynode.replay import timeline as module
from everynode.replay.streams import subject_filter
from everynode.replay.timeline import (
    LANES,
    Curve,
    Mark,
    MarkKind,
    Point,
    Timeline,
    merged,
    subjects_of,
    thinned,
)
from everynode.testing.builders import daemonset, node
from everynode.wire import Subjects

KEY = SetKey("default", "agent")
SET = daemonset()


def status(desired: int, available: int, *, name: str = "agent") -> StatusReported:
    """A set of which some pods are available, and all are there and updated."""
    return StatusReported(
        status=Status(
            namespace="default",
            daemonset=name,
            daemonset_uid=f"uid-{name}",
            observed_generation=1,
            desired_number_scheduled=desired,
            current_number_scheduled=desired,
            number_ready=available,
            number_available=available,
            number_unavailable=desired - available,
            updated_number_scheduled=desired,
        )
    )


def decision(creates: int = 0, deletes: int = 0, adopts: int = 0) -> Decision:
    """What a worker decided for the set."""
    return Decision(
        namespace="default",
        daemonset="agent",
        daemonset_uid="uid-agent",
        generation=1,
        revision="r",
        basis=1,
        at_ms=1,
        worker="w",
        size=0,
        windows={},
        counts=Counts(creates=creates, deletes=deletes, adopts=adopts),
    )


def gone(name: str, backend: str = "east") -> NodeGone:
    """A node has left."""
    return NodeGone(backend=backend, name=name)


def folded(*messages: tuple[int, Message], since_ms: int = 0) -> Timeline:
    """Fold messages, each at its time."""
    line = Timeline(KEY, since_ms)
    for place, (time_ms, message) in enumerate(messages, start=1):
        line.fold(Record(place, time_ms, message))
    return line


def said(line: Timeline) -> list[tuple[int, str]]:
    """Which marks there are, and when."""
    return [(mark.from_ms, mark.text) for mark in line.marks]


class TestCurves:
    """What statuses become."""

    def test_each_counter_is_a_curve_of_steps(self) -> None:
        """A value that stays the same is no step; each curve shows its own counter."""
        line = folded((10, status(3, 0)), (20, status(3, 0)), (30, status(3, 2)))

        assert {
            "desired": [(10, 3)],
            "current": [(10, 3)],
            "ready": [(10, 0), (30, 2)],
            "updated": [(10, 3)],
            "available": [(10, 0), (30, 2)],
            "unavailable": [(10, 3), (30, 1)],
        } == {name: list(curve.points) for name, curve in line.curves.items()}

    def test_other_sets_are_not_in_it(self) -> None:
        """Another set's messages change nothing."""
        other = daemonset(name="other")
        line = folded(
            (10, status(3, 0, name="other")),
            (11, DaemonSetObserved(daemonset=other)),
            (12, DaemonSetGone(namespace="default", name="other", uid="u")),
            (13, StatusGone(namespace="default", daemonset="other", daemonset_uid="u")),
            (14, structs.replace(decision(1), daemonset="other")),
        )

        assert not line.is_known
        assert [] == list(line.marks)
        assert [] == list(line.curves["desired"].points)

    def test_what_was_before_is_where_it_begins(self) -> None:
        """The last status before the picture is its first value; nothing of before is marked."""
        line = Timeline(KEY, since_ms=100)
        line.load(Record(1, 500, DaemonSetObserved(daemonset=SET)))
        line.load(Record(2, 500, status(5, 5)))
        line.fold(Record(3, 90, status(4, 1)))
        line.fold(Record(4, 95, decision(1)))
        line.fold(Record(5, 130, status(4, 2)))
        line.finish(200)

        assert [(100, 4)] == list(line.curves["desired"].points)
        assert [(100, 3), (130, 2)] == list(line.curves["unavailable"].points)
        assert (100, 200) == (line.begins_ms, line.ends_ms)
        assert [] == said(line)

    @pytest.mark.parametrize(("since_ms", "begins_ms"), [(100, 100), (0, 300)])
    def test_a_time_in_which_nothing_happened(self, since_ms: int, begins_ms: int) -> None:
        """What held before holds."""
        line = Timeline(KEY, since_ms)
        line.load(Record(1, 50, status(5, 4)))
        line.finish(300)

        assert [(begins_ms, 5)] == list(line.curves["desired"].points)
        assert (begins_ms, 300) == (line.begins_ms, line.ends_ms)

    def test_without_a_beginning_it_begins_with_the_first_message(self) -> None:
        """It begins where folding does, with what was loaded."""
        line = Timeline(KEY)
        line.load(Record(1, 50, status(5, 4)))
        line.fold(Record(2, 70, NodeObserved(node=node())))

        assert [(70, 1)] == list(line.curves["unavailable"].points)

    def test_a_set_that_is_gone_has_nothing(self) -> None:
        """Its pods are gone with it."""
        over = StatusGone(namespace="default", daemonset="agent", daemonset_uid="uid-agent")
        line = folded((10, status(3, 2)), (20, over))

        assert [0] * 6 == [curve.last for curve in line.curves.values()]

    def test_a_clock_that_went_back_stands_still(self) -> None:
        """Points are in the order of time, whatever the log's clock does."""
        line = folded((10, status(3, 0)), (5, status(3, 1)), (20, status(3, 3)))

        assert [(10, 3), (10, 2), (20, 0)] == list(line.curves["unavailable"].points)
        assert 20 == line.curves["unavailable"].area_ms(30)


class TestMarks:
    """What happened to the set."""

    def test_the_life_of_a_set(self) -> None:
        """Applied, changed with its template and without, deleted, made anew; what is not its spec is no change."""
        template = structs.replace(daemonset({"x": 1}), generation=2)
        scaled = structs.replace(template, generation=3, min_ready_seconds=5)
        labelled = structs.replace(scaled, labels={"a": "b"})
        anew = structs.replace(SET, uid="another")
        deleted = DaemonSetGone(namespace="default", name="agent", uid="u")
        wanted: list[DaemonSet] = [SET, template, scaled, labelled]
        line = folded(
            *((10_000 * n, DaemonSetObserved(daemonset=each)) for n, each in enumerate(wanted, 1)),
            (50_000, deleted),
            (60_000, deleted),
            (70_000, DaemonSetObserved(daemonset=anew)),
            (80_000, DaemonSetObserved(daemonset=structs.replace(anew, uid="once more"))),
        )

        assert [
            (10_000, "set applied, generation 1"),
            (20_000, "generation 2, new template"),
            (30_000, "generation 3, same template"),
            (50_000, "set deleted"),
            (70_000, "set applied, generation 1"),
            (80_000, "set applied, generation 1"),
        ] == said(line)
        assert [False, True, False, False, False, False] == [
            mark.new_template for mark in line.marks
        ]

    def test_nodes(self) -> None:
        """Nodes that come, go, are not ready and are cordoned; one under the same name is another one."""
        line = folded(
            (1_000, NodeObserved(node=node())),
            (1_000, DaemonSetObserved(daemonset=SET)),
            (10_000, NodeObserved(node=node("node-2"))),
            (20_000, NodeObserved(node=node("node-2", ready=False))),
            (30_000, NodeObserved(node=node("node-2", zone="a"))),
            (40_000, NodeObserved(node=node("node-2", "x:NoSchedule", unschedulable=True))),
            (50_000, NodeObserved(node=node("node-2", zone="b"))),
            (60_000, NodeObserved(node=node("node-2", uid="anew"))),
            (70_000, gone("node-1")),
            (80_000, gone("node-1")),
            (90_000, gone("never-seen")),
        )

        assert [
            (1_000, "set applied, generation 1"),
            (10_000, "1 node joined"),
            (20_000, "1 node not ready"),
            (30_000, "1 node ready again"),
            (40_000, "1 node cordoned"),
            (50_000, "1 node uncordoned"),
            (60_000, "1 node lost"),
            (60_000, "1 node joined"),
            (70_000, "1 node lost"),
        ] == said(line)

    def test_what_happens_at_once_is_one_mark(self) -> None:
        """Twelve nodes that are lost within a second are one mark, whatever happens in between."""
        line = folded(
            (1, DaemonSetObserved(daemonset=SET)),
            *((2, NodeObserved(node=node(f"n{number}"))) for number in range(14)),
            *(
                (5_000 + number * 80, message)
                for number in range(12)
                for message in (gone(f"n{number}"), decision(deletes=2, adopts=1))
            ),
            (6_000, gone("n12")),
            (7_000, gone("n13")),
        )

        assert [
            (2, "14 nodes joined"),
            (5_000, "12 nodes lost"),
            (5_000, "12 decisions: 24 deletes, 12 others"),
            (6_000, "1 node lost"),
            (7_000, "1 node lost"),
        ] == said(line)[1:]
        assert 5_880 == line.marks[2].to_ms

    def test_only_nodes_that_the_set_could_be_on(self) -> None:
        """A set that is for one backend has no marks of the others, and one that is not there has none at all."""
        mine = daemonset(backend="west")
        line = folded(
            (1, NodeObserved(node=node("a", backend="west"))),
            (2, gone("a", "west")),
            (3, DaemonSetObserved(daemonset=mine)),
            (4, NodeObserved(node=node("b", backend="west"))),
            (5, NodeObserved(node=node("c", backend="east"))),
            (6, gone("c", "east")),
            (7, DaemonSetGone(namespace="default", name="agent", uid="u")),
            (8, gone("b", "west")),
        )

        assert ["set applied, generation 1", "1 node joined", "set deleted"] == [
            mark.text for mark in line.marks
        ]

    def test_decisions(self) -> None:
        """Their commands are counted."""
        line = folded((1, decision(1)), (500, decision(2, 3)), (2_000, decision()))

        assert [
            (1, "2 decisions: 3 creates, 3 deletes"),
            (2_000, "1 decision: no commands"),
        ] == said(line)

    def test_changes_in_a_row(self) -> None:
        """They are one mark, which says where they led and that the template was another."""
        specs = [SET, daemonset({"x": 1}, generation=2), daemonset({"x": 1}, generation=3)]
        line = folded(*((n, DaemonSetObserved(daemonset=each)) for n, each in enumerate(specs, 1)))

        assert (2, "2 changes up to generation 3, new template") == said(line)[1]

    def test_there_are_never_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neighbours become one until they are few enough; nothing that is counted is lost, and the order stays."""
        monkeypatch.setattr(module, "MARKS_MAX", 20)
        line = folded(
            (1, DaemonSetObserved(daemonset=SET)),
            *((number * 10_000, decision(creates=1)) for number in range(1, 1_000)),
        )

        times = [mark.from_ms for mark in line.marks]
        assert len(line.marks) <= 20
        assert sorted(times) == times
        assert 999 == sum(mark.creates for mark in line.marks)
        assert MarkKind.APPLIED is line.marks[0].kind

    def test_each_kind_has_one_lane(self) -> None:
        """No mark is in no row of a picture, or in two."""
        assert sorted(MarkKind) == sorted(kind for kinds in LANES.values() for kind in kinds)

    @given(
        st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(list(MarkKind)))),
        st.integers(0, 5_000),
    )
    @example([(0, MarkKind.SPEC), (100, MarkKind.SPEC)], 100)
    def test_merging_loses_nothing(self, drawn: list[tuple[int, MarkKind]], window: int) -> None:
        """Whatever is merged is counted, starts in order, and is within the window."""
        marks = [Mark(kind=kind, from_ms=ms, to_ms=ms) for ms, kind in sorted(drawn)]

        found = merged(marks, window)

        for kind in MarkKind:
            mine = [mark for mark in found if mark.kind is kind]
            assert sum(mark.count for mark in mine) == sum(mark.kind is kind for mark in marks)
            gaps = [after.from_ms - mark.from_ms for mark, after in itertools.pairwise(mine)]
            assert all(gap >= window for gap in gaps)
        assert sorted(mark.from_ms for mark in found) == [mark.from_ms for mark in found]
        assert all(mark.to_ms - mark.from_ms < max(1, window) for mark in found)


steps = st.integers(1, 200).flatmap(
    lambda size: st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=size, max_size=size
    )
)
"""Steps: how long after the one before, and the value then; long ones as often as short ones."""


def points_of(drawn: list[tuple[int, int]]) -> list[Point]:
    """Turn durations into times."""
    found, time_ms = [], 1_000
    for duration_ms, value in drawn:
        time_ms += duration_ms
        found.append(Point(time_ms, value))
    return found


class TestThinning:
    """What is left of a curve that got too long."""

    @given(steps, st.integers(1, 12))
    def test_extremes_and_ends_stay(self, drawn: list[tuple[int, int]], slices: int) -> None:
        """Of each slice of time the lowest and the highest value stay, and where it begins and ends."""
        points = points_of(drawn)

        left = thinned(points, slices)

        begins, length = points[0].time_ms, points[-1].time_ms - points[0].time_ms + 1
        for number in range(slices):
            before, after = (
                [each for each in some if (each.time_ms - begins) * slices // length == number]
                for some in (points, left)
            )
            assert before[:1] == after[:1]
            assert before[-1:] == after[-1:]
            values, values_left = ({each.value for each in some} for some in (before, after))
            assert (min(values, default=0), max(values, default=0)) == (
                min(values_left, default=0),
                max(values_left, default=0),
            )
            assert len(after) <= module.SLICE_POINTS_MAX or len(points) <= slices
        rest = iter(points)
        assert all(each in rest for each in left)  # in the same order

    @given(steps)
    def test_a_curve_is_bounded_and_says_the_same(self, drawn: list[tuple[int, int]]) -> None:
        """However long it gets, its extremes, its last value and its area are exact."""
        points = points_of(drawn)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "POINTS_MAX", 16)
            curve = Curve()
            for point in points:
                curve.add(*point)

        values = [point.value for point in points]
        kept = [point.value for point in curve.points]
        until_ms = points[-1].time_ms + 7
        ends = [*(point.time_ms for point in points[1:]), until_ms]
        area = sum(p.value * (end - p.time_ms) for p, end in zip(points, ends, strict=True))
        assert len(curve.points) <= 16
        assert (min(values), max(values), values[-1]) == (curve.low, curve.high, curve.last)
        assert (min(values), max(values), values[-1]) == (min(kept), max(kept), kept[-1])
        assert points[0] == curve.points[0]
        assert area == curve.area_ms(until_ms)
        times = [point.time_ms for point in curve.points]
        assert sorted(times) == times

    def test_an_empty_curve(self) -> None:
        """It is nowhere, and nothing."""
        curve = Curve()

        assert ([], 0, 0, 0, 0) == (
            list(curve.points),
            curve.low,
            curve.high,
            curve.last,
            curve.area_ms(100),
        )


def test_the_subjects_that_it_looks_at() -> None:
    """What is read of a live fleet is what is taken from a recording."""
    subjects = Subjects("edge", 4)
    is_looked_at = subject_filter(subjects_of(subjects, KEY))
    own = [subjects.of_set(kind, KEY) for kind in ("daemonset", "decision", "status")]

    assert [*own, "everynode.edge.node.>"] == subjects_of(subjects, KEY)
    assert all(map(is_looked_at, [*own, "everynode.edge.node.east.a"]))
    others = [
        subjects.of_set("notice", KEY),
        subjects.of_set("status", SetKey("default", "agent-2")),
        "everynode.edge.node",
        "everynode.edge.pod.orphan.east.default.a",
    ]
    assert not any(map(is_looked_at, others))
