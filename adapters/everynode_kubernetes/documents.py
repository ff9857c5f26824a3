"""One JSON document after the other out of a text, however it was laid out.

Used by ``watched``. kubectl writes lists over many lines and the events of a watch into one line each; both may follow
each other in a file, with lines in between that are no JSON (what a program said, and the shell put into the same
file). What a document means is no concern of this module. Memory is that of the largest document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from everynode.errors import RecordingError
from everynode.ports import PassedOver, RecordedFile
from everynode_kubernetes.nesting import decoded

DOCUMENT_BYTES_MAX = 1024 * 1024 * 1024
"""The largest document that is read: a list of all pods of the largest clusters."""

SHOWN_CHARACTERS = 60

_whole = msgspec.json.Decoder(msgspec.Raw)
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[{}\[\]]', re.DOTALL)
_BRACKET = re.compile(rb"[{}\[\]]")
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")


class Document(NamedTuple):
    """A JSON document.

    Attributes:
        line: In which line it begins, from 1.
        text: The document.
    """

    line: int
    text: bytes


def documents_of(file: RecordedFile) -> Iterator[Document | PassedOver]:
    """Read a file's documents.

    Raises:
        RecordingError: It ends in the middle of a document, or one is too large; all before that was handed out.
    """
    open_one = _Open()
    count = 0
    for number, line in enumerate(file.lines, 1):
        if not open_one.depth and _is_whole(line):
            count += 1
            yield Document(number, line)
            continue
        found, rest = open_one.read(number, line)
        for document in found:
            if _is_whole(document.text):
                count += 1
                yield document
            else:
                yield PassedOver(_place(file, document.line), "it is no JSON object")
        if rest.strip():
            yield PassedOver(_place(file, number), f"it is no JSON object: {_shown(rest)}")
        if open_one.size > DOCUMENT_BYTES_MAX:
            raise _broken(file, open_one.line, "is too large to be read", count)
    if open_one.depth:
        raise _broken(file, open_one.line, "has no end: the file was cut off", count)


def _place(file: RecordedFile, line: int) -> str:
    return f"{file.name}: line {line}"


def _broken(file: RecordedFile, line: int, what: str, count: int) -> RecordingError:
    text = f"{_place(file, line)}: what begins here {what}; {count} documents could be read before"
    return RecordingError(text)


def _shown(text: bytes) -> str:
    found = text.decode("utf-8", "replace").strip()
    short = found[:SHOWN_CHARACTERS]
    return repr(short) if short == found else f"{short!r}..."


def _is_whole(text: bytes) -> bool:
    """Say whether a text is one JSON object, which is cheap to find out."""
    if not text.startswith(b"{"):
        return False
    try:
        text.decode()
        decoded(_whole, text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


class _Open:
    """A document whose end has not been read yet, found by its brackets.

    Attributes:
        depth: How many brackets are open; 0: there is none.
        line: In which line it begins.
        size: How many bytes it has so far.
    """

    def __init__(self) -> None:
        """Nothing is open."""
        self.depth = 0
        self.line = 0
        self.size = 0
        self._parts: list[bytes] = []

    def read(self, number: int, line: bytes) -> tuple[list[Document], bytes]:
        """Read a line; returns the documents that end in it, and what belongs to none."""
        if self.depth and _BRACKET.search(line) is None:  # most lines of what is spread over many
            self._put(line)
            return [], b""
        found: list[Document] = []
        outside: list[bytes] = []
        begin = 0
        for mark in _MARK.finditer(line):
            sign = mark[0]
            if sign in _OPENING:
                if not self.depth:
                    outside.append(line[begin : mark.start()])
                    begin, self.line = mark.start(), number
                self.depth += 1
            elif sign in _CLOSING and self.depth:
                self.depth -= 1
                if not self.depth:
                    self._put(line[begin : mark.end()])
                    found.append(Document(self.line, b"".join(self._parts)))
                    begin = mark.end()
                    self._parts, self.size = [], 0
        if self.depth:
            self._put(line[begin:])
        else:
            outside.append(line[begin:])
        return found, b"".join(outside)

    def _put(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)
