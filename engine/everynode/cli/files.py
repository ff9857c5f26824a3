"""Files, directories and standard input as named pieces of text for `manifest` to read.

Used by `apply`, `delete -f`, `up` and `--nodes-from`. What cannot be read is an error of its own that
names the file, and does not keep the other files from being read. This module knows nothing of what is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from everynode.errors import InvalidObjectError, Problem

FILE_BYTES_MAX = 64 * 1024 * 1024
"""The largest file that is read; a fleet of 100,000 nodes in one file has about half of that."""

STDIN = "-"
STDIN_NAME = "stdin"
SUFFIXES = (".yaml", ".yml", ".json")


class Source(NamedTuple):
    """The bytes of one file, and the name to call it by in messages."""

    name: str
    content: bytes


def read_sources(
    paths: Sequence[str], *, recursive: bool = False
) -> Iterator[Source | InvalidObjectError]:
    """Read files in the order they are named, a directory's files sorted by name.

    Args:
        paths: Files, directories (of which the files with a known suffix are read), or `-` for standard input.
        recursive: Read the directories in a directory too.

    Yields:
        A source; or an error in the place of what could not be read.
    """
    for path in paths:
        if path == STDIN:
            yield _read(STDIN_NAME, sys.stdin.buffer)
            continue
        try:
            files = _files_of(Path(path), recursive=recursive)
        except InvalidObjectError as error:
            yield error
            continue
        for file in files:
            yield _read_file(file)


def _files_of(path: Path, *, recursive: bool) -> list[Path]:
    if not path.exists():
        raise _unreadable(str(path), "there is no such file or directory")
    if not path.is_dir():
        return [path]
    candidates = path.rglob("*") if recursive else path.glob("*")
    files = sorted(file for file in candidates if file.suffix in SUFFIXES and file.is_file())
    if not files:
        where = "in it or below" if recursive else "in it (--recursive looks below it too)"
        raise _unreadable(str(path), f"there is no {', '.join(SUFFIXES)} file {where}")
    return files


def _read_file(file: Path) -> Source | InvalidObjectError:
    try:
        with file.open("rb") as stream:
            return _read(str(file), stream)
    except OSError as error:
        return _unreadable(str(file), f"cannot be read: {error.strerror or error}")


def _read(name: str, stream: BinaryIO) -> Source | InvalidObjectError:
    content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        limit = f"{FILE_BYTES_MAX // (1024 * 1024)} MiB"
        return _unreadable(name, f"is larger than {limit}: split it into several files")
    return Source(name, content)


def _unreadable(name: str, message: str) -> InvalidObjectError:
    return InvalidObjectError(name, (Problem("", message),))
