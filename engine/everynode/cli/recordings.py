"""Recordings, and what others recorded, as commands open them: with clear errors, and progress while they are read.

Used by every command that looks at the past. Whatever of a file cannot be used is said while it is read, hides nothing
else, and is an error at the end.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NamedTuple

import typer

from everynode.cli.installed import SOURCES, installed, load
from everynode.cli.quantities import parse_moment_ms
from everynode.cli.terminal import error_line, note_line, progress_of
from everynode.core.values import DaemonSet
from everynode.errors import RecordingError
from everynode.ports import Happened, PassedOver, RecordedFile
from everynode.replay.recording import Entry, Reader
from everynode.replay.sources import recorded_file, stream_of_source
from everynode.replay.streams import Stream, stream_of
from everynode.runtime.clock import timestamp

if TYPE_CHECKING:
    from everynode.replay.machine_events import Trace

PROGRESS_MESSAGES = 5_000
FAULTS_SHOWN_MAX = 10

RECORDING = "recording"
CSV = "csv"
EPOCH_DEFAULT = "2011-05-01T00:00:00Z"


class TimeUnit(StrEnum):
    """What the times of a trace count."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="What was recorded; - is stdin.", allow_dash=True),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="recording|kubectl|csv",
        help="Who wrote the files: everynode record, kubectl get --watch, or somebody in CSV.",
    ),
]
Map = Annotated[
    str,
    typer.Option(
        "--map",
        metavar="WHAT=COLUMN,...",
        help="With csv: which column, by number from 0 or by name, is time, machine, event, and which label.",
        show_default=False,
    ),
]
TimeUnitOption = Annotated[
    TimeUnit, typer.Option("--time-unit", help="With csv: what times count.", case_sensitive=False)
]
Epoch = Annotated[
    str, typer.Option("--epoch", metavar="TIME", help="With csv: when the time was 0.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--filename",
        "-f",
        metavar="FILE|DIR",
        help="Manifests of DaemonSets that are there from the beginning; may be repeated.",
        show_default=False,
    ),
]


class StreamSource(NamedTuple):
    """Who wrote the files of a stream, and how they are to be read.

    Attributes:
        kind: ``recording``, ``csv``, or the name of a source that a package brings.
        trace: How CSV is to be read.
        daemonsets: Sets that are there from the beginning.
        refused: How many manifests of such sets cannot be used; that was said.
    """

    kind: str = RECORDING
    trace: Trace | None = None
    daemonsets: tuple[DaemonSet, ...] = ()
    refused: int = 0


def stream_source(
    kind: str, columns: str, time_unit: TimeUnit, epoch: str, filenames: Sequence[str]
) -> StreamSource:
    """Make sense of the options.

    Raises:
        typer.BadParameter: They do not go together, or one of them is wrong.
    """
    kinds = [RECORDING, CSV, *(entry.name for entry in installed(SOURCES))]
    if kind not in kinds:
        raise typer.BadParameter(f"{kind!r}: there are {', '.join(kinds)}", param_hint="--from")
    if bool(columns) is not (kind == CSV):
        text = f"it says what the columns of a CSV file are; --from is {kind}"
        if kind == CSV:
            text = "say what the columns are, as in --map time=0,machine=1,event=2"
        raise typer.BadParameter(text, param_hint="--map")
    if filenames and kind == RECORDING:
        text = "a recording has the sets that were there; --from is recording"
        raise typer.BadParameter(text, param_hint="--filename")
    trace: Trace | None = None
    if columns:
        from everynode.replay.machine_events import (  # noqa: PLC0415 - takes long
            UNITS,
            Trace,
            columns_of,
        )

        try:
            found = columns_of(columns)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--map") from error
        trace = Trace(found, UNITS[time_unit.value], parse_moment_ms(epoch, 0, "--epoch"))
    if not filenames:
        return StreamSource(kind, trace)
    from everynode.cli.documents import read_documents  # noqa: PLC0415 - takes long, and a recording needs no manifest

    documents = read_documents(filenames)
    documents.report()
    documents.keep_last()
    daemonsets = tuple(each.daemonset for each in documents.accepted)
    return StreamSource(kind, trace, daemonsets, len(documents.refused))


