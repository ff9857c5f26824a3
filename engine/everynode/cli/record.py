"""`everynode record`: a fleet's log as a file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from everynode.cli.exits import ExitCode
from everynode.cli.options import Target, connected
from everynode.cli.quantities import parse_moment_ms, show_bytes
from everynode.cli.running import until_stopped
from everynode.cli.terminal import note_line, progress_of
from everynode.errors import RecordingError
from everynode.replay.recorder import Recorder, Wanted, span_of
from everynode.runtime.jetstream import JetStreamBus, connect

EPILOG = """
Example: everynode record -o yesterday.everynode --since 24h --redact env

Times are durations before now (90s, 24h, 7d) or RFC 3339 (2024-05-06T07:08:09Z). With --follow it goes on until it is
asked to stop, and what it has written can be read meanwhile.
"""

app = typer.Typer(add_completion=False)


class Redact(StrEnum):
    """What is taken out of a recording."""

    ENV = "env"


@app.command("record", epilog=EPILOG)
@connected()
async def record(
    target: Target,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to; - is stdout.", allow_dash=True
        ),
    ],
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="From when on.", show_default="the beginning"),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Up to when.", show_default="now")
    ] = "",
    from_seq: Annotated[
        int | None,
        typer.Option(
            "--from-seq", metavar="N", min=1, help="From which message on.", show_default=False
        ),
    ] = None,
    to_seq: Annotated[
        int | None,
        typer.Option(
            "--to-seq", metavar="N", min=1, help="Up to which message.", show_default=False
        ),
    ] = None,
    redact: Annotated[
        Redact | None,
        typer.Option(
            "--redact", help="Leave out the values of environment variables.", show_default=False
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until asked to stop.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> ExitCode:
    """Write a fleet's log into a file."""
    for one, other, names in (
        (since, from_seq, "--since and --from-seq"),
        (until, to_seq, "--until and --to-seq"),
    ):
        if one and other is not None:
            raise typer.BadParameter(f"{names} say the same in two ways; give one of them")
    if follow and (until or to_seq is not None):
        raise typer.BadParameter("--follow has no end; leave out --until and --to-seq")
    now_ms = time.time_ns() // 1_000_000
    wanted = Wanted(
        from_sequence=from_seq,
        to_sequence=to_seq,
        since_ms=parse_moment_ms(since, now_ms, "--since") if since else None,
        until_ms=parse_moment_ms(until, now_ms, "--until") if until else None,
    )
    async with await connect(target.connection, target.fleet) as bus:
        await _record(
            bus, output, wanted, now_ms, redact_env=redact is Redact.ENV, follow=follow, force=force
        )
    return ExitCode.DONE


async def _record(
    bus: JetStreamBus,
    output: Path,
    wanted: Wanted,
    now_ms: int,
    *,
    redact_env: bool,
    follow: bool,
    force: bool,
) -> None:
    span = await span_of(bus, wanted)
    about = await bus.describe()
    with _opened(output, force=force) as file:
        recorder = Recorder(
            bus, file, span, backends=about.backends, recorded_ms=now_ms, redact_env=redact_env
        )
        with progress_of(f"recording {bus.subjects.fleet}", span.begins) as progress:
            await recorder.record(progress)
            if follow:
                await until_stopped(recorder.follow(progress))
        footer = recorder.finish()
        size = show_bytes(recorder.bytes_written)
    note_line(
        f"{output}: {footer.messages} messages of fleet {bus.subjects.fleet}, {size}, "
        f"up to sequence {footer.last_sequence}"
    )


@contextlib.contextmanager
def _opened(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open what is written to; a file that is there is not replaced unless that is wanted."""
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    try:
        file = path.open("wb" if force else "xb")
    except FileExistsError as error:
        message = f"{path}: it is there already; give --force to replace it"
        raise RecordingError(message) from error
    with file:
        yield file
