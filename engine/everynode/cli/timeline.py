"""`everynode timeline`: how a set has been over time, and what happened to it, as a chart and as SVG."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from everynode.cli.charts import (
    PIPE_WIDTH,
    ChartLine,
    Span,
    chart,
    legend,
    levels,
    mark_rows,
)
from everynode.cli.exits import ExitCode
from everynode.cli.options import Namespace, Output, OutputFormat, Target, connected
from everynode.cli.output import print_object
from everynode.cli.quantities import parse_moment_ms
from everynode.cli.reading import read_fleet
from everynode.cli.resources import DAEMONSETS, Names, SetKind, parse_named
from everynode.cli.tables import Columns
from everynode.cli.terminal import error_line, note_line, stdout_is_terminal
from everynode.core.events import DaemonSetObserved
from everynode.core.values import SetKey
from everynode.errors import RecordingError, RefusedError
from everynode.replay.drawing import Line, Panel, Picture, svg
from everynode.replay.history import read_history
from everynode.replay.recording import Entry
from everynode.replay.streams import record_of, subject_filter
from everynode.replay.timeline import MarkKind, Timeline, subjects_of
from everynode.runtime.clock import moment, timestamp
from everynode.wire import Subjects

EPILOG = """
Examples:
everynode timeline ds/fluentd -n logging --since 2h
everynode timeline ds/fluentd -n logging --recording yesterday.everynode --svg fluentd.svg
"""

SETS_NAMED_MAX = 10
MARK_STEPS = 30
"""Into how many steps the time is cut for the table of marks: what happens within one of them is one row."""
ENTRIES_AT_ONCE = 5_000
"""After how many messages of a recording it is looked whether the command is to stop."""

CHARTED = {
    "desired": "bright_black",
    "current": "blue",
    "ready": "green",
    "updated": "magenta",
    "unavailable": "red",
}
"""The curves that are drawn, and their colours."""

app = typer.Typer(add_completion=False)


class _Wish(NamedTuple):
    """What is asked for; times in ms since 1970, ``None``: from the beginning, to the end."""

    key: SetKey
    since_ms: int | None
    until_ms: int | None


class _Found(NamedTuple):
    """What was found.

    Attributes:
        source: Where, for messages.
        sets: The sets that there are, if the one that is asked for is not among them.
        damage: Why no more could be read.
    """

    timeline: Timeline
    source: str
    sets: list[SetKey]
    damage: str = ""


@app.command("timeline", epilog=EPILOG)
@connected()
async def timeline(
    target: Target,
    kind: SetKind,
    names: Names = None,
    *,
    namespace: Namespace = "default",
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="From when on.", show_default="the beginning"),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Up to when.", show_default="the end")
    ] = "",
    recording: Annotated[
        Path | None,
        typer.Option(
            "--recording",
            metavar="FILE",
            help="Look at a recording, and at no server; - is stdin.",
            show_default=False,
            allow_dash=True,
        ),
    ] = None,
    svg_file: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE", help="Draw it as SVG, too.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Show how many pods a DaemonSet had over time, and what happened to it."""
    named = parse_named([kind, *(names or [])], (DAEMONSETS,))
    if len(named.names) != 1:
        raise typer.BadParameter("name one set", param_hint="NAME")
    now_ms = time.time_ns() // 1_000_000
    wish = _Wish(
        key=SetKey(namespace, named.names[0]),
        since_ms=parse_moment_ms(since, now_ms, "--since") if since else None,
        until_ms=parse_moment_ms(until, now_ms, "--until") if until else None,
    )
    if (wish.since_ms or 0) >= (now_ms if wish.until_ms is None else wish.until_ms):
        raise typer.BadParameter("--since must be before --until, and in the past")
    if str(svg_file) == "-":
        raise typer.BadParameter("stdout has the chart already: name a file", param_hint="--svg")
    if recording is not None:
        found = await _in_recording(recording, wish)
    else:
        found = await _in_fleet(target, wish, now_ms)
    trouble = _trouble(found)
    if trouble:
        raise RefusedError(found.damage or trouble)
    if svg_file is not None:
        _write(svg_file, svg(_picture(found.timeline)), force=force)
    if output is OutputFormat.TABLE:
        _print(found.timeline)
    else:
        print_object(_document(found.timeline), output)
    if found.damage:
        error_line(found.damage)
        return ExitCode.REFUSED
    return ExitCode.DONE


