"""Recordings as commands open them: with clear errors, and progress while they are read.

Used by every command that looks at the past.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from everynode.cli.terminal import progress_of
from everynode.errors import RecordingError
from everynode.replay.recording import Entry, Reader
from everynode.replay.streams import Stream, stream_of, until

PROGRESS_MESSAGES = 5_000


@contextlib.contextmanager
def opened_recording(path: Path, until_ms: int | None = None) -> Iterator[Stream]:
    """Open a recording; ``-`` is stdin.

    Args:
        path: The file.
        until_ms: What was taken in later is left out; in ms since 1970.

    Raises:
        RecordingError: There is no such file, or it is no recording.
    """
    with opened_file(path) as (file, size):
        reader = Reader(file, str(path))
        with progress_of(f"replaying {reader.header.fleet}") as progress:
            entries = _shown(reader.entries(), file, size, progress)
            yield stream_of(reader, until(entries, until_ms))


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, and say how large it is; 0 if nobody knows.

    Raises:
        RecordingError: There is no such file.
    """
    if str(path) == "-":
        yield sys.stdin.buffer, 0
        return
    if not path.is_file():
        raise RecordingError(f"{path}: there is no such file; `everynode record -o FILE` makes one")
    with path.open("rb") as file:
        yield file, path.stat().st_size


def _shown(entries: Iterator[Entry], file: BinaryIO, size: int, progress: Any) -> Iterator[Entry]:
    """Read the messages, and show how far that has come."""
    for number, entry in enumerate(entries):
        if number % PROGRESS_MESSAGES == 0 and size:
            progress(file.tell(), size)
        yield entry
