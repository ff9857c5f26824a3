"""`everynode replay`: a recorded log, or what others recorded: decided again, or shown as it was at some point."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from everynode import wire
from everynode.cli.decisions import DECISION_HEADER, decision_row
from everynode.cli.exits import ExitCode
from everynode.cli.listing import LISTINGS
from everynode.cli.options import (
    Fleet,
    NatsOfUp,
    NoColor,
    Output,
    OutputFormat,
    prepare_messages,
    target_of,
)
from everynode.cli.output import print_object, print_objects
from everynode.cli.quantities import parse_moment_ms, parse_speed
from everynode.cli.recordings import (
    CSV,
    EPOCH_DEFAULT,
    RECORDING,
    Epoch,
    Files,
    From,
    Map,
    Sets,
    TimeUnit,
    TimeUnitOption,
    opened_stream,
    stream_source,
)
from everynode.cli.resources import DAEMONSETS, NODES, PODS
from everynode.cli.running import run
from everynode.cli.tables import NONE, Columns, Row
from everynode.cli.terminal import error_line, note_line
from everynode.core.commands import Decision
from everynode.replay.differing import differences
from everynode.replay.replaying import Decided, Difference, Known, Replay
from everynode.replay.streams import Stream
from everynode.runtime.clock import timestamp
from everynode.runtime.view import FleetView

EPILOG = """
Examples:
everynode replay yesterday.everynode
everynode replay yesterday.everynode --verify
everynode replay yesterday.everynode --at 2024-05-06T07:08:09Z
everynode replay yesterday.everynode --what-if fluentd.yaml --svg fluentd.svg
everynode replay yesterday.everynode --speed 60x
everynode replay --from kubectl nodes.json daemonsets.json pods.json
everynode replay --from csv machine_events.csv.gz --map time=0,machine=1,event=2 -f fluentd.yaml