# --- reading ----------------------------------------------------------------------------------------------------------


async def _in_fleet(target: Target, wish: _Wish, now_ms: int) -> _Found:
    """Read the set's past from a live fleet's log."""
    from everynode.runtime.jetstream import connect  # noqa: PLC0415 - takes long; a recording needs no server

    source = f"fleet {target.fleet}"
    async with await connect(target.connection, target.fleet) as bus:
        begins_ms = await bus.time_of((await bus.log_position()).first_sequence) or 0
        _check(source, wish, begins_ms, now_ms)
        entries = await read_history(bus, subjects_of(bus.subjects, wish.key), wish.until_ms)
        found = Timeline(wish.key, max(begins_ms, wish.since_ms or 0))
        for entry in entries:
            _take_in(found, bus.subjects, entry)
        found.finish(now_ms if wish.until_ms is None else min(now_ms, wish.until_ms))
        sets: list[SetKey] = []
        if not found.is_known:
            sets = sorted((await read_fleet(bus, ("daemonset",))).daemonsets)
    return _Found(found, source, sets)


async def _in_recording(path: Path, wish: _Wish) -> _Found:
    """Read the set's past from a recording; what can be read of it, if it is damaged."""
    from everynode.cli.recordings import opened_recording  # noqa: PLC0415 - takes long

    sets: dict[str, SetKey] = {}
    damage = ""
    with opened_recording(path) as stream:
        ends_ms = stream.from_ms
        subjects = stream.subjects
        found = Timeline(wish.key, max(stream.from_ms, wish.since_ms or 0))
        is_wanted = subject_filter(subjects_of(subjects, wish.key))
        all_sets = f"{subjects.prefix}.daemonset."
        try:
            for number, entry in enumerate(stream.entries):
                if number % ENTRIES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                subject, time_ms = entry.received.subject, entry.received.time_ms
                if not entry.is_kept:
                    if wish.until_ms is not None and time_ms > wish.until_ms:
                        ends_ms = wish.until_ms
                        break
                    ends_ms = max(ends_ms, time_ms)
                if is_wanted(subject):
                    _take_in(found, subjects, entry)
                elif subject.startswith(all_sets) and subject not in sets:
                    sets |= _set_on(subjects, entry)
        except RecordingError as error:
            if not found.begins_ms:
                raise  # there is nothing to show
            damage = str(error)
    _check(stream.name, wish, stream.from_ms, ends_ms)
    found.finish(ends_ms)
    return _Found(found, stream.name, sorted(sets.values()), damage)


def _take_in(found: Timeline, subjects: Subjects, entry: Entry) -> None:
    record = record_of(subjects, entry.received)
    if record is None:
        return  # it cannot be used, and nobody used it then
    if entry.is_kept:
        found.load(record)
    else:
        found.fold(record)


def _set_on(subjects: Subjects, entry: Entry) -> dict[str, SetKey]:
    """Say which set a message is about, by its subject; nothing if it cannot be read."""
    record = record_of(subjects, entry.received)
    match record and record.message:
        case DaemonSetObserved(daemonset=daemonset):
            return {entry.received.subject: daemonset.key}
        case _:
            return {}


def _check(source: str, wish: _Wish, begins_ms: int, ends_ms: int) -> None:
    """Refuse a time from which there is nothing."""
    if wish.until_ms is not None and wish.until_ms < begins_ms:
        raise RefusedError(
            f"{source}: it begins at {timestamp(begins_ms)}; --until {timestamp(wish.until_ms)} is before that"
        )
    if wish.since_ms is not None and wish.since_ms > ends_ms:
        raise RefusedError(
            f"{source}: it ends at {timestamp(ends_ms)}; --since {timestamp(wish.since_ms)} is after that"
        )


