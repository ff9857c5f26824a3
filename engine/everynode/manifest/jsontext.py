"""The text of JSON documents, one after the other, to plain values.

Used by ``documents``. JSON is nearly YAML, but not quite: an emoji may be written as two escapes, and tools write
several objects one after the other without a separator. What is anything but clean JSON is left to the reader of
YAML, which knows on which line the mistake is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from everynode.manifest import scalars
from everynode.manifest.yamltext import DEPTH_MAX, Parsed, read_yaml

_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(text: str, line: int, size_max: int) -> Iterator[Parsed]:
    """Read documents until the text ends.

    Args:
        text: One document or more.
        line: The line of the file on which the text begins.
        size_max: How much aliases may add to one of them, as in ``read_yaml``.
    """
    position = 0
    while True:
        begin = _skip_space(text, position)
        line += text.count("\n", position, begin)
        if begin == len(text):
            return
        reader = _Reader()
        try:
            value, position = reader.read(text, begin)
        except (ValueError, RecursionError):
            yield read_yaml(text[begin:].encode(), line, size_max)
            return
        if reader.flawed or not _is_plain(value, 0):
            yield read_yaml(text[begin:position].encode(), line, size_max)
        else:
            yield Parsed(line, value, ())
        line += text.count("\n", begin, position)


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


class _Reader:
    """Reads one document and notices what plain JSON does not allow, though Python's reader does."""

    def __init__(self) -> None:
        self.flawed = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._mapping,
            parse_float=scalars.from_float,
            parse_constant=self._constant,
        )

    def read(self, text: str, begin: int) -> tuple[Any, int]:
        """Return the value that begins there, and where it ends."""
        return self._decoder.raw_decode(text, begin)

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        self.flawed = self.flawed or len(mapping) < len(pairs)  # a key is there twice
        return mapping

    def _constant(self, _name: str) -> None:
        self.flawed = True  # NaN, Infinity


def _is_plain(value: Any, depth: int) -> bool:
    """Say whether a value can be written as JSON again: numbers of 64 bits, whole characters, not nested too deep."""
    if isinstance(value, str):
        return value.isascii() or not _has_half_a_character(value)
    if isinstance(value, dict):
        return depth < DEPTH_MAX and all(
            _is_plain(key, depth) and _is_plain(child, depth + 1) for key, child in value.items()
        )
    if isinstance(value, list):
        return depth < DEPTH_MAX and all(_is_plain(child, depth + 1) for child in value)
    return not isinstance(value, int) or scalars.INT64_MIN <= value <= scalars.INT64_MAX


def _has_half_a_character(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
