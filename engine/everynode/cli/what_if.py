"""`everynode replay --what-if`: the recorded past with another spec, beside how it was, as a table and as a picture."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from everynode.cli.charts import PIPE_WIDTH, ChartLine, Span, chart, levels
from everynode.cli.documents import Documents, read_documents, refused_by_fleet
from everynode.cli.exits import ExitCode
from everynode.cli.options import OutputFormat
from everynode.cli.output import print_object
from everynode.cli.resources import DAEMONSETS
from everynode.cli.tables import NONE, Columns
from everynode.cli.terminal import error_line, note_line, stdout_is_terminal
from everynode.core.values import SetKey
from everynode.errors import InvalidObjectError, RecordingError, RefusedError
from everynode.replay.drawing import Line, Panel, Picture, svg
from everynode.replay.recording import Entry
from everynode.replay.streams import Stream
from everynode.replay.timeline import Curve, MarkKind
from everynode.replay.what_if import (
    Differences,
    Survey,
    Wanted,
    compared,
    rehearse,
    wanted_instead,
)
from everynode.replay.what_if_course import Course, Made
from everynode.runtime.clock import moment, timestamp

RECORDED, UNCHANGED, WHAT_IF = "recorded", "unchanged", "what if"
CURVES = ("unavailable", "updated")
NODES_SHOWN_MAX = 3
_PEN_WAS, _PEN_IS = 0, 4


class Opener(Protocol):
    """Opens the stream."""

    def __call__(self, *, again: bool) -> AbstractContextManager[Stream]:
        """Open it; ``again``: it was read before."""


@dataclass
class _Comparison:
    """What is shown of one set.

    Attributes:
        was_called: Whether how it was is what was recorded.
    """

    was: Course
    is_now: Course
    wanted: Wanted
    was_called: str
    ends_ms: int

    @property
    def differences(self) -> Differences:
        """In what the two differ."""
        return compared(self.was, self.is_now)

    def seconds(self, course: Course) -> str:
        """Say how long it took until all was rolled out."""
        if course.rolled_out_ms is None:
            return "not by the end"
        return f"{(course.rolled_out_ms - course.changed_ms) / 1000:.1f} s"

    def area_ms(self, course: Course) -> int:
        """Sum up for how long how many nodes had no available pod, in node-milliseconds."""
        return course.timeline.curves["unavailable"].area_ms(self.ends_ms)


def what_if(
    opened: Opener, manifests: Path, svg_file: Path | None, output: OutputFormat
) -> ExitCode:
    """Show what would have been, had these manifests been applied.

    Args:
        opened: Opens the stream, once for each time that it is read.
        manifests: The sets as they are to be instead.
        svg_file: Where to draw it, too.
        output: How to write the result.

    Raises:
        RecordingError: Nothing of the stream can be used.
        RefusedError: There is nothing to compare, or the picture cannot be written.
    """
    documents = read_documents([str(manifests)])
    documents.report()
    documents.keep_last()
    if not documents.accepted:
        if documents.refused:
            return ExitCode.REFUSED  # why was said
        raise RefusedError(f"{manifests}: there is no DaemonSet in it; name manifests as for apply")
    if svg_file is not None and svg_file.exists():
        raise RefusedError(f"{svg_file}: it is there already; remove it, or name another file")
    with without_garbage_collection():
        survey = Survey(each.daemonset.key for each in documents.accepted)
        damage = _surveyed(survey, opened)
        wanted = _wanted(documents, survey)
        comparisons = _rehearsed(opened, survey, wanted) if wanted else []
    if output is not OutputFormat.TABLE:
        print_object([_document(each) for each in comparisons], output)
    else:
        for number, comparison in enumerate(comparisons):
            print("\n" if number else "", end="")
            _print(comparison)
    if svg_file is not None and comparisons:
        text = svg(_picture(comparisons))
        svg_file.write_text(text, encoding="utf-8")
        note_line(f"{svg_file}: {len(text.encode())} bytes of SVG")
    if damage:
        error_line(damage)
    return ExitCode.REFUSED if damage or documents.refused else ExitCode.DONE


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Let Python look for no cycles: there are none in what is read and rehearsed, and the search is long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _surveyed(survey: Survey, opened: Opener) -> str:
    """Read the stream the first time; returns why no more could be read, if so."""
    try:
        with opened(again=False) as stream:
            survey.read(stream)
    except RecordingError as error:
        if not survey.changes:
            raise
        return str(error)
    if not survey.changes:
        raise RefusedError(f"{stream.name}: nothing happened in what was recorded")
    return ""


def _wanted(documents: Documents, survey: Survey) -> dict[SetKey, Wanted]:
    """Say what would have been applied; what would have been refused joins the refused documents."""
    found: dict[SetKey, Wanted] = {}
    for accepted in documents.accepted:
        daemonset = accepted.daemonset
        try:
            found[daemonset.key] = wanted_instead(daemonset, survey.changes[daemonset.key])
        except (InvalidObjectError, RefusedError) as error:
            refused = refused_by_fleet(accepted, error)
            refused.report()
            documents.refused.append(refused)
    return found


def _rehearsed(
    opened: Opener, survey: Survey, wanted: Mapping[SetKey, Wanted]
) -> list[_Comparison]:
    """Go through the stream the second time."""
    with opened(again=True) as stream:
        was, run = rehearse(survey, wanted, _readable(stream))
    comparisons = []
    for key, each in sorted(wanted.items()):
        courses = (was.of[key], run.courses.of[key])
        for course in courses:
            course.timeline.finish(run.ends_ms)
        was_called = RECORDED if stream.is_decided else UNCHANGED
        comparisons.append(_Comparison(*courses, each, was_called, run.ends_ms))
    return comparisons


def _readable(stream: Stream) -> Iterator[Entry]:
    """Read as far as can be; why not further was said the first time."""
    with contextlib.suppress(RecordingError):
        yield from stream.entries


# --- showing ----------------------------------------------------------------------------------------------------------


def _print(comparison: _Comparison) -> None:
    change = comparison.wanted.change
    what = _what_changed(comparison.wanted)
    key = comparison.was.key
    print(f"{DAEMONSETS.qualified}/{key.name} in namespace {key.namespace}: {what}")
    print(f"since {timestamp(change.time_ms)}, sequence {change.sequence}\n")
    header = ["", comparison.was_called.upper(), WHAT_IF.upper()]
    Columns(header, _rows(comparison)).print()
    print()
    _print_chart(comparison)
    print()
    _print_differences(comparison)


def _what_changed(wanted: Wanted) -> str:
    """Say in the place of what the other spec comes."""
    recorded, daemonset = wanted.change.recorded, wanted.daemonset
    if recorded is None:
        return "nothing would have changed" if daemonset is None else "a change in addition"
    if daemonset == recorded:
        return f"generation {recorded.generation}, as it was asked for"
    place = f"in the place of generation {recorded.generation}"
    return f"no change {place}" if daemonset is None else f"another spec {place}"


def _rows(comparison: _Comparison) -> list[list[str]]:
    courses = (comparison.was, comparison.is_now)
    curves = [course.timeline.curves for course in courses]
    return [
        ["decisions", *(f"{each.decisions:,}" for each in courses)],
        ["pods made", *(f"{each.pods_made:,}" for each in courses)],
        ["pods removed", *(f"{each.pods_removed:,}" for each in courses)],
        ["  by the rollout", *(f"{each.pods_replaced:,}" for each in courses)],
        ["rolled out after", *map(comparison.seconds, courses)],
        [
            "node-seconds unavailable",
            *(f"{comparison.area_ms(each) / 1000:,.1f}" for each in courses),
        ],
        ["most unavailable at once", *(f"{each['unavailable'].high:,}" for each in curves)],
        ["at the end: desired", *(f"{each['desired'].last:,}" for each in curves)],
        ["            ready", *(f"{each['ready'].last:,}" for each in curves)],
        ["            up to date", *(f"{each['updated'].last:,}" for each in curves)],
    ]


def _print_chart(comparison: _Comparison) -> None:
    lines = [
        ChartLine(label, curve, style, shows_high=name == "unavailable", full=full)
        for name in CURVES
        for full in [max(curve.high for _, curve in _curves(comparison, name))]
        for (label, curve), style in zip(
            _curves(comparison, name), ("bright_black", "red"), strict=True
        )
    ]
    is_terminal = stdout_is_terminal()
    span = Span(comparison.was.changed_ms, comparison.ends_ms)
    width = shutil.get_terminal_size().columns if is_terminal else PIPE_WIDTH
    console = Console(highlight=False)
    for place, name in enumerate(CURVES):
        print(f"{name}:")
        for text in chart(lines[2 * place : 2 * place + 2], (), span, width, levels()):
            if is_terminal:
                console.print(text, soft_wrap=True)
            else:
                print(text.plain)


def _curves(comparison: _Comparison, name: str) -> list[tuple[str, Curve]]:
    return [
        (comparison.was_called, comparison.was.timeline.curves[name]),
        (WHAT_IF, comparison.is_now.timeline.curves[name]),
    ]


def _print_differences(comparison: _Comparison) -> None:
    found = comparison.differences
    was = comparison.was_called
    print(
        f"commands: {found.same:,} the same, {found.only_was:,} only {was}, {found.only_is:,} only {WHAT_IF}"
    )
    rows = [
        [called, str(made.sequence), moment(made.time_ms), _said(made)]
        for called, decisions in ((was, found.first_was), (WHAT_IF, found.first_is))
        for made in decisions
    ]
    if rows:
        print("the first decisions that differ:")
        Columns(["WHICH", "SEQUENCE", "TIME", "WHAT"], rows).print()


def _said(made: Made) -> str:
    """Say what a decision was about."""
    parts = []
    for verb in sorted({action.verb for action in made.actions}):
        names = sorted(action.node.name for action in made.actions if action.verb == verb)
        more = len(names) - NODES_SHOWN_MAX
        rest = f" and {more} more" if more > 0 else ""
        parts.append(f"{verb} on {', '.join(names[:NODES_SHOWN_MAX])}{rest}")
    return "; ".join(parts) or NONE


def _picture(comparisons: list[_Comparison]) -> Picture:
    """Draw both lines for each curve of each set."""
    panels = [
        Panel(
            [
                Line(f"{comparison.was.key} {name}, {label}", curve, pen)
                for (label, curve), pen in zip(
                    _curves(comparison, name), (_PEN_WAS, _PEN_IS), strict=True
                )
            ]
        )
        for comparison in comparisons
        for name in CURVES
    ]
    first = min(comparisons, key=lambda each: each.was.changed_ms)
    begins_ms, ends_ms = first.was.changed_ms, first.ends_ms
    names = ", ".join(str(comparison.was.key) for comparison in comparisons)
    return Picture(
        title=f"What if: {names}",
        subtitle=f"{timestamp(begins_ms)} to {timestamp(ends_ms)}",
        begins_ms=begins_ms,
        ends_ms=ends_ms,
        panels=panels,
        marks=[mark for mark in first.was.timeline.marks if mark.kind is not MarkKind.DECISIONS],
    )


def _document(comparison: _Comparison) -> dict[str, Any]:
    change, found = comparison.wanted.change, comparison.differences
    return {
        "namespace": comparison.was.key.namespace,
        "name": comparison.was.key.name,
        "sequence": change.sequence,
        "begins": moment(change.time_ms),
        "ends": moment(comparison.ends_ms),
        "replacedGeneration": None if change.recorded is None else change.recorded.generation,
        "changes": comparison.wanted.daemonset is not None,
        "baseline": comparison.was_called,
        "was": _course_document(comparison, comparison.was),
        "whatIf": _course_document(comparison, comparison.is_now),
        "commands": {"same": found.same, "onlyWas": found.only_was, "onlyWhatIf": found.only_is},
        "firstDifferent": {
            "was": [_made_document(each) for each in found.first_was],
            "whatIf": [_made_document(each) for each in found.first_is],
        },
    }


def _course_document(comparison: _Comparison, course: Course) -> dict[str, Any]:
    curves = course.timeline.curves
    done_ms = course.rolled_out_ms
    return {
        "decisions": course.decisions,
        "podsMade": course.pods_made,
        "podsRemoved": course.pods_removed,
        "podsReplaced": course.pods_replaced,
        "rolledOutMilliseconds": None if done_ms is None else done_ms - course.changed_ms,
        "unavailableNodeMilliseconds": comparison.area_ms(course),
        "unavailableMax": curves["unavailable"].high,
        "desired": curves["desired"].last,
        "ready": curves["ready"].last,
        "updated": curves["updated"].last,
        "curves": {
            name: [{"time": moment(at_ms), "value": value} for at_ms, value in curves[name].points]
            for name in CURVES
        },
    }


def _made_document(made: Made) -> dict[str, Any]:
    return {
        "sequence": made.sequence,
        "time": moment(made.time_ms),
        "commands": [
            {"verb": action.verb, "backend": action.node.backend, "node": action.node.name}
            for action in sorted(made.actions)
        ],
    }