@contextlib.contextmanager
def opened_stream(
    files: Sequence[Path],
    source: StreamSource,
    until_ms: int | None = None,
    *,
    again: bool = False,
) -> Iterator[Stream]:
    """Open what was recorded; ``-`` is stdin.

    Args:
        files: The files; of a recording there is one.
        source: Who wrote them.
        until_ms: What happened later is left out; in ms since 1970.
        again: They were read before: what cannot be used was said then, and is no error any more.

    Raises:
        typer.BadParameter: There are several recordings.
        RecordingError: There is no such file, or it is not what it should be; at the end, if something in a file could
            not be used.
    """
    name = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    faults = _Faults()
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        if source.kind == RECORDING:
            if len(files) > 1:
                raise typer.BadParameter("a recording is one file", param_hint="FILE")
            stream = stack.enter_context(opened_recording(files[0]))
        else:
            opened = [stack.enter_context(opened_file(path)) for path in files]
            recorded = [
                recorded_file(str(path), file)
                for path, (file, _) in zip(files, opened, strict=True)
            ]
            told = _pass_over if again else faults
            stream = stream_of_source(
                name, source.kind, _read(source, recorded), told, source.daemonsets
            )
            progress = stack.enter_context(progress_of(f"reading {name}"))
            stream = stream._replace(entries=_shown(stream.entries, opened, progress))
        stream = stream._replace(entries=_readable(stream.entries, problems), problems=problems)
        yield stream._replace(entries=_until(stream, until_ms, is_told=not again))
    if again:
        return
    if faults.count:
        problems.append(f"{name}: {faults.count} passed over that could not be used")
    if source.refused:
        problems.append(f"{source.refused} manifests passed over that could not be used")
    if problems:
        raise RecordingError("; ".join(problems))


def _readable(entries: Iterator[Entry], problems: list[str]) -> Iterator[Entry]:
    """Read as far as can be; why not further is kept for the end, unless nothing could be read."""
    is_begun = False
    try:
        for entry in entries:
            is_begun = True
            yield entry
    except RecordingError as error:
        if not is_begun:
            raise
        problems.append(str(error))


def _until(stream: Stream, until_ms: int | None, *, is_told: bool = True) -> Iterator[Entry]:
    """Read up to a time, and say so if the stream ends before it.

    Raises:
        RecordingError: It begins later.
    """
    if until_ms is None:
        yield from stream.entries
        return
    begins_ms = stream.from_ms
    last_ms = None
    for entry in stream.entries:
        if not entry.is_kept:
            begins_ms = begins_ms or entry.received.time_ms
            if until_ms < begins_ms:
                break
            if entry.received.time_ms > until_ms:
                return
            last_ms = entry.received.time_ms
        yield entry
    if until_ms < begins_ms:
        raise RecordingError(
            f"{stream.name}: it begins at {timestamp(begins_ms)}; nothing is known of {timestamp(until_ms)}"
        )
    if last_ms is not None and is_told:
        note_line(f"{stream.name}: its last message is of {timestamp(last_ms)}")


def _read(source: StreamSource, files: Sequence[RecordedFile]) -> Iterator[Happened | PassedOver]:
    if source.trace is not None:
        from everynode.replay.machine_events import read_trace  # noqa: PLC0415 - takes long

        return read_trace(files, source.kind, source.trace)
    found: Iterator[Happened | PassedOver] = load(SOURCES, source.kind)(files, source.kind)
    return found


def _pass_over(_passed_over: PassedOver) -> None:
    """Say nothing."""


class _Faults:
    """Says what is not used, and counts what should have been usable."""

    def __init__(self) -> None:
        """There is nothing yet."""
        self.count = 0

    def __call__(self, passed_over: PassedOver) -> None:
        """Say it, unless that was said often enough."""
        text = f"{passed_over.where}: {passed_over.why}"
        if not passed_over.is_fault:
            note_line(text)
            return
        self.count += 1
        if self.count <= FAULTS_SHOWN_MAX:
            error_line(text)
        elif self.count == FAULTS_SHOWN_MAX + 1:
            error_line("and more, which are only counted")


@contextlib.contextmanager
def opened_recording(path: Path, until_ms: int | None = None) -> Iterator[Stream]:
    """Open a recording; ``-`` is stdin.

    Args:
        path: The file.
        until_ms: What was taken in later is left out; in ms since 1970.

    Raises:
        RecordingError: There is no such file, it is no recording, or it begins later.
    """
    with opened_file(path) as (file, size):
        reader = Reader(file, str(path))
        with progress_of(f"replaying {reader.header.fleet}") as progress:
            stream = stream_of(reader, _shown(reader.entries(), [(file, size)], progress))
            yield stream._replace(entries=_until(stream, until_ms))


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, and say how large it is; 0 if nobody knows.

    Raises:
        RecordingError: There is no such file, or it cannot be opened.
    """
    if str(path) == "-":
        yield sys.stdin.buffer, 0
        return
    if not path.exists() or path.is_dir():
        raise RecordingError(f"{path}: there is no such file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path}: it cannot be opened: {error.strerror}") from error
    with file:
        yield file, path.stat().st_size


def _shown(
    entries: Iterator[Entry], files: Sequence[tuple[BinaryIO, int]], progress: Any
) -> Iterator[Entry]:
    """Read the messages, and show how far that has come."""
    size = sum(each for _, each in files)
    is_known = all(each for _, each in files)
    for entry in entries:  # the first of some: `islice` goes on where this stands
        if is_known:
            progress(sum(file.tell() for file, _ in files), size)
        yield entry
        yield from itertools.islice(entries, PROGRESS_MESSAGES - 1)