def _trouble(found: _Found) -> str:
    """Say why there is nothing to show; empty if there is something."""
    line, key = found.timeline, found.timeline.key
    if not line.is_known:
        named = ", ".join(map(str, found.sets[:SETS_NAMED_MAX])) or "none"
        more = len(found.sets) - SETS_NAMED_MAX
        rest = f" and {more} more" if more > 0 else ""
        return (
            f'{DAEMONSETS.plural} "{key.name}" not found in namespace {key.namespace}; '
            f"the sets of {found.source}: {named}{rest}"
        )
    if not line.curves["desired"].points:
        begins, ends = timestamp(line.begins_ms), timestamp(line.ends_ms)
        return (
            f"{found.source}: no worker had reported a status of {DAEMONSETS.singular} {key} between {begins} and "
            f"{ends}; ask for a later time"
        )
    return ""


# --- showing ----------------------------------------------------------------------------------------------------------


def _print(line: Timeline) -> None:
    """Draw a chart, and list what happened."""
    is_terminal = stdout_is_terminal()
    span = Span(line.begins_ms, line.ends_ms)
    console = Console(highlight=False)
    print(f"{DAEMONSETS.qualified}/{line.key.name} in namespace {line.key.namespace}: {_sum(line)}")
    drawn = [
        ChartLine(name, line.curves[name], style, shows_high=name == "unavailable")
        for name, style in CHARTED.items()
    ]
    width = shutil.get_terminal_size().columns if is_terminal else PIPE_WIDTH
    for text in chart(drawn, line.marks, span, width, levels()):
        if is_terminal:
            console.print(text, soft_wrap=True)
        else:
            print(text.plain)
    if line.marks:
        print("", *legend(line.marks, width), "", sep="\n")
        Columns(["TIME", "WHAT"], mark_rows(line.marks, span, MARK_STEPS)).print()


def _sum(line: Timeline) -> str:
    """Say how long how many nodes had no available pod."""
    seconds = line.curves["unavailable"].area_ms(line.ends_ms) // 1000
    return f"{seconds:,} node-seconds unavailable"


def _picture(line: Timeline) -> Picture:
    lines = [Line(name, line.curves[name], pen) for pen, name in enumerate(CHARTED)]
    begins, ends = timestamp(line.begins_ms), timestamp(line.ends_ms)
    return Picture(
        title=f"DaemonSet {line.key}",
        subtitle=f"{begins} to {ends}, {_sum(line)}",
        begins_ms=line.begins_ms,
        ends_ms=line.ends_ms,
        panels=(Panel(lines[:-1]), Panel(lines[-1:])),
        marks=line.marks,
    )


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file; one that is there is not replaced unless that is wanted."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RefusedError(f"{path}: it is there already; give --force to replace it") from error
    note_line(f"{path}: {len(text.encode())} bytes of SVG")


def _document(line: Timeline) -> dict[str, Any]:
    return {
        "namespace": line.key.namespace,
        "name": line.key.name,
        "begins": moment(line.begins_ms),
        "ends": moment(line.ends_ms),
        "unavailableNodeMilliseconds": line.curves["unavailable"].area_ms(line.ends_ms),
        "curves": {
            name: {
                "min": curve.low,
                "max": curve.high,
                "last": curve.last,
                "points": [
                    {"time": moment(point.time_ms), "value": point.value} for point in curve.points
                ],
            }
            for name, curve in line.curves.items()
        },
        "marks": list(_mark_documents(line)),
    }


def _mark_documents(line: Timeline) -> Iterator[dict[str, Any]]:
    for mark in line.marks:
        document: dict[str, Any] = {
            "kind": mark.kind.value,
            "begins": moment(mark.from_ms),
            "ends": moment(mark.to_ms),
            "count": mark.count,
            "text": mark.text,
        }
        match mark.kind:
            case MarkKind.APPLIED:
                document |= {"generation": mark.generation}
            case MarkKind.SPEC:
                document |= {"generation": mark.generation, "newTemplate": mark.new_template}
            case MarkKind.DECISIONS:
                document |= {
                    "creates": mark.creates,
                    "deletes": mark.deletes,
                    "others": mark.others,
                }
            case _:
                pass
        yield document
