"""`everynode plan`: what would change if manifests were applied, on a live fleet or in a recording. It changes nothing.

What is worked out is in `replay.planning`, how it is written in `plan_report`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from everynode.cli.documents import Documents, read_documents, refused_by_fleet
from everynode.cli.exits import ExitCode
from everynode.cli.options import (
    Manifests,
    Namespace,
    Output,
    OutputFormat,
    RecursiveManifests,
    Target,
    connected,
)
from everynode.cli.output import print_object
from everynode.cli.plan_report import plan_document, print_plan
from everynode.cli.quantities import parse_moment_ms
from everynode.cli.terminal import error_line, note_line, warning_line
from everynode.errors import EverynodeError, RecordingError, RefusedError
from everynode.replay.planning import Planner
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_reading import read_planned_fleet
from everynode.replay.replaying import renaming
from everynode.runtime.clock import timestamp

CHANGES = ExitCode.USAGE
"""The number that terraform has for "there are changes"; wrong usage of this command is 1."""

EPILOG = """
Exit codes:
0 nothing would change
1 something was refused, or could not be read; wrong usage
2 something would change

Examples:
everynode plan -f fluentd.yaml
everynode plan -f manifests/ -R -o json
everynode plan -f fluentd.yaml --recording yesterday.everynode --at 2024-05-06T07:08:09Z
"""

app = typer.Typer(add_completion=False)


class _ExitsLikeTerraform(TyperCommand):
    """Ends with 1 whatever goes wrong, because 2 says that there are changes."""

    def make_context(self, *words: Any, **more: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*words, **more)
        except Exception as error:
            _exit_with_1(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except EverynodeError as error:
            error_line(str(error))
            raise typer.Exit(ExitCode.REFUSED) from error
        except Exception as error:
            _exit_with_1(error)
            raise


def _exit_with_1(error: Exception) -> None:
    is_usage = getattr(error, "exit_code", None) == ExitCode.USAGE
    if is_usage and not isinstance(error, typer.Exit):
        error.exit_code = ExitCode.REFUSED  # type: ignore[attr-defined] # it has one


@app.command("plan", cls=_ExitsLikeTerraform, epilog=EPILOG)
@connected()
async def plan(
    target: Target,
    *,
    filename: Manifests,
    recursive: RecursiveManifests = False,
    namespace: Namespace = "default",
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Name every node and show every wave.")
    ] = False,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--recording",
            metavar="FILE",
            help="Plan on a recorded fleet, and look at no server.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            "--at", metavar="TIME", help="With --recording: as it was then.", show_default="its end"
        ),
    ] = "",
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Say what would change if manifests were applied: the sets, the nodes, and the waves of the rollout."""
    if at and recording is None:
        text = "it is for recordings; a live fleet is planned as it is now"
        raise typer.BadParameter(text, param_hint="--at")
    documents = read_documents(filename, default_namespace=namespace, recursive=recursive)
    documents.report()
    if documents.empty:
        error_line("no objects passed to plan")
        return ExitCode.REFUSED
    if not documents.accepted:
        return ExitCode.REFUSED if documents.refused else ExitCode.DONE
    if recording is None:
        planner = await _live(target, documents)
        complete = True
    else:
        planner, complete = _recorded(recording, at, documents)
    return _tell(planner, documents, output, everything=nodes, complete=complete)


async def _live(target: Target, documents: Documents) -> Planner:
    """Read a fleet as it is now."""
    from everynode.runtime.jetstream import connect  # noqa: PLC0415 - takes long; a recording needs no server

    now_ms = time.time_ns() // 1_000_000
    async with await connect(target.connection, target.fleet) as bus:
        fleet = PlannedFleet(bus.subjects, (each.daemonset.key for each in documents.accepted))
        await read_planned_fleet(bus, fleet, now_ms)
    return _planner(fleet, now_ms)


def _recorded(path: Path, at: str, documents: Documents) -> tuple[Planner, bool]:
    """Read a recorded fleet as it was at some time, as far as it can be read; whether that was all.

    Raises:
        RecordingError: Nothing of it can be read.
        RefusedError: The time is to come.
    """
    from everynode.cli.recordings import opened_recording  # noqa: PLC0415 - takes long

    now_ms = time.time_ns() // 1_000_000
    until_ms = parse_moment_ms(at, now_ms, "--at") if at else None
    if until_ms is not None and until_ms > now_ms:
        raise RefusedError(f"--at {at}: that is to come; it is {timestamp(now_ms)}")
    keys = (each.daemonset.key for each in documents.accepted)
    complete = True
    with opened_recording(path, until_ms) as stream:
        fleet = PlannedFleet(stream.subjects, keys, naming=renaming(stream.renamed))
        last_ms = 0
        try:
            for entry in stream.entries:
                received = entry.received
                if received.time_ms > last_ms and not entry.is_kept:
                    last_ms = received.time_ms
                if fleet.wants(received.subject):
                    fleet.take(received)
        except RecordingError as error:
            if not last_ms:
                raise
            error_line(str(error))
            complete = False
        if not last_ms:
            raise RefusedError(
                f"{path}: no message of the log is in it: there is nothing to plan on"
            )
        if stream.renamed:
            note_line(
                f"{path}: values of environment variables were taken out, so all of them look changed"
            )
    return _planner(fleet, until_ms or last_ms), complete


def _planner(fleet: PlannedFleet, now_ms: int) -> Planner:
    planner = Planner(fleet, now_ms)
    if fleet.refused:
        warning_line(
            f"messages that cannot be read: {fleet.refused}; what was known before them counts"
        )
    return planner


def _tell(
    planner: Planner,
    documents: Documents,
    output: OutputFormat,
    *,
    everything: bool,
    complete: bool,
) -> ExitCode:
    """Plan, and write it down; one document that is refused does not keep the others from being planned."""
    for accepted in documents.accepted:
        try:
            planner.apply(accepted.daemonset)
        except RefusedError as error:
            refused = refused_by_fleet(accepted, error)
            refused.report()
            documents.refused.append(refused)
    plans = planner.plans()
    if output is OutputFormat.TABLE:
        print_plan(plans, planner.on_their_way, len(documents.refused), everything=everything)
    else:
        refused_documents = [each.as_document() for each in documents.refused]
        print_object(plan_document(plans, planner.on_their_way, refused_documents), output)
    if documents.refused or not complete:
        return ExitCode.REFUSED
    return CHANGES if any(each.action != "unchanged" for each in plans) else ExitCode.DONE
