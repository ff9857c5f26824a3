"""The bytes of a file to its documents.

Used by ``objects``; knows YAML and JSON and nothing of Kubernetes' kinds, but for telling a large list of objects from
a large object. A file is cut at its document separators before anything is parsed, so that a mistake in one
document costs only that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from everynode.errors import Problem
from everynode.manifest.jsontext import read_json
from everynode.manifest.yamltext import Parsed, read_yaml

DOCUMENT_BYTES_MAX = 900 * 1024
"""The largest document, and the largest object: it must fit into one message of the log, with room to spare."""

LIST_BYTES_MAX = 64 * 1024 * 1024
"""The largest document that is a list of objects (``kubectl get nodes -o yaml``); each object has the limit above."""

_SEPARATOR = re.compile(rb"^(?:---|\.\.\.)(?=[ \t\r\n]|\Z)", re.MULTILINE)
_DIRECTIVE = re.compile(rb"^%", re.MULTILINE)
_CONTENT = re.compile(rb"^(?!\.\.\.)[ \t]*[^%#\s]", re.MULTILINE)
_KIND = re.compile(rb"^kind:[ \t]*[\"']?([A-Za-z]+)", re.MULTILINE)
_LIST_IN_JSON = re.compile(rb'"kind"\s*:\s*"([A-Za-z]*List)"')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """One document of a file.

    Attributes:
        number: Which document of the file, from 1; those with nothing in them are not counted.
        line: The line of the file on which it begins, from 1.
        value: What it says, in the types that JSON has; ``None`` if it cannot be read at all.
        problems: What is wrong with its text; a value may still be there, as far as it could be read.
        kind: What a document that cannot be read seems to be; empty if that cannot be seen.
    """

    number: int
    line: int
    value: Any
    problems: tuple[Problem, ...]
    kind: str


def read_documents(content: bytes) -> Iterator[Document]:
    """Read the documents of one file, in order; those with nothing in them (comments, null) are left out."""
    number = 0
    for line, text in _pieces(content.removeprefix(_BYTE_ORDER_MARK)):
        kind = _kind_at_a_glance(text)
        for parsed in _parse(text, line, kind):
            if parsed.value is not None or parsed.problems:
                number += 1
                yield Document(number, parsed.line, parsed.value, parsed.problems, kind)


def _pieces(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a file at its separators: the line on which each piece begins, and its text."""
    cuts = [found.start() for found in _SEPARATOR.finditer(content)]
    line, begin, last_cut = 1, 0, 0
    for cut in [*cuts, len(content)]:
        between, last_cut = content[last_cut:cut], cut
        if cut < len(content) and _DIRECTIVE.search(between) and not _CONTENT.search(between):
            continue  # nothing but lines such as "%YAML 1.2": they belong to the document after them
        text, begin = content[begin:cut], cut
        yield line, text.replace(b"...", b"   ", 1) if text.startswith(b"...") else text
        line += text.count(b"\n")


def _kind_at_a_glance(text: bytes) -> str:
    """Guess a document's kind without parsing it."""
    found = _LIST_IN_JSON.search(text) if _is_json(text) else _KIND.search(text)
    return found[1].decode() if found else ""


def _is_json(text: bytes) -> bool:
    return text.lstrip().startswith(b"{")


def _parse(text: bytes, line: int, kind: str) -> Iterator[Parsed]:
    size_max = LIST_BYTES_MAX if kind.endswith("List") else DOCUMENT_BYTES_MAX
    if len(text) > size_max:
        message = (
            f"the document has {len(text)} bytes; at most {size_max} are read: make it smaller"
        )
        yield Parsed(line, None, (Problem("", message),))
        return
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        wrong = line + text.count(b"\n", 0, error.start)
        message = f"line {wrong}: byte 0x{text[error.start]:02x} is not UTF-8: save it as UTF-8"
        yield Parsed(line, None, (Problem("", message),))
        return
    if _is_json(text):
        yield from read_json(decoded, line, size_max)
    else:
        yield read_yaml(text, line, size_max)