With --verify the exit code is 0 if every decision is the same to the byte, and 1 if one is not.
"""

PENDING_SHOWN_MAX = 5

app = typer.Typer(add_completion=False)

Verify = Annotated[
    bool, typer.Option("--verify", help="Compare with what was decided then, to the byte.")
]
At = Annotated[
    str,
    typer.Option("--at", metavar="TIME", help="Show the fleet as it was then.", show_default=False),
]
Until = Annotated[
    str, typer.Option("--until", metavar="TIME", help="Stop there.", show_default="the end")
]
WhatIf = Annotated[
    Path | None,
    typer.Option(
        "--what-if",
        metavar="FILE",
        help="Compare with how it would have been with the DaemonSets in these manifests.",
        show_default=False,
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option("--svg", metavar="FILE", help="With --what-if: draw it, too.", show_default=False),
]
Speed = Annotated[
    str,
    typer.Option(
        "--speed",
        metavar="10x",
        help="Let it happen again, so much faster, to a fleet with simulated backends.",
        show_default=False,
    ),
]


@app.command("replay", epilog=EPILOG)
def replay(
    ctx: typer.Context,
    files: Files,
    *,
    source: From = RECORDING,
    columns: Map = "",
    time_unit: TimeUnitOption = TimeUnit.US,
    epoch: Epoch = EPOCH_DEFAULT,
    filename: Sets = None,
    verify: Verify = False,
    at: At = "",
    until: Until = "",
    what_if: WhatIf = None,
    svg: Svg = None,
    speed: Speed = "",
    nats: NatsOfUp = None,
    fleet: Fleet = "default",
    output: Output = OutputFormat.TABLE,
    no_color: NoColor = False,
) -> None:
    """Run a recorded log through the core again, without a server, and print what is decided."""
    prepare_messages(ctx, no_color=no_color)
    now_ms = time.time_ns() // 1_000_000
    if at and (until or verify):
        text = "it shows the fleet as it was then; leave out --until and --verify"
        raise typer.BadParameter(text, param_hint="--at")
    option = "--at" if at else "--until"
    until_ms = parse_moment_ms(at or until, now_ms, option) if at or until else None
    read_from = stream_source(source, columns, time_unit, epoch, filename or ())
    _check_given(ctx, source, speed)
    _check_source(source, verify=verify, has_sets=bool(filename), at=at)
    if svg is not None and what_if is None:
        raise typer.BadParameter("there is a picture with --what-if only", param_hint="--svg")
    if what_if is not None:
        _check_what_if(files, speed=speed, verify=verify, at=at)
        from everynode.cli.what_if import what_if as show_what_if  # noqa: PLC0415 - only this needs it

        opened = partial(opened_stream, files, read_from, until_ms)
        raise typer.Exit(show_what_if(opened, what_if, svg, output))
    if speed and (verify or at):
        raise typer.BadParameter("leave out --verify and --at", param_hint="--speed")
    pace = parse_speed(speed) if speed else 0.0
    with opened_stream(files, read_from, until_ms) as stream:
        if pace:
            from everynode.cli.replay_onto import replay_onto  # noqa: PLC0415 - only this needs it

            code = run(replay_onto(stream, target_of(nats, fleet), pace, output))
        elif at:
            code = _show_fleet(stream, output)
        elif verify:
            code = _verify(stream, output)
        elif stream.is_decided:
            code = _print_decisions(stream, output)
        else:
            from everynode.cli.rehearsing import print_rehearsal  # noqa: PLC0415 - only these need it

            code = print_rehearsal(stream, output)
    raise typer.Exit(code)


def _check_given(ctx: typer.Context, source: str, speed: str) -> None:
    """Make sure that no option was given that would change nothing; what stands in the environment may."""
    of_csv = f"it says when the rows of a CSV file were; --from is {source}"
    of_server = "nothing is asked of a server without --speed"
    for name, flag, is_used, text in (
        ("time_unit", "--time-unit", source == CSV, of_csv),
        ("epoch", "--epoch", source == CSV, of_csv),
        ("nats", "--nats", bool(speed), of_server),
        ("fleet", "--fleet", bool(speed), of_server),
    ):
        given = ctx.get_parameter_source(name)
        if not is_used and given is not None and given.name == "COMMANDLINE":
            raise typer.BadParameter(text, param_hint=flag)


def _check_source(source: str, *, verify: bool, has_sets: bool, at: str) -> None:
    if verify and source != RECORDING:
        text = f"nobody of ours decided there; --from is {source}"
        raise typer.BadParameter(text, param_hint="--verify")
    if source == CSV and not has_sets and not at:
        text = "machine events have no DaemonSets: give manifests, or ask with --at for the nodes"
        raise typer.BadParameter(text, param_hint="--filename")


def _check_what_if(files: Sequence[Path], *, speed: str, verify: bool, at: str) -> None:
    if speed or verify or at:
        text = "it compares with how it would have been; leave out --speed, --verify and --at"
        raise typer.BadParameter(text, param_hint="--what-if")
    if any(str(path) == "-" for path in files):
        text = "it is read twice, which stdin cannot be: name a file"
        raise typer.BadParameter(text, param_hint="FILE")


def _replay_of(stream: Stream) -> Replay:
    return Replay(stream.subjects, renamed=stream.renamed, from_sequence=stream.from_sequence)


# --- what was decided -------------------------------------------------------------------------------------------------


def _print_decisions(stream: Stream, output: OutputFormat) -> ExitCode:
    """Print each decision as it is made again."""
    replaying = _replay_of(stream)
    rows: Iterator[Decided] = (each for each in replaying.run(stream.entries) if not each.why_not)
    if output is not OutputFormat.TABLE:
        print_objects(map(_document, rows), output)
        return ExitCode.DONE
    columns: Columns | None = None
    for decided in rows:
        row = _row(decided)
        if columns is None:
            columns = Columns(DECISION_HEADER, [row])
            columns.print()
        else:
            columns.print_row(row)
    note_line(
        f"{stream.name}: {replaying.counts.messages} messages, {replaying.counts.again} decisions"
    )
    return ExitCode.DONE


def _made(decided: Decided) -> Decision | None:
    """Return the decision as it is made now."""
    first = decided.again[0] if decided.again else None
    return first if isinstance(first, Decision) else None


def _row(decided: Decided) -> Row:
    decision = _made(decided)
    was = decided.decision
    sequence, time_ms = decided.received.sequence, decided.received.time_ms
    if decision is None:
        head = [str(sequence), timestamp(time_ms), str(was.set_key)]
        return [*head, "0", "0", "0", was.worker, "nothing is decided now"]
    return decision_row(sequence, time_ms, decision)


def _document(decided: Decided) -> dict[str, Any]:
    return {
        "sequence": decided.received.sequence,
        "time": timestamp(decided.received.time_ms),
        "same": decided.difference() is None,
        "messages": [msgspec.Raw(wire.encode(message)) for message in decided.again or ()],
    }


# --- whether it is the same -------------------------------------------------------------------------------------------


def _verify(stream: Stream, output: OutputFormat) -> ExitCode:
    """Compare all decisions; stop at the first that is another now."""
    replaying = _replay_of(stream)
    found: Difference | None = None
    for decided in replaying.run(stream.entries):
        found = decided.difference()
        if found is not None:
            break
    counts = replaying.counts
    is_same = found is None and counts.again > 0 and not stream.problems
    if output is not OutputFormat.TABLE:
        print_object(_verdict(replaying, found, stream.problems, is_same=is_same), output)
    elif found is None:
        print(
            f"{counts.again} of {counts.decisions} decisions decided again, all the same to the byte"
        )
        if counts.out_of_reach:
            print(f"{counts.out_of_reach} stand before what was recorded, or out of reach")
    else:
        print("\n".join(_told(found, replaying)))
    if found is None and not counts.again:
        error_line(f"{stream.name}: it has no decision that can be compared")
    return ExitCode.DONE if is_same else ExitCode.REFUSED


def _verdict(
    replaying: Replay, found: Difference | None, problems: Sequence[str], *, is_same: bool
) -> dict[str, Any]:
    counts = replaying.counts
    return {
        "same": is_same,
        "problems": problems,
        "messages": counts.messages,
        "decisions": counts.decisions,
        "again": counts.again,
        "outOfReach": counts.out_of_reach,
        "difference": None
        if found is None
        else {
            "sequence": found.sequence,
            "daemonset": str(found.decision.set_key),
            "place": found.place,
            "fields": [
                {"field": each.field, "was": each.was, "isNow": each.is_now}
                for each in differences(found.was, found.is_now)
            ],
            "known": _known(replaying.known_of(found.decision.set_key)),
        },
    }


def _known(known: Known) -> dict[str, Any]:
    return known._asdict() | {
        "pending": [msgspec.Raw(wire.encode(command)) for command in known.pending]
    }


def _told(found: Difference, replaying: Replay) -> Iterator[str]:
    """Say where a decision is another one, and what was known."""
    decision = found.decision
    yield f"decision {found.sequence} about {decision.set_key} is another one now"
    yield f"  made by {decision.worker} at {timestamp(decision.at_ms)}, having read up to {decision.basis}"
    what = "the decision" if found.place == 0 else f"message {found.place} that was stored with it"
    yield f"  the first difference is in {what}:"
    for each in differences(found.was, found.is_now):
        yield f"    {each.field}: was {each.was}, is now {each.is_now}"
    yield "  what was known then:"
    known = replaying.known_of(decision.set_key)
    yield f"    generation {known.generation}, revision {known.revision or NONE}, last decided at {known.decided}"
    yield f"    {known.nodes} nodes"
    yield (
        f"    {known.pods} pods: {known.ready} ready, {known.updated} of that revision; "
        f"{known.orphans} to adopt"
    )
    yield f"    {len(known.pending)} commands without effect so far"
    for command in known.pending[:PENDING_SHOWN_MAX]:
        yield f"      {type(command).__name__} {command.pod} on {command.node}: {command.reason}"
    if len(known.pending) > PENDING_SHOWN_MAX:
        yield f"      and {len(known.pending) - PENDING_SHOWN_MAX} more"


# --- the fleet as it was ----------------------------------------------------------------------------------------------


def _show_fleet(stream: Stream, output: OutputFormat) -> ExitCode:
    """Show nodes and sets as the log had them at the end of what is read."""
    view = FleetView(stream.subjects)
    last_ms = stream.from_ms
    for entry in stream.entries:
        view.fold(entry.received)
        last_ms = entry.received.time_ms if not entry.is_kept else last_ms
    listings = [LISTINGS[name] for name in (NODES, DAEMONSETS, PODS)]
    if output is not OutputFormat.TABLE:
        items = [each.document(item) for each in listings for item in sorted(each.items(view))]
        print_object({"apiVersion": "v1", "kind": "List", "items": items}, output)
        return ExitCode.DONE
    note_line(f"fleet {stream.subjects.fleet} at {timestamp(last_ms)}, sequence {view.sequence}")
    listing = LISTINGS[DAEMONSETS]
    rows = [
        [item.namespace, *listing.row(item, last_ms, wide=True)]
        for item in sorted(listing.items(view), key=lambda item: item.key)
    ]
    Columns(["NAMESPACE", *listing.header(wide=True)], rows).print()
    print(f"{len(view.nodes)} nodes, {len(view.pods)} pods")
    return ExitCode.DONE
